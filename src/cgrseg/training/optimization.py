"""Parameter groups, learning rate schedule, and moving average of the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from cgrseg.nn import CGRSeg
from cgrseg.weights.adapters import official_key

from .config import OptimConfig, TrainConfig


def rate(step: int, steps: int, config: OptimConfig) -> float:
    """The multiplier of the learning rate at step 0 … steps - 1: poly decay multiplied by the warm-up.

    (1 - k/N)^p, times 1 - (1 - k/W)(1 - 1e-6) for k < W: the schedule of the paper's training.
    """
    poly: float = (1 - step / steps) ** config.power
    warmup = min(steps // 20, 1500) if config.warmup is None else config.warmup
    if step >= warmup:
        return poly
    return poly * (1 - (1 - step / warmup) * (1 - 1e-6))


def parameter_groups(model: CGRSeg, config: OptimConfig) -> list[dict[str, Any]]:
    """AdamW's groups: each has "lr", "weight_decay" and "peak", the learning rate after the warm-up."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            choose = _official if config.groups == "official" else _clean
            groups.setdefault(choose(name, parameter, config), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": config.lr * factor,
            "peak": config.lr * factor,
            "weight_decay": config.weight_decay * decay,
        }
        for (factor, decay), parameters in groups.items()
    ]


def _clean(name: str, parameter: Tensor, config: OptimConfig) -> tuple[float, float]:
    """(factor of the rate, factor of the decay): decay only for kernels, not for norms, biases, scales and tables."""
    return 1.0 if name.startswith("encoder.") else config.head_lr, float(parameter.ndim == 4)


def _official(name: str, parameter: Tensor, config: OptimConfig) -> tuple[float, float]:
    """By substring of the released key, first match: "head" also matches the encoder's talking heads."""
    key = official_key(name)
    if "head" in key:
        return config.head_lr, 1.0
    return 1.0, float("norm" not in key)


def make_optimizer(model: CGRSeg, config: TrainConfig, *, fused: bool) -> torch.optim.AdamW:
    """AdamW (0.9, 0.999) over the model's groups; the fused form does not support the gradient scaler of fp16."""
    return torch.optim.AdamW(
        parameter_groups(model, config.optim), lr=config.optim.lr, fused=fused and config.precision != "fp16"
    )


def set_rate(optimizer: torch.optim.Optimizer, multiplier: float) -> None:
    """Set every group to its peak rate times `multiplier`."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * multiplier


def moving_average(model: CGRSeg, decay: float) -> AveragedModel:
    """Average of weights and running statistics with decay min(decay, (1 + n) / (10 + n)), to forget the start."""

    def average(means: Any, new: Any, count: Tensor | int) -> None:  # lists of tensors of one type
        if means[0].is_floating_point():
            torch._foreach_lerp_(means, new, 1 - min(decay, (1 + float(count)) / (10 + float(count))))
        else:
            torch._foreach_copy_(means, new)

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)
