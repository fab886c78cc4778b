"""Groups, rates and averages of the weights: the released ones to the digit, and the clean ones as described."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from cgrseg.nn import build
from cgrseg.training.config import OptimConfig, TrainConfig
from cgrseg.training.optimization import moving_average, parameter_groups, rate
from cgrseg.training.setup import make_data, make_fabric, make_parts
from cgrseg.training.step import train_step
from cgrseg.weights.adapters import official_key

PARITY = Path(__file__).parent / "parity"
PAPER = OptimConfig(lr=1.2e-4, head_lr=10, weight_decay=0.01, warmup=1500, groups="official")


def test_the_official_groups_are_the_released_ones_for_every_parameter() -> None:
    with torch.device("meta"):
        model = build("cgrseg_t")
    released = json.loads((PARITY / "optim_groups_T.json").read_text())
    group_of = {id(p): group for group in parameter_groups(model, PAPER) for p in group["params"]}
    ours = {
        official_key(name): [group_of[id(p)]["peak"] / 1.2e-4, group_of[id(p)]["weight_decay"] / 0.01]
        for name, p in model.named_parameters()
    }
    assert ours.keys() == released.keys()
    assert all(ours[key] == pytest.approx(released[key]) for key in released)


def test_the_rate_follows_the_released_schedule() -> None:
    for step, (encoder, head) in json.loads((PARITY / "lr_schedule.json").read_text()).items():
        multiplier = rate(int(step), 160_000, PAPER)
        assert 1.2e-4 * multiplier == pytest.approx(encoder, rel=1e-9)
        assert 1.2e-3 * multiplier == pytest.approx(head, rel=1e-9)


def test_short_runs_warm_up_for_a_twentieth_of_their_length() -> None:
    rates = [rate(step, 100, OptimConfig(warmup=None)) for step in range(100)]
    assert rates.index(max(rates)) == 5 and rates[0] < 0.01 and rates[-1] == pytest.approx(0.01)


def test_clean_groups_spare_everything_but_kernels_from_decay() -> None:
    with torch.device("meta"):
        model = build("cgrseg_n")
    groups = parameter_groups(model, OptimConfig(lr=1.0, head_lr=10.0, weight_decay=0.5))
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    of = {id(p): group for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert of[id(parameter)]["weight_decay"] == (0.5 if parameter.ndim == 4 else 0.0)
        assert of[id(parameter)]["peak"] == (1.0 if name.startswith("encoder.") else 10.0)


def test_frozen_parameters_are_in_no_group() -> None:
    with torch.device("meta"):
        model = build("cgrseg_n")
    model.encoder.requires_grad_(False)
    chosen = {id(p) for group in parameter_groups(model, OptimConfig()) for p in group["params"]}
    assert not chosen & {id(p) for p in model.encoder.parameters()} and chosen


def test_the_moving_average_forgets_its_start_and_holds_running_statistics() -> None:
    model = nn.BatchNorm1d(1)
    average = moving_average(model, 0.9)  # type: ignore[arg-type]
    expected = 0.0
    for number in range(1, 6):
        nn.init.constant_(model.bias, number)
        model.running_mean.fill_(number)  # type: ignore[union-attr]
        model.num_batches_tracked.fill_(number)  # type: ignore[union-attr]
        average.update_parameters(model)
        decay = 0 if number == 1 else min(0.9, number / (number + 9))
        expected = decay * expected + (1 - decay) * number
    assert average.module.bias.item() == pytest.approx(expected)
    assert average.module.running_mean.item() == pytest.approx(expected)
    assert average.module.num_batches_tracked.item() == 5


@pytest.mark.parametrize("clip", [None, 0.3, 1e3])
def test_gradients_are_clipped_as_torch_clips_them(
    clip: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {"dropout": 0.0, "drop_path": 0.0}
    config = TrainConfig(
        str(tmp_path), model="cgrseg_n", batch=2, precision="fp32", optim=OptimConfig(clip=clip), spec=spec
    )
    fabric = make_fabric(config)
    parts = make_parts(config, make_data(config), fabric)
    trained = [parameter for group in parts.optimizer.param_groups for parameter in group["params"]]
    found: list[torch.Tensor] = []
    monkeypatch.setattr(parts.optimizer, "step", lambda: found.extend(p.grad.clone() for p in trained))
    images = torch.randn(2, 3, 64, 64, generator=torch.manual_seed(1))
    labels = torch.ones(2, 64, 64, dtype=torch.int64)
    train_step(fabric, config, parts, images, labels, 0)
    parts.loss(parts.model(images), labels).backward()
    norm = torch.nn.utils.clip_grad_norm_(trained, clip or torch.inf)
    assert 0.3 < norm < 1e3
    for ours, parameter in zip(found, trained, strict=True):
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-4, atol=1e-6)
