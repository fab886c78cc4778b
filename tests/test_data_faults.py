"""Data that is not what it seems is never healthy: check-data and training say so, and say how to repair it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cgrseg.data.check import inspect, quick_check
from cgrseg.data.check.report import DatasetReport
from cgrseg.data.convert_masks import convert_masks
from cgrseg.data.listing import open_dataset
from cgrseg.data.masks import read_mask_file

Rewrite = Callable[[np.ndarray], Image.Image | np.ndarray]


def rewrite(root: Path, change: Rewrite, *, splits: tuple[str, ...] = ("train", "val", "test")) -> None:
    """Replace each mask of ids by what `change` makes of it."""
    for split in splits:
        for path in sorted((root / "masks" / split).iterdir()):
            made = change(np.array(Image.open(path)))
            (made if isinstance(made, Image.Image) else Image.fromarray(made)).save(path, "PNG")


def classes(root: Path, *names: str, colors: list[list[int]] | None = None) -> None:
    entries = [{"id": k, "name": name, **({"color": colors[k]} if colors else {})} for k, name in enumerate(names)]
    (root / "classes.json").write_text(json.dumps({"classes": entries}))


def kinds(report: DatasetReport) -> set[str]:
    return {problem.kind for problem in report.problems}


def both(root: Path) -> tuple[DatasetReport, DatasetReport]:
    return inspect(root), quick_check(root)


# ---- 1: binary masks, grey levels, a single class


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("top", [255, 65535])
def test_binary_masks_are_an_error_with_the_cure(squares: Path, listed: bool, top: int) -> None:
    rewrite(squares, lambda mask: np.where(mask == 1, top, 0).astype(np.uint16 if top > 255 else np.uint8))
    if not listed:
        (squares / "classes.json").unlink()
        with pytest.raises(ValueError, match="black and white, but 255 means ignored: `cgrseg convert-masks"):
            open_dataset(squares, "train")
    for report in both(squares):
        assert any("black and white, but 255 means ignored: `cgrseg convert-masks" in error for error in report.errors)
        with pytest.raises(ValueError, match="black and white"):
            report.refuse_errors()


def test_the_cure_of_binary_masks_makes_a_healthy_dataset(squares: Path) -> None:
    rewrite(squares, lambda mask: np.where(mask == 1, 255, 0).astype(np.uint8))
    (squares / "classes.json").unlink()
    shutil.move(squares / "masks", squares / "binary")
    convert_masks(squares / "binary", squares / "masks")
    report = inspect(squares)  # classes.json is found beside the masks, too
    assert report.errors == report.warnings == () and report.labels is not None
    assert report.labels.names == ("background", "object")


def test_binary_masks_in_one_split_only_are_an_error(squares: Path) -> None:
    rewrite(squares, lambda mask: np.where(mask == 1, 255, 0).astype(np.uint8), splits=("val",))
    for report in both(squares):
        (error,) = report.errors
        assert "the val masks hold only 0 and 255" in error


def test_binary_masks_among_others_are_a_warning(squares: Path) -> None:
    path = squares / "masks" / "train" / "0.png"
    Image.fromarray(np.where(np.array(Image.open(path)) == 1, 255, 0).astype(np.uint8)).save(path)
    report = inspect(squares)
    assert report.errors == () and kinds(report) == {"binary masks among others"}


def test_grey_of_two_bits_is_read_as_its_ids(squares: Path) -> None:
    """Pillow spreads 0 … 3 over 0 … 255, and 255 would be ignored."""
    path = squares / "masks" / "train" / "0.png"
    ids = np.zeros((64, 80), np.uint8)
    ids[10:20, 10:20], ids[30:40, 30:40] = 1, 3
    write_png(path, ids, bits=2)
    assert np.unique(np.array(Image.open(path))).tolist() == [0, 85, 255]
    classes(squares, "a", "b", "c", "d")
    assert (np.asarray(open_dataset(squares, "train").read(0)[1]) == ids).all()


def write_png(path: Path, ids: np.ndarray, *, bits: int) -> None:
    """A grey PNG of less than 8 bits, which Pillow does not write."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    unpacked = ((ids[..., None] >> np.arange(bits - 1, -1, -1)) & 1).reshape(len(ids), -1).astype(np.uint8)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in unpacked)
    header = struct.pack(">IIBBBBB", ids.shape[1], ids.shape[0], bits, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


@pytest.mark.parametrize("levels", [(0, 127, 255), (0, 128, 255), (0, 85, 170, 255)])
@pytest.mark.parametrize("listed", [True, False])
def test_grey_levels_are_not_ids(squares: Path, levels: tuple[int, ...], listed: bool) -> None:
    def change(mask: np.ndarray) -> np.ndarray:
        ids = np.where(mask == 1, 1, 0)
        ids[40:60, 2:70] = np.arange(68) * len(levels) // 68
        return np.array(levels, np.uint8)[ids]

    rewrite(squares, change)
    classes(squares, *"abcd"[: len(levels)])
    if not listed:
        (squares / "classes.json").unlink()
    for report in both(squares):
        assert any("grey levels 0, " in error and "`cgrseg convert-masks`" in error for error in report.errors)


def test_rare_objects_do_not_make_a_quick_check_fail(squares: Path) -> None:
    """Masks of the background alone are healthy where others hold the object."""
    for number in range(1, 6):
        path = squares / "masks" / "train" / f"{number}.png"
        Image.fromarray(np.zeros((64, 80), np.uint8)).save(path)
    assert quick_check(squares, pairs=1).errors == () == inspect(squares).errors
    shutil.copy(squares / "masks" / "train" / "1.png", squares / "masks" / "train" / "0.png")
    for report in both(squares):
        (error,) = report.errors
        assert "the train masks hold only the class ground" in error


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_any_labelled_pixel_is_an_error(squares: Path, split: str) -> None:
    rewrite(squares, lambda mask: np.full_like(mask, 255), splits=(split,))
    for report in both(squares):
        assert any(f"the {split} masks hold no class" in error for error in report.errors)


def test_a_class_list_of_one_class_is_an_error(squares: Path) -> None:
    rewrite(squares, lambda mask: np.zeros_like(mask))
    classes(squares, "all")
    for report in both(squares):
        assert any("a training needs two classes or more" in error for error in report.errors)


# ---- 2: colours against colours

RED_FIRST, RED_LAST = [[0, 0, 0], [255, 0, 0], [0, 255, 0]], [[0, 0, 0], [0, 255, 0], [255, 0, 0]]


def with_palette(ids: np.ndarray, colors: list[list[int]]) -> Image.Image:
    picture = Image.fromarray(np.where(ids == 255, 0, ids).astype(np.uint8))
    picture.putpalette(np.array(colors, np.uint8).ravel().tolist())
    return picture


@pytest.mark.parametrize("listed", [True, False])
def test_palettes_that_differ_from_file_to_file_are_an_error(squares: Path, listed: bool) -> None:
    palettes = iter([RED_FIRST, RED_LAST] * 5)
    rewrite(squares, lambda mask: with_palette(mask, next(palettes)))
    if not listed:
        (squares / "classes.json").unlink()
    for report in both(squares):
        assert "palettes that differ" in kinds(report)
        assert any("id 1 has the colour #00ff00, but #ff0000 in" in e and "convert-masks" in e for e in report.errors)


def test_palettes_in_another_order_than_the_class_list_are_an_error(squares: Path) -> None:
    classes(squares, "ground", "tree", "square", colors=RED_LAST)
    rewrite(squares, lambda mask: with_palette(mask, RED_FIRST))
    for report in both(squares):
        assert kinds(report) >= {"colours that contradict the class list"}
        assert any("id 1 has the colour #ff0000, which the class list gives to 'square'" in e for e in report.errors)


def test_a_palette_of_a_mask_that_a_quick_check_does_not_open_is_compared_too(squares: Path) -> None:
    odd = squares / "masks" / "train" / "5.png"
    rewrite(squares, lambda mask: with_palette(mask, RED_FIRST))
    with Image.open(odd) as mask:
        with_palette(np.array(mask), RED_LAST).save(odd)
    report = quick_check(squares, pairs=2)
    assert report.splits[0].checked == 2
    assert any(f"{odd}: id 1 has the colour #00ff00" in error for error in report.errors)


def test_palettes_of_different_lengths_are_the_same_palette(squares: Path) -> None:
    lengths = iter([2, 3] * 5)
    rewrite(squares, lambda mask: with_palette(mask, RED_FIRST[: next(lengths)]))
    for report in both(squares):
        assert report.errors == ()


def test_palettes_with_colours_of_their_own_are_healthy(squares: Path) -> None:
    rewrite(squares, lambda mask: with_palette(mask, [[9, 9, 9], [1, 2, 3]]))
    assert inspect(squares).errors == ()
    rewrite(squares, lambda mask: with_palette(mask, [[0, 0, 0], [255, 0, 0]]))  # those of the class list
    assert inspect(squares).errors == ()


# ---- 3: ids in several channels


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "four equal"])
def test_ids_in_equal_channels_are_read_as_ids(squares: Path, mode: str) -> None:
    expected = np.asarray(open_dataset(squares, "train").read(2)[1])

    def change(mask: np.ndarray) -> Image.Image:
        picture = Image.fromarray(mask)
        return Image.merge("RGBA", [picture] * 4) if mode == "four equal" else picture.convert(mode)

    rewrite(squares, change)
    assert (np.asarray(open_dataset(squares, "train").read(2)[1]) == expected).all()
    assert inspect(squares).errors == ()


def test_colours_that_happen_to_be_black_are_not_taken_for_id_0(squares: Path) -> None:
    classes(squares, "red", "black", colors=[[255, 0, 0], [0, 0, 0]])
    for path in (squares / "masks").rglob("*.png"):
        Image.new("RGB", (80, 64)).save(path)
    assert "colours that contradict the class list" in kinds(inspect(squares))


# ---- 4: interpolated, shifted and JPEG masks


def test_interpolated_masks_without_a_class_list_are_an_error(squares: Path) -> None:
    def change(mask: np.ndarray) -> Image.Image:
        big = Image.fromarray(np.where(mask == 1, 200, 0).astype(np.uint8))
        return big.resize((33, 27), Image.Resampling.BILINEAR).resize((80, 64), Image.Resampling.BILINEAR)

    rewrite(squares, change)
    (squares / "classes.json").unlink()
    for report in both(squares):
        assert any("resized with interpolation" in error and "no classes.json" in error for error in report.errors)
    with pytest.raises(ValueError, match="resized with interpolation"):
        open_dataset(squares, "train")


def test_ids_from_one_are_called_off_by_one_and_can_be_converted(squares: Path) -> None:
    rewrite(squares, lambda mask: np.where(mask == 255, 0, mask + 1).astype(np.uint8))
    for report in both(squares):
        assert any("off by one?" in e and "`cgrseg convert-masks --one-based`" in e for e in report.errors)
    shutil.move(squares / "masks", squares / "from_one")
    convert_masks(squares / "from_one", squares / "masks", one_based=True)
    assert inspect(squares).errors == inspect(squares).warnings == ()


def test_ids_from_one_without_the_last_class_are_a_warning(squares: Path) -> None:
    classes(squares, "a", "b", "c", "d")
    rewrite(squares, lambda mask: np.where(mask == 255, 255, mask + 1).astype(np.uint8))
    report = inspect(squares)
    assert any("no mask has id 0 (a): off by one?" in warning for warning in report.warnings)


def test_jpeg_masks_are_damaged_even_if_they_are_called_png(squares: Path) -> None:
    for path in (squares / "masks" / "train").iterdir():
        Image.fromarray(np.where(np.array(Image.open(path)) == 1, 1, 0).astype(np.uint8)).save(path, "JPEG")
    for report in both(squares):
        assert len([e for e in report.errors if "is a JPEG file, which changes ids near borders" in e]) == 6


def test_masks_with_the_suffix_jpg_are_not_advised_to_be_converted(squares: Path) -> None:
    for path in (squares / "masks" / "train").iterdir():
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    report = inspect(squares)
    assert all("JPEG changes ids; export it again as PNG" in error for error in report.errors) and report.errors


# ---- 5: one rule for all readers


def test_photos_in_sub_folders_links_and_capitals_pair_with_their_masks(squares: Path) -> None:
    for side in ("images", "masks"):
        (squares / side / "train" / "city").mkdir()
        shutil.move(squares / side / "train" / "0.png", squares / side / "train" / "city" / "0.PNG")
        shutil.move(squares / side / "val", squares.parent / side)
        (squares / side / "val").symlink_to(squares.parent / side)
        (squares / side / "train" / "loop").symlink_to(squares / side)
    samples = open_dataset(squares, "train")
    assert [samples.name(index) for index in range(6)] == ["1.png", "2.png", "3.png", "4.png", "5.png", "city/0.PNG"]
    assert len(open_dataset(squares, "val")) == 2
    assert inspect(squares).errors == ()


def test_the_same_name_in_two_sub_folders_is_two_photos(squares: Path) -> None:
    for side in ("images", "masks"):
        for number, city in enumerate(("ulm", "bonn")):
            (squares / side / "train" / city).mkdir()
            shutil.move(squares / side / "train" / f"{number}.png", squares / side / "train" / city / "a.png")
    samples = open_dataset(squares, "train")
    assert {samples.name(index) for index in range(6)} >= {"ulm/a.png", "bonn/a.png"}
    assert inspect(squares).errors == inspect(squares).warnings == ()


def test_a_flat_dataset_does_not_train_on_its_val_and_test_photos(squares: Path) -> None:
    for side in ("images", "masks"):
        for path in (squares / side / "train").iterdir():
            shutil.move(path, squares / side / path.name)
        (squares / side / "train").rmdir()
    assert len(open_dataset(squares, "train")) == 6 and inspect(squares).errors == ()


@pytest.mark.parametrize("name", ["validation", "Val", "testing"])
def test_misnamed_splits_are_an_error(squares: Path, name: str) -> None:
    for side in ("images", "masks"):
        shutil.move(squares / side / "val", squares / side / name)
    for report in both(squares):
        assert any(f"{name}: the folder would not be used" in error for error in report.errors)
    assert len(open_dataset(squares, "train")) == 5  # one became val


def test_files_that_are_left_out_are_counted_and_named(squares: Path) -> None:
    for name in ("a.heic", "b.heic", "notes.txt"):
        (squares / "images" / "train" / name).write_bytes(b"x")
    hidden = squares / "images" / "train" / ".ipynb_checkpoints"
    hidden.mkdir()
    shutil.copy(squares / "images" / "train" / "0.png", hidden)
    report = inspect(squares)
    (warning,) = report.warnings
    assert ".heic (2): a.heic, b.heic" in warning and ".txt (1): notes.txt" in warning
    assert report.splits[0].photos == 6 and "hidden (1): .ipynb_checkpoints" in str(report)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_pipes_sockets_and_broken_links_never_hang(squares: Path) -> None:
    os.mkfifo(squares / "images" / "train" / "pipe.png")
    os.mkfifo(squares / "masks" / "train" / "pipe.png")
    (squares / "images" / "val" / "gone.png").symlink_to(squares / "nowhere.png")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(squares / "s.png"))
    server.close()
    shutil.move(squares / "s.png", squares / "images" / "test" / "s.png")
    for report in both(squares):
        (error,) = report.errors
        assert "gone.png: is a broken link or an unreadable folder" in error
        assert any("not regular files (1): pipe.png" in warning for warning in report.warnings)


def test_photos_behind_broken_links_are_never_left_out_in_silence(squares: Path, tmp_path: Path) -> None:
    (squares / "images" / "val" / "2.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(FileNotFoundError, match=r"2\.png: is a broken link"):
        open_dataset(squares, "val")
    city = tmp_path / "leftImg8bit" / "train" / "ulm"
    city.mkdir(parents=True)
    (city / "ulm_0_1_leftImg8bit.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(FileNotFoundError, match=r"leftImg8bit\.png is a broken link"):
        open_dataset(tmp_path, "train", "cityscapes")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_folder_is_an_error(squares: Path) -> None:
    closed = squares / "images" / "train" / "city"
    closed.mkdir(mode=0)
    assert any("city: is a broken link or an unreadable folder" in error for error in inspect(squares).errors)


@pytest.mark.parametrize("broken", ["link", "folder"])
def test_a_class_list_that_can_not_be_read_is_not_taken_for_none(squares: Path, broken: str) -> None:
    (squares / "classes.json").unlink()
    (squares / "classes.json").symlink_to("nowhere") if broken == "link" else (squares / "classes.json").mkdir()
    assert "class list" in kinds(inspect(squares))
    with pytest.raises(ValueError, match=r"classes\.json is not a regular file, or a broken link"):
        open_dataset(squares, "train")


def test_a_linked_city_of_cityscapes_is_not_left_out(tmp_path: Path) -> None:
    for city in ("ulm", "bonn"):
        photo = tmp_path / "leftImg8bit" / "train" / city / f"{city}_0_1_leftImg8bit.png"
        mask = tmp_path / "gtFine" / "train" / city / f"{city}_0_1_gtFine_labelIds.png"
        for path, picture in ((photo, Image.new("RGB", (8, 4))), (mask, Image.new("L", (8, 4), 7))):
            path.parent.mkdir(parents=True)
            picture.save(path)
    shutil.move(tmp_path / "leftImg8bit" / "train" / "ulm", tmp_path / "ulm")
    (tmp_path / "leftImg8bit" / "train" / "ulm").symlink_to(tmp_path / "ulm")
    assert len(open_dataset(tmp_path, "train", "cityscapes")) == 2


# ---- 7: names


def test_composed_and_decomposed_names_pair(squares: Path) -> None:
    for side, form in (("images", "NFC"), ("masks", "NFD")):
        folder = squares / side / "train"
        shutil.move(folder / "0.png", folder / f"{unicodedata.normalize(form, 'Straßé')}.png")  # type: ignore[arg-type]
    assert len(open_dataset(squares, "train")) == 6
    assert inspect(squares).errors == inspect(squares).warnings == ()


def test_names_that_are_not_utf_8_are_read_and_printed_with_escapes(squares: Path) -> None:
    name = os.fsdecode("stra\xdfe.png".encode("latin-1"))
    try:
        for side in ("images", "masks"):
            shutil.move(squares / side / "train" / "0.png", squares / side / "train" / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    samples = open_dataset(squares, "train")
    assert "stra\\xdfe.png" in {samples.name(index) for index in range(6)}
    (squares / "masks" / "train" / name).write_bytes(b"")
    report = inspect(squares)
    str(report).encode("utf-8")
    assert any("stra\\xdfe.png: can't be read" in error for error in report.errors)


# ---- 8: EXIF rotation


@pytest.mark.parametrize(("orientation", "square"), [(3, False), (2, False), (6, True), (8, True)])
def test_a_mask_that_fits_the_unrotated_photo_is_a_warning_where_the_size_can_not_tell(
    squares: Path, orientation: int, square: bool
) -> None:
    mask = np.zeros((64, 64 if square else 80), np.uint8)
    mask[5:25, 8:30] = 1
    photo = Image.fromarray(np.where(mask[..., None] == 1, 220, 40).astype(np.uint8).repeat(3, 2))
    exif = photo.getexif()
    exif[0x0112] = orientation
    photo.save(squares / "images" / "train" / "0.png", exif=exif)
    Image.fromarray(mask).save(squares / "masks" / "train" / "0.png")
    (warning,) = inspect(squares).warnings
    assert "0.png: fits the photo before its EXIF rotation" in warning
    upright = {2: mask[:, ::-1], 3: mask[::-1, ::-1], 6: np.rot90(mask, 3), 8: np.rot90(mask)}[orientation]
    Image.fromarray(upright).save(squares / "masks" / "train" / "0.png")
    assert inspect(squares).warnings == ()


def test_a_mask_with_an_exif_rotation_of_its_own_is_rotated_like_its_photo(squares: Path) -> None:
    for side in ("images", "masks"):
        path = squares / side / "train" / "0.png"
        picture = Image.open(path)
        picture.load()
        exif = picture.getexif()
        exif[0x0112] = 6
        picture.save(path, exif=exif)
    photo, mask = open_dataset(squares, "train").read(0)
    assert photo.shape == (80, 64, 3) and mask.size == (64, 80)
    assert inspect(squares).errors == inspect(squares).warnings == ()


# ---- 10: said once


@pytest.mark.parametrize("side", ["masks", "images"])
def test_a_missing_folder_is_said_once(squares: Path, side: str) -> None:
    shutil.rmtree(squares / side)
    for report in both(squares):
        (error,) = report.errors
        assert error == f"{squares / side}: no such folder: a dataset has images/, masks/ and classes.json"


def test_lines_that_differ_in_the_file_alone_are_grouped_by_cause(squares: Path) -> None:
    rewrite(squares, lambda mask: np.where(mask == 1, 7, mask))
    report = inspect(squares)
    assert report.text().count("holds class 7, but classes.json ends at 1") == 1
    assert report.text(limit=3).count(".png") == 3 and "… and 7 more files" in report.text(limit=3)
    assert report.text(limit=0).count(".png") == 10


# ---- further faults that passed


def test_a_photo_of_one_colour_is_a_warning(squares: Path) -> None:
    Image.new("RGB", (80, 64)).save(squares / "images" / "train" / "0.png")
    (warning,) = inspect(squares).warnings
    assert "0.png: all pixels have one colour" in warning


def test_a_photo_that_is_its_mask_is_an_error(squares: Path) -> None:
    shutil.copy(squares / "masks" / "train" / "0.png", squares / "images" / "train" / "0.png")
    (error,) = inspect(squares).errors
    assert "0.png: is the same file as its mask" in error


def test_classes_of_one_colour_are_a_warning(squares: Path) -> None:
    classes(squares, "ground", "square", colors=[[9, 9, 9], [9, 9, 9]])
    (warning,) = inspect(squares).warnings
    assert "ground, square have the same colour (9, 9, 9)" in warning


def test_a_rotated_mask_of_16_bits_keeps_its_ids(tmp_path: Path) -> None:
    ids = np.arange(12, dtype=np.uint16).reshape(3, 4) * 100
    picture = Image.fromarray(ids)
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.png", exif=exif)
    assert (read_mask_file(tmp_path / "a.png") == np.rot90(ids, 3)).all()


def test_a_folder_of_photos_in_another_format_says_to_convert_them(squares: Path) -> None:
    for path in sorted((squares / "images" / "train").iterdir()):
        path.rename(path.with_suffix(".heic"))
    with pytest.raises(ValueError, match=r"has no photos: convert to JPEG or PNG what was left out, \.heic \("):
        open_dataset(squares, "train")
