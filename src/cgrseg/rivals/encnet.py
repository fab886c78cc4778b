"""EncNet (Zhang et al., CVPR 2018) on ResNet-101: channels weighted by an encoding of the whole image. Stride 8."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .layers import conv_norm
from .resnet101 import CHANNELS, OnResNet101, classifier

WIDTH, CODES = 512, 32


def build(size: str, num_classes: int) -> OnResNet101:
    """Build "r101" with random weights."""
    return OnResNet101(EncHead(num_classes=num_classes))


class EncHead(nn.Module):
    """[c1, c2, c3, c4] -> logits at stride 8.

    `presence` predicts which classes an image has; only the method's second loss uses it.

    Args:
        num_classes: K.
    """

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.reduce = conv_norm(CHANNELS[3], WIDTH, 3)
        self.project = conv_norm(WIDTH, WIDTH)
        self.encoding = Encoding(channels=WIDTH, codes=CODES)
        self.norm = nn.Sequential(nn.BatchNorm1d(CODES), nn.ReLU())
        self.gate = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Sigmoid())
        self.presence = nn.Linear(WIDTH, num_classes)
        self.classifier = classifier(WIDTH, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x = self.reduce(features[3])
        encoded = self.norm(self.encoding(self.project(x))).mean(1)  # B D
        logits: Tensor = self.classifier(torch.relu(x + x * self.gate(encoded)[..., None, None]))
        return logits


class Encoding(nn.Module):
    """Residuals to learned codewords, summed over the pixels with soft assignments: [B, D, h, w] -> [B, N, D].

    Args:
        channels: D.
        codes: N.
    """

    def __init__(self, *, channels: int, codes: int) -> None:
        super().__init__()
        limit = 1 / (codes * channels) ** 0.5
        self.codewords = nn.Parameter(torch.empty(codes, channels).uniform_(-limit, limit))
        self.scale = nn.Parameter(torch.empty(codes).uniform_(-1, 0))

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2).transpose(1, 2)  # B n D
        products = pixels @ self.codewords.T  # B n N
        distances = pixels.square().sum(2, keepdim=True) + self.codewords.square().sum(1) - 2 * products
        shares = (self.scale * distances).softmax(2)
        return shares.transpose(1, 2) @ pixels - shares.sum(1)[..., None] * self.codewords
