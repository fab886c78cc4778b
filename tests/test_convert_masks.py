"""`cgrseg convert-masks`: colours become the right ids, or nothing is written and every cause is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cgrseg.cli.main import main
from cgrseg.data.check import inspect
from cgrseg.data.listing import open_dataset

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


def run(source: Path, out: Path, *more: str) -> int:
    return main(["convert-masks", str(source), "--out", str(out), *more])


def read(path: Path) -> np.ndarray:
    with Image.open(path) as mask:
        assert mask.mode in ("P", "L")
        return np.array(mask)


def test_ids_come_from_the_palette_of_the_class_list(tmp_path: Path) -> None:
    source, out = colored(tmp_path), tmp_path / "masks"
    before = {path: path.read_bytes() for path in source.rglob("*.png")}
    assert run(source, out) == 0
    assert (read(out / "train" / "a.png") == IDS).all() and (read(out / "val" / "b.png") == np.roll(IDS, 1, 1)).all()
    assert before == {path: path.read_bytes() for path in source.rglob("*.png")}
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == ["a.png", "b.png"]
    assert np.asarray(Image.open(out / "train" / "a.png").convert("RGB"))[5, 5].tolist() == [200, 0, 0]


def test_colours_without_a_class_list_are_discovered(tmp_path: Path) -> None:
    source, out = colored(tmp_path, listed=False), tmp_path / "out"
    assert run(source, out) == 0
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
    assert run(source, tmp_path / "masks") == 0
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
    assert run(source, tmp_path / "out", "--unknown", "ignore") == 0
    assert (read(tmp_path / "out" / "grey.png") == (IDS > 0)).all()
    assert (read(tmp_path / "out" / "palette.png") == (IDS == 0)).all()
    shown = read(tmp_path / "out" / "clear.png")
    assert shown[0, 0] == 255 and (shown.ravel()[1:] == (IDS > 0).ravel()[1:]).all()


def test_unknown_colours_are_refused_all_at_once_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = colored(tmp_path), tmp_path / "masks"
    for path in source.rglob("*.png"):
        picture = np.array(Image.open(path))
        picture[0:2, 0:2] = 77
        Image.fromarray(picture).save(path)
    assert run(source, out) == 1
    error = capsys.readouterr().err
    assert "a.png: 0.52% of its pixels have colours of no class (1: #4d4d4d): add the colours" in error
    assert "b.png: 0.52%" in error and "2 of 2 masks don't fit, nothing was written" in error
    assert not out.exists()


def test_anti_aliased_masks_are_refused_unless_told_how(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = colored(tmp_path)
    path = source / "train" / "a.png"
    big = Image.open(path).resize((320, 240), Image.Resampling.NEAREST)
    big.resize((64, 48), Image.Resampling.BICUBIC).resize((71, 53), Image.Resampling.BICUBIC).save(path)
    assert run(source, tmp_path / "no") == 1
    assert "they lie along borders: export the mask without anti-aliasing" in capsys.readouterr().err
    assert run(source, tmp_path / "ignored", "--unknown", "ignore") == 0
    ignored = read(tmp_path / "ignored" / "train" / "a.png")
    expected = np.asarray(Image.fromarray(IDS).resize((71, 53), Image.Resampling.NEAREST))
    assert 0.02 < (ignored == 255).mean() < 0.3
    assert (ignored == expected)[ignored != 255].all()
    assert run(source, tmp_path / "nearest", "--unknown", "nearest") == 0
    nearest = read(tmp_path / "nearest" / "train" / "a.png")
    assert set(np.unique(nearest)) == {0, 1, 2} and (nearest == expected).mean() > 0.95


def test_a_mask_saved_as_jpeg_is_converted_with_nearest(tmp_path: Path) -> None:
    source = colored(tmp_path)
    path = source / "train" / "a.png"
    Image.open(path).save(path.with_suffix(".jpg"), quality=95, subsampling=0)
    path.unlink()
    assert run(source, tmp_path / "out", "--unknown", "nearest") == 0
    assert (read(tmp_path / "out" / "train" / "a.png") == IDS).mean() > 0.98


def test_no_file_is_ever_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = colored(tmp_path), tmp_path / "masks"
    assert run(source, source) == 2 and "is the source itself" in capsys.readouterr().err
    assert run(source, out) == 0
    (out / "val" / "b.png").write_bytes(b"mine")
    (out / "train" / "a.png").unlink()
    assert run(source, out) == 2
    assert "b.png exists already" in capsys.readouterr().err
    assert (out / "val" / "b.png").read_bytes() == b"mine" and not (out / "train" / "a.png").exists()


def test_out_inside_the_source_does_not_read_what_it_wrote(tmp_path: Path) -> None:
    source = colored(tmp_path)
    assert run(source, source / "ids") == 0
    assert sorted(path.name for path in (source / "ids").rglob("*.png")) == ["a.png", "b.png"]
    assert run(source, source / "ids") == 2  # exists


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = colored(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    twin = tmp_path / "twins"
    twin.mkdir()
    for name in ("a.png", "a.bmp"):
        Image.new("RGB", (4, 4)).save(twin / name)
    same = tmp_path / "same.json"
    same.write_text(json.dumps({"classes": [{"id": k, "name": f"c{k}", "color": [1, 2, 3]} for k in range(2)]}))
    for arguments, complaint in (
        ([tmp_path / "nowhere"], "no folder"),
        ([empty], "holds no pictures"),
        ([twin], "would become one mask"),
        ([source, "--classes", tmp_path / "none.json"], "no class list at"),
        ([source, "--classes", same], "classes c0 and c1 both have the colour #010203"),
        ([source, "--unknown", "guess"], "--unknown takes refuse or ignore or nearest"),
    ):
        assert main(["convert-masks", *map(str, arguments), "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert complaint in error and error.count("\n") == 1
    photo = tmp_path / "photo"
    photo.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise.repeat(2, 0).repeat(2, 1)).save(photo / "a.png")
    (tmp_path / "classes.json").unlink()
    assert run(photo, tmp_path / "out") == 2
    assert "over 255 colours" in capsys.readouterr().err


def test_a_damaged_mask_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = colored(tmp_path)
    (source / "val" / "b.png").write_bytes(b"no picture")
    assert run(source, tmp_path / "out") == 1
    assert "b.png can't be read" in capsys.readouterr().err
