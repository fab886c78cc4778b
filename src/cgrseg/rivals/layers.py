"""What several rivals are built from."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    """Convolution without bias, BatchNorm, activation; every halving rounds up."""
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), *([activation()] if activation else []))


def classifier(channels: int, num_classes: int, *, dropout: float = 0.1) -> nn.Sequential:
    """Dropout of channels, then 1×1."""
    return nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(channels, num_classes, 1))


class Attention(nn.Module):
    """Multi-head attention. Queries [B, Q, C], keys and values [B, n, C] -> [B, Q, C]."""

    def __init__(self, *, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.value, self.project = nn.Linear(channels, channels), nn.Linear(channels, channels)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        attended = attend(self.query(queries), self.key(keys), self.value(values), heads=self.heads)
        out: Tensor = self.project(attended)
        return out


def attend(queries: Tensor, keys: Tensor, values: Tensor, *, heads: int) -> Tensor:
    """Softmax attention of each head. Queries [B, Q, C], keys and values [B, n, C] -> [B, Q, C]."""
    parts = (queries, keys, values)
    q, k, v = (torch.unflatten(part, 2, (heads, -1)).transpose(1, 2) for part in parts)  # B heads n c
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def semantic_scores(classes: Tensor, masks: Tensor) -> Tensor:
    """Logits of queries [B, Q, K + 1] (the last is "no object") and masks [B, Q, h, w] -> scores [B, K, h, w]."""
    shares = classes.softmax(-1)[..., :-1].transpose(1, 2)  # B K Q
    return torch.unflatten(shares @ masks.sigmoid().flatten(2), 2, masks.shape[2:])
