"""SegNeXt's decoder (Tables 1-3, 7): the concatenated pyramid, then Hamburger (matrix factorisation)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .reconstruction import init_classifier, resize

RANKS = (16, 64)  # of the factorisation: up to 256 channels (T and S), and above (B), as in the release


class NoContext(nn.Module):
    """SegNeXt has no pyramid context: pyramid -> []."""

    def forward(self, pyramid: Sequence[Tensor]) -> list[Tensor]:
        return []


class Concatenation(nn.Module):
    """The pyramid resized to stride 8 and concatenated, then 1×1 to D.

    Args:
        channels: widths (C2, C3, C4).
        width: D.

    Shape: pyramid [c2, c3, c4], context [] -> [B, D, h2, w2].
    """

    def __init__(self, *, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.squeeze = convolution_group_norm(sum(channels), width)

    def forward(self, pyramid: Sequence[Tensor], context: Sequence[Tensor]) -> Tensor:
        size = pyramid[0].shape[2:]
        out: Tensor = self.squeeze(torch.cat([pyramid[0], *(resize(scale, size) for scale in pyramid[1:])], dim=1))
        return out


class HamburgerHead(nn.Module):
    """logits = cls(1×1(hamburger(x))).

    Args:
        channels: D.
        num_classes: K.
        dropout: share of channels dropped before the classifier during training.

    Shape: [B, D, h, w] -> [B, K, h, w].
    """

    def __init__(self, *, channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.hamburger = Hamburger(channels=channels, rank=RANKS[channels > 256])
        self.align = convolution_group_norm(channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        init_classifier(self.classifier)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(self.align(self.hamburger(features))))
        return logits


def convolution_group_norm(in_channels: int, out_channels: int) -> nn.Sequential:
    """1×1 without bias, GroupNorm of 32 groups, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.GroupNorm(32, out_channels), nn.ReLU(inplace=True)
    )


STEPS = {True: 6, False: 7}  # of the factorisation: training and evaluation
TINY = 1e-6


class MatrixFactorisation(nn.Module):
    """Non-negative factorisation by multiplicative updates: x ≈ bases · coefficientsᵀ, of rank R.

    Only one last update of the coefficients is differentiated. The initial bases are drawn once and saved with the
    weights, so an image always gives the same result.

    Args:
        channels: D.
        rank: R.

    Shape: [B, D, n], not negative -> [B, D, n].
    """

    bases: Tensor

    def __init__(self, *, channels: int, rank: int) -> None:
        super().__init__()
        self.register_buffer("bases", F.normalize(torch.rand(channels, rank), dim=0))

    def forward(self, x: Tensor) -> Tensor:
        seen = x.detach()
        bases = self.bases.expand(x.shape[0], -1, -1)  # B D R; len(x) would fix the batch of an export
        coefficients = (seen.transpose(1, 2) @ bases).softmax(dim=2)  # B n R
        for _ in range(STEPS[self.training]):
            coefficients = _better(seen.transpose(1, 2), coefficients, bases)
            bases = _better(seen, bases, coefficients)
        coefficients = _better(x.transpose(1, 2), coefficients, bases)
        return bases @ coefficients.transpose(1, 2)


def _better(x: Tensor, ours: Tensor, other: Tensor) -> Tensor:
    """One update of `ours` towards x ≈ ours · otherᵀ."""
    return ours * (x @ other) / (ours @ (other.transpose(1, 2) @ other) + TINY)


class Hamburger(nn.Module):
    """ReLU(x + 1×1(factorised(ReLU(1×1(x))))).

    Args:
        channels: D.
        rank: of the factorisation.

    Shape: [B, D, h, w] -> [B, D, h, w].
    """

    def __init__(self, *, channels: int, rank: int = 64) -> None:
        super().__init__()
        self.lower = nn.Conv2d(channels, channels, 1)
        self.ham = MatrixFactorisation(channels=channels, rank=rank)
        self.upper = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.GroupNorm(32, channels)

    def forward(self, x: Tensor) -> Tensor:
        context = self.ham(F.relu(self.lower(x)).flatten(2))  # B D h·w
        return F.relu(x + self.norm(self.upper(context.unflatten(2, x.shape[2:]))))
