"""check-data finds all that is wrong, tells errors from warnings, and finds nothing in good data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cgrseg.data.check import class_shares, inspect, quick_check
from cgrseg.data.check.report import DatasetReport
from cgrseg.data.listing import open_dataset
from cgrseg.data.synthetic import Synthetic


def mask_of(root: Path, name: str = "train/0") -> tuple[Path, np.ndarray]:
    path = root / "masks" / f"{name}.png"
    return path, np.array(Image.open(path))


def found(report: DatasetReport, kind: str) -> list[str]:
    return [str(problem) for problem in report.problems if problem.kind == kind]


def test_good_data_has_nothing_wrong(squares: Path) -> None:
    report = inspect(squares)
    assert report.errors == report.warnings == ()
    report.refuse_errors()
    assert [(split.name, split.photos, dict(split.sizes)) for split in report.splits] == [
        ("train", 6, {(80, 64): 6}),
        ("val", 2, {(80, 64): 2}),
        ("test", 2, {(80, 64): 2}),
    ]
    train = report.splits[0]
    assert train.ignore_share == 1 / 64 and train.shares.sum() == pytest.approx(1)
    assert train.holders.tolist() == [6, 6]
    assert "nothing wrong found" in str(report) and "1 square" in str(report)


def test_shares_are_those_of_the_pixels(squares: Path) -> None:
    samples = open_dataset(squares, "train")
    ids = np.concatenate([np.asarray(samples.read(index)[1]).ravel() for index in range(6)])
    expected = [(ids == label).sum() / (ids < 255).sum() for label in (0, 1)]
    assert class_shares(samples) == pytest.approx(expected, abs=1e-12)
    assert inspect(squares).splits[0].shares == pytest.approx(expected, abs=1e-12)


def test_shares_of_synthetic_scenes_and_of_more_masks_than_are_counted() -> None:
    scenes = Synthetic(size=(48, 64), count=9, classes=3)
    ids = np.concatenate([np.asarray(scenes.read(index)[1]).ravel() for index in (0, 3, 6)])
    assert class_shares(scenes, most=3) == pytest.approx(np.bincount(ids, minlength=3) / ids.size, abs=1e-12)


def test_shares_open_no_photo_and_leave_broken_masks_out(squares: Path) -> None:
    for photo in (squares / "images" / "train").iterdir():
        photo.write_bytes(b"")
    samples = open_dataset(squares, "train")
    whole = class_shares(samples)
    mask_of(squares)[0].write_bytes(b"broken")
    assert class_shares(samples) == pytest.approx(whole, rel=0.2)
    for mask in (squares / "masks" / "train").iterdir():
        mask.write_bytes(b"broken")
    with pytest.raises(ValueError, match="no labelled pixel"):
        class_shares(samples)


def test_all_unpaired_files_are_named_both_ways(squares: Path) -> None:
    for name in ("train/1", "train/4", "val/0"):
        mask_of(squares, name)[0].unlink()
    (squares / "images" / "train" / "2.png").unlink()
    shutil.move(squares / "masks" / "test" / "0.png", squares / "masks" / "test" / "0_mask.png")
    report = quick_check(squares)
    assert len(found(report, "photos without a mask")) == 4 == len(report.errors)
    assert "rename NAME_mask.png to NAME.png" in report.errors[-1]
    (orphan, renamed) = found(report, "masks without a photo")
    assert str(squares / "masks" / "train" / "2.png") in orphan and "0_mask.png" in renamed
    with pytest.raises(ValueError, match=r"1\.png: has no mask .* \(and 3 more: `cgrseg check-data"):
        report.refuse_errors()


def test_masks_of_another_size_ids_outside_and_ignored_masks(squares: Path) -> None:
    path, mask = mask_of(squares, "train/0")
    Image.fromarray(mask[::2]).save(path)
    path, mask = mask_of(squares, "train/1")
    mask[10:14, 10:14], mask[20:24, 20:24] = 7, 9
    Image.fromarray(mask).save(path)
    path, mask = mask_of(squares, "train/2")
    Image.fromarray(np.full_like(mask, 255)).save(path)
    report = inspect(squares)
    (size,) = found(report, "masks of another size")
    assert "0.png: is (80, 32), but its photo is (80, 64)" in size
    (ids,) = found(report, "ids outside the class list")
    assert "1.png: holds class 7, 9, but classes.json ends at 1" in ids
    assert len(report.errors) == 2
    (ignored,) = report.warnings
    assert "2.png: is all ignored (id 255)" in ignored


def test_damaged_files_are_named(squares: Path) -> None:
    photo = squares / "images" / "train" / "3.png"
    photo.write_bytes(photo.read_bytes()[:2000])
    (squares / "images" / "val" / "0.png").write_bytes(b"")
    mask_of(squares, "test/1")[0].write_bytes(b"no picture")
    report = inspect(squares)
    messages = " ".join(report.errors)
    assert len(report.errors) == 3
    assert "3.png: is damaged" in messages and "0.png: is empty" in messages and "1.png: can't be read" in messages


def test_masks_in_colours_are_told_from_anti_aliased_ones(squares: Path) -> None:
    path, mask = mask_of(squares, "train/0")
    colored = np.array([[0, 0, 0], [255, 0, 0]], np.uint8)[mask.clip(0, 1)]
    Image.fromarray(colored).save(path)
    path, _ = mask_of(squares, "train/1")
    picture = Image.fromarray(colored)
    picture.resize((53, 41), Image.Resampling.BICUBIC).resize(picture.size, Image.Resampling.BICUBIC).save(path)
    report = inspect(squares)
    (plain,) = found(report, "masks in colours")
    assert "mode RGB: #000000, #ff0000" in plain and "convert-masks" in plain
    (smooth,) = found(report, "anti-aliased masks")
    assert "1.png" in smooth and "only along borders" in smooth
    assert len(report.errors) == 2


def test_masks_that_are_all_in_colours_are_not_called_empty_as_well(squares: Path) -> None:
    for path in (squares / "masks").rglob("*.png"):
        Image.fromarray(np.array(Image.open(path))[..., None] * np.array([1, 0, 0], np.uint8)).save(path)
    report = inspect(squares)
    assert len(report.errors) == len(found(report, "masks in colours")) == 10 and report.warnings == ()


def test_ids_smeared_by_interpolation_are_recognised_inside_and_outside_the_class_list(squares: Path) -> None:
    classes = [{"id": number, "name": f"c{number}"} for number in range(9)]
    (squares / "classes.json").write_text(json.dumps({"classes": classes}))
    mask = np.zeros((64, 80), np.uint8)
    mask[10:50, 20:60] = 8
    small = Image.fromarray(mask).resize((33, 27), Image.Resampling.BILINEAR)
    smeared = np.asarray(small.resize((80, 64), Image.Resampling.BILINEAR))
    Image.fromarray(smeared).save(mask_of(squares, "train/0")[0])
    smeared = smeared * 2  # up to 16, so outside
    Image.fromarray(np.where(smeared == 16, 8, smeared)).save(mask_of(squares, "train/1")[0])
    report = inspect(squares)
    (inside,) = found(report, "smoothed masks")
    assert "0.png" in inside and "nearest neighbour" in inside
    (outside,) = found(report, "ids outside the class list")
    assert "1.png" in outside and outside.endswith("nearest neighbour")


def test_duplicates_across_splits_ruin_and_within_one_do_not(squares: Path) -> None:
    Image.open(squares / "images" / "train" / "0.png").save(squares / "images" / "test" / "1.png", compress_level=1)
    shutil.copy(squares / "images" / "train" / "2.png", squares / "images" / "train" / "5.png")
    report = inspect(squares)
    (across,) = report.errors
    assert str(Path("train", "0.png")) in across and str(Path("test", "1.png")) in across
    (within,) = report.warnings
    assert "2.png" in within and "5.png" in within


def test_of_many_copies_of_a_photo_only_some_are_named(squares: Path) -> None:
    for number in range(1, 6):
        shutil.copy(squares / "images" / "train" / "0.png", squares / "images" / "train" / f"{number}.png")
    (warning,) = (warning for warning in inspect(squares).warnings if "the same photo" in warning)
    assert warning.count(".png") == 4 and "and 2 more are the same photo" in warning


def test_absent_and_tiny_classes_are_warned_of(squares: Path) -> None:
    listed = json.loads((squares / "classes.json").read_text())
    listed["classes"] += [{"id": 2, "name": "dot"}, {"id": 3, "name": "never"}]
    (squares / "classes.json").write_text(json.dumps(listed))
    path, mask = mask_of(squares)
    mask[40, 40] = 2
    Image.fromarray(mask).save(path)
    report = inspect(squares)
    assert report.errors == ()
    assert "1 of 4 classes are in no train mask and can't be learned: never" in report.warnings
    assert "2 of 4 classes are in no val mask and get no score there: dot, never" in report.warnings
    assert found(report, "tiny classes") == ["class dot has 1 pixels in train: too few to learn; add photos of it"]


def test_layout_and_class_list_are_checked_without_stopping_at_the_first(squares: Path) -> None:
    (squares / "classes.json").write_text("{}")
    shutil.move(squares / "images" / "val", squares / "images" / "validation")
    shutil.rmtree(squares / "masks" / "test")
    shutil.copy(squares / "images" / "train" / "0.png", squares / "images" / "train" / "0.bmp")
    path, mask = mask_of(squares)
    Image.fromarray(mask[1:]).save(path)
    report = inspect(squares)
    assert report.labels is None
    messages = " ".join(report.errors)
    for part in ("is not a class list", "no folder", "0.bmp, 0.png, which would share", "is (80, 63), but its photo"):
        assert part in messages
    (stray,) = found(report, "misnamed splits")
    assert "validation: the folder would not be used" in stray


def test_a_split_taken_from_train_is_named_and_not_a_duplicate(squares: Path) -> None:
    for side in ("images", "masks"):
        shutil.rmtree(squares / side / "val")
    report = inspect(squares)
    assert report.errors == ()
    assert [(split.name, split.photos) for split in report.splits] == [("train", 5), ("val", 1), ("test", 2)]
    assert "a share of train, chosen by name" in str(report)


def test_the_quick_form_opens_some_pairs_and_says_so(squares: Path) -> None:
    report = quick_check(squares, pairs=2)
    assert [split.checked for split in report.splits] == [2, 2, 2] and report.errors == ()
    assert "2 checked" in str(report)


def test_long_lists_are_cut_in_the_text_and_whole_in_the_report(squares: Path) -> None:
    for number in range(6):
        mask_of(squares, f"train/{number}")[0].unlink()
    report = quick_check(squares)
    assert len(report.errors) == 6
    assert "… and 4 more files" in report.text(limit=2) and "… and" not in report.text(limit=0)


def test_sixteen_bit_masks_are_counted(squares: Path) -> None:
    path, mask = mask_of(squares)
    Image.fromarray(np.where(mask == 255, 65535, mask).astype(np.uint16)).save(path)
    report = inspect(squares)
    assert report.errors == () and report.splits[0].ignore_share == 1 / 64


def test_a_known_format_reports_missing_folders_and_files(tmp_path: Path) -> None:
    for side in ("images", "annotations"):
        (tmp_path / side / "validation").mkdir(parents=True)
    for name in ("a", "b"):
        Image.new("RGB", (32, 32)).save(tmp_path / "images" / "validation" / f"{name}.jpg")
    Image.fromarray(np.full((32, 32), 1, np.uint8)).save(tmp_path / "annotations" / "validation" / "a.png")
    report = inspect(tmp_path, "ade20k")
    layout, missing = report.errors
    assert "images/training" in layout and "b.jpg: has no mask" in missing
    assert report.splits[0].pixels[0] == 32 * 32


def test_a_missing_folder_or_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        inspect(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no dataset format 'coco'"):
        quick_check(tmp_path, "coco")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["camvid", "ccp", "dubai_aerial_mini", "voc"])
def test_real_datasets_pass_the_quick_check(shared: Path, name: str) -> None:
    report = quick_check(shared / "data" / name)
    assert report.errors == report.warnings == ()
