"""Heads of others in the DPG head's place (Table 6): cls(block(ReLU(BN(scale(x))))), the block between them theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from timm.layers.global_context import GlobalContext
from timm.layers.non_local_attn import NonLocalAttn
from timm.layers.squeeze_excite import SEModule
from torch import Tensor, nn

from ..prototype import DynamicPrototypeGuidedHead, PrototypeGate
from ..reconstruction import ConvNorm
from .hamburger import Hamburger


class MakeHead(Protocol):
    """What makes a head: [B, D, h, w] -> logits [B, K, h, w]."""

    def __call__(self, *, channels: int, num_classes: int, dropout: float) -> nn.Module: ...


class BlockHead(nn.Module):
    """logits = cls(block(z)) with z = ReLU(BN(scale(x))), as the DPG head makes its first logits.

    Args:
        channels: D.
        num_classes: K.
        dropout: share of channels dropped before the classifier, while training.
        block: [B, D, h, w] -> [B, D, h, w].

    Shape: [B, D, h, w] -> [B, K, h, w].
    """

    def __init__(self, *, channels: int, num_classes: int, dropout: float, block: nn.Module) -> None:
        super().__init__()
        self.linear_fuse = nn.Sequential(ConvNorm(channels, channels, groups=channels), nn.ReLU(inplace=True))
        self.block = block
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        assert self.classifier.bias is not None
        nn.init.zeros_(self.classifier.bias)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(self.block(self.linear_fuse(features))))
        return logits


class Idle(nn.Module):
    """x -> x, holding a gate that it never uses: Table 4 counts the parameters of the DPG head that it drops."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.gate = PrototypeGate(channels=channels).requires_grad_(False)  # several processes may train the rest

    def forward(self, x: Tensor) -> Tensor:
        return x


class DualAttention(nn.Module):
    """DANet's: attention between pixels plus attention between channels, each with a learned weight that starts at 0.

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
        between_channels = (likeness.amax(2, keepdim=True) - likeness).softmax(dim=2) @ flat  # the unlike count most
        update = self.pixel_weight * between_pixels + self.channel_weight * between_channels
        summed: Tensor = 2 * x + update.view_as(x)
        return summed


def _head(make_block: Callable[[int], nn.Module]) -> MakeHead:
    def make(*, channels: int, num_classes: int, dropout: float) -> nn.Module:
        return BlockHead(channels=channels, num_classes=num_classes, dropout=dropout, block=make_block(channels))

    return make


HEADS: dict[str, MakeHead] = {
    "dpg": DynamicPrototypeGuidedHead,
    "none": _head(lambda channels: Idle(channels=channels)),
    "nonlocal": _head(lambda channels: NonLocalAttn(channels, rd_channels=channels // 2)),  # type: ignore[no-untyped-call]
    "da": _head(lambda channels: DualAttention(channels=channels)),
    "ham": _head(lambda channels: Hamburger(channels=channels)),
    "gc": _head(lambda channels: GlobalContext(channels, fuse_add=True, fuse_scale=False)),
    "se": _head(lambda channels: SEModule(channels)),
}
