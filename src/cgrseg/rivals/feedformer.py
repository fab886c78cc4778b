"""FeedFormer (Shim et al., AAAI 2023): each scale attends to the stride-4 map. Logits at stride 4.

The encoder is SegFormer's Mix Transformer B0 or B2, from transformers, or LVT.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SegformerConfig, SegformerModel

from cgrseg.nn.backbones import DropPath
from cgrseg.nn.reconstruction import resize

from .layers import attend, conv_norm
from .lvt import LVT, WIDTHS
from .segformer import SIZES

HEADS, POOLING = (2, 5, 8), (2, 4, 8)  # at strides 8, 16, 32; the stride-4 map is pooled by the second
WIDTH = {"b0": 128, "lvt": 128, "b2": 768}  # of the fused map
DROP_PATH, DROPOUT = 0.1, 0.1


def build(size: str, num_classes: int) -> FeedFormer:
    """Build "b0", "b2" or "lvt" with random weights."""
    if size == "lvt":
        return FeedFormer(encoder=LVT(), channels=WIDTHS, width=WIDTH[size], num_classes=num_classes)
    depths, widths, _ = SIZES[size]
    encoder = MixTransformer(depths=depths, widths=widths)
    return FeedFormer(encoder=encoder, channels=widths, width=WIDTH[size], num_classes=num_classes)


class MixTransformer(nn.Module):
    """images [B, 3, H, W] -> maps at strides 4, 8, 16, 32."""

    def __init__(self, *, depths: list[int], widths: list[int]) -> None:
        super().__init__()
        options: dict[str, Any] = {"depths": depths, "hidden_sizes": widths}
        self.network = SegformerModel(SegformerConfig(**options))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps: tuple[Tensor, ...] = self.network(pixel_values=images, output_hidden_states=True).hidden_states
        return maps


class FeedFormer(nn.Module):
    """images [B, 3, H, W] -> logits [B, K, ⌈H/4⌉, ⌈W/4⌉].

    Args:
        encoder: images -> maps at strides 4, 8, 16, 32.
        channels: of the maps.
        width: of the fused map.
        num_classes: K.
    """

    def __init__(self, *, encoder: nn.Module, channels: Sequence[int], width: int, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.blocks = nn.ModuleList(
            Block(channels=wide, feature_channels=channels[0], heads=heads, pooling=pooling)
            for wide, heads, pooling in zip(channels[1:], HEADS, POOLING, strict=True)
        )
        self.fuse = conv_norm(sum(channels), width)
        self.classifier = nn.Sequential(nn.Dropout2d(DROPOUT), nn.Conv2d(width, num_classes, 1))

    def forward(self, images: Tensor) -> Tensor:
        first, *deeper = self.encoder(images)
        size = first.shape[2:]
        scales = [resize(block(x, first), size) for block, x in zip(self.blocks, deeper, strict=True)]
        logits: Tensor = self.classifier(self.fuse(torch.cat([*reversed(scales), first], dim=1)))
        return logits


class Block(nn.Module):
    """x + attention(x, features), then x + MLP(x). [B, C, h, w], [B, C1, h1, w1] -> [B, C, h, w]."""

    def __init__(self, *, channels: int, feature_channels: int, heads: int, pooling: int) -> None:
        super().__init__()
        self.norm, self.norm_mlp = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.norm_features = nn.LayerNorm(feature_channels)
        self.attention = CrossAttention(
            channels=channels, feature_channels=feature_channels, heads=heads, pooling=pooling
        )
        hidden = 4 * channels
        self.expand, self.project = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.drop_path = DropPath(DROP_PATH)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        size = x.shape[2:]
        tokens = x.flatten(2).transpose(1, 2)  # B n C
        normed = self.norm_features(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        tokens = tokens + self.drop_path(self.attention(self.norm(tokens), normed))
        hidden = torch.unflatten(self.expand(self.norm_mlp(tokens)).transpose(1, 2), 2, size)
        hidden = F.gelu(self.depthwise(hidden)).flatten(2).transpose(1, 2)
        tokens = tokens + self.drop_path(self.project(hidden))
        return torch.unflatten(tokens.transpose(1, 2), 2, size)


class CrossAttention(nn.Module):
    """Queries from tokens [B, n, C], keys and values from the pooled stride-4 map [B, C1, h1, w1] -> [B, n, C]."""

    def __init__(self, *, channels: int, feature_channels: int, heads: int, pooling: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels, bias=False)
        self.key_value = nn.Linear(feature_channels, 2 * channels, bias=False)
        self.project = nn.Linear(channels, channels)
        self.pool = nn.AvgPool2d(pooling, ceil_mode=True)  # the release drops what remains
        self.reduce = nn.Conv2d(feature_channels, feature_channels, 1)
        self.norm = nn.LayerNorm(feature_channels)

    def forward(self, tokens: Tensor, features: Tensor) -> Tensor:
        pooled = self.reduce(self.pool(features)).flatten(2).transpose(1, 2)
        pooled = F.gelu(self.norm(pooled))
        keys, values = self.key_value(pooled).chunk(2, dim=2)
        out: Tensor = self.project(attend(self.query(tokens), keys, values, heads=self.heads))
        return out
