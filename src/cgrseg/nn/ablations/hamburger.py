"""Hamburger: the map, written as a product of two thin non-negative matrices, is its own global context."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STEPS = {True: 6, False: 7}  # of the factorisation, while training and after
TINY = 1e-6


class MatrixFactorisation(nn.Module):
    """Non-negative factorisation by multiplicative updates: x ≈ bases · coefficientsᵀ, of rank R.

    The updates are not differentiated; one more of the coefficients, at their end, is. The start values of the
    bases are drawn once and stay with the weights, so that a photo always gives the same result.

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
