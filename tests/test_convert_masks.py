"""convert-masks: colours become the right ids, or nothing is written and every cause is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cgrseg.data.check import inspect
from cgrseg.data.convert_masks import Conversion, convert_masks
from cgrseg.data.listing import open_dataset
from cgrseg.labels import LabelSpace

PALETTE = np.array([[10, 20, 30], [200, 0, 0], [0, 0, 255]], np.uint8)
IDS = np.zeros((24, 32), np.uint8)
IDS[4:14, 4:14], IDS[12:20, 18:30] = 1, 2


def colored(folder: Path, *, listed: bool = True) -> Path:
    """Masks in colours in two sub-folders, and the class list above them."""
    for number, name in enumerate(("train/a", "val/b")):
        path = folder / "colors" / f"{name}.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(PALETTE[np.roll(IDS, number, 1)]).save(path)
    if listed:
        classes = [{"id": k, "name": f"c{k}", "color": PALETTE[k].tolist()} for k in range(3)]
        (folder / "classes.json").write_text(json.dumps({"classes": classes}))
    return folder / "colors"


def refused(source: Path, out: Path, **options: Any) -> str:
    """The problems of a conversion that writes nothing."""
    conversion = convert_masks(source, out, **options)
    assert not out.exists()
    return "\n".join(conversion.problems)


def converted(source: Path, out: Path, **options: Any) -> Conversion:
    conversion = convert_masks(source, out, **options)
    assert conversion.problems == ()
    return conversion


def read(path: Path) -> np.ndarray:
    with Image.open(path) as mask:
        assert mask.mode in ("P", "L")
        return np.array(mask)


def test_ids_come_from_the_palette_of_the_class_list(tmp_path: Path) -> None:
    source, out = colored(tmp_path), tmp_path / "masks"
    before = {path: path.read_bytes() for path in source.rglob("*.png")}
    assert converted(source, out).masks == 2
    assert (read(out / "train" / "a.png") == IDS).all() and (read(out / "val" / "b.png") == np.roll(IDS, 1, 1)).all()
    assert before == {path: path.read_bytes() for path in source.rglob("*.png")}
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == ["a.png", "b.png"]
    assert np.asarray(Image.open(out / "train" / "a.png").convert("RGB"))[5, 5].tolist() == [200, 0, 0]


def test_colours_without_a_class_list_are_discovered(tmp_path: Path) -> None:
    source, out = colored(tmp_path, listed=False), tmp_path / "out"
    assert converted(source, out).class_list == out / "classes.json"
    table = json.loads((out / "classes.json").read_text())
    assert [entry["name"] for entry in table["classes"]] == ["#0000ff", "#0a141e", "#c80000"]  # by their code
    found = np.array([entry["color"] for entry in table["classes"]])[read(out / "train" / "a.png")]
    assert (found == PALETTE[IDS]).all()


def test_what_it_writes_is_a_dataset(tmp_path: Path) -> None:
    source = colored(tmp_path)
    for name in ("train/a", "val/b"):
        (tmp_path / "images" / name).parent.mkdir(parents=True)
        noise = np.random.default_rng(len(name)).integers(0, 255, (24, 32, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "images" / f"{name}.png")
    converted(source, tmp_path / "masks")
    assert inspect(tmp_path).errors == ()
    assert (np.asarray(open_dataset(tmp_path, "train").read(0)[1]) == IDS).all()


def test_grey_levels_palettes_and_transparency_are_read_as_what_they_look_like(tmp_path: Path) -> None:
    source = tmp_path / "masks"
    source.mkdir()
    Image.fromarray(np.where(IDS > 0, 255, 0).astype(np.uint8)).save(source / "grey.png")
    palette = Image.fromarray((IDS > 0).astype(np.uint8))
    palette.putpalette([255, 255, 255, 0, 0, 0])
    palette.save(source / "palette.png")
    clear = np.dstack([np.repeat((IDS > 0)[..., None] * np.uint8(255), 3, 2), np.full(IDS.shape, 255, np.uint8)])
    clear[0, 0, 3] = 0
    Image.fromarray(clear).save(source / "clear.png")
    for unknown in ("ignore", "nearest"):
        done = converted(source, tmp_path / unknown, unknown=unknown)
        assert not done.problems and done.ignored == pytest.approx(1 / (3 * IDS.size))
    (tmp_path / "ignore").rename(tmp_path / "out")
    assert (read(tmp_path / "out" / "grey.png") == (IDS > 0)).all()
    assert (read(tmp_path / "out" / "palette.png") == (IDS == 0)).all()
    shown = read(tmp_path / "out" / "clear.png")
    assert shown[0, 0] == 255 and (shown.ravel()[1:] == (IDS > 0).ravel()[1:]).all()


def test_unknown_colours_are_refused_all_at_once_grouped_by_cause_and_nothing_is_written(tmp_path: Path) -> None:
    source = colored(tmp_path)
    for path in source.rglob("*.png"):
        picture = np.array(Image.open(path))
        picture[0:2, 0:2] = 77
        for number in range(80):
            Image.fromarray(picture).save(path.with_name(f"{path.stem}{number}.png"))
        path.unlink()
    text = refused(source, tmp_path / "masks")
    assert "a0.png" in text and "(160 masks): has colours without a class (#4d4d4d): add them" in text
    assert text.count("\n") == 0


def test_anti_aliased_masks_are_refused_unless_told_how(tmp_path: Path) -> None:
    source = colored(tmp_path)
    path = source / "train" / "a.png"
    big = Image.open(path).resize((320, 240), Image.Resampling.NEAREST)
    big.resize((64, 48), Image.Resampling.BICUBIC).resize((71, 53), Image.Resampling.BICUBIC).save(path)
    assert "without a class along borders: export the mask without anti-aliasing" in refused(source, tmp_path / "no")
    converted(source, tmp_path / "ignored", unknown="ignore")
    ignored = read(tmp_path / "ignored" / "train" / "a.png")
    expected = np.asarray(Image.fromarray(IDS).resize((71, 53), Image.Resampling.NEAREST))
    assert 0.02 < (ignored == 255).mean() < 0.3
    assert (ignored == expected)[ignored != 255].all()
    converted(source, tmp_path / "nearest", unknown="nearest")
    nearest = read(tmp_path / "nearest" / "train" / "a.png")
    assert set(np.unique(nearest)) == {0, 1, 2} and (nearest == expected).mean() > 0.95


def test_a_mask_saved_as_jpeg_is_converted_with_nearest(tmp_path: Path) -> None:
    source = colored(tmp_path)
    path = source / "train" / "a.png"
    Image.open(path).save(path.with_suffix(".jpg"), quality=95, subsampling=0)
    path.unlink()
    converted(source, tmp_path / "out", unknown="nearest")
    assert (read(tmp_path / "out" / "train" / "a.png") == IDS).mean() > 0.98


def test_jpeg_masks_without_a_class_list_are_refused_unless_they_are_black_and_white(tmp_path: Path) -> None:
    for name, pixels in (("colours", PALETTE[IDS]), ("binary", np.where(IDS > 0, 255, 0).astype(np.uint8))):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "a.jpg", quality=90)
    with pytest.raises(ValueError, match=r"a\.jpg is a JPEG file, which changes colours.*--unknown nearest"):
        convert_masks(tmp_path / "colours", tmp_path / "out")
    assert "--unknown nearest" in refused(tmp_path / "binary", tmp_path / "out")
    assert converted(tmp_path / "binary", tmp_path / "out", unknown="nearest").labels.names == ("background", "object")
    assert (read(tmp_path / "out" / "a.png") == (IDS > 0)).mean() > 0.98


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "I;16", "P"])
def test_binary_masks_become_background_and_object_with_a_class_list_in_one_step(mode: str, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    grey = np.where(IDS > 0, 255, 0).astype(np.uint8)
    picture = Image.fromarray(grey * np.uint16(257)) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    assert picture.mode == mode
    picture.save(tmp_path / "masks" / "a.png")
    assert converted(tmp_path / "masks", tmp_path / "out").labels.names == ("background", "object")
    assert (read(tmp_path / "out" / "a.png") == (IDS > 0)).all()
    labels = LabelSpace.from_classes_json(tmp_path / "out" / "classes.json")
    assert labels.names == ("background", "object") and labels.colors == ((0, 0, 0), (255, 255, 255))


def test_binary_masks_take_the_two_classes_of_the_list_and_say_so(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.where(IDS > 0, 255, 0).astype(np.uint8)).save(tmp_path / "masks" / "a.png")
    classes = [{"id": 0, "name": "ground", "color": [0, 0, 0]}, {"id": 1, "name": "road", "color": [255, 0, 0]}]
    (tmp_path / "classes.json").write_text(json.dumps({"classes": classes}))
    conversion = converted(tmp_path / "masks", tmp_path / "out")
    assert conversion.note == "black became ground, white became road" and conversion.class_list is None
    assert (read(tmp_path / "out" / "a.png") == (IDS > 0)).all()


def test_ids_from_one_are_shifted_and_zero_becomes_ignored(tmp_path: Path) -> None:
    source = colored(tmp_path)
    for path in source.rglob("*.png"):
        ids = IDS + np.uint8(1)
        ids[0] = 0
        ids[1] = 255
        Image.fromarray(ids).save(path)
    conversion = converted(source, tmp_path / "out", one_based=True)
    shifted = read(tmp_path / "out" / "train" / "a.png")
    assert (shifted[:2] == 255).all() and (shifted[2:] == IDS[2:]).all()
    assert conversion.ignored == pytest.approx(2 / 24) and "ids from 1" in conversion.note
    Image.fromarray(IDS + np.uint8(2)).save(source / "train" / "a.png")
    assert "a.png: holds id 4, but the 3 classes end at id 3" in refused(source, tmp_path / "no", one_based=True)
    (tmp_path / "classes.json").unlink()
    with pytest.raises(ValueError, match="--one-based needs a class list"):
        convert_masks(source, tmp_path / "no", one_based=True)


def test_palettes_that_differ_from_file_to_file_become_the_same_ids(tmp_path: Path) -> None:
    source = colored(tmp_path)
    for number, path in enumerate(sorted(source.rglob("*.png"))):
        order = np.roll(np.arange(3), number)
        indexed = Image.fromarray(np.argsort(order)[IDS].astype(np.uint8))
        indexed.putpalette(PALETTE[order].ravel().tolist())
        indexed.save(path)
    converted(source, tmp_path / "out")
    assert all((read(path) == IDS).all() for path in (tmp_path / "out").rglob("*.png"))


def test_no_file_is_ever_overwritten(tmp_path: Path) -> None:
    source, out = colored(tmp_path), tmp_path / "masks"
    with pytest.raises(ValueError, match="is the source itself"):
        convert_masks(source, source)
    converted(source, out)
    (out / "val" / "b.png").write_bytes(b"mine")
    (out / "train" / "a.png").unlink()
    with pytest.raises(FileExistsError, match=r"b\.png exists already"):
        convert_masks(source, out)
    assert (out / "val" / "b.png").read_bytes() == b"mine" and not (out / "train" / "a.png").exists()


def test_out_inside_the_source_does_not_read_what_it_wrote(tmp_path: Path) -> None:
    source = colored(tmp_path)
    converted(source, source / "ids")
    assert sorted(path.name for path in (source / "ids").rglob("*.png")) == ["a.png", "b.png"]
    with pytest.raises(FileExistsError):
        convert_masks(source, source / "ids")


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    source = colored(tmp_path)
    for name in ("empty", "twins", "photo"):
        (tmp_path / name).mkdir()
    for name in ("a.png", "a.bmp"):
        Image.new("RGB", (4, 4)).save(tmp_path / "twins" / name)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise.repeat(2, 0).repeat(2, 1)).save(tmp_path / "photo" / "a.png")
    same = tmp_path / "same.json"
    same.write_text(json.dumps({"classes": [{"id": k, "name": f"c{k}", "color": [1, 2, 3]} for k in range(2)]}))
    cases: list[tuple[Path, dict[str, Any], str]] = [
        (tmp_path / "nowhere", {}, "no folder"),
        (tmp_path / "empty", {}, "has no images"),
        (tmp_path / "twins", {}, "would become one mask"),
        (source, {"classes": tmp_path / "none.json"}, "no class list at"),
        (source, {"classes": same}, "classes c0 and c1 both have the colour #010203"),
    ]
    for folder, options, complaint in cases:
        with pytest.raises((OSError, ValueError), match=complaint) as error:
            convert_masks(folder, tmp_path / "out", **options)
        assert "\n" not in str(error.value)
    (tmp_path / "classes.json").unlink()
    with pytest.raises(ValueError, match="over 255 colours"):
        convert_masks(tmp_path / "photo", tmp_path / "out")


def test_a_damaged_mask_is_named(tmp_path: Path) -> None:
    source = colored(tmp_path)
    (source / "val" / "b.png").write_bytes(b"no picture")
    assert "b.png: can't be read (cannot identify image file): replace or remove" in refused(source, tmp_path / "out")


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
def test_masks_of_numbers_are_not_taken_for_colours(dtype: Any, tmp_path: Path) -> None:
    source = colored(tmp_path)
    Image.fromarray(np.full((8, 8), 300, dtype)).save(source / "train" / "a.tif")
    (source / "train" / "a.png").unlink()
    assert "holds numbers, not colours of 8 bits" in refused(source, tmp_path / "out")
