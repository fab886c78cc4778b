"""`cgrseg train --find-lr` names the learning rate at which the loss falls fastest, and trains nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cgrseg.cli.main import main
from cgrseg.data.settings import Augmentation
from cgrseg.training import lr_range
from cgrseg.training.config import OptimConfig, TrainConfig
from cgrseg.training.lr_range import find_lr, smoothed, steepest


def test_the_suggestion_is_where_the_loss_falls_fastest_before_its_lowest_point() -> None:
    rates = np.logspace(-6, 0, 61)
    losses = 1 / (1 + (rates / 1e-3) ** 2) + rates
    assert steepest(list(rates), list(losses)) == pytest.approx(1e-3, rel=0.3)
    noisy = losses + np.random.default_rng(0).normal(0, 0.01, 61)
    assert steepest(list(rates), smoothed(list(noisy), 4)) == pytest.approx(1e-3, rel=0.6)
    with pytest.raises(ValueError, match="does not fall at any learning rate"):
        steepest(list(rates), list(rates))


def test_averages_of_neighbours_keep_a_constant_and_leave_no_lag() -> None:
    assert smoothed([2.0] * 9, 4) == pytest.approx([2.0] * 9)
    middle = smoothed([0.0] * 10 + [1.0] + [0.0] * 10, 4)
    assert int(np.argmax(middle)) == 10 and middle == pytest.approx(middle[::-1])


def test_the_rate_of_each_step_is_that_of_the_test_and_a_diverging_loss_ends_it(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[tuple[float, ...]] = []

    def step(fabric: object, config: object, parts: object, *rest: object) -> tuple[float, bool]:
        real(fabric, config, parts, *rest)  # type: ignore[arg-type]
        used.append(tuple(sorted({group["lr"] for group in parts.optimizer.param_groups})))  # type: ignore[attr-defined]
        return float("nan") if len(used) == 7 else 1 / len(used), len(used) < 7

    real = lr_range.train_step
    monkeypatch.setattr(lr_range, "train_step", step)
    config = TrainConfig(
        out=str(tmp_path / "run"), data=str(squares), model="cgrseg_n", batch=2, workers=0, precision="fp32",
        augment=Augmentation(crop=64, resize_to=None), optim=OptimConfig(head_lr=10.0, ema=0.9),
    )  # fmt: skip
    found = find_lr(config, steps=13)
    expected = [10 ** (number / 2 - 6) for number in range(7)]
    assert [rates[0] for rates in used] == pytest.approx(expected)
    assert [rates[1] for rates in used] == pytest.approx([10 * rate for rate in expected])
    assert found.rates == pytest.approx(expected[:6]) and len(found.losses) == 6
    assert found.best in found.rates


def test_the_command_prints_a_rate_and_writes_a_plot_only(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lr_range.find_lr, "__kwdefaults__", {"steps": 40})
    run = tmp_path / "run"
    options = ["--model=cgrseg_n", "--batch=2", "--augment.crop=64", "--augment.resize_to=null", "--workers=0"]
    options += ["--precision=fp32", "--loss.class_weights=none"]
    assert main(["train", "--find-lr", "--data", str(squares), "--out", str(run), *options]) == 0
    output = capsys.readouterr().out
    assert "the loss falls fastest at --optim.lr " in output
    rate = float(output.partition("--optim.lr ")[2].partition(",")[0])
    assert 1e-6 < rate < 1
    assert [path.name for path in run.iterdir()] == ["lr-range.png"]
    with Image.open(run / "lr-range.png") as picture:
        assert min(picture.size) > 100
    assert main(["train", "--find-lr", "--out", str(run), "--devices=2"]) == 2
    assert "runs in one process" in capsys.readouterr().err
