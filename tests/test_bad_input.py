"""Images, weights and options that cannot be used are refused with one line, before any work is done."""

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

import cgrseg
from cgrseg import Segmenter
from cgrseg.cli.main import main
from cgrseg.images.photos import read_photo
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


def test_a_huge_image_is_refused_by_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = huge_png(tmp_path / "wall.png")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(ValueError, match=r"wall\.png has too many pixels; the limit is 268 megapixels"):
        read_photo(path)


def test_a_huge_image_in_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with (
        Image.open(huge_png(tmp_path / "wall.png")) as picture,
        pytest.raises(ValueError, match="900 megapixels"),
    ):
        read_photo(picture)
    with pytest.raises(ValueError, match="megapixels"):
        read_photo(np.broadcast_to(np.uint8(0), (30_000, 30_000, 3)))


def test_a_large_image_below_the_limit_is_read_without_a_warning(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"wall\.png is damaged or incomplete"):  # warnings are errors here
        read_photo(huge_png(tmp_path / "wall.png", 12_000, 12_000))


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("zero.jpg", b"", r"zero\.jpg is empty \(0 bytes\)"),
        ("notes.jpg", b"this is text, not an image", r"notes\.jpg is not an image that can be read"),
        ("half.png", b"\x89PNG\r\n\x1a\n\0\0", r"half\.png is not an image that can be read"),
    ],
)
def test_a_file_that_is_not_an_image_is_named_with_the_cure(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=words):
        read_photo(tmp_path / name)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "gif", "bmp"])
def test_an_incomplete_image_is_named_with_the_cure(tmp_path: Path, suffix: str) -> None:
    path = photo_file(tmp_path / f"photo.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"photo\.{suffix} is (damaged or incomplete|not an image)"):
        read_photo(path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow warns of damage that it can ignore
@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    suffix=st.sampled_from(["jpg", "png", "tif", "webp", "gif", "bmp", "ppm"]),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=30),
    cut=st.integers(0, 10_000),
)
def test_damage_anywhere_gives_an_image_or_one_line(
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


def test_no_other_program_is_started_to_read_an_image(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (8, 8)).save(path, "EPS")
    with pytest.raises(ValueError, match="is not an image that can be read: convert it to JPEG or PNG"):
        read_photo(path)


def test_missing_photos_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg does not exist"):
        read_photo(tmp_path / "nowhere.jpg")
    with pytest.raises(IsADirectoryError, match=f"{tmp_path.name} is a folder"):
        read_photo(tmp_path)
    with pytest.raises(OSError, match=r"name too long|can't be read"):
        read_photo(tmp_path / ("x" * 400))


@pytest.mark.parametrize("thing", [None, 3, b"photo.jpg", torch.zeros(3, 8, 8)])
def test_other_types_are_refused(thing: object) -> None:
    with pytest.raises(ValueError, match="is not an image: give a path"):
        read_photo(thing)


def test_sources_that_name_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no photo")
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg is not there"):
        find_sources([str(tmp_path / "gone.jpg")], out=tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"\*\.jpg matches nothing"):
        find_sources([str(tmp_path / "*.jpg")], out=tmp_path / "out")
    for pattern in (tmp_path / "empty", tmp_path / "empty" / "*"):
        with pytest.raises(ValueError, match=r"holds no photo or video.*: convert what was left out"):
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
        (["--save", "overlay,picture"], "'picture' is not an output: choose from overlay, mask, confidence"),
        (["--save", ""], "choose from overlay, mask, confidence"),
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
def test_files_that_are_not_weights_are_one_line_and_exit_code_2(
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


@pytest.mark.parametrize("fault", ["weights", "empty folder", "class", "device"])
def test_a_command_that_is_refused_leaves_no_output_folder(tmp_path: Path, weights: Path, fault: str) -> None:
    photo = photo_file(tmp_path / "a.jpg")
    (tmp_path / "empty").mkdir()
    source = tmp_path / "empty" if fault == "empty folder" else photo
    given = "none-such" if fault == "weights" else str(weights)
    words = ["predict", str(source), "--weights", given, "--out", str(tmp_path / "new" / "out")]
    words += {"class": ["--save", "cutout", "--classes", "dragon"], "device": ["--device", "tpu"]}.get(fault, [])
    assert main(words) == 2
    assert not (tmp_path / "new").exists()


def test_a_source_named_as_the_output_folder_is_refused_as_such(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = photo_file(tmp_path / "a.jpg")
    assert main(["predict", str(tmp_path), "--weights", str(weights), "--out", str(photo)]) == 2
    assert capsys.readouterr().err == f"cgrseg: --out {photo} is a file: name a folder\n"


@pytest.mark.parametrize("run", [True, False])
def test_a_folder_in_place_of_weights_says_which_file_to_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], run: bool
) -> None:
    photo, folder = photo_file(tmp_path / "a.jpg"), tmp_path / "runs"
    folder.mkdir()
    if run:
        (folder / "best.safetensors").touch()
    assert main(["predict", str(photo), "--weights", str(folder), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"cgrseg: {folder} is ") and error.count("\n") == 1
    assert (str(folder / "best.safetensors") if run else "name a weights file\n") in error


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_an_output_that_would_overwrite_an_input_is_refused(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str], resume: list[str]
) -> None:
    photos = [photo_file(tmp_path / name) for name in ("a.jpg", "a.overlay.jpg")]
    before = [photo.read_bytes() for photo in photos]
    words = ["predict", *map(str, photos), "--weights", str(weights), "--out", str(tmp_path), *resume]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "would overwrite the source" in error and "use another --out" in error
    assert [photo.read_bytes() for photo in photos] == before and len(list(tmp_path.iterdir())) == 2


def test_files_that_are_left_out_are_named(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo_file(tmp_path / "photos.jpg").rename(tmp_path / "a.jpg")
    (tmp_path / "notes\x1b[31m.txt").write_text("text")
    assert main(["predict", str(tmp_path), "--weights", str(weights), "--out", str(tmp_path / "out")]) == 0
    error = capsys.readouterr().err
    assert "left out" in error and r"notes\x1b[31m.txt" in error and "\x1b" not in error


def test_a_file_that_fails_is_named_without_control_characters_and_the_others_are_labelled(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = photo_file(tmp_path / "a.jpg"), tmp_path / "b\x1b[31m.jpg"
    bad.write_bytes(b"text")
    words = ["predict", str(good), str(bad), "--weights", str(weights), "--out", str(tmp_path / "out")]
    assert main([*words, "--save", "mask", "confidence"]) == 1
    output = capsys.readouterr()
    assert "failed: " in output.err and r"b\x1b[31m.jpg" in output.err and "\x1b" not in output.err
    assert output.out.startswith("1 image in ")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.confidence.png", "a.mask.png"]


def test_a_model_needs_a_class() -> None:
    for name in ("cgrseg_n", "segformer_b0"):
        with pytest.raises(ValueError, match="num_classes is 0: it must be at least 1"):
            cgrseg.create_model(name, num_classes=0)


def test_what_is_not_a_weights_file_is_named_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(IsADirectoryError, match=r"run is a folder: name a weights file$"):
        Segmenter(tmp_path / "run")
    (tmp_path / "run" / "best.safetensors").touch()
    with pytest.raises(IsADirectoryError, match=r"such as \S+run/best\.safetensors"):
        cgrseg.load(tmp_path / "run")
    with pytest.raises(ValueError, match=r"cgrseg_t is a model without weights: train it, or choose from cgrseg_lite-"):
        cgrseg.load("cgrseg_t")
    with pytest.raises(TypeError, match=r"export takes a model, not str: give cgrseg\.load"):
        cgrseg.export("cgrseg_lite-voc21", tmp_path)  # type: ignore[arg-type]


def test_a_folder_named_like_bundled_weights_does_not_hide_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo_file(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # the second time, the folder is there
        assert main(["predict", "a.png", "--weights", "cgrseg_lite-voc21", "--out", "cgrseg_lite-voc21"]) == 0
    assert (tmp_path / "cgrseg_lite-voc21" / "a.mask.png").is_file()


def test_a_missing_key_file_is_named_with_its_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "key"
    assert main(["serve", "--weights", "cgrseg_lite-voc21", "--key-file", str(path)]) == 2
    assert f"--key-file {path} is not a file: write the key" in capsys.readouterr().err


def test_a_command_that_fails_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "out"), "--weights", "cgrseg_t"]
    (tmp_path / "data").mkdir()
    (tmp_path / "photo.png").touch()
    assert main(["val", "--data", str(tmp_path / "data"), *out]) == 2
    assert main(["export", *out]) == 2
    assert main(["figures", "attention", str(tmp_path / "photo.png"), *out]) == 2
    assert main(["push", "me/mine", *out]) == 2
    assert not (tmp_path / "out").exists()
