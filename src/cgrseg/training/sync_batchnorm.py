"""BatchNorm over all processes: torch's on GPUs, and one with a differentiable all-reduce on CPUs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn


class _Sum(torch.autograd.Function):
    """The sum over all processes; so is its gradient."""

    @staticmethod
    def forward(_context: Any, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(None, gradient)


def _sum(values: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values)
    return total


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d with the batch statistics of all processes.

    torch's SyncBatchNorm does not support CPU tensors. This one uses two all-reduces: the mean first, then the squared
    deviations from it, which loses no digits.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        dims = (0, 2, 3)
        count = torch.tensor(float(x.numel() // x.shape[1]), dtype=x.dtype, device=x.device)
        totals = _sum(torch.cat([x.sum(dims), count[None]]))
        n = totals[-1]
        mean = totals[:-1] / n
        centred = x - mean[:, None, None]
        variance = _sum((centred * centred).sum(dims)) / n
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            momentum = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_((variance * n / (n - 1)).to(self.running_var.dtype), momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return centred * scale[:, None, None] + self.bias[:, None, None]


def synchronise(model: nn.Module, *, on_cpu: bool) -> None:
    """Make every BatchNorm2d of `model` use the statistics of all processes, in place; state dict keys stay equal."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is not nn.BatchNorm2d:
                continue
            if not on_cpu:
                setattr(module, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))  # type: ignore[no-untyped-call]
                continue
            synced = SyncedBatchNorm2d(child.num_features, eps=child.eps, momentum=child.momentum)
            synced.load_state_dict(child.state_dict())
            setattr(module, name, synced.to(child.weight.device, child.weight.dtype))
