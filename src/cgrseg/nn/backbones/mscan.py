"""MSCAN T, S, B: SegNeXt's encoder, whose attention is a sum of long strip convolutions (Table 7).

Submodules carry the names of the SegNeXt release, so that its ImageNet files load with `load_state_dict`
(once their classifier, `head.*`, is dropped).
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from . import IMAGENET_MEAN, IMAGENET_STD, Downsample, DropPath, init_by_fan_out

STRIPS = (7, 11, 21)  # lengths of the three pairs of strip convolutions
MLP_RATIOS = (8, 8, 4, 4)  # hidden width divided by width, per stage


SIZES = {  # widths and depths of the four stages
    "t": ((32, 64, 160, 256), (3, 3, 5, 2)),
    "s": ((64, 128, 320, 512), (2, 2, 4, 2)),
    "b": ((64, 128, 320, 512), (3, 3, 12, 3)),
}


class MSCAN(nn.Module):
    """images [B, C, H, W] -> [c1, c2, c3, c4] at strides 4, 8, 16, 32; every halving rounds up.

    Args:
        size: of `SIZES`.
        drop_path: stochastic depth of the last block, growing linearly from 0 at the first.
        in_channels: C.
    """

    pixel_mean, pixel_std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(self, *, size: str, drop_path: float = 0.0, in_channels: int = 3) -> None:
        super().__init__()
        self.channels, depths = SIZES[size]
        rates = iter(drop_path * block / (sum(depths) - 1) for block in range(sum(depths)))
        for stage, (width, depth, ratio) in enumerate(zip(self.channels, depths, MLP_RATIOS, strict=True)):
            embed = Downsample(self.channels[stage - 1], width) if stage else Stem(in_channels, width)
            blocks = [Block(channels=width, mlp_ratio=ratio, drop_path=next(rates)) for _ in range(depth)]
            setattr(self, f"patch_embed{stage + 1}", embed)
            setattr(self, f"block{stage + 1}", nn.Sequential(*blocks))
            setattr(self, f"norm{stage + 1}", nn.LayerNorm(width))
        self.apply(init_by_fan_out)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = []
        x = images
        for stage in ("1", "2", "3", "4"):
            x = getattr(self, "patch_embed" + stage)(x)
            x = getattr(self, "block" + stage)(x)
            x = getattr(self, "norm" + stage)(x.permute(0, 2, 3, 1))  # LayerNorm over channels: B h w C
            x = x.permute(0, 3, 1, 2)  # B C h w
            maps.append(x)
        return maps


class Stem(nn.Module):
    """Two 3×3 convolutions of stride 2 with BatchNorm, GELU between: [B, in, H, W] -> [B, C, ⌈H/4⌉, ⌈W/4⌉]."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Conv2d(in_channels, channels // 2, 3, stride=2, padding=1),
            nn.BatchNorm2d(channels // 2),
            nn.GELU(),
            nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1),
            nn.BatchNorm2d(channels),
        )

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.proj(images)
        return out


class Block(nn.Module):
    """x + s1 ∘ attention(BN(x)), then x + s2 ∘ MLP(BN(x)): [B, C, H, W] -> [B, C, H, W]."""

    def __init__(self, *, channels: int, mlp_ratio: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.attn = Attention(channels=channels)
        self.norm2 = nn.BatchNorm2d(channels)
        self.mlp = Mlp(channels=channels, hidden=channels * mlp_ratio)
        self.drop_path = DropPath(drop_path)
        self.layer_scale_1 = nn.Parameter(torch.full((channels,), 1e-2))
        self.layer_scale_2 = nn.Parameter(torch.full((channels,), 1e-2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.layer_scale_1[:, None, None] * self.attn(self.norm1(x)))
        out: Tensor = x + self.drop_path(self.layer_scale_2[:, None, None] * self.mlp(self.norm2(x)))
        return out


class Attention(nn.Module):
    """x + 1×1(gate(GELU(1×1(x)))): [B, C, H, W] -> [B, C, H, W]."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.proj_1 = nn.Conv2d(channels, channels, 1)
        self.activation = nn.GELU()
        self.spatial_gating_unit = StripGate(channels=channels)
        self.proj_2 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.proj_2(self.spatial_gating_unit(self.activation(self.proj_1(x))))
        return out


class StripGate(nn.Module):
    """x ∘ 1×1(d + Σ_k depthwise k×1(depthwise 1×k(d))) with d = depthwise 5×5(x) and k = 7, 11, 21."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        for branch, k in enumerate(STRIPS):
            horizontal = nn.Conv2d(channels, channels, (1, k), padding=(0, k // 2), groups=channels)
            vertical = nn.Conv2d(channels, channels, (k, 1), padding=(k // 2, 0), groups=channels)
            setattr(self, f"conv{branch}_1", horizontal)
            setattr(self, f"conv{branch}_2", vertical)
        self.conv3 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        local = self.conv0(x)
        attention = local
        for branch in ("conv0", "conv1", "conv2"):
            attention = attention + getattr(self, branch + "_2")(getattr(self, branch + "_1")(local))
        gated: Tensor = x * self.conv3(attention)
        return gated


class Mlp(nn.Module):
    """1×1, depthwise 3×3, GELU, 1×1: [B, C, H, W] -> [B, C, H, W]."""

    def __init__(self, *, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.dwconv = nn.Sequential(OrderedDict(dwconv=depthwise))  # the released key is dwconv.dwconv
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.dwconv(self.fc1(x))))
        return out
