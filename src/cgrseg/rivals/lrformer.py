"""LRFormer-T (Wu et al., 2023): attention from a pooled map to a pyramid of pooled maps. Logits at stride 8."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from cgrseg.nn.backbones import DropPath
from cgrseg.nn.reconstruction import resize

from .layers import attend, classifier, conv_norm

WIDTHS, DEPTHS, HEADS, MLP_RATIOS = (48, 96, 240, 384), (2, 2, 6, 3), (2, 4, 10, 16), (8, 8, 4, 4)
SCALED = (False, False, True, True)  # stages whose residual branches have a learned scale
POOLED = 16  # shorter side of the queries' map
PYRAMID = (11, 8, 6, 4)  # shorter sides of the maps of keys and values, for queries of 16
HEAD_WIDTH, HEAD_HEADS, HEAD_POOLED = 256, 8, 32
DROP_PATH, SCALE_INIT = 0.1, 1e-6


def build(name: str, num_classes: int) -> LRFormer:
    """Build "lrformer_t" with random weights."""
    return LRFormer(num_classes=num_classes)


class LRFormer(nn.Module):
    """images [B, 3, H, W] -> logits [B, K, ⌈H/8⌉, ⌈W/8⌉]."""

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.embeddings, self.stages = nn.ModuleList([_stem(WIDTHS[0])]), nn.ModuleList()
        self.embeddings.extend(
            nn.Sequential(nn.Conv2d(before, width, 3, 2, 1), LayerNorm2d(width)) for before, width in pairwise(WIDTHS)
        )
        # One set per stage: its blocks share the convolutions of the pooled maps.
        self.pooled_convolutions = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, groups=width) for _ in PYRAMID) for width in WIDTHS
        )
        for stage, (width, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True)):
            rates = [DROP_PATH * (sum(DEPTHS[:stage]) + number) / (sum(DEPTHS) - 1) for number in range(depth)]
            blocks = (
                Block(
                    channels=width,
                    heads=HEADS[stage],
                    mlp_ratio=MLP_RATIOS[stage],
                    norm=LayerNorm2d,
                    scaled=SCALED[stage],
                    drop_path=rate,
                )
                for rate in rates
            )
            self.stages.append(nn.ModuleList(blocks))
        self.head = Head(channels=WIDTHS[1:], num_classes=num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x, maps = images, []
        for embed, convolutions, blocks in zip(self.embeddings, self.pooled_convolutions, self.stages, strict=True):
            x = embed(x)
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, convolutions)
            maps.append(x)
        logits: Tensor = self.head(maps[1:])
        return logits


def _stem(width: int) -> nn.Sequential:
    """Four 3×3 convolutions to stride 4."""
    layers = nn.Sequential()
    channels = (3, width // 2, width // 2, width)
    for (before, after), stride in zip(pairwise(channels), (2, 1, 2), strict=True):
        layers.extend([nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.GELU()])
    return layers.extend([nn.Conv2d(width, width, 3, padding=1), LayerNorm2d(width)])


class Head(nn.Module):
    """[c2, c3, c4] -> logits at stride 8: two fusions, each with a block of pooled attention."""

    def __init__(self, *, channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.squeezes = nn.ModuleList(
            conv_norm(wide, HEAD_WIDTH) for wide in (sum(channels), HEAD_WIDTH + channels[-1])
        )
        self.blocks = nn.ModuleList(
            Block(
                channels=HEAD_WIDTH,
                heads=HEAD_HEADS,
                mlp_ratio=4,
                norm=nn.BatchNorm2d,
                scaled=True,
                drop_path=0.0,
                pooled=HEAD_POOLED,
            )
            for _ in self.squeezes
        )
        self.classifier = classifier(HEAD_WIDTH, num_classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        maps = [resize(each, maps[0].shape[2:]) for each in maps]
        x = self.blocks[0](self.squeezes[0](torch.cat(maps, dim=1)))
        x = self.blocks[1](self.squeezes[1](torch.cat([x, maps[-1]], dim=1)))
        logits: Tensor = self.classifier(x)
        return logits


class Block(nn.Module):
    """Depthwise 3×3, pooled attention and MLP, each with a residual. [B, C, h, w] -> [B, C, h, w].

    `scaled`: attention and MLP have a learned scale per channel. `pooled`: shorter side of the queries' map.
    """

    def __init__(
        self,
        *,
        channels: int,
        heads: int,
        mlp_ratio: int,
        norm: type[nn.Module],
        scaled: bool,
        drop_path: float,
        pooled: int = POOLED,
    ) -> None:
        super().__init__()
        hidden = channels * mlp_ratio
        self.position = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm_attention, self.norm_mlp = norm(channels), norm(channels)
        self.attention = PooledAttention(channels=channels, heads=heads, pooled=pooled)
        self.expand, self.project = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.scales = nn.Parameter(torch.full((2, channels, 1, 1), SCALE_INIT)) if scaled else None
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, convolutions: nn.ModuleList | None = None) -> Tensor:
        first, second = (1.0, 1.0) if self.scales is None else self.scales
        x = x + self.position(x)
        x = x + self.drop_path(first * self.attention(self.norm_attention(x), convolutions))
        hidden = F.gelu(self.expand(self.norm_mlp(x)))
        out: Tensor = x + self.drop_path(second * self.project(hidden + self.depthwise(hidden)))
        return out


class PooledAttention(nn.Module):
    """Queries from the map pooled to `pooled` pixels on the shorter side, keys and values from a pooled pyramid.

    Shape: [B, C, h, w], and a convolution for each level of the pyramid or None -> [B, C, h, w].
    """

    def __init__(self, *, channels: int, heads: int, pooled: int) -> None:
        super().__init__()
        self.heads, self.pooled = heads, pooled
        self.pyramid = [round(side * pooled / POOLED) for side in PYRAMID]
        self.query, self.key_value = nn.Linear(channels, channels), nn.Linear(channels, 2 * channels)
        self.norm, self.project = nn.LayerNorm(channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor, convolutions: nn.ModuleList | None) -> Tensor:
        height, width = x.shape[2:]
        levels = [F.adaptive_avg_pool2d(x, _pooled_size(height, width, side)) for side in self.pyramid]
        if convolutions is not None:
            levels = [level + layer(level) for level, layer in zip(levels, convolutions, strict=True)]
        tokens = self.norm(torch.cat([level.flatten(2) for level in levels], dim=2).transpose(1, 2))  # B n C
        queries = F.adaptive_avg_pool2d(x, _pooled_size(height, width, self.pooled))
        keys, values = self.key_value(tokens).chunk(2, dim=2)
        attended = attend(self.query(queries.flatten(2).transpose(1, 2)), keys, values, heads=self.heads)
        return resize(torch.unflatten(self.project(attended).transpose(1, 2), 2, queries.shape[2:]), (height, width))


def _pooled_size(height: int, width: int, side: int) -> tuple[int, int]:
    """(height, width) with `side` as the shorter one and about the same aspect ratio."""
    if width >= height:
        return side, (2 * width * side + height) // (2 * height)  # rounded; `round` cannot be exported
    return (2 * height * side + width) // (2 * width), side
