"""EfficientFormerV2 S0, S1, S2, L, the paper's encoder: convolutions, then attention; strides 4 to 32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cgrseg.description import BiasMode

from . import IMAGENET_MEAN, IMAGENET_STD, Downsample, DropPath
from .attention import Attention, HalvingAttention


@dataclass(frozen=True)
class EfficientFormerV2Spec:
    """One size of the family: widths and depths of the four stages, MLP ratios of the last two."""

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    ratios3: tuple[int, ...]
    ratios4: tuple[int, ...]
    attention_blocks: int  # the last blocks of stages 3 and 4
    drop_path: float


SIZES = {
    "s0": EfficientFormerV2Spec((32, 48, 96, 176), (2, 2, 6, 4), (4, 3, 3, 3, 4, 4), (4, 3, 3, 4), 2, 0.0),
    "s1": EfficientFormerV2Spec(
        (32, 48, 120, 224), (3, 3, 9, 6), (4, 4, 3, 3, 3, 3, 4, 4, 4), (4, 4, 3, 3, 4, 4), 2, 0.0
    ),
    "s2": EfficientFormerV2Spec(
        (32, 64, 144, 288),
        (4, 4, 12, 8),
        (4, 4, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4),
        (4, 4, 3, 3, 3, 3, 4, 4),
        4,
        0.02,
    ),
    "l": EfficientFormerV2Spec(
        (40, 80, 192, 384),
        (5, 5, 15, 10),
        (4, 4, 4, 4, 3, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4),
        (4, 4, 4, 3, 3, 3, 3, 4, 4, 4),
        6,
        0.1,
    ),
}


class EfficientFormerV2(nn.Module):
    """images [B, C, H, W] -> [c1, c2, c3, c4] at strides 4, 8, 16, 32; every halving rounds up.

    Args:
        size: of `SIZES`.
        bias_mode: how the attention bias is resized, see `AttentionBias`.
        drop_path: stochastic depth of the last block, growing linearly from 0; None uses the size's.
        in_channels: C.
    """

    pixel_mean, pixel_std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(
        self, *, size: str, bias_mode: BiasMode = "relative", drop_path: float | None = None, in_channels: int = 3
    ) -> None:
        super().__init__()
        spec = SIZES[size]
        self.channels = widths = spec.widths
        depths = spec.depths
        ratios = ((4,) * depths[0], (4,) * depths[1], spec.ratios3, spec.ratios4)
        attention = (0, 0, spec.attention_blocks, spec.attention_blocks)
        rate = spec.drop_path if drop_path is None else drop_path
        rates = iter(rate * block / (sum(depths) - 1) for block in range(sum(depths)))

        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, widths[0] // 2, 3, stride=2, padding=1),
            nn.BatchNorm2d(widths[0] // 2),
            nn.GELU(),
            nn.Conv2d(widths[0] // 2, widths[0], 3, stride=2, padding=1),
            nn.BatchNorm2d(widths[0]),
            nn.GELU(),
        )
        self.stages = nn.ModuleList()
        for stage in range(4):
            blocks: list[nn.Module] = []
            for block, ratio in enumerate(ratios[stage]):
                common: Any = {"channels": widths[stage], "ratio": ratio, "drop_path": next(rates)}
                if block < depths[stage] - attention[stage]:
                    blocks.append(FeedForwardBlock(**common))
                else:
                    blocks.append(AttentionBlock(**common, halve=stage == 2, bias_mode=bias_mode))
            self.stages.append(nn.Sequential(*blocks))
        self.downsamples = nn.ModuleList(
            [
                Downsample(widths[0], widths[1]),
                Downsample(widths[1], widths[2]),
                AttentionDownsample(in_channels=widths[2], out_channels=widths[3], bias_mode=bias_mode),
            ]
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.stem(images)  # B C1 H/4 W/4
        features = [self.stages[0](x)]
        for downsample, stage in zip(self.downsamples, self.stages[1:], strict=True):
            features.append(stage(downsample(features[-1])))
        return features


class ConvMlp(nn.Module):
    """1×1 (-> r·C), BN, GELU, depthwise 3×3, BN, GELU, 1×1 (-> C), BN. Shape: [B, C, H, W] -> the same."""

    def __init__(self, *, channels: int, ratio: int) -> None:
        super().__init__()
        hidden = channels * ratio
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.norm1 = nn.BatchNorm2d(hidden)
        self.mid = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.mid_norm = nn.BatchNorm2d(hidden)
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        self.norm2 = nn.BatchNorm2d(channels)
        self.act = nn.GELU()
        for pointwise in (self.fc1, self.fc2):
            nn.init.trunc_normal_(pointwise.weight, std=0.02)
            nn.init.zeros_(pointwise.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm1(self.fc1(x)))
        x = self.act(self.mid_norm(self.mid(x)))
        out: Tensor = self.norm2(self.fc2(x))
        return out


class FeedForwardBlock(nn.Module):
    """x + s2 ∘ ConvMlp(x); s2 is a learned scale per channel, initially 1e-5."""

    def __init__(self, *, channels: int, ratio: int, drop_path: float) -> None:
        super().__init__()
        self.mlp = ConvMlp(channels=channels, ratio=ratio)
        self.layer_scale_2 = nn.Parameter(torch.full((channels, 1, 1), 1e-5))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.drop_path(self.layer_scale_2 * self.mlp(x))
        return out


class AttentionBlock(nn.Module):
    """x + s1 ∘ attention(x), then as `FeedForwardBlock`."""

    def __init__(self, *, channels: int, ratio: int, drop_path: float, halve: bool, bias_mode: BiasMode) -> None:
        super().__init__()
        self.token_mixer = Attention(channels=channels, halve=halve, bias_mode=bias_mode)
        self.mlp = ConvMlp(channels=channels, ratio=ratio)
        self.layer_scale_1 = nn.Parameter(torch.full((channels, 1, 1), 1e-5))
        self.layer_scale_2 = nn.Parameter(torch.full((channels, 1, 1), 1e-5))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.layer_scale_1 * self.token_mixer(x))
        out: Tensor = x + self.drop_path(self.layer_scale_2 * self.mlp(x))
        return out


class AttentionDownsample(nn.Module):
    """Halving between stages 3 and 4: attention from every second token to all, plus a strided convolution.

    Shape: [B, in, H, W] -> [B, out, ⌈H/2⌉, ⌈W/2⌉].
    """

    def __init__(self, *, in_channels: int, out_channels: int, bias_mode: BiasMode) -> None:
        super().__init__()
        self.attn = HalvingAttention(in_channels=in_channels, out_channels=out_channels, bias_mode=bias_mode)
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attn(x) + self.bn(self.conv(x))
        return out
