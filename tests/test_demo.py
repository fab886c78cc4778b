"""`cgrseg demo`: labels a photo and trains a model; a second run only prints the scores again."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw

import cgrseg
from cgrseg.cli.main import main
from cgrseg.cli.start import WEIGHTS
from cgrseg.training import setup

# The outline of the person in grace_hopper.jpg, drawn by hand: x, y of pixels.
PERSON = (
    *(155, 125, 160, 108, 175, 90, 178, 70, 195, 48, 220, 35, 245, 25, 265, 22, 290, 27, 315, 40, 340, 58, 352, 75),
    *(353, 88, 366, 86, 371, 98, 372, 130, 370, 150, 374, 170, 372, 200, 366, 240, 358, 280, 345, 300, 332, 312),
    *(330, 318, 345, 325, 365, 338, 400, 352, 450, 366, 482, 382, 492, 400, 500, 440, 508, 500, 512, 540, 512, 600),
    *(15, 600, 18, 540, 20, 480, 28, 430, 38, 395, 50, 380, 90, 366, 150, 352, 185, 335, 203, 317, 198, 295, 175, 288),
    *(163, 270, 160, 250, 165, 235, 160, 210, 153, 190, 158, 165, 170, 150, 160, 140),
)


def test_the_demo_labels_a_photo_and_trains_a_model_and_a_second_run_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["demo", "--out", str(tmp_path), "--steps", "6"]
    monkeypatch.setattr(setup, "SYNTHETIC", {"train": 20, "val": 2, "test": 2})
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "grace_hopper.jpg" in said and "% mIoU on scenes that were not used for training" in said
    for name in ("grace_hopper.overlay.png", "training/curves.png", "training/samples.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 100
    state = (tmp_path / "training" / "state.pt").read_bytes()
    assert main(words) == 0
    assert (tmp_path / "training" / "state.pt").read_bytes() == state


def test_the_demo_without_training(tmp_path: Path) -> None:
    assert main(["demo", "--out", str(tmp_path), "--no-train"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grace_hopper.mask.png", "grace_hopper.overlay.png"]


def test_the_person_of_the_demo_is_found() -> None:
    photo = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    result = cgrseg.Segmenter(WEIGHTS, device="cpu")(photo)
    drawn = Image.new("1", result.photo.shape[1::-1])
    ImageDraw.Draw(drawn).polygon(PERSON, fill=1)
    person, found = np.asarray(drawn), result.labels == result.names.index("person")
    assert found[person].mean() > 0.9
    assert found[~person].mean() < 0.05
