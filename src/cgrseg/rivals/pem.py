"""PEM (Cavagnero et al., CVPR 2024) on STDC1 and STDC2: queries each attend to one prototype pixel per head.

STDC is by Fan et al., CVPR 2021. Scores at stride 4, the sum over queries of class probability times mask.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import deform_conv2d  # type: ignore[import-untyped]

from .layers import Attention, conv_norm, semantic_scores

CHANNELS = (64, 256, 512, 1024)  # of STDC at strides 4, 8, 16, 32
DEPTHS = {"pem_stdc1": (2, 2, 2), "pem_stdc2": (4, 5, 3)}  # blocks per stage, from stride 8
WIDTH, FEATURES = 256, 128  # of the queries, and of the maps of the pixel decoder
QUERIES, LAYERS, HEADS, HIDDEN = 100, 6, 8, 2048


def build(name: str, num_classes: int) -> PEM:
    """Build "pem_stdc1" or "pem_stdc2" with random weights."""
    return PEM(depths=DEPTHS[name], num_classes=num_classes)


class PEM(nn.Module):
    """images [B, 3, H, W] -> scores [B, K, ⌈H/4⌉, ⌈W/4⌉]."""

    def __init__(self, *, depths: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.backbone = STDC(depths=depths)
        self.pixels = PixelDecoder()
        self.queries = QueryDecoder(num_classes=num_classes)

    def forward(self, images: Tensor) -> Tensor:
        maps, mask_features = self.pixels(self.backbone(images))
        return semantic_scores(*self.queries(maps, mask_features))


class STDC(nn.Module):
    """images [B, 3, H, W] -> [c1, c2, c3, c4] at strides 4, 8, 16, 32; every halving rounds up."""

    def __init__(self, *, depths: tuple[int, int, int]) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_norm(3, CHANNELS[0] // 2, 3, stride=2))
        self.stem.append(conv_norm(CHANNELS[0] // 2, CHANNELS[0], 3, stride=2))
        self.stages = nn.ModuleList(
            nn.Sequential(
                STDCBlock(before, width, stride=2), *(STDCBlock(width, width, stride=1) for _ in range(depth - 1))
            )
            for (before, width), depth in zip(pairwise(CHANNELS), depths, strict=True)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [self.stem(images)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps


class STDCBlock(nn.Module):
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


class PixelDecoder(nn.Module):
    """[c1, c2, c3, c4] -> maps at strides 32, 16, 8 [B, 128, …], and mask features [B, 256, h1, w1]."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.ModuleList(conv_norm(channels, FEATURES) for channels in CHANNELS)
        self.context = conv_norm(CHANNELS[-1], FEATURES)
        self.modulate = nn.ModuleList(Modulation(FEATURES) for _ in CHANNELS)
        self.deform = nn.ModuleList(DeformableConvolution(FEATURES) for _ in CHANNELS[1:])
        self.enlarge = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(FEATURES, FEATURES, 4, 2, 1, bias=False), nn.BatchNorm2d(FEATURES), nn.ReLU()
            )
            for _ in CHANNELS[1:]
        )
        self.out = conv_norm(FEATURES, WIDTH)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        above, maps = self.context(features[-1].mean((2, 3), keepdim=True)), []
        for level in (3, 2, 1):
            x = self.modulate[level](self.project[level](features[level])) + above
            maps.append(self.deform[level - 1](x))
            height, width = features[level - 1].shape[2:]
            above = self.enlarge[level - 1](maps[-1])[..., :height, :width]
        return maps, self.out(self.modulate[0](self.project[0](features[0])) + above)


class Modulation(nn.Module):
    """x + x · a weight per channel from the mean of the map, between 0.5 and 0.73 as in the release (two sigmoids)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = conv_norm(channels, channels // 2)
        self.expand = nn.Conv2d(channels // 2, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + x * self.expand(self.reduce(x.mean((2, 3), keepdim=True))).sigmoid().sigmoid()
        return out


class DeformableConvolution(nn.Module):
    """3×3 at learned offsets with learned weights, BatchNorm, ReLU. [B, C, h, w] -> [B, C, h, w]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.offsets = nn.Conv2d(channels, 27, 3, padding=1)
        self.weight = nn.Parameter(nn.init.kaiming_normal_(torch.empty(channels, channels, 3, 3), mode="fan_out"))
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.offsets.weight)
        assert self.offsets.bias is not None
        nn.init.zeros_(self.offsets.bias)

    def forward(self, x: Tensor) -> Tensor:
        offsets, weights = self.offsets(x).split([18, 9], dim=1)
        return F.relu(self.norm(deform_conv2d(x, offsets, self.weight, padding=1, mask=weights.sigmoid())))


class QueryDecoder(nn.Module):
    """Maps and mask features -> class logits [B, Q, K + 1] and masks [B, Q, h1, w1]."""

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Conv2d(FEATURES, WIDTH, 1) for _ in range(3))
        self.level = nn.Parameter(torch.randn(3, WIDTH))
        self.queries, self.positions = (nn.Parameter(torch.randn(QUERIES, WIDTH)) for _ in range(2))
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm, self.classes = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, num_classes + 1)
        self.masks = nn.Sequential(
            nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)
        )

    def forward(self, maps: Sequence[Tensor], mask_features: Tensor) -> tuple[Tensor, Tensor]:
        sources = [
            layer(x) + level[:, None, None] + sine_positions(x.shape[2], x.shape[3], x)
            for layer, x, level in zip(self.project, maps, self.level, strict=True)
        ]
        x = self.queries.expand(mask_features.shape[0], -1, -1)
        masks = self._masks(x, mask_features)
        for number, layer in enumerate(self.layers):
            source = sources[number % 3]
            seen = F.interpolate(masks, source.shape[2:], mode="bilinear", align_corners=False).detach() >= 0
            x = layer(x, self.positions, source, seen.flatten(2))
            masks = self._masks(x, mask_features)
        return self.classes(self.norm(x)), masks

    def _masks(self, x: Tensor, mask_features: Tensor) -> Tensor:
        masks: Tensor = self.masks(self.norm(x)) @ mask_features.flatten(2)
        return torch.unflatten(masks, 2, mask_features.shape[2:])


class Layer(nn.Module):
    """Prototype attention to a map, self-attention among the queries, MLP. [B, Q, C] -> [B, Q, C]."""

    def __init__(self) -> None:
        super().__init__()
        self.cross = PrototypeAttention()
        self.norm_self, self.norm_mlp = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.self_attention = Attention(channels=WIDTH, heads=HEADS)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH))

    def forward(self, x: Tensor, positions: Tensor, source: Tensor, seen: Tensor) -> Tensor:
        x = x + self.cross(x + positions, source, seen)
        normed = self.norm_self(x)
        keys = normed + positions
        x = x + self.self_attention(keys, keys, normed)
        out: Tensor = x + self.mlp(self.norm_mlp(x))
        return out


class PrototypeAttention(nn.Module):
    """Each query takes, per head, the most similar pixel of those that its mask covers.

    Shape: queries [B, Q, C], map [B, C, h, w], covered bool [B, Q, h·w] -> [B, Q, C].
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(WIDTH)
        self.local = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)
        self.pixel = nn.Linear(WIDTH, WIDTH)
        self.query = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH))
        self.combine, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.alpha = nn.Parameter(torch.ones(WIDTH))

    def forward(self, queries: Tensor, source: Tensor, covered: Tensor) -> Tensor:
        pixels = F.normalize(self.pixel(self.local(self.norm(source)).flatten(2).transpose(1, 2)), dim=2)
        queries = F.normalize(self.query(queries), dim=2)
        by_head = torch.unflatten(pixels, 2, (HEADS, -1)).transpose(1, 2)  # B heads n c
        similar = torch.unflatten(queries, 2, (HEADS, -1)).transpose(1, 2) @ by_head.transpose(2, 3)  # B heads Q n
        hidden = ~covered & covered.any(2, keepdim=True)  # a query whose mask is empty sees all pixels
        best = similar.masked_fill(hidden[:, None], -math.inf).argmax(3, keepdim=True)  # B heads Q 1
        prototypes = by_head.gather(2, best.expand(-1, -1, -1, by_head.shape[3])).transpose(1, 2).flatten(2)
        mixed = F.normalize(self.combine(prototypes * queries), dim=1) * self.alpha + prototypes
        out: Tensor = self.out(mixed)
        return out


def sine_positions(height: int, width: int, like: Tensor) -> Tensor:
    """Sine position embedding [C, h, w]: the first half of the channels for rows, the other for columns."""
    count = WIDTH // 4
    rates = 10000 ** (-torch.arange(count, device=like.device, dtype=like.dtype) / count) * 2 * math.pi

    def axis(size: int) -> Tensor:
        places = torch.arange(1, size + 1, device=like.device, dtype=like.dtype) / size
        angles = rates[:, None] * places
        return torch.stack([angles.sin(), angles.cos()], dim=1).flatten(0, 1)  # C/2 n

    rows = axis(height)[:, :, None].expand(-1, -1, width)
    columns = axis(width)[:, None].expand(-1, height, -1)
    return torch.cat([rows, columns])
