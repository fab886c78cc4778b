"""`cgrseg demo`: labels a photo and trains a model; a second run only prints the scores again."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from cgrseg.cli.main import main
from cgrseg.training import setup


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
