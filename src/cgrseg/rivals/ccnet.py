"""CCNet (Huang et al., ICCV 2019) on ResNet-101: each pixel attends to its row and column, twice. Stride 8."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .layers import conv_norm
from .resnet101 import CHANNELS, OnResNet101, classifier

WIDTH, PASSES = 512, 2


def build(size: str, num_classes: int) -> OnResNet101:
    """Build "r101" with random weights."""
    return OnResNet101(CCHead(num_classes=num_classes))


class CCHead(nn.Module):
    """[c1, c2, c3, c4] -> logits at stride 8.

    Args:
        num_classes: K.
    """

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.reduce = conv_norm(CHANNELS[3], WIDTH, 3)
        self.attention = CrissCrossAttention(channels=WIDTH)
        self.smooth = conv_norm(WIDTH, WIDTH, 3)
        self.fuse = conv_norm(CHANNELS[3] + WIDTH, WIDTH, 3)
        self.classifier = classifier(WIDTH, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x = self.reduce(features[3])
        for _ in range(PASSES):
            x = self.attention(x)
        logits: Tensor = self.classifier(self.fuse(torch.cat([features[3], self.smooth(x)], dim=1)))
        return logits


class CrissCrossAttention(nn.Module):
    """x + γ · attention over the row and the column of each pixel. [B, C, h, w] -> [B, C, h, w]."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.query(x), self.key(x), self.value(x)
        by_row, by_column = (0, 2, 3, 1), (0, 3, 2, 1)
        row = q.permute(by_row) @ k.permute(0, 2, 1, 3)  # B h w w
        column = q.permute(by_column) @ k.permute(0, 3, 1, 2)  # B w h h
        # The pixel itself is in its row already.
        column = column - 1e4 * torch.eye(x.shape[2], dtype=x.dtype, device=x.device)
        shares = torch.cat([row, column.transpose(1, 2)], dim=3).softmax(3)  # B h w (w + h)
        row, column = shares[..., : x.shape[3]], shares[..., x.shape[3] :]
        from_row = (row @ v.permute(by_row)).permute(0, 3, 1, 2)
        from_column = (column.transpose(1, 2) @ v.permute(by_column)).permute(0, 3, 2, 1)
        out: Tensor = x + self.gamma * (from_row + from_column)
        return out
