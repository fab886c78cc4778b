"""Losses, scores per class and pictures also reach TensorBoard and Weights & Biases, where they are asked for."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning_fabric.loggers import tensorboard
from PIL import Image

import cgrseg
from cgrseg.cli.main import main

SMALL = ["--model=cgrseg_n", "--batch=2", "--augment.crop=64", "--augment.resize_to=null", "--workers=0", "--steps=2"]


def train(data: Path, out: Path, logger: str) -> int:
    return main(["train", "--data", str(data), "--out", str(out), *SMALL, "--log_every=1", "--loggers", logger])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_gets_every_line_of_the_log_every_score_and_pictures(squares: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra `tensorboard`")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert train(squares, tmp_path / "run", "tensorboard") == 0
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2]
    assert [event.step for event in events.Scalars("val/miou")] == [1, 2]
    model = cgrseg.load(tmp_path / "run" / "last.safetensors")
    for name, iou in model.card["class_iou"].items():
        assert [event.step for event in events.Scalars(f"val/iou/{name}")] == [1, 2]
        assert events.Scalars(f"final/iou/{name}")[-1].value == pytest.approx(iou / 100, abs=1e-4)
    assert [event.step for event in events.Images("val/samples")] == [1, 2]
    for name in ("curves", "classes", "samples"):
        (event,) = events.Images(f"final/{name}")
        with Image.open(tmp_path / "run" / f"{name}.png") as drawn:
            sent = Image.open(io.BytesIO(event.encoded_image_string))
            assert np.array_equal(np.asarray(sent), np.asarray(drawn.convert("RGB")))


def test_wandb_gets_every_line_of_the_log_every_score_and_pictures(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb", reason="the extra `wandb`")
    sent: list[tuple[int | None, dict[str, Any]]] = []

    class Run:
        id = "1"

        def log(self, metrics: dict[str, Any], step: int | None) -> None:
            sent.append((step, metrics))

    monkeypatch.setattr(wandb, "init", lambda **settings: chosen.update(settings) or Run())
    chosen: dict[str, object] = {}
    assert train(squares, tmp_path / "run", "wandb") == 0
    assert chosen["project"] == "cgrseg" and chosen["name"] == "run"
    assert [step for step, metrics in sent if "train/loss" in metrics] == [1, 2]
    assert [step for step, metrics in sent if {"val/miou", "val/iou/ground", "val/iou/square"} <= set(metrics)] == [
        1,
        2,
    ]
    pictures = [
        (step, name) for step, metrics in sent for name, sent_ in metrics.items() if isinstance(sent_, wandb.Image)
    ]
    final = [(2, f"final/{name}") for name in ("curves", "classes", "samples")]
    assert pictures == [(1, "val/samples"), (2, "val/samples"), *final]


def test_a_logger_that_is_not_installed_is_one_line(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tensorboard, "_TENSORBOARD_AVAILABLE", False)
    monkeypatch.setattr(tensorboard, "_TENSORBOARDX_AVAILABLE", False)
    assert train(squares, tmp_path / "run", "tensorboard") == 2
    assert 'pip install "cgrseg[tensorboard]"' in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    assert train(squares, tmp_path / "run", "wandb") == 2
    assert 'pip install "cgrseg[wandb]"' in capsys.readouterr().err.splitlines()[-1]
    assert train(squares, tmp_path / "run", "wandbb") == 2
    assert 'Choose from: "tensorboard", "wandb"' in capsys.readouterr().err.splitlines()[-1]
