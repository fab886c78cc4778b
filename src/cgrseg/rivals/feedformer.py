"""FeedFormer (Shim et al., AAAI 2023): each scale attends to the stride-4 map. Logits at stride 4.

The encoder is SegFormer's Mix Transformer B0 or B2, from transformers, or LVT, the Lite Vision Transformer (Yang et
al., CVPR 2022); Table 1 calls the latter FeedFormer-B1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgrseg.nn.backbones import DropPath
from cgrseg.nn.reconstruction import resize

from .from_transformers import MixTransformer
from .layers import attend, classifier, conv_norm

HEADS, POOLING = (2, 5, 8), (2, 4, 8)  # at strides 8, 16, 32; the stride-4 map is pooled by the second
DROP_PATH = 0.1


def build(name: str, num_classes: int) -> FeedFormer:
    """Build "feedformer_b0", _b2 or _lvt with random weights."""
    size = name.removeprefix("feedformer_")
    encoder = LVT() if size == "lvt" else MixTransformer(size=size)
    width = 768 if size == "b2" else 128
    return FeedFormer(encoder=encoder, channels=encoder.channels, width=width, num_classes=num_classes)


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
        self.classifier = classifier(width, num_classes)

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


# Of LVT, per stage
WIDTHS, LVT_HEADS, MLP_RATIOS, REDUCTIONS = (64, 64, 160, 256), (2, 2, 5, 8), (4, 8, 4, 4), (8, 4, 2, 1)
KERNEL, DILATIONS = 3, (1, 3, 5)


class LVT(nn.Module):
    """images [B, 3, H, W] -> [c1, c2, c3, c4] at strides 4, 8, 16, 32; every halving rounds up."""

    channels = WIDTHS

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for stage, (before, width) in enumerate(zip((3, *WIDTHS[:-1]), WIDTHS, strict=True)):
            kernel, stride = (3, 2) if stage else (7, 4)
            hidden = width * MLP_RATIOS[stage]
            layers = nn.Sequential(PatchEmbedding(before, width, kernel=kernel, stride=stride))
            for _ in range(2):
                attention: nn.Module = LocalAttention(channels=width, heads=LVT_HEADS[0])
                if stage:
                    attention = RecursiveAttention(channels=width, heads=LVT_HEADS[stage], reduction=REDUCTIONS[stage])
                layers.append(LVTBlock(channels=width, hidden=hidden, attention=attention, depthwise=stage > 0))
            self.stages.append(layers)

    def forward(self, images: Tensor) -> list[Tensor]:
        x, maps = images, []
        for stage in self.stages:
            x = stage(x)  # B H W C, but for the images
            maps.append(x.permute(0, 3, 1, 2))
        return maps


class PatchEmbedding(nn.Module):
    """Strided convolution and LayerNorm: [B, C, H, W] or, after the first stage, [B, H, W, C] -> [B, h, w, D]."""

    def __init__(self, in_channels: int, channels: int, *, kernel: int, stride: int) -> None:
        super().__init__()
        self.first = in_channels == 3
        self.project = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.first else x.permute(0, 3, 1, 2)
        out: Tensor = self.norm(self.project(x).permute(0, 2, 3, 1))
        return out


class LVTBlock(nn.Module):
    """x + attention(x), then x + MLP(x). [B, h, w, C] -> [B, h, w, C]."""

    def __init__(self, *, channels: int, hidden: int, attention: nn.Module, depthwise: bool) -> None:
        super().__init__()
        self.norm, self.norm_mlp, self.attention = nn.LayerNorm(channels), nn.LayerNorm(channels), attention
        self.expand, self.project = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden) if depthwise else None

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x))
        hidden = self.expand(self.norm_mlp(x))
        if self.depthwise is not None:
            hidden = self.depthwise(hidden.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out: Tensor = x + self.project(F.gelu(hidden))
        return out


class LocalAttention(nn.Module):
    """Attention within 3×3 windows at every second pixel; its weights come from the mean of 2×2 pixels."""

    def __init__(self, *, channels: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (channels // heads) ** -0.5
        self.weights = nn.Linear(channels, KERNEL**4 * heads)
        places = KERNEL**2  # each place in a window has its own projection
        self.value = nn.Conv2d(places * channels, places * channels, 1, groups=places, bias=False)
        self.project = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        image = x.permute(0, 3, 1, 2)
        pooled = F.avg_pool2d(image, 2, ceil_mode=True).flatten(2).transpose(1, 2)  # B n C
        weights = torch.unflatten(self.weights(pooled), 2, (self.heads, KERNEL**2, KERNEL**2)) * self.scale
        windows = F.unfold(image, KERNEL, padding=1, stride=2)  # B C·9 n
        windows = torch.unflatten(windows, 1, (-1, KERNEL**2)).transpose(1, 2).flatten(1, 2)  # B 9·C n
        values = self.value(windows[..., None])[..., 0].transpose(1, 2)  # B n 9·C
        values = torch.unflatten(values, 2, (KERNEL**2, self.heads, -1)).transpose(2, 3)  # B n heads 9 c
        mixed = weights.softmax(-1) @ values
        mixed = mixed.permute(0, 2, 4, 3, 1).flatten(1, 3)  # B heads·c·9 n
        folded = F.fold(mixed, (height, width), KERNEL, padding=1, stride=2)
        out: Tensor = self.project(folded.permute(0, 2, 3, 1))
        return out


class RecursiveAttention(nn.Module):
    """Attention applied twice to the map; queries pass a depthwise 3×3 with three dilations. [B, h, w, C] -> same."""

    def __init__(self, *, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels, bias=False)
        self.key_value = nn.Linear(channels, 2 * channels, bias=False)
        self.project = nn.Linear(channels, channels)
        self.dilated = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(channels, 1, 3, 3)))
        self.reduction = reduction
        if reduction > 1:
            self.reduce, self.norm = nn.Conv2d(channels, channels, reduction, reduction), nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self._attend(F.silu(self._attend(x)) + x))

    def _attend(self, x: Tensor) -> Tensor:
        q = self.query(x).permute(0, 3, 1, 2)
        dilations = [F.conv2d(q, self.dilated, padding=rate, dilation=rate, groups=q.shape[1]) for rate in DILATIONS]
        q = torch.stack([F.silu(each) for each in dilations]).sum(0).flatten(2).transpose(1, 2)  # B n C
        keys = x
        if self.reduction > 1:
            spare = [-side % self.reduction for side in x.shape[1:3]]  # padded, so that every size works
            padded = F.pad(x.permute(0, 3, 1, 2), (0, spare[1], 0, spare[0]))
            keys = self.norm(self.reduce(padded).permute(0, 2, 3, 1))
        attended = attend(q, *self.key_value(keys.flatten(1, 2)).chunk(2, dim=2), heads=self.heads)
        out: Tensor = torch.unflatten(self.project(attended), 1, x.shape[1:3])
        return out
