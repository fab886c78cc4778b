"""What Tables 5 and 6 put in place of the DPG head and of RCA. The printed sizes identify these readings.

timm's blocks are imported only when they are built.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .backbones.attention import split_heads
from .prototype import DynamicPrototypeGuidedHead, PrototypeGate
from .rcm import RectangularSelfCalibrationModule
from .reconstruction import ConvNorm, init_classifier
from .segnext import Hamburger


def make_mixer(name: str, channels: int) -> nn.Module:
    """A token mixer of Table 6, [B, C, H, W] -> [B, C, H, W], to be used by an RCM in place of RCA."""
    from timm.layers.coord_attn import CoordAttn
    from timm.layers.squeeze_excite import SEModule
    from timm.models.inception_next import InceptionDWConv2d

    match name:
        case "convnext":
            return nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        case "inceptionnext":  # depthwise 3×3, 1×11 and 11×1, each on an eighth of the channels
            return InceptionDWConv2d(channels)
        case "coord_attention":
            return CoordAttn(channels, rd_channels=channels // 4, bias=True)
        case "gather_excite":  # over the whole map: squeeze-and-excitation without a squeeze
            return SEModule(channels, rd_channels=channels)
    raise ValueError(f"no mixer is called {name!r}")


def make_block(name: str) -> Callable[..., nn.Module]:
    """channels -> the block of Table 6 that replaces an RCM."""
    if name == "self_attention":
        return TransformerBlock
    return lambda *, channels: RectangularSelfCalibrationModule(
        channels=channels, token_mixer=make_mixer(name, channels)
    )


def make_head(name: str, *, channels: int, num_classes: int, dropout: float) -> nn.Module:
    """A head of Tables 4 and 5: [B, D, h, w] -> logits [B, K, h, w]."""
    if name == "dpg":
        return DynamicPrototypeGuidedHead(channels=channels, num_classes=num_classes, dropout=dropout)
    block = _head_block(name, channels)
    return BlockHead(channels=channels, num_classes=num_classes, dropout=dropout, block=block)


def _head_block(name: str, channels: int) -> nn.Module:
    from timm.layers.global_context import GlobalContext
    from timm.layers.non_local_attn import NonLocalAttn
    from timm.layers.squeeze_excite import SEModule

    match name:
        case "none":
            return UnusedGate(channels=channels)
        case "nonlocal":
            return NonLocalAttn(channels, rd_channels=channels // 2)  # type: ignore[no-untyped-call]
        case "da":
            return DualAttention(channels=channels)
        case "ham":
            return Hamburger(channels=channels)
        case "gc":
            return GlobalContext(channels, fuse_add=True, fuse_scale=False)
        case "se":
            return SEModule(channels)
    raise ValueError(f"no head is called {name!r}")


class TransformerBlock(nn.Module):
    """x + attention(x), then x + MLP(x), with a depthwise 3×3 inside the MLP: TopFormer's block.

    The paper takes its self-attention from TopFormer and says that it replaces blocks, not mixers. With 4 heads of
    8 channels this gives the printed 4.1 G and 9.6 M; as the mixer of an RCM it would give 4.0 G.

    Shape: [B, C, H, W] -> [B, C, H, W].
    """

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        hidden = 2 * channels
        self.attention = SelfAttention(channels=channels, heads=4, key_channels=8)
        self.mlp = nn.Sequential(
            _pointwise(channels, hidden),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden),
            nn.ReLU6(inplace=True),
            _pointwise(hidden, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        out: Tensor = x + self.mlp(x)
        return out


class SelfAttention(nn.Module):
    """1×1(ReLU(v·softmax(qᵀk/√d))) over all pixels; every 1×1 has a BatchNorm. [B, C, H, W] -> [B, C, H, W].

    Args:
        channels: C.
        heads, key_channels: number of heads and d, the width of q, k and v of each.
    """

    def __init__(self, *, channels: int, heads: int, key_channels: int) -> None:
        super().__init__()
        self.heads, inner = heads, heads * key_channels
        self.query = _pointwise(channels, inner)
        self.key = _pointwise(channels, inner)
        self.value = _pointwise(channels, inner)
        self.project = nn.Sequential(nn.ReLU(), _pointwise(inner, channels))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (split_heads(part(x), self.heads) for part in (self.query, self.key, self.value))  # B heads d H·W
        scores = q.transpose(2, 3) @ k * q.shape[2] ** -0.5  # B heads H·W H·W
        mixed = v @ scores.softmax(dim=3).transpose(2, 3)  # B heads d H·W
        out: Tensor = self.project(mixed.reshape(x.shape[0], mixed.shape[1] * mixed.shape[2], *x.shape[2:]))
        return out


def _pointwise(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))


class BlockHead(nn.Module):
    """logits = cls(block(z)) with z = ReLU(BN(scale(x))), the features of the DPG head's first logits.

    Args:
        channels: D.
        num_classes: K.
        dropout: share of channels dropped before the classifier during training.
        block: [B, D, h, w] -> [B, D, h, w].

    Shape: [B, D, h, w] -> [B, K, h, w].
    """

    def __init__(self, *, channels: int, num_classes: int, dropout: float, block: nn.Module) -> None:
        super().__init__()
        self.linear_fuse = nn.Sequential(ConvNorm(channels, channels, groups=channels), nn.ReLU(inplace=True))
        self.block = block
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        init_classifier(self.classifier)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(self.block(self.linear_fuse(features))))
        return logits


class UnusedGate(nn.Module):
    """x -> x with the parameters of a gate that is never used: Table 4 counts those of the DPG head it removes."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.gate = PrototypeGate(channels=channels).requires_grad_(False)  # DDP expects gradients of all others

    def forward(self, x: Tensor) -> Tensor:
        return x


class DualAttention(nn.Module):
    """DANet's head: attention between pixels plus attention between channels, each with a learned weight, initially 0.

    Shape: [B, D, h, w] -> [B, D, h, w].
    """

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 2, 1)
        self.key = nn.Conv2d(channels, channels // 2, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.pixel_weight = nn.Parameter(torch.zeros(1))
        self.channel_weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.query(x).flatten(2), self.key(x).flatten(2), self.value(x).flatten(2)  # B · h·w
        between_pixels = v @ (q.transpose(1, 2) @ k).softmax(dim=2).transpose(1, 2)  # B D h·w
        flat = x.flatten(2)
        likeness = flat @ flat.transpose(1, 2)  # B D D
        between_channels = (likeness.amax(2, keepdim=True) - likeness).softmax(dim=2) @ flat  # B D h·w
        update = self.pixel_weight * between_pixels + self.channel_weight * between_channels
        summed: Tensor = 2 * x + update.view_as(x)
        return summed
