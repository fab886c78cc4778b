"""`cgrseg val` prints the scores that evaluation gives, writes a report, and says in one line what does not fit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cgrseg
from cgrseg.cli.main import main
from cgrseg.data.listing import open_dataset
from cgrseg.evaluation import evaluate
from cgrseg.labels import LabelSpace
from cgrseg.preprocessing import Preprocessing
from cgrseg.weights.artifact import save


def write_weights(path: Path, labels: LabelSpace | None) -> Path:
    torch.manual_seed(0)
    model = cgrseg.create_model("cgrseg_n", num_classes=2 if labels is None else len(labels))
    save(model, path, labels=labels, preprocessing=Preprocessing(short_side=48))
    return path


def named(*names: str) -> LabelSpace:
    return LabelSpace(names=names, colors=LabelSpace.numbered(len(names)).colors)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return write_weights(tmp_path / "best.safetensors", named("ground", "square"))


def val(weights: Path, data: Path, *more: str) -> int:
    return main(["val", "--weights", str(weights), "--data", str(data), *more])


def test_val_prints_the_scores_and_writes_the_report(
    weights: Path, squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    assert val(weights, squares, "--out", str(out)) == 0
    said = capsys.readouterr().out
    scores = evaluate(cgrseg.Segmenter(weights).predictor, open_dataset(squares, "test"))
    assert f"mIoU {100 * scores.mean_iou():.2f} %" in said and "2 images of test" in said and str(out) in said
    table = json.loads((out / "scores.json").read_text())
    assert table["miou"] == scores.mean_iou() and table["split"] == "test" and table["mode"] == "whole"
    assert str(tmp_path) not in (out / "scores.json").read_text()  # a report tells nobody's folders
    assert len(list((out / "worst").iterdir())) == 2


@pytest.mark.slow
def test_processes_of_torchrun_print_and_write_what_one_alone_does(
    weights: Path, squares: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert val(weights, squares, "--split", "train", "--out", str(tmp_path / "alone")) == 0
    capfd.readouterr()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "cgrseg"]
    verb = ["val", f"--weights={weights}", f"--data={squares}", "--split=train", f"--out={tmp_path / 'both'}"]
    subprocess.run([*torchrun, *verb, "--device=cpu"], check=True, timeout=300)
    assert capfd.readouterr().out.count("mIoU") == 1
    for name in ("confusion.csv", "photos.csv"):
        assert (tmp_path / "both" / name).read_text() == (tmp_path / "alone" / name).read_text()


def test_val_takes_every_mode_and_another_split(
    weights: Path, squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in (["--tta"], ["--mode", "slide", "--window", "48"], ["--mode", "slide-cosine", "--window", "48"]):
        assert val(weights, squares, "--split", "val", *more) == 0
        said = capsys.readouterr().out
        assert "2 images of val" in said and more[-1].strip("-") in said
    (squares / "images" / "test").rename(squares / "elsewhere")
    assert val(weights, squares) == 0
    assert "2 images of val" in capsys.readouterr().out  # test where there is one, else val


def test_numbered_classes_need_only_agree_in_number(weights: Path, squares: Path, tmp_path: Path) -> None:
    assert val(write_weights(tmp_path / "numbered.safetensors", None), squares) == 0
    (squares / "classes.json").unlink()
    assert val(weights, squares) == 0


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("ground", "square", "circle"), "has 3 classes, but"),
        (("square", "ground"), "class 0 is 'square' in"),
    ],
)
def test_other_classes_are_one_line(
    names: tuple[str, ...], message: str, squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert val(write_weights(tmp_path / "other.safetensors", named(*names)), squares) == 2
    error = capsys.readouterr().err
    assert error.startswith("cgrseg: ") and error.count("\n") == 1 and message in error


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--tta", "--mode", "slide"], "leave out --tta or --mode slide"),
        (["--mode", "slide", "--window", "8"], "--window is 8"),
        (["--mode", "slides"], 'Invalid value "slides" for --mode. Choose from: "whole", "slide"'),
        (["--split", "elsewhere"], 'Invalid value "elsewhere" for --split. Choose from: "train", "val", "test"'),
        (["--out", "{weights}"], "is a file: name a folder"),
        (["--data", "elsewhere"], "no folder elsewhere"),
        (["--weights", "elsewhere.safetensors"], "elsewhere.safetensors"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_bad_input_is_one_line(
    more: list[str], message: str, weights: Path, squares: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert val(weights, squares, *(word.format(weights=weights) for word in more)) == 2
    error = capsys.readouterr().err
    assert error.startswith("cgrseg: ") and error.count("\n") == 1 and message in error


def test_the_bundled_weights_score_what_their_card_says(shared: Path) -> None:
    model = cgrseg.Segmenter("cgrseg_lite-voc21", device="cpu")
    samples = open_dataset(shared / "data" / "voc", "test")
    assert samples.labels.names == model.labels.names
    scores = evaluate(model.predictor, samples, indices=[0, 70], progress=False)
    assert scores.confusion.accuracy() > 0.7  # of 89 % over all; two photos show that classes are not mixed up


def test_val_refuses_binary_masks_and_palettes_that_differ(
    weights: Path, squares: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = sorted((squares / "masks" / "test").iterdir())
    for path in masks:
        ids = np.minimum(np.array(Image.open(path)), 1)
        Image.fromarray(ids * 255).save(path)
    assert val(weights, squares) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "test masks hold only 0 and 255" in error and "convert-masks" in error
    for path, colors in zip(masks, ([0, 0, 0, 255, 0, 0], [255, 0, 0, 0, 0, 0]), strict=True):
        picture = Image.fromarray(np.array(Image.open(path)) // 255)
        picture.putpalette(colors)
        picture.save(path)
    assert val(weights, squares) == 2
    assert "has the colour #ff0000, which the class list gives to 'square'" in capsys.readouterr().err
    assert val(weights, squares, "--split", "val") == 0  # other splits do not matter
