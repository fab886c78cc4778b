"""EfficientFormerV2 S0, S1, S2, L: convolutions early, attention late, strides 4 to 32 (the paper's encoder)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from .attention_bias import AttentionBias, BiasMode, Grid

SCORE_BYTES = 2**28  # attention scores beyond this are computed in blocks of queries


@dataclass(frozen=True)
class EfficientFormerV2Spec:
    """One size of the family: widths and depths of the four stages, MLP ratios of the last two."""

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    ratios3: tuple[int, ...]
    ratios4: tuple[int, ...]
    attention_blocks: int  # the last so many of stage 3 and of stage 4
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


def efficientformerv2(
    size: str, *, bias_mode: BiasMode = "relative", drop_path: float | None = None
) -> EfficientFormerV2:
    """Build "s0", "s1", "s2" or "l". `drop_path` None takes the size's own rate."""
    return EfficientFormerV2(spec=SIZES[size], bias_mode=bias_mode, drop_path=drop_path)


class EfficientFormerV2(nn.Module):
    """images [B, 3, H, W] -> [c1, c2, c3, c4] at strides 4, 8, 16, 32; every halving rounds up.

    Args:
        spec: widths, depths and ratios.
        bias_mode: how the attention bias follows the size of the photo, see `AttentionBias`.
        drop_path: stochastic depth of the last block, growing linearly from 0; None takes the spec's.
    """

    def __init__(
        self, *, spec: EfficientFormerV2Spec, bias_mode: BiasMode = "relative", drop_path: float | None = None
    ) -> None:
        super().__init__()
        self.channels = spec.widths
        widths, depths = spec.widths, spec.depths
        ratios = ((4,) * depths[0], (4,) * depths[1], spec.ratios3, spec.ratios4)
        attention = (0, 0, spec.attention_blocks, spec.attention_blocks)
        rate = spec.drop_path if drop_path is None else drop_path
        rates = [rate * j / (sum(depths) - 1) for j in range(sum(depths))]

        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0] // 2, 3, stride=2, padding=1),
            nn.BatchNorm2d(widths[0] // 2),
            nn.GELU(),
            nn.Conv2d(widths[0] // 2, widths[0], 3, stride=2, padding=1),
            nn.BatchNorm2d(widths[0]),
            nn.GELU(),
        )
        self.stages = nn.ModuleList()
        for stage in range(4):
            blocks: list[nn.Module] = []
            for block in range(depths[stage]):
                channels, ratio = widths[stage], ratios[stage][block]
                drop = rates[sum(depths[:stage]) + block]
                if block < depths[stage] - attention[stage]:
                    blocks.append(FeedForwardBlock(channels=channels, ratio=ratio, drop_path=drop))
                else:
                    blocks.append(
                        AttentionBlock(
                            channels=channels,
                            ratio=ratio,
                            drop_path=drop,
                            halve=stage == 2,
                            bias_mode=bias_mode,
                        )
                    )
            self.stages.append(nn.Sequential(*blocks))
        self.downsamples = nn.ModuleList(
            [
                Downsample(in_channels=widths[0], out_channels=widths[1]),
                Downsample(in_channels=widths[1], out_channels=widths[2]),
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
            assert pointwise.bias is not None
            nn.init.zeros_(pointwise.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm1(self.fc1(x)))
        x = self.act(self.mid_norm(self.mid(x)))
        out: Tensor = self.norm2(self.fc2(x))
        return out


class FeedForwardBlock(nn.Module):
    """x + s2 ∘ ConvMlp(x), s2 a learned scale per channel that starts at 1e-5."""

    def __init__(self, *, channels: int, ratio: int, drop_path: float) -> None:
        super().__init__()
        self.mlp = ConvMlp(channels=channels, ratio=ratio)
        self.layer_scale_2 = nn.Parameter(torch.full((channels, 1, 1), 1e-5))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.drop_path(self.layer_scale_2 * self.mlp(x))
        return out


class AttentionBlock(nn.Module):
    """x + s1 ∘ attention(x), then the feed-forward block's step."""

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


class Attention(nn.Module):
    """Attention over all tokens with a distance bias, talking heads and a local path beside the values.

    Args:
        channels: C.
        halve: run at half resolution and come back bilinearly (stage 3).
        bias_mode: see `AttentionBias`.

    Shape: [B, C, H, W] -> [B, C, H, W].
    """

    def __init__(
        self,
        *,
        channels: int,
        halve: bool,
        bias_mode: BiasMode,
        heads: int = 8,
        key_dim: int = 32,
        value_dim: int = 128,
        resolution: int = 16,
    ) -> None:
        super().__init__()
        self.heads, self.halve, values = heads, halve, heads * value_dim
        self.stride_conv = _depthwise_norm(channels, stride=2) if halve else nn.Identity()
        self.q = _pointwise_norm(channels, heads * key_dim)
        self.k = _pointwise_norm(channels, heads * key_dim)
        self.v = _pointwise_norm(channels, values)
        self.v_local = _depthwise_norm(values)
        self.talking_head1 = nn.Conv2d(heads, heads, 1)
        self.talking_head2 = nn.Conv2d(heads, heads, 1)
        self.bias = AttentionBias(heads=heads, resolution=resolution, mode=bias_mode)
        self.proj = nn.Sequential(nn.GELU(), nn.Conv2d(values, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        x = self.stride_conv(x)
        grid = (x.shape[2], x.shape[3])
        value = self.v(x)
        mixed = attend(
            self.q(x),
            self.k(x),
            value,
            heads=self.heads,
            bias=self.bias,
            talk=(self.talking_head1, self.talking_head2),
        )
        x = mixed.view(*mixed.shape[:2], *grid) + self.v_local(value)  # B heads·d h w
        if self.halve:
            x = nn.functional.interpolate(x, size, mode="bilinear", align_corners=False)
        out: Tensor = self.proj(x)
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


class HalvingAttention(nn.Module):
    """Queries at half resolution, keys and values at full resolution, no talking heads."""

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        bias_mode: BiasMode,
        heads: int = 8,
        key_dim: int = 16,
        value_dim: int = 64,
        resolution: int = 32,
    ) -> None:
        super().__init__()
        self.heads, values = heads, heads * value_dim
        self.q = LocalQuery(in_channels=in_channels, out_channels=heads * key_dim)
        self.k = _pointwise_norm(in_channels, heads * key_dim)
        self.v = _pointwise_norm(in_channels, values)
        self.v_local = _depthwise_norm(values, stride=2)
        self.bias = AttentionBias(heads=heads, resolution=resolution, stride=2, mode=bias_mode)
        self.proj = nn.Sequential(nn.GELU(), nn.Conv2d(values, out_channels, 1), nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        query, value = self.q(x), self.v(x)
        mixed = attend(query, self.k(x), value, heads=self.heads, bias=self.bias)
        mixed = mixed.view(*mixed.shape[:2], *query.shape[2:])  # B heads·d hq wq
        out: Tensor = self.proj(mixed + self.v_local(value))
        return out


class LocalQuery(nn.Module):
    """1×1 + BN of (depthwise 3×3 stride 2 of x, plus every second pixel of x)."""

    def __init__(self, *, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.local = nn.Sequential(nn.Conv2d(in_channels, in_channels, 3, stride=2, padding=1, groups=in_channels))
        self.proj = _pointwise_norm(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(self.local(x) + x[:, :, ::2, ::2])
        return out


class Downsample(nn.Module):
    """Convolution 3×3 stride 2, BN. Shape: [B, in, H, W] -> [B, out, ⌈H/2⌉, ⌈W/2⌉]."""

    def __init__(self, *, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.proj(x))
        return out


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    heads: int,
    bias: AttentionBias,
    talk: Sequence[nn.Module] = (),
) -> Tensor:
    """softmax(q·k/√d + bias)·v with the heads concatenated, in exact blocks of queries where the scores are large.

    Args:
        query [B, heads·d, hq, wq], key [B, heads·d, hk, wk], value [B, heads·dv, hk, wk].
        heads: number of heads.
        bias: adds bias[head, query, key] to the scores.
        talk: two 1×1 convolutions over the heads, before and after the softmax; or none.

    Returns:
        [B, heads·dv, hq·wq].
    """
    queries, keys = _grid(query), _grid(key)
    q = split_heads(query, heads).transpose(2, 3)  # B heads Nq d
    k = split_heads(key, heads)  # B heads d Nk
    v = split_heads(value, heads).transpose(2, 3)  # B heads Nk dv
    q = q * q.shape[3] ** -0.5
    prepared = bias.prepare(keys)

    def block(start: int, stop: int) -> Tensor:
        scores = q[:, :, start:stop] @ k + bias.rows(prepared, start, stop, queries, keys)  # B heads b Nk
        if talk:
            scores = talk[0](scores)
        attention = scores.softmax(dim=3)
        if talk:
            attention = talk[1](attention)
        mixed: Tensor = attention @ v  # B heads b dv
        return mixed

    total = queries[0] * queries[1]
    if torch.compiler.is_compiling() or query.is_meta:
        mixed = block(0, total)
    else:
        step = queries_at_a_time(q, k)
        parts = [block(start, min(start + step, total)) for start in range(0, total, step)]
        mixed = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
    return mixed.transpose(2, 3).flatten(1, 2)  # B heads·dv Nq


def queries_at_a_time(q: Tensor, k: Tensor) -> int:
    """How many queries keep their scores under `SCORE_BYTES`: q [..., Nq, d], k [..., d, Nk]."""
    bytes_a_query = q.shape[:-2].numel() * k.shape[-1] * q.element_size()
    return max(SCORE_BYTES // bytes_a_query, 1)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, heads·d, h, w] -> [B, heads, d, h·w]."""
    return x.reshape(x.shape[0], heads, x.shape[1] // heads, x.shape[2] * x.shape[3])


def _grid(x: Tensor) -> Grid:
    return x.shape[2], x.shape[3]


def _pointwise_norm(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels))


def _depthwise_norm(channels: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels), nn.BatchNorm2d(channels)
    )
