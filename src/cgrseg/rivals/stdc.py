"""STDC1 and STDC2 (Fan et al., CVPR 2021), the backbones of PEM."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from .layers import conv_norm

CHANNELS = (64, 256, 512, 1024)  # at strides 4, 8, 16, 32
DEPTHS = {"stdc1": (2, 2, 2), "stdc2": (4, 5, 3)}


class STDC(nn.Module):
    """images [B, 3, H, W] -> [c1, c2, c3, c4] at strides 4, 8, 16, 32; every halving rounds up.

    Args:
        depths: blocks per stage, from stride 8.
    """

    def __init__(self, *, depths: tuple[int, int, int]) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_norm(3, CHANNELS[0] // 2, 3, stride=2))
        self.stem.append(conv_norm(CHANNELS[0] // 2, CHANNELS[0], 3, stride=2))
        self.stages = nn.ModuleList(
            nn.Sequential(Block(before, width, stride=2), *(Block(width, width, stride=1) for _ in range(depth - 1)))
            for (before, width), depth in zip(pairwise(CHANNELS), depths, strict=True)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [self.stem(images)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps


class Block(nn.Module):
    """Short-term dense concatenation: the outputs of four convolutions, each with half the channels of the last."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        half = out_channels // 2
        widths = (half, out_channels // 4, out_channels // 8, out_channels // 8)
        self.first = conv_norm(in_channels, half)
        self.halve: nn.Module | None = None
        if stride == 2:
            self.halve = conv_norm(half, half, 3, stride=2, groups=half, activation=None)
            self.pool = nn.AvgPool2d(3, 2, 1)
        self.rest = nn.ModuleList(conv_norm(*pair, 3) for pair in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        outputs = [x if self.halve is None else self.pool(x)]
        x = x if self.halve is None else self.halve(x)
        for layer in self.rest:
            x = layer(x)
            outputs.append(x)
        return torch.cat(outputs, dim=1)
