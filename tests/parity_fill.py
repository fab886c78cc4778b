"""The deterministic rule that fills a released state dict and makes the inputs of the reference numbers.

Every value follows from its released key and its shape alone, so reference numbers need no stored weights.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import torch

PARITY = Path(__file__).parent / "parity"
GOLDENS = PARITY / "goldens"


def noise(text: str, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform noise of unit variance from a text, by SplitMix64 over the row-major index."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    index = np.arange(1, math.prod(shape) + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + index * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    uniform = ((z >> np.uint64(40)).astype(np.float64) + 0.5) / 2**24
    return ((uniform - 0.5) * math.sqrt(12)).reshape(shape)


def value(key: str, shape: tuple[int, ...], *, text: str | None = None) -> torch.Tensor:
    """The float32 entry of a released key."""
    n = noise(text or key, shape)
    fan_in = math.prod(shape[1:])
    if key.endswith(".running_mean"):
        out = 0.1 * n
    elif key.endswith(".running_var"):
        out = 1 + 0.2 * np.abs(n)
    elif key.endswith(("gamma", "layer_scale_1", "layer_scale_2")):
        out = 0.5 + 0.1 * n
    elif key.endswith(("attention_biases_seg", "attention_biases")):
        out = 0.2 * n
    elif key.endswith("talking_head2.bias"):
        out = 0.002 * n
    elif key.endswith("bias"):
        out = 0.05 * n
    elif key.endswith("fuse2.bn.weight"):
        out = 4 * (1 + 0.1 * n)
    elif key.endswith("weight") and len(shape) in (1, 3):
        out = 1 + 0.1 * n
    elif key.endswith("conv_seg.weight"):
        out = 8 * n / math.sqrt(fan_in)
    elif key.endswith("conv_mask.weight"):
        out = 32 * n / math.sqrt(fan_in)
    elif key.endswith("weight") and len(shape) in (2, 4):
        out = n / math.sqrt(fan_in)
    else:
        raise ValueError(f"no rule fills {key} {shape}")
    return torch.from_numpy(out.astype(np.float32))


def released_state(variant: str) -> dict[str, torch.Tensor]:
    """The whole released state dict of "T", "B" or "L" (150 classes), filled by the rule."""
    keys = json.loads((PARITY / f"keys_{variant}.json").read_text())
    return {
        key: value(key, tuple(shape)) if dtype.startswith("float") else torch.zeros(shape, dtype=torch.int64)
        for key, (shape, dtype) in keys.items()
    }


def make_input(name: str, shape: tuple[int, int, int, int]) -> torch.Tensor:
    """A float32 picture with structure at 1, 8 and 32 pixels."""
    batch, channels, height, width = shape

    def layer(side: int) -> np.ndarray:
        coarse = noise(f"input:{name}:{side}", (batch, channels, -(-height // side), -(-width // side)))
        return coarse.repeat(side, 2).repeat(side, 3)[:, :, :height, :width]

    return torch.from_numpy((0.5 * layer(1) + 1.0 * layer(32) + 0.7 * layer(8)).astype(np.float32))


def make_labels(batch: int, height: int, width: int) -> torch.Tensor:
    """int64 [B, H, W] in 0 … 149, and 255 on every fifth 8-pixel cell."""
    row, column = np.mgrid[:height, :width]
    labels = np.stack([(7 * (row // 16) + 13 * (column // 16) + 5 * b) % 150 for b in range(batch)])
    labels[:, (row // 8 + column // 8) % 5 == 0] = 255
    return torch.from_numpy(labels).long()


def subsample(x: np.ndarray, counts: tuple[int, int, int]) -> np.ndarray:
    """Values at unique(round(linspace(0, n-1, min(n, k)))) of the axes after the batch."""
    for axis, count in enumerate(counts[: x.ndim - 1], start=1):
        n = x.shape[axis]
        x = x.take(np.unique(np.round(np.linspace(0, n - 1, min(n, count))).astype(int)), axis=axis)
    return x


def statistics(x: np.ndarray, probe: str) -> np.ndarray:
    """[mean, std, sum|x|, min, max, l2, projection]."""
    projection = (x * noise(f"probe:{probe}", x.shape)).sum()
    return np.array([x.mean(), x.std(), np.abs(x).sum(), x.min(), x.max(), np.sqrt((x**2).sum()), projection])
