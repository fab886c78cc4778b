"""What can't be labelled is refused with one clear line, before it costs anything."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cgrseg.cli.main import main
from cgrseg.images.photos import read_photo
from cgrseg.inference.segmenter import Segmenter
from cgrseg.inference.sources import find_sources
from cgrseg.labels import LabelSpace
from cgrseg.nn import build
from cgrseg.weights import artifact


def huge_png(path: Path, width: int = 30_000, height: int = 30_000) -> Path:
    """A header and nothing else."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")))
    return path


def photo_file(path: Path, size: tuple[int, int] = (64, 48)) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_a_huge_photo_is_refused_by_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = huge_png(tmp_path / "wall.png")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(
        ValueError, match=r"wall\.png is 30000 x 30000, 900 megapixels; the limit is 268: make it smaller"
    ):
        read_photo(path)


def test_a_huge_picture_in_memory_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with (
        Image.open(huge_png(tmp_path / "wall.png")) as picture,
        pytest.raises(ValueError, match="900 megapixels"),
    ):
        read_photo(picture)
    with pytest.raises(ValueError, match="megapixels"):
        read_photo(np.broadcast_to(np.uint8(0), (30_000, 30_000, 3)))


def test_below_our_limit_pillow_does_not_warn_and_keeps_its_own(tmp_path: Path) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(ValueError, match=r"wall\.png is damaged or cut short"):  # warnings are errors here
        read_photo(huge_png(tmp_path / "wall.png", 12_000, 12_000))
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("zero.jpg", b"", r"zero\.jpg is empty \(0 bytes\)"),
        ("notes.jpg", b"this is text, not a photo", r"notes\.jpg is no photo"),
        ("half.png", b"\x89PNG\r\n\x1a\n\0\0", r"half\.png is no photo"),
    ],
)
def test_a_file_that_is_no_photo_is_named_with_the_cure(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=words):
        read_photo(tmp_path / name)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "gif", "bmp"])
def test_a_photo_cut_short_is_named_with_the_cure(tmp_path: Path, suffix: str) -> None:
    path = photo_file(tmp_path / f"photo.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"photo\.{suffix} is (damaged or cut short|no photo)"):
        read_photo(path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow tells of damage that it can read past
@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    suffix=st.sampled_from(["jpg", "png", "tif", "webp", "gif", "bmp", "ppm"]),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=30),
    cut=st.integers(0, 10_000),
)
def test_damage_anywhere_gives_a_photo_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, changes: list[tuple[int, int]], cut: int
) -> None:
    path = photo_file(tmp_path_factory.getbasetemp() / f"photo.{suffix}", (20, 10))
    data = bytearray(path.read_bytes()[: max(cut, 1)])
    for position, value in changes:
        data[position % len(data)] = value
    path.write_bytes(data)
    try:
        assert read_photo(path).dtype == np.uint8
    except ValueError as error:
        assert "photo." in str(error) and "\n" not in str(error)


def test_missing_photos_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg is not there"):
        read_photo(tmp_path / "nowhere.jpg")
    with pytest.raises(IsADirectoryError, match=f"{tmp_path.name} is a folder"):
        read_photo(tmp_path)
    with pytest.raises(OSError, match=r"name too long|can't be read"):
        read_photo(tmp_path / ("x" * 400))


@pytest.mark.parametrize("thing", [None, 3, b"photo.jpg", torch.zeros(3, 8, 8)])
def test_other_things_are_no_photos(thing: object) -> None:
    with pytest.raises(ValueError, match="is no photo: give a path"):
        read_photo(thing)


def test_sources_that_name_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no photo")
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg is not there"):
        find_sources([str(tmp_path / "gone.jpg")], out=tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"\*\.jpg matches nothing"):
        find_sources([str(tmp_path / "*.jpg")], out=tmp_path / "out")
    for pattern in (tmp_path / "empty", tmp_path / "empty" / "*"):
        with pytest.raises(ValueError, match="holds no photo or video"):
            find_sources([str(pattern)], out=tmp_path / "out")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    artifact.save(build("cgrseg_n", num_classes=3), path, labels=LabelSpace.numbered(3))
    return path


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--save", "overlay,picture"], "'picture' can't be saved: choose from overlay,mask,confidence"),
        (["--save", ""], "choose from overlay,mask,confidence"),
        (["--batch", "0"], "--batch is 0"),
        (["--short-side", "-5"], "short_side is -5"),
    ],
)
def test_bad_flags_are_one_line_and_exit_code_2(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    photo = photo_file(tmp_path / "a.jpg")
    code = main(["predict", str(photo), "--weights", str(weights), "--out", str(tmp_path / "out"), *options])
    error = capsys.readouterr().err
    assert code == 2 and words in error and error.count("\n") == 1


@pytest.mark.parametrize("kind", ["missing", "text", "photo", "torch"])
def test_weights_that_are_none_are_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    photo = photo_file(tmp_path / "a.jpg")
    weights = tmp_path / "weights.safetensors"
    if kind == "text":
        weights.write_text("hello")
    elif kind == "photo":
        weights = photo
    elif kind == "torch":
        torch.save({"weight": torch.zeros(3)}, weights)
    code = main(["predict", str(photo), "--weights", str(weights), "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert code == 2 and error.startswith("cgrseg: ") and error.count("\n") == 1 and weights.name in error


@pytest.mark.parametrize("out", ["file", "under-file", "read-only"])
def test_an_output_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    photo = photo_file(tmp_path / "a.jpg")
    (tmp_path / "file").write_text("kept")
    folder = {
        "file": tmp_path / "file",
        "under-file": tmp_path / "file" / "deeper",
        "read-only": Path("/proc/cgrseg"),
    }[out]
    code = main(["predict", str(photo), "--weights", str(weights), "--out", str(folder)])
    error = capsys.readouterr().err
    assert code == 2 and error.startswith("cgrseg: --out ") and error.count("\n") == 1 and str(folder) in error
    assert (tmp_path / "file").read_text() == "kept"


def test_a_model_with_another_class_list_is_refused(tmp_path: Path) -> None:
    model = build("cgrseg_n", num_classes=3)
    model.labels = LabelSpace.numbered(4)
    with pytest.raises(ValueError, match=r"3 classes .* has 4"):
        Segmenter(model)
