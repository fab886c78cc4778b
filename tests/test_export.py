"""Exported files are the model again, in another runtime; what can't be proved equal is not written."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cgrseg.cli.main import main
from cgrseg.deploy import export as exporting
from cgrseg.deploy.export import export
from cgrseg.deploy.verify import smooth_photos, verify
from cgrseg.images.files import write_together
from cgrseg.inference import network as networks
from cgrseg.inference.network import find_exported, open_exported
from cgrseg.inference.runtimes import OpenVINONetwork, openvino_core
from cgrseg.inference.segmenter import Segmenter
from cgrseg.inference.trace import trace
from cgrseg.labels import LabelSpace
from cgrseg.nn import CGRSeg, build
from cgrseg.nn.backbones.attention_bias import AttentionBias
from cgrseg.nn.context import average_pool
from cgrseg.nn.fusion import fuse
from cgrseg.preprocessing import Preprocessing
from cgrseg.weights import artifact

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

NAMES = ("sky", "road", "tree", "car", "person")
# Odd before several halvings, one token or one row of them in stage 4, larger and smaller than what was traced.
SIZES = ((64, 96), (33, 47), (131, 100), (32, 32), (160, 65), (32, 96), (160, 32))
SUFFIX = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
RUNTIMES = ("onnx", "openvino")  # those that a Segmenter opens


@pytest.fixture(scope="session")
def model() -> CGRSeg:
    torch.manual_seed(0)
    model = build("cgrseg_n", num_classes=5, context_blocks=1).eval()
    with torch.no_grad():
        for key, tensor in model.named_parameters():
            if key.endswith(("gamma", "layer_scale_1", "layer_scale_2", "bias.table")):
                tensor.normal_(0, 0.1)  # at their start these parts would hide their own mistakes
        model.head.classifier.weight.normal_()
    model.describe(labels=LabelSpace(names=NAMES, colors=tuple((i, i, 9) for i in range(5))))
    model.describe(preprocessing=Preprocessing(short_side=64, long_side=None))
    model.describe(card={"miou": 0.5})
    return model


@pytest.fixture(scope="session")
def folder(model: CGRSeg, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in all formats, tensors as inputs."""
    folder = tmp_path_factory.mktemp("exported")
    written = export(model, folder, name="street", sizes=SIZES)
    assert [item.path.name for item in written] == ["street.onnx", "street.xml", "street.pt2"]
    return folder


@pytest.fixture(scope="session")
def picture_file(model: CGRSeg, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX file of three with pictures as inputs; each was compared at every size, in batches of one and three."""
    folder = tmp_path_factory.mktemp("pictures")
    sizes = ((65, 47), (20, 110), (32, 32))
    written = export(model, folder, name="street", io="image", sizes=sizes)
    assert [item.path.name for item in written] == ["street.image.onnx", "street.image.xml", "street.image.pt2"]
    return written[0].path


@pytest.mark.parametrize("runtime", SUFFIX)
def test_the_proof_covers_every_size_and_batch_and_is_saved(folder: Path, model: CGRSeg, runtime: str) -> None:
    path = folder / f"street{SUFFIX[runtime]}"
    checks = verify([path], model, sizes=SIZES[:2], batches=(1, 3))[path]
    assert [(check.size, check.batch) for check in checks] == [(s, b) for s in SIZES[:2] for b in (1, 3)]
    assert all(0 < check.deviation < 1e-4 and check.equal_labels > 0.999 for check in checks)
    assert '"deviation"' in (folder / f"{path.name}.json").read_text()
    assert not list(folder.glob(".unfinished*"))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_segmenter_on_an_exported_file_behaves_as_on_the_model(folder: Path, model: CGRSeg, runtime: str) -> None:
    segmenter = Segmenter(folder / f"street{SUFFIX[runtime]}", threads=1)
    reference = Segmenter(model)
    assert segmenter.runtime == runtime and reference.runtime == "torch"
    assert segmenter.labels == reference.labels
    assert segmenter.preprocessing == reference.preprocessing
    assert segmenter.description == model.description
    photos = [smooth_photos(1, size)[0] for size in ((80, 100), (100, 80), (80, 100))]
    for ours, theirs in zip(segmenter(photos), reference(photos), strict=True):
        assert ours.labels.dtype == np.uint8 and ours.labels.shape == theirs.labels.shape
        assert np.mean(ours.labels != theirs.labels) < 1e-3
        np.testing.assert_allclose(ours.confidence(), theirs.confidence(), atol=1e-4)
        assert ours.names == NAMES


def copy_of(source: Path) -> Callable[..., None]:
    """A writer that copies a finished file."""
    return lambda kind, program, path, text: path.write_bytes(source.read_bytes()) and None


def test_programs_of_torch_export_are_not_opened(folder: Path) -> None:
    """They can run code of their author."""
    for call in (Segmenter, find_exported):
        with pytest.raises(ValueError, match=r"street\.pt2 is a torch\.export program.*use a \.onnx or \.xml file"):
            call(folder / "street.pt2")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_small_or_misshapen_images_are_refused_as_by_the_model(folder: Path, runtime: str) -> None:
    network = open_exported(folder / f"street{SUFFIX[runtime]}")
    with pytest.raises(ValueError, match="at least 32"):
        network(torch.zeros(1, 3, 20, 64))
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\]"):
        network(torch.zeros(1, 1, 64, 64))


def test_openvino_gives_the_same_compiled_for_one_size_as_for_any(
    folder: Path,
) -> None:
    own = OpenVINONetwork(folder / "street.xml")
    images = [torch.randn(batch, 3, *size) for batch, size in ((1, (65, 47)), (3, (160, 33)))]
    logits = [own(each) for each in images]
    shared = OpenVINONetwork(folder / "street.xml", shapes=0)
    for each, expected in zip(images, logits, strict=True):
        torch.testing.assert_close(shared(each), expected, rtol=0, atol=1e-4 * float(expected.std()))


def test_a_folder_means_the_fastest_installed_runtime(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Segmenter(folder).runtime == "openvino"
    monkeypatch.setattr(networks, "installed", lambda name: name != "openvino")
    assert find_exported(folder) == folder / "street.onnx"
    with pytest.raises(ValueError, match=r'openvino is not installed: pip install "cgrseg\[openvino\]"'):
        Segmenter(folder / "street.xml")


def test_a_runtime_that_does_not_fit_is_refused(folder: Path, model: CGRSeg, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"street\.onnx does not run in .openvino.: leave the runtime out"):
        Segmenter(folder / "street.onnx", runtime="openvino")
    with pytest.raises(ValueError, match="choose from auto, torch, onnx, openvino"):
        Segmenter(model, runtime="tensorflow")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"cgrseg export .* --format onnx"):
        Segmenter(model, runtime="onnx")
    with pytest.raises(ValueError, match="threads is 0"):
        Segmenter(model, threads=0)
    with pytest.raises(ValueError, match=r"has no \.onnx file: export one"):
        Segmenter(tmp_path, runtime="onnx")
    with pytest.raises(FileNotFoundError, match=r"no exported file at .*gone\.onnx"):
        Segmenter(tmp_path / "gone.onnx")


@pytest.mark.parametrize(("runtime", "device"), [("onnx", "npu"), ("openvino", "cuda")])
def test_a_device_that_a_runtime_lacks_is_refused_in_one_line(folder: Path, runtime: str, device: str) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has it")
    with pytest.raises(ValueError, match=rf"runtime {runtime} has no device '{device}': use"):
        open_exported(folder / f"street{SUFFIX[runtime]}", device)


def test_files_of_others_and_damaged_ones_are_refused(folder: Path, tmp_path: Path) -> None:
    import onnx

    foreign = onnx.load(folder / "street.onnx")
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(ValueError, match="was not written by `cgrseg export`"):
        open_exported(tmp_path / "foreign.onnx")
    for suffix in (".onnx", ".xml"):
        (tmp_path / f"damaged{suffix}").write_bytes((folder / f"street{suffix}").read_bytes()[:500])
        with pytest.raises(ValueError, match=r"damaged\.\w+ cannot be opened by"):
            open_exported(tmp_path / f"damaged{suffix}")


def test_a_file_that_deviates_is_not_written(
    folder: Path, model: CGRSeg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer hands over a file of the model; the model it is compared with has another classifier."""
    (tmp_path / "street.onnx").write_text("what was there before")
    other = build("cgrseg_n", num_classes=5, context_blocks=1).eval()
    other.load_state_dict(model.state_dict())
    other.head.classifier.weight.data[0] += 0.01
    monkeypatch.setattr(exporting, "trace", lambda *_, **__: None)
    monkeypatch.setattr(exporting, "write_program", copy_of(folder / "street.onnx"))
    with pytest.raises(ValueError, match=r"street\.onnx at 64x96, batch 1: logits deviate .* Nothing was written"):
        export(other, tmp_path, name="street", formats=["onnx"], sizes=SIZES[:1])
    assert [path.read_text() for path in tmp_path.iterdir()] == ["what was there before"]


def test_a_signal_is_handled_after_openvino_files_were_opened_and_dropped(folder: Path) -> None:
    code = """
import faulthandler, gc, os, signal, sys
from cgrseg.inference.network import open_exported

faulthandler.enable()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
first = open_exported(sys.argv[1], "cpu")
second = open_exported(sys.argv[1], "cpu")
del first
gc.collect()
del second
gc.collect()
os.kill(os.getpid(), signal.SIGUSR1)
"""
    command = [sys.executable, "-c", code, str(folder / "street.xml")]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "handled\n"


def test_files_of_a_killed_export_are_removed_and_those_of_a_running_one_stay(
    folder: Path, model: CGRSeg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
import os, signal, sys
from cgrseg.deploy import export
from cgrseg.nn import build

def write(kind, program, path, text):
    path.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)

export.trace, export.write_program = lambda *_, **__: None, write
export.export(build("cgrseg_n", num_classes=2).eval(), sys.argv[1], name="street", formats=["onnx"])
"""
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert (left / "street.onnx").read_text() == "half"
    monkeypatch.setattr(exporting, "trace", lambda *_, **__: None)
    monkeypatch.setattr(exporting, "write_program", copy_of(folder / "street.onnx"))
    with write_together(tmp_path) as other:
        assert not left.exists()
        export(model, tmp_path, name="street", formats=["onnx"], sizes=SIZES[:1])
        assert other.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"street.onnx", "street.onnx.json"}
    assert (tmp_path / "street.onnx").read_bytes() == (folder / "street.onnx").read_bytes()


def test_official_bias_mode_needs_a_size_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact.save(build("cgrseg_n", num_classes=2, bias_mode="official"), tmp_path / "official.safetensors")
    code = main(["export", "--weights", str(tmp_path / "official.safetensors"), "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert code == 2 and error.count("\n") == 1 and "give --size HEIGHTxWIDTH" in error
    assert not (tmp_path / "out").exists()


def test_a_fixed_size_file_of_official_mode_takes_that_size_only(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build("cgrseg_n", num_classes=2, context_blocks=1, bias_mode="official").eval()
    for key, tensor in model.named_parameters():
        if key.endswith("bias.table"):
            tensor.data.normal_()
    for written in export(model, tmp_path, formats=["openvino"], size=(64, 96)):
        assert {check.size for check in written.checks} == {(64, 96)}
        segmenter = Segmenter(written.path)
        assert segmenter(smooth_photos(1, (64, 96))[0]).labels.shape == (64, 96)
        with pytest.raises(ValueError, match=r"accepts only 64x96 pixels, not 64x64"):
            segmenter(smooth_photos(1, (64, 64))[0])
    graph = openvino_core().read_model(tmp_path / "model.xml")
    assert [str(port.partial_shape) for port in (*graph.inputs, *graph.outputs)] == ["[?,3,64,96]", "[?,2,8,12]"]


def test_picture_files_run_with_onnxruntime_alone(picture_file: Path, model: CGRSeg, tmp_path: Path) -> None:
    """As in the docs: neither torch nor cgrseg can be imported."""
    photos = smooth_photos(3, (65, 47))
    np.save(tmp_path / "photos.npy", photos)
    code = f"""
import sys
sys.modules["torch"] = sys.modules["cgrseg"] = None
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession({str(picture_file)!r}, providers=["CPUExecutionProvider"])
(labels,) = session.run(["labels"], {{"photos": np.load({str(tmp_path / "photos.npy")!r})}})
np.save({str(tmp_path / "labels.npy")!r}, labels)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    labels = np.load(tmp_path / "labels.npy")
    assert labels.dtype == np.uint8 and labels.shape == (3, 65, 47)
    at_own_size = Segmenter(model, short_side=0)
    for found, photo in zip(labels, photos, strict=True):
        assert np.mean(found != at_own_size(photo).labels) < 1e-3


def test_a_segmenter_refuses_picture_files(picture_file: Path) -> None:
    with pytest.raises(ValueError, match="export it with --io tensor"):
        Segmenter(picture_file)
    assert find_exported(picture_file.parent) is None


def test_the_command_writes_and_prints_the_proof(
    model: CGRSeg, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact.save(model, tmp_path / "street.safetensors")
    flags = ["export", "--weights", str(tmp_path / "street.safetensors"), "--out", str(tmp_path / "out")]
    assert main([*flags, "--format", "torch", "--size", "64x96"]) == 0
    out = capsys.readouterr().out
    assert "street.pt2" in out and "64x96      3" in out and "100.000000%" in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"street.pt2", "street.pt2.json"}
    assert main([*flags, "--size", "64"]) == 2
    assert "write HEIGHTxWIDTH" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main([*flags[:-1], str(tmp_path / "file")]) == 2
    assert "is a file: name a folder" in capsys.readouterr().err
    monkeypatch.setattr(networks, "installed", lambda name: name != "openvino")
    assert main([*flags, "--format", "openvino"]) == 2
    assert 'pip install "cgrseg[openvino]"' in capsys.readouterr().err


# What graphs of dynamic size got wrong, each in the form in which it is traced.


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)


@pytest.mark.parametrize("size", [(9, 13), (8, 12), (1, 3), (2, 1)])
def test_trap_pooling_odd_maps(traced: None, size: tuple[int, int]) -> None:
    maps = torch.randn(2, 3, *size, dtype=torch.float64)
    half = ((size[0] + 1) // 2, (size[1] + 1) // 2)
    torch.testing.assert_close(average_pool(maps, half), F.adaptive_avg_pool2d(maps, half), atol=1e-12, rtol=0)


@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (4, 1), (5, 7)])
@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_trap_a_bias_of_one_row_or_column(monkeypatch: pytest.MonkeyPatch, grid: tuple[int, int], stride: int) -> None:
    bias = AttentionBias(heads=2, resolution=16, stride=stride).double()
    nn.init.normal_(bias.table)
    queries = (-(-grid[0] // stride), -(-grid[1] // stride))
    expected = bias.rows(bias.prepare(grid), 0, queries[0] * queries[1], queries, grid)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(bias(queries, grid), expected, atol=1e-12, rtol=0)


def test_trap_a_graph_tied_to_the_size_or_batch_it_saw(model: CGRSeg) -> None:
    program = trace(fuse(model), preprocessing=model.preprocessing)
    assert len(program.range_constraints) == 3
    assert all(bounds.upper > 10**6 for bounds in program.range_constraints.values())
    kinds = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not [kind for kind in kinds if "adaptive" in kind], "means and pooling must not be adaptive pooling"
