"""Pyramid context extraction: context from the whole image, at stride 64 (eq. 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .rcm import RectangularSelfCalibrationModule


def average_pool(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Adaptive average pooling: [B, C, h, w] -> [B, C, *size]; cell i of n averages the rows ⌊i·h/n⌋ … ⌈(i+1)·h/n⌉ - 1.

    While a graph is traced it is written as two matrix products, which are valid at every size: a traced
    `adaptive_avg_pool2d` is fixed to the sizes of the example.
    """
    if not torch.compiler.is_compiling():
        return F.adaptive_avg_pool2d(x, size)
    rows, columns = (_pooling_weights(x.shape[axis], n, x) for axis, n in zip((2, 3), size, strict=True))
    planes = x.flatten(0, 1)  # B·C h w
    count = planes.shape[0]  # not len(), which would fix the batch of a traced graph
    pooled = rows.expand(count, -1, -1).bmm(planes).bmm(columns.T.expand(count, -1, -1))
    return pooled.view(*x.shape[:2], *size)


def _pooling_weights(source: int, target: int, like: Tensor) -> Tensor:
    """[target, source]: row i is the average over cell i."""
    cell = torch.arange(target, device=like.device)[:, None]
    place = torch.arange(source, device=like.device)
    inside = (place >= cell * source // target) & (place < ((cell + 1) * source + target - 1) // target)
    weights = inside.to(like.dtype)
    return weights / weights.sum(1, keepdim=True)


class PyramidPooling(nn.Module):
    """[c2, c3, c4] -> pooled to half of c4 and concatenated: [B, C2+C3+C4, ⌈h4/2⌉, ⌈w4/2⌉]."""

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        height, width = pyramid[-1].shape[2:]
        size = ((height + 1) // 2, (width + 1) // 2)
        return torch.cat([average_pool(scale, size) for scale in pyramid], dim=1)


class PyramidContextExtraction(nn.Module):
    """N RCMs over the pooled pyramid, split into one context per scale (paper, eq. 1).

    Args:
        channels: (C2, C3, C4) of the pyramid.
        blocks: N.
        strip_kernel: of every RCM.
        make_block: channels -> a module [B, C, h, w] -> [B, C, h, w] that replaces each RCM; None builds RCMs.

    Shape: [c2, c3, c4] at strides 8, 16, 32 -> [p2, p3, p4], all at stride 64, with C2, C3, C4 channels.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        blocks: int = 5,
        strip_kernel: int = 11,
        make_block: Callable[..., nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.channels = list(channels)
        self.pool = PyramidPooling()
        make = make_block or partial(RectangularSelfCalibrationModule, strip_kernel=strip_kernel)
        self.blocks = nn.Sequential(*(make(channels=sum(channels)) for _ in range(blocks)))

    def forward(self, pyramid: Sequence[Tensor]) -> list[Tensor]:
        context = self.blocks(self.pool(pyramid))  # B C2+C3+C4 ⌈h4/2⌉ ⌈w4/2⌉
        return list(context.split(self.channels, dim=1))
