"""One optimizer step: passes, gradient clipping, and steps without a finite gradient."""

from __future__ import annotations

import math

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from .config import TrainConfig
from .losses import teacher_loss
from .optimization import rate, set_rate
from .setup import Parts

CLIPPED_FROM = 0.99  # of the maximum norm; below, torch would multiply all gradients by 1


def train_step(
    fabric: Fabric,
    config: TrainConfig,
    parts: Parts,
    images: Tensor,
    labels: Tensor,
    step: int,
    teacher: Tensor | None = None,
) -> tuple[float, bool]:
    """One optimizer step: (loss, whether loss and gradient were finite). A step that is not finite changes nothing."""
    before = [buffer.clone() for buffer in parts.buffers]
    set_rate(parts.optimizer, rate(step, config.steps, config.optim))
    seed = _seed(config.seed, step, fabric.global_rank)  # of dropout and drop path
    if fabric.device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
    count = reduced(fabric, parts.loss.count(labels), "mean")  # gradients are averaged as well
    total = torch.zeros((), device=images.device)
    for number in range(config.accumulate):
        some_images, some_labels = images.chunk(config.accumulate)[number], labels.chunk(config.accumulate)[number]
        with fabric.no_backward_sync(parts.model, enabled=number < config.accumulate - 1):
            logits = parts.model(some_images)
            loss = parts.loss(logits, some_labels, count=count, share=1 / config.accumulate)
            if teacher is not None:
                loss = loss + config.loss.teacher / config.accumulate * teacher_loss(
                    logits, teacher.chunk(config.accumulate)[number]
                )
            fabric.backward(loss)
        total = total + loss.detach()
    fabric.strategy.precision.unscale_gradients(parts.optimizer.optimizer)  # fp16
    trained = [parameter for group in parts.optimizer.param_groups for parameter in group["params"]]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in trained if parameter.grad is not None])
    total = reduced(fabric, total.double(), "mean")
    value, length = torch.stack([total, norm.double()]).tolist()
    finite = math.isfinite(value) and math.isfinite(length)
    if config.optim.clip is not None and not length < CLIPPED_FROM * config.optim.clip:
        nn.utils.clip_grads_with_norm_(trained, config.optim.clip, norm)
    if finite or config.precision == "fp16":  # the gradient scaler of fp16 skips such steps itself
        parts.optimizer.step()
    parts.optimizer.zero_grad(set_to_none=True)
    if not finite:
        for buffer, old in zip(parts.buffers, before, strict=True):
            buffer.copy_(old)
    elif parts.average is not None:
        parts.average.update_parameters(parts.network)
    return value, finite


def reduced(fabric: Fabric, value: Tensor, how: str) -> Tensor:
    """Reduce a value over all processes."""
    reduced = fabric.all_reduce(value, reduce_op=how)
    assert isinstance(reduced, Tensor)
    return reduced


def _seed(*parts: int) -> int:
    """One seed from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
