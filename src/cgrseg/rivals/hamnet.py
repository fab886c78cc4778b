"""HamNet (Geng et al., ICLR 2021) on ResNet-101: global context by matrix factorisation. Stride 8."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cgrseg.nn.segnext import Hamburger

from .resnet101 import CHANNELS, OnResNet101, classifier

WIDTH, RANK, GROUPS = 512, 64, 32


def build(size: str, num_classes: int) -> OnResNet101:
    """Build "r101" with random weights."""
    return OnResNet101(HamHead(num_classes=num_classes))


class HamHead(nn.Module):
    """[c1, c2, c3, c4] -> logits at stride 8.

    Args:
        num_classes: K.
    """

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.reduce = _conv_group_norm(CHANNELS[3], WIDTH)
        self.hamburger = Hamburger(channels=WIDTH, rank=RANK)
        self.smooth = _conv_group_norm(WIDTH, WIDTH)
        self.fuse = _conv_group_norm(CHANNELS[3] + WIDTH, WIDTH)
        self.classifier = classifier(WIDTH, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x = self.smooth(self.hamburger(self.reduce(features[3])))
        logits: Tensor = self.classifier(self.fuse(torch.cat([features[3], x], dim=1)))
        return logits


def _conv_group_norm(in_channels: int, out_channels: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(GROUPS, out_channels), nn.ReLU())
