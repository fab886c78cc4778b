"""examples/close_ups.py cuts heads out of photos, enlarges them, and keeps the photos themselves."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[1] / "examples" / "close_ups.py"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def people(folder: Path, names: tuple[str, ...] = ("background", "skin", "hair")) -> Path:
    """One photo a split: hair 20 pixels wide, a face below it, the rest background."""
    mask = np.zeros((200, 100), np.uint8)
    mask[30:45, 40:60], mask[45:60, 42:58] = 2, 1
    for split in ("train", "val", "test"):
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 100, 3), np.uint8)).save(
            folder / "images" / split / "a.jpg"
        )
        Image.fromarray(mask).save(folder / "masks" / split / "a.png")
    classes = [{"id": i, "name": name, "color": [i, i, i]} for i, name in enumerate(names)]
    (folder / "classes.json").write_text(json.dumps({"classes": classes}))
    return folder


def test_close_ups_are_enlarged_heads_and_the_photo_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = people(tmp_path / "data")
    for out in ("first", "second"):
        run(monkeypatch, data, tmp_path / out, "--each", 2)
    masks = [np.asarray(Image.open(file)) for file in sorted((tmp_path / "first" / "masks" / "train").iterdir())]
    assert len(masks) == 3 and masks[-1].shape == (200, 100)
    for mask in masks[:2]:
        assert min(mask.shape) == 320 and {1, 2} <= set(np.unique(mask)) <= {0, 1, 2}
        assert (mask > 0).mean() > 2 * (masks[-1] > 0).mean()
    for file in (tmp_path / "first").rglob("*-*"):
        assert file.read_bytes() == (tmp_path / "second" / file.relative_to(tmp_path / "first")).read_bytes()


def test_other_data_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for data in (tmp_path / "nowhere", people(tmp_path / "cars", ("road", "car", "sky"))):
        with pytest.raises(SystemExit, match="2"):
            run(monkeypatch, data, tmp_path / "out")
    said = capsys.readouterr().err
    assert "no folder" in said and "no classes hair and skin, only road, car, sky" in said
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_into_a_folder_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = people(tmp_path / "data")
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, data, data)
    assert len(list(data.rglob("*.jpg"))) == 3
