"""The two attentions of EfficientFormerV2, with a learned distance bias and a depthwise convolution of the values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cgrseg.description import BiasMode

from .attention_bias import AttentionBias, Grid

HEADS = 8
SCORE_BYTES = 2**28  # above this, attention scores are computed in blocks of queries


class Attention(nn.Module):
    """Attention over all tokens with a distance bias, talking heads and a depthwise convolution of the values.

    Args:
        channels: C.
        halve: attend at half resolution, then upsample bilinearly (stage 3).
        bias_mode: see `AttentionBias`.

    Shape: [B, C, H, W] -> [B, C, H, W].
    """

    def __init__(self, *, channels: int, halve: bool, bias_mode: BiasMode) -> None:
        super().__init__()
        keys, values = HEADS * 32, HEADS * 128
        self.heads, self.halve = HEADS, halve
        self.stride_conv = _depthwise_norm(channels, stride=2) if halve else nn.Identity()
        self.q = _pointwise_norm(channels, keys)
        self.k = _pointwise_norm(channels, keys)
        self.v = _pointwise_norm(channels, values)
        self.v_local = _depthwise_norm(values)
        self.talking_head1 = nn.Conv2d(HEADS, HEADS, 1)
        self.talking_head2 = nn.Conv2d(HEADS, HEADS, 1)
        self.bias = AttentionBias(heads=HEADS, resolution=16, mode=bias_mode)
        self.proj = nn.Sequential(nn.GELU(), nn.Conv2d(values, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        x = self.stride_conv(x)
        value, talk = self.v(x), (self.talking_head1, self.talking_head2)
        mixed = attend(self.q(x), self.k(x), value, heads=self.heads, bias=self.bias, talk=talk)
        x = mixed.view(*mixed.shape[:2], *x.shape[2:]) + self.v_local(value)  # B heads·d h w
        if self.halve:
            x = nn.functional.interpolate(x, size, mode="bilinear", align_corners=False)
        out: Tensor = self.proj(x)
        return out


class HalvingAttention(nn.Module):
    """Queries at half resolution, keys and values at full resolution, no talking heads."""

    def __init__(self, *, in_channels: int, out_channels: int, bias_mode: BiasMode) -> None:
        super().__init__()
        keys, values = HEADS * 16, HEADS * 64
        self.heads = HEADS
        self.q = LocalQuery(in_channels=in_channels, out_channels=keys)
        self.k = _pointwise_norm(in_channels, keys)
        self.v = _pointwise_norm(in_channels, values)
        self.v_local = _depthwise_norm(values, stride=2)
        self.bias = AttentionBias(heads=HEADS, resolution=32, stride=2, mode=bias_mode)
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
        step = query_block_size(q, k)
        parts = [block(start, min(start + step, total)) for start in range(0, total, step)]
        mixed = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
    return mixed.transpose(2, 3).flatten(1, 2)  # B heads·dv Nq


def query_block_size(q: Tensor, k: Tensor) -> int:
    """How many queries keep the scores below `SCORE_BYTES`: q [..., Nq, d], k [..., d, Nk]."""
    bytes_per_query = q.shape[:-2].numel() * k.shape[-1] * q.element_size()
    return max(SCORE_BYTES // bytes_per_query, 1)


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
