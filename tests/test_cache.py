"""Weights on a CPU run in OpenVINO by default: converted once, compared with PyTorch, and shared by processes."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cgrseg.cli.main import main
from cgrseg.deploy.verify import smooth_photos
from cgrseg.inference import cache, pipeline, runtimes
from cgrseg.inference.segmenter import Segmenter
from cgrseg.inference.sources import Source
from cgrseg.nn import build
from cgrseg.weights import artifact

pytest.importorskip("openvino")
TEN_SIZES = ((64, 96), (33, 47), (131, 100), (32, 32), (160, 65), (20, 50), (300, 211), (77, 78), (1, 9), (128, 128))


def write_weights(path: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    model = build("cgrseg_n", num_classes=5, context_blocks=1)
    torch.nn.init.normal_(model.head.classifier.weight)
    artifact.save(model, path)
    return path


def own(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "cgrseg"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "street.safetensors")


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, and the runtime that users get."""
    monkeypatch.delenv("CGRSEG_RUNTIME")
    monkeypatch.setenv("CGRSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def filled(monkeypatch: pytest.MonkeyPatch, shared_cache: Path) -> Path:
    monkeypatch.delenv("CGRSEG_RUNTIME")
    monkeypatch.setenv("CGRSEG_CACHE", str(shared_cache))
    return shared_cache


def test_the_default_gives_the_labels_of_torch_on_ten_photos_of_ten_sizes(filled: Path, weights: Path) -> None:
    default, reference = Segmenter(weights), Segmenter(weights, runtime="torch")
    assert default.runtime == "openvino" and reference.runtime == "torch"
    assert default.description == reference.description
    for size in TEN_SIZES:
        photo = smooth_photos(1, size)[0]
        np.testing.assert_array_equal(default(photo).labels, reference(photo).labels)


def test_images_in_parallel_get_the_same_labels_and_single_images_all_cores_afterwards(
    filled: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter, jobs = Segmenter(weights), []
    for number, size in enumerate(TEN_SIZES * 2):
        path = tmp_path / f"{number}.png"
        Image.fromarray(smooth_photos(1, size)[0]).save(path)
        jobs.append((Source(path, tmp_path / "out" / path.stem), {"mask": tmp_path / "out" / path.name}))
    alone = [segmenter(source.path).labels for source, _ in jobs]
    network, streams = segmenter.predictor.network, []
    monkeypatch.setattr(pipeline, "parallel_images", lambda segmenter: 2)
    compiled = runtimes.OpenVINONetwork._compile
    monkeypatch.setattr(
        runtimes.OpenVINONetwork,
        "_compile",
        lambda self, graph: [compiled(self, graph), streams.append(self._settings.get("NUM_STREAMS", 1))][0],
    )
    assert [problem for _, problem in pipeline.segment_files(segmenter, jobs)] == [None] * len(jobs)
    for labels, (_, outputs) in zip(alone, jobs, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(outputs["mask"])), labels)
    assert set(streams) == {2} and isinstance(network.run, runtimes.OpenVINONetwork)
    segmenter(jobs[0][0].path)
    assert streams[-1] == 1


def test_the_second_opening_uses_the_first_conversion(
    filled: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Segmenter(weights)
    caplog.clear()
    monkeypatch.setattr(cache, "_convert", lambda *_: pytest.fail("converted again"))
    assert Segmenter(weights).runtime == "openvino" and not own(caplog)


def test_the_first_conversion_is_said_in_one_line(
    by_default: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Segmenter(weights)
    (record,) = own(caplog)
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("converted street.safetensors to OpenVINO for this machine in ")
    assert cache.size() > 1000 and main(["doctor", "--clear-cache"]) == 0
    assert cache.size() == 0 and not list(by_default.glob("openvino/*"))
    assert main(["doctor", "--clear-cache"]) == 0


def test_other_weights_under_the_same_name_are_converted_again(by_default: Path, tmp_path: Path) -> None:
    path, photo = tmp_path / "street.safetensors", smooth_photos(1, (64, 96))[0]
    first = Segmenter(write_weights(path))(photo).labels
    second = Segmenter(write_weights(path, seed=1))(photo).labels
    assert (first != second).any()
    np.testing.assert_array_equal(second, Segmenter(path, runtime="torch")(photo).labels)


def test_models_in_memory_and_requests_for_torch_are_not_converted(by_default: Path, weights: Path) -> None:
    assert Segmenter(artifact.load(weights)).runtime == "torch"
    assert Segmenter(weights, runtime="torch").runtime == "torch"
    os.environ["CGRSEG_RUNTIME"] = "torch"
    assert Segmenter(weights).runtime == "torch"
    assert not by_default.exists()


@pytest.mark.parametrize("reason", ["deviates", "fails", "disk full"])
def test_without_a_good_conversion_torch_is_used_and_the_reason_is_one_line(
    reason: str,
    by_default: Path,
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object, **options: object) -> None:
        if reason == "disk full":
            raise OSError(28, "No space left on device")
        raise RuntimeError("this operation\nis not known")

    if reason == "deviates":
        monkeypatch.setattr(cache, "TOLERANCE", -1.0)
    else:
        import openvino

        monkeypatch.setattr(openvino, "save_model", fail)
    assert Segmenter(weights).runtime == "torch"
    (record,) = own(caplog)
    assert "runs in PyTorch: " in record.getMessage() and "\n" not in record.getMessage()
    words = {"deviates": "deviates by", "fails": "cannot be converted (this operation is", "disk full": "No space left"}
    assert words[reason] in record.getMessage()
    assert not [path for path in by_default.glob("openvino/*") if path.is_dir()]


def test_a_cache_that_cannot_be_written_is_one_line_and_torch(
    by_default: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    by_default.write_text("a file where the folder would be")
    assert Segmenter(weights).runtime == "torch"
    (record,) = own(caplog)
    assert "set CGRSEG_CACHE" in record.getMessage()


def test_the_least_recently_used_conversions_are_removed(by_default: Path, tmp_path: Path) -> None:
    folder = by_default / "openvino"
    for age, name in enumerate(("new", "old", "oldest")):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.bin").write_bytes(bytes(100))
        os.utime(folder / name, (1000 - age, 1000 - age))
    cache._evict(folder, keep=folder / "oldest", largest=250)
    assert sorted(path.name for path in folder.iterdir()) == ["new", "oldest"]


def test_only_the_own_and_old_unfinished_conversions_are_removed(tmp_path: Path) -> None:
    own, old, other = (tmp_path / f".unfinished-{name}-x" for name in ("mine", "old", "other"))
    for folder in (own, old, other, tmp_path / "mine"):
        folder.mkdir()
    os.utime(old, (1000, 1000))
    cache._evict(tmp_path, keep=tmp_path / "mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "mine"]


OPEN = "import sys; from cgrseg import Segmenter; print(Segmenter(sys.argv[1]).runtime)"


def test_two_processes_at_once_convert_once(by_default: Path, weights: Path) -> None:
    command = [sys.executable, "-c", OPEN, str(weights)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=300) for process in both]
    assert [out.strip() for out, _ in answers] == ["openvino", "openvino"]
    assert len([path for path in (by_default / "openvino").iterdir() if path.is_dir()]) == 1


def test_a_killed_conversion_leaves_nothing_that_is_used(by_default: Path, weights: Path) -> None:
    code = """
import os, signal, sys
import openvino
from cgrseg import Segmenter

def die(model, path, **_):
    path.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)

openvino.save_model = die
Segmenter(sys.argv[1])
"""
    killed = subprocess.run([sys.executable, "-c", code, str(weights)], check=False, stderr=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL
    photo = smooth_photos(1, (64, 96))[0]
    default = Segmenter(weights)
    assert default.runtime == "openvino"
    np.testing.assert_array_equal(default(photo).labels, Segmenter(weights, runtime="torch")(photo).labels)
    assert not list((by_default / "openvino").glob(".unfinished*"))


MAY_IMPORT = {
    *(
        "PIL",
        "absl",
        "attr",
        "attrs",
        "cgrseg",
        "charset_normalizer",
        "cyclopts",
        "numpy",
        "openvino",
        "openvino_telemetry",
    ),
    *("packaging", "rich", "safetensors", "scipy", "torch", "tqdm"),
}


def test_predict_on_a_cached_network_imports_only_what_it_uses(filled: Path, weights: Path, tmp_path: Path) -> None:
    Segmenter(weights)
    Image.fromarray(smooth_photos(1, (64, 96))[0]).save(tmp_path / "photo.png")
    code = """
import sys
import torch
of_torch = {name.partition(".")[0] for name in sys.modules}
from cgrseg.cli.main import main
assert main(sys.argv[1:]) == 0
named = {name.partition(".")[0]: str(getattr(module, "__file__", "")) for name, module in list(sys.modules.items())}
folder = str(__import__("pathlib").Path(torch.__file__).parents[1])
print("\\n", *(name for name, file in named.items() if file.startswith(folder) and name not in of_torch))
"""
    words = ["predict", str(tmp_path / "photo.png"), "--weights", str(weights), "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    found = {name for name in done.stdout.splitlines()[-1].split() if not name.startswith("_")}
    assert "openvino" in found and found <= MAY_IMPORT
    mask_only = subprocess.run(
        [sys.executable, "-c", code, *words, "--save", "mask"], capture_output=True, text=True, check=True
    )
    assert "scipy" not in mask_only.stdout.splitlines()[-1].split()


def test_no_usage_data_is_sent(by_default: Path, weights: Path) -> None:
    code = "import sys, cgrseg; cgrseg.Segmenter(sys.argv[1]); print(sys.modules['openvino_telemetry'])"
    done = subprocess.run([sys.executable, "-c", code, str(weights)], capture_output=True, text=True, check=True)
    assert "converted street.safetensors" in done.stderr and done.stdout == "None\n"
