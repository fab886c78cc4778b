"""Pyramid context extraction: what the whole picture says, at stride 64 (eq. 1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .rcm import RectangularSelfCalibrationModule


class PyramidPooling(nn.Module):
    """[c2, c3, c4] -> their channels side by side, averaged down to half of c4: [B, C2+C3+C4, ⌈h4/2⌉, ⌈w4/2⌉]."""

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        height, width = pyramid[-1].shape[2:]
        size = ((height + 1) // 2, (width + 1) // 2)
        return torch.cat([F.adaptive_avg_pool2d(scale, size) for scale in pyramid], dim=1)


class PyramidContextExtraction(nn.Module):
    """N RCMs over the pooled pyramid, split back into one context a scale (paper, eq. 1).

    Args:
        channels: widths (C2, C3, C4) of the pyramid.
        blocks: N.
        strip_kernel, local_kernel: of every RCM.

    Shape: [c2, c3, c4] at strides 8, 16, 32 -> [p2, p3, p4], each at stride 64 with its scale's width.
    """

    def __init__(
        self, *, channels: Sequence[int], blocks: int = 5, strip_kernel: int = 11, local_kernel: int = 3
    ) -> None:
        super().__init__()
        self.channels = list(channels)
        self.pool = PyramidPooling()
        self.blocks = nn.Sequential(
            *(
                RectangularSelfCalibrationModule(
                    channels=sum(channels), strip_kernel=strip_kernel, local_kernel=local_kernel
                )
                for _ in range(blocks)
            )
        )

    def forward(self, pyramid: Sequence[Tensor]) -> list[Tensor]:
        context = self.blocks(self.pool(pyramid))  # B C2+C3+C4 ⌈h4/2⌉ ⌈w4/2⌉
        return list(context.split(self.channels, dim=1))
