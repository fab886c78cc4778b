"""A full disk, a killed process, a damaged file or odd names never pass as a good result."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cgrseg
from cgrseg.cli.main import main
from cgrseg.images import render
from cgrseg.images.files import is_image, remove_unfinished, save_image, write_file
from cgrseg.inference.segmenter import Segmenter
from cgrseg.labels import LabelSpace
from cgrseg.weights.checkpoint_reader import read_state
from cgrseg.weights.pretrained import convert, start_from


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """Within the block no file can be larger than `size` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@pytest.fixture(scope="module")
def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8))


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_picture_on_a_full_disk_is_an_error_and_never_half_a_file(
    noise: Image.Image, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    save_image(noise, path)
    whole = path.read_bytes()
    for size in range(0, len(whole) + 2000, len(whole) // 20):
        path.write_bytes(b"old")
        with disk_of(size):
            if size < len(whole):
                with pytest.raises(OSError, match="File too large"):
                    save_image(noise, path)
            else:
                save_image(noise, path)
        assert path.read_bytes() == (b"old" if size < len(whole) else whole)
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("verb", ["val", "check-data", "convert-masks", "push", "export"])
def test_every_verb_names_the_file_that_a_full_disk_cannot_hold(
    verb: str, squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, weights = tmp_path / "out", tmp_path / "w.safetensors"
    model = cgrseg.create_model("cgrseg_n", num_classes=2)
    cgrseg.save(model, weights)
    words = {
        "val": ["--weights", str(weights), "--data", str(squares), "--out", str(out)],
        "check-data": [str(squares), "--out", str(out / "sheet.png")],
        "convert-masks": [str(squares / "masks"), "--out", str(out), "--one-based", "--unknown=ignore"],
        "push": ["me/mine", "--weights", str(weights), "--terms", "none", "--out", str(out)],
        "export": ["--weights", str(weights), "--out", str(out), "--format", "openvino"],
    }[verb]
    if verb == "export":
        pytest.importorskip("openvino")
    with disk_of(100):
        assert main([verb, *words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("cgrseg: ") and (str(out) in error or "w.xml cannot be written" in error)
    assert not [path for path in out.rglob("*") if path.is_file() and path.stat().st_size > 100]


def test_a_state_of_a_training_on_a_full_disk_keeps_the_old_one(tmp_path: Path) -> None:
    from cgrseg.training.checkpoint import RunFolder
    from cgrseg.training.config import TrainConfig

    folder, state = RunFolder(TrainConfig(out=str(tmp_path))), {"model": {"a": torch.arange(50_000)}}
    folder.save_state(state)
    path = tmp_path / "state.pt"
    whole = path.read_bytes()
    for size in range(0, len(whole), len(whole) // 20):
        with disk_of(size), pytest.raises(OSError, match="the last good state is still there"):
            folder.save_state({"model": {"a": torch.arange(1, 50_001)}})
        assert path.read_bytes() == whole and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_only_a_picture_that_decodes_to_its_end_counts_as_written(
    noise: Image.Image, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    assert not is_image(path)
    save_image(noise, path)
    whole = path.read_bytes()
    assert is_image(path)
    for content in (b"", b"text", whole[:-100], whole[: len(whole) // 2], whole[:30]):
        path.write_bytes(content)
        assert not is_image(path)


def test_unfinished_files_of_killed_processes_are_removed_when_they_are_old(tmp_path: Path) -> None:
    old, young, other = (tmp_path / name for name in (".unfinished-1.png", ".unfinished-2.png", "a.png"))
    for path in (old, young, other):
        path.write_bytes(b"half")
        os.utime(path, (time.time() - 7200,) * 2)
    os.utime(young)
    (tmp_path / ".unfinished-export-1").mkdir()
    remove_unfinished([tmp_path, tmp_path / "missing"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [".unfinished-2.png", ".unfinished-export-1", "a.png"]


def test_predict_removes_unfinished_files_of_its_output_folder(tmp_path: Path, noise: Image.Image) -> None:
    stale = tmp_path / "out" / "sub" / ".unfinished-1.png"
    write_file(stale, b"half")
    os.utime(stale, (time.time() - 7200,) * 2)
    save_image(noise, tmp_path / "in" / "sub" / "a.jpg")
    torch.manual_seed(0)
    cgrseg.save(cgrseg.create_model("cgrseg_n", num_classes=3), tmp_path / "tiny.safetensors")
    weights = ["--weights", str(tmp_path / "tiny.safetensors")]
    assert main(["predict", str(tmp_path / "in"), "--out", str(tmp_path / "out"), *weights, "--save", "mask"]) == 0
    assert not stale.exists() and (tmp_path / "out" / "sub" / "a.mask.png").exists()


def test_the_bar_of_predict_ends_at_100_per_cent_on_a_terminal_and_a_log_has_no_carriage_return(
    tmp_path: Path, noise: Image.Image, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    for name in "abc":
        save_image(noise, tmp_path / "in" / f"{name}.jpg")
    (tmp_path / "in" / "broken.jpg").write_bytes(b"broken")
    cgrseg.save(cgrseg.create_model("cgrseg_n", num_classes=3), tmp_path / "tiny.safetensors")
    arguments = ["predict", str(tmp_path / "in"), "--weights", str(tmp_path / "tiny.safetensors"), "--out"]
    assert main([*arguments, str(tmp_path / "one")]) == 1
    assert "\r" not in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main([*arguments, str(tmp_path / "two")]) == 1
    bar = capsys.readouterr().err.split("\n")[0].split("\r")[-1]
    assert bar.startswith("100%") and "4/4" in bar


@pytest.mark.parametrize("text", ["é", "ß", "ñ", "Ø", "ł", "α", "Ω", "Ж", "я", "…"])
def test_the_legend_draws_the_letters_of_europe(text: str) -> None:
    letters = render.font(24)
    assert bytes(letters.getmask(text)) != bytes(letters.getmask("\U0010fffd"))  # the box of a missing letter


# Weights


def test_a_plain_state_dict_of_our_model_is_read_by_convert_and_as_initial_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = cgrseg.create_model("cgrseg_lite", num_classes=5)
    path = tmp_path / "mine.pth"
    torch.save(model.state_dict(), path)
    converted, _ = convert(path)
    fresh = cgrseg.create_model("cgrseg_lite", num_classes=5)
    start_from(fresh, path)
    for other in (converted, fresh):
        assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())
    assert main(["convert", str(path), "--out", str(tmp_path / "mine.safetensors")]) == 0
    written = cgrseg.load(tmp_path / "mine.safetensors")
    assert (written.spec, written.preprocessing) == (model.spec, model.preprocessing)


def test_the_advice_to_convert_never_names_the_file_itself(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    torch.save({"a": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"cgrseg convert \S+/w\.safetensors --out \S+/w-converted\.safetensors"):
        cgrseg.load(path)


def test_a_text_file_is_not_a_weights_file_for_any_reader(tmp_path: Path) -> None:
    path = tmp_path / "notes.safetensors"
    path.write_text("these are no weights")
    model = cgrseg.create_model("cgrseg_n", num_classes=5)
    for read in (cgrseg.load, Segmenter, convert, read_state, lambda file: start_from(model, file)):
        with pytest.raises(ValueError, match="is not a weights file"):
            read(path)


def test_a_checkpoint_that_would_expand_to_gigabytes_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(1_000_000))
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_, **__: pytest.fail("an entry is read"))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the file is loaded"))
    with pytest.raises(ValueError, match="compressed"):
        read_state(path)


def test_info_prints_no_long_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "cgrseg_lite-voc21"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100


def test_terminal_escapes_in_class_names_and_paths_are_printed_as_escapes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = cgrseg.create_model("cgrseg_n", num_classes=2)
    path = tmp_path / "a\x1b[31m.safetensors"
    cgrseg.save(model, path, card={"note": "\x1b]0;title\x07"})
    assert main(["info", str(path)]) == 0
    assert main(["train", "--out", str(tmp_path / "r"), "--data", str(tmp_path / "b\x1b[2J")]) == 2
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err and "\\x1b" in printed.out and "\\x1b" in printed.err


@pytest.mark.slow
def test_every_verb_takes_names_that_are_not_utf_8_and_prints_them_as_escapes(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = os.fsdecode(b"\xff\x1b[31m")
    data = squares.rename(tmp_path / name)
    for side in ("images", "masks"):
        (data / side / "test" / "0.png").rename(data / side / "test" / f"{name}.png")
    out = tmp_path / f"{name}out"
    weights = str(out / "run" / "last.safetensors")
    train = ["--model=cgrseg_n", "--batch=2", "--augment.crop=64", "--augment.resize_to=null", "--workers=0"]
    for words in (
        ["check-data", str(data), "--out", str(out / "sheet.png")],
        ["train", "--data", str(data), "--out", str(out / "run"), "--steps=1", *train],
        ["train", "--resume", "--out", str(out / "run"), "--steps=2"],
        ["val", "--weights", weights, "--data", str(data), "--out", str(out / "report")],
        ["predict", str(data / "images"), "--weights", weights, "--out", str(out / "labelled")],
        ["predict", str(data / "images"), "--weights", weights, "--out", str(out / "labelled"), "--resume"],
        ["convert-masks", str(data / "masks"), "--out", str(out / "masks"), "--one-based", "--unknown=ignore"],
        ["push", "me/mine", "--weights", weights, "--terms", "none", "--out", str(out / "hub")],
        ["info", weights],
    ):
        assert main(words) == 0, words
        printed = capsys.readouterr()
        assert "\x1b" not in printed.out + printed.err, words
        (printed.out + printed.err).encode()  # raises for a name that was not escaped


def test_export_refuses_names_that_are_not_utf_8_before_it_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / os.fsdecode(b"\xff")
    assert main(["export", "--weights=cgrseg_lite-voc21", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "is a name that is not UTF-8, which an exporter cannot open: rename it" in error and not out.exists()


def test_a_terminal_that_lacks_a_letter_shows_an_escape(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "cgrseg", "predict", str(tmp_path / "Straße.jpg"), "--weights=w", "--out=o"]
    done = subprocess.run(words, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii:strict"})
    assert done.returncode == 2 and b"Stra\\xdfe.jpg is not there" in done.stderr


# Exported files


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx", reason="the extra `onnx`")
    pytest.importorskip("openvino", reason="the extra `openvino`")
    from cgrseg.deploy.export import export

    folder = tmp_path_factory.mktemp("exported")
    torch.manual_seed(0)
    space = LabelSpace(names=("a", "b", "c"), colors=((1, 2, 3), (4, 5, 6), (7, 8, 9)))
    model = cgrseg.create_model("cgrseg_n", num_classes=3).eval()
    model.describe(labels=space)
    export(model, folder, name="tiny", formats=["onnx", "openvino"], sizes=[(64, 96)], batches=[1])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_segmenter_of_an_exported_file_can_be_pickled(exported: Path, noise: Image.Image, suffix: str) -> None:
    segmenter = Segmenter(exported / f"tiny{suffix}", mode="slide", window=64)
    again = pickle.loads(pickle.dumps(segmenter))
    assert again.runtime == segmenter.runtime and again.labels == segmenter.labels
    assert np.array_equal(again(noise).labels, segmenter(noise).labels)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["flipped", "longer", "shorter", "missing"])
def test_weights_of_an_openvino_file_with_other_content_are_refused(
    exported: Path, tmp_path: Path, damage: str
) -> None:
    content = bytearray((exported / "tiny.bin").read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    elif damage == "longer":
        content += bytes(64)
    else:
        content = content[:-64]
    (tmp_path / "tiny.xml").write_bytes((exported / "tiny.xml").read_bytes())
    if damage != "missing":
        (tmp_path / "tiny.bin").write_bytes(content)
    with pytest.raises(ValueError, match=r"tiny\.(xml|bin)"):
        Segmenter(tmp_path / "tiny.xml")
