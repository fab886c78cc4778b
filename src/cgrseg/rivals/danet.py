"""DANet (Fu et al., CVPR 2019) on ResNet-101: attention over all pixels and over all channels. Stride 8."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .layers import conv_norm
from .resnet101 import CHANNELS, OnResNet101, classifier

WIDTH, KEYS = 512, 64


def build(size: str, num_classes: int) -> OnResNet101:
    """Build "r101" with random weights."""
    return OnResNet101(DAHead(num_classes=num_classes))


class DAHead(nn.Module):
    """[c1, c2, c3, c4] -> logits at stride 8.

    Args:
        num_classes: K.
    """

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        pixels, channels = PixelAttention(channels=WIDTH, keys=KEYS), ChannelAttention()
        self.pixels = nn.Sequential(conv_norm(CHANNELS[3], WIDTH, 3), pixels, conv_norm(WIDTH, WIDTH, 3))
        self.channels = nn.Sequential(conv_norm(CHANNELS[3], WIDTH, 3), channels, conv_norm(WIDTH, WIDTH, 3))
        self.classifier = classifier(WIDTH, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        logits: Tensor = self.classifier(self.pixels(features[3]) + self.channels(features[3]))
        return logits


class PixelAttention(nn.Module):
    """x + γ · attention over all pixels. [B, C, h, w] -> [B, C, h, w]."""

    def __init__(self, *, channels: int, keys: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, keys, 1)
        self.key = nn.Conv2d(channels, keys, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        shares = (q.transpose(1, 2) @ k).softmax(2)  # B n n
        return x + self.gamma * torch.unflatten(v @ shares.transpose(1, 2), 2, x.shape[2:])


class ChannelAttention(nn.Module):
    """x + γ · attention over all channels, to the least similar ones. [B, C, h, w] -> [B, C, h, w]."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        shares = (-(flat @ flat.transpose(1, 2))).softmax(2)  # B C C
        return x + self.gamma * torch.unflatten(shares @ flat, 2, x.shape[2:])
