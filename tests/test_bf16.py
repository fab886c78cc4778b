"""In bfloat16 a Segmenter says almost the same, faster; where that can't be, it says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cgrseg.cli.main import main
from cgrseg.deploy.export import export
from cgrseg.deploy.verify import smooth_photos
from cgrseg.inference import network as networks
from cgrseg.inference.segmenter import Segmenter
from cgrseg.nn import CGRSeg, build
from cgrseg.preprocessing import Preprocessing
from cgrseg.weights import artifact

SIZES = ((64, 96), (65, 47))


@pytest.fixture(scope="module")
def model() -> CGRSeg:
    torch.manual_seed(0)
    model = build("cgrseg_n", num_classes=5, context_blocks=1).eval()
    with torch.no_grad():
        model.head.classifier.weight.normal_()
    model.describe(preprocessing=Preprocessing(short_side=None, long_side=None))
    return model


def assert_almost_equal(rounded: Segmenter, exact: Segmenter) -> None:
    """The logits are off by what three digits cost, not by nothing and not by more."""
    for size in SIZES:
        ours, theirs = (each(smooth_photos(1, size)[0]) for each in (rounded, exact))
        assert ours.labels.shape == size and ours.prediction.logits.dtype == torch.float32
        error = float(
            (ours.prediction.logits - theirs.prediction.logits).square().mean().sqrt() / theirs.prediction.logits.std()
        )
        assert 1e-4 < error < 0.05
        assert np.mean(ours.labels != theirs.labels) < 0.05


def test_a_model_in_bf16(model: CGRSeg, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "computes_bf16", lambda device: True)  # imitated where it is not so
    rounded = Segmenter(model, bf16=True)
    assert next(rounded.predictor.network.run.parameters()).dtype == torch.bfloat16
    assert next(model.parameters()).dtype == torch.float32  # a copy was rounded
    assert_almost_equal(rounded, Segmenter(model))
    monkeypatch.setattr(networks, "computes_bf16", lambda device: False)
    with pytest.raises(ValueError, match="device 'cpu' has no bfloat16 arithmetic: leave bf16 out"):
        Segmenter(model, bf16=True)


@pytest.mark.slow
def test_openvino_in_bf16(model: CGRSeg, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    export(model, tmp_path, name="street", formats=["openvino"], sizes=SIZES)
    path = tmp_path / "street.xml"
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert_almost_equal(Segmenter(path, bf16=True), Segmenter(path))
    else:
        with pytest.raises(ValueError, match="of runtime openvino has no bfloat16 arithmetic: leave bf16 out"):
            Segmenter(path, bf16=True)


def test_other_exported_files_stay_float32(model: CGRSeg, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "street.onnx").touch()
    with pytest.raises(ValueError, match=r"street\.onnx: of exported files only OpenVINO's \(\.xml\) run in bf16"):
        Segmenter(tmp_path / "street.onnx", bf16=True)


@pytest.mark.parametrize("verb", ["predict", "val", "serve"])
def test_the_verbs_hand_it_on(
    verb: str, model: CGRSeg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if verb == "serve":
        pytest.importorskip("fastapi_offline")
    monkeypatch.setattr(networks, "computes_bf16", lambda device: False)
    artifact.save(model, tmp_path / "street.safetensors")
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / "data" / kind / split).mkdir(parents=True)
            save_picture(tmp_path / "data" / kind / split / "a.png", grey=kind == "masks")
    classes = [{"id": index, "name": name} for index, name in enumerate("abcde")]
    (tmp_path / "data" / "classes.json").write_text(json.dumps({"classes": classes}))
    out = ["--out", str(tmp_path / "out")]
    what = {
        "predict": [str(tmp_path / "data" / "images"), *out],
        "val": ["--data", str(tmp_path / "data"), *out],
        "serve": [],
    }[verb]
    weights = ["--weights", str(tmp_path / "street.safetensors"), "--device", "cpu", "--bf16"]
    assert main([verb, *what, *weights]) == 2
    assert capsys.readouterr().err == "cgrseg: device 'cpu' has no bfloat16 arithmetic: leave bf16 out\n"


def save_picture(path: Path, *, grey: bool) -> None:
    pixels = smooth_photos(1, (64, 96))[0]
    Image.fromarray(np.zeros(pixels.shape[:2], np.uint8) if grey else pixels).save(path)
