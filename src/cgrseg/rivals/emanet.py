"""EMANet (Li et al., ICCV 2019) on ResNet-101: features rebuilt from few bases by EM steps. Stride 8."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import conv_norm
from .resnet101 import CHANNELS, OnResNet101, classifier

WIDTH, FUSED = 512, 256
BASES, STEPS, MOMENTUM = 64, 3, 0.1


def build(size: str, num_classes: int) -> OnResNet101:
    """Build "r101" with random weights."""
    return OnResNet101(EMAHead(num_classes=num_classes))


class EMAHead(nn.Module):
    """[c1, c2, c3, c4] -> logits at stride 8.

    Args:
        num_classes: K.
    """

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.reduce = conv_norm(CHANNELS[3], WIDTH, 3)
        self.enter = nn.Conv2d(WIDTH, WIDTH, 1).requires_grad_(False)  # fixed in the method, too
        self.attention = EMAttention(channels=WIDTH)
        self.leave = conv_norm(WIDTH, WIDTH, activation=None)
        self.smooth = conv_norm(WIDTH, FUSED, 3)
        self.fuse = conv_norm(CHANNELS[3] + FUSED, FUSED, 3)
        self.classifier = classifier(FUSED, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x = self.reduce(features[3])
        x = torch.relu(x + self.leave(torch.relu(self.attention(self.enter(x)))))
        logits: Tensor = self.classifier(self.fuse(torch.cat([features[3], self.smooth(x)], dim=1)))
        return logits


class EMAttention(nn.Module):
    """[B, C, h, w] -> the same from 64 bases; in training the initial bases follow the found ones."""

    bases: Tensor

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.register_buffer("bases", F.normalize(torch.randn(1, channels, BASES), dim=1))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)  # B C n
        with torch.no_grad():
            bases = self.bases.expand(x.shape[0], -1, -1)  # B C 64
            for _ in range(STEPS):
                shares = (flat.transpose(1, 2) @ bases).softmax(2)  # B n 64
                bases = F.normalize(flat @ F.normalize(shares, p=1.0, dim=1), dim=1)
            if self.training:
                found = F.normalize(bases.mean(0, keepdim=True), dim=1)
                self.bases.lerp_(found, MOMENTUM)
        return torch.unflatten(bases @ shares.transpose(1, 2), 2, x.shape[2:])
