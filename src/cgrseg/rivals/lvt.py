"""FeedFormer on LVT, the Lite Vision Transformer (Yang et al., CVPR 2022): Table 1 calls it FeedFormer-B1."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgrseg.nn.backbones import DropPath

from .layers import attend

WIDTHS, HEADS, MLP_RATIOS, REDUCTIONS = (64, 64, 160, 256), (2, 2, 5, 8), (4, 8, 4, 4), (8, 4, 2, 1)
BLOCKS, KERNEL, DILATIONS, PASSES = 2, 3, (1, 3, 5), 2


class LVT(nn.Module):
    """images [B, 3, H, W] -> [c1, c2, c3, c4] at strides 4, 8, 16, 32; every halving rounds up."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for stage, (before, width) in enumerate(zip((3, *WIDTHS[:-1]), WIDTHS, strict=True)):
            kernel, stride = (3, 2) if stage else (7, 4)
            hidden = width * MLP_RATIOS[stage]
            layers = nn.Sequential(PatchEmbedding(before, width, kernel=kernel, stride=stride))
            for _ in range(BLOCKS):
                attention: nn.Module = LocalAttention(channels=width, heads=HEADS[0])
                if stage:
                    attention = RecursiveAttention(channels=width, heads=HEADS[stage], reduction=REDUCTIONS[stage])
                layers.append(Block(channels=width, hidden=hidden, attention=attention, depthwise=stage > 0))
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


class Block(nn.Module):
    """x + attention(x), then x + MLP(x). [B, h, w, C] -> [B, h, w, C]."""

    def __init__(self, *, channels: int, hidden: int, attention: nn.Module, depthwise: bool) -> None:
        super().__init__()
        self.norm, self.norm_mlp, self.attention = nn.LayerNorm(channels), nn.LayerNorm(channels), attention
        self.expand, self.project = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden) if depthwise else None
        self.drop_path = DropPath(0.0)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(self.norm(x)))
        hidden = self.expand(self.norm_mlp(x))
        if self.depthwise is not None:
            hidden = self.depthwise(hidden.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out: Tensor = x + self.drop_path(self.project(F.gelu(hidden)))
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
        out = F.silu(self._attend(x))
        for _ in range(PASSES - 1):
            out = F.silu(self._attend(out + x))
        return out

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
