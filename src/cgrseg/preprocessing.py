"""Photo -> tensor: resize, normalise, pad, exactly as the paper's evaluation does (PAPER_NOTES: "Test")."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Preprocessing:
    """How a photo becomes the network's input. It travels inside every weights file.

    Args:
        mean, std: per channel in RGB order, on the 0 … 255 scale (ImageNet's by default).
        short_side: the photo is resized, keeping its aspect, so that the shorter side has this many pixels;
            None keeps its own size.
        long_side: no longer side than this after resizing (only with `short_side`); None for no limit.
        pad_multiple: zeros are added at the right and the bottom, *after* normalisation, up to a multiple of this.

    Raises:
        ValueError: a side or the multiple is not positive.
    """

    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    short_side: int | None = None
    long_side: int | None = 2048
    pad_multiple: int = 32

    def __post_init__(self) -> None:
        for name in ("short_side", "long_side", "pad_multiple"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: it must be at least 1")

    def resized_size(self, size: Size) -> Size:
        """The photo's (height, width) after the keep-ratio resize: int(n·s + 0.5) a side, at least 1."""
        if self.short_side is None:
            return size
        scale = self.short_side / min(size)
        if self.long_side is not None:
            scale = min(scale, self.long_side / max(size))
        return max(int(size[0] * scale + 0.5), 1), max(int(size[1] * scale + 0.5), 1)

    def padded_size(self, size: Size) -> Size:
        """(height, width) rounded up to `pad_multiple`."""
        multiple = self.pad_multiple
        return -(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple

    def prepare(self, photo: np.ndarray[Any, np.dtype[np.uint8]]) -> tuple[Tensor, Size]:
        """uint8 RGB [H, W, 3] -> (float32 [3, Hp, Wp], (h, w) of the part that is photo, the rest being padding)."""
        image = torch.from_numpy(np.require(photo, requirements=["C", "W"])).permute(2, 0, 1)  # 3 H W
        height, width = self.resized_size((photo.shape[0], photo.shape[1]))
        if (height, width) != tuple(image.shape[1:]):
            image = F.interpolate(image[None], (height, width), mode="bilinear", align_corners=False)[0]
        padded = torch.zeros(3, *self.padded_size((height, width)))
        valid = padded[:, :height, :width]
        valid.copy_(image)
        valid.sub_(torch.tensor(self.mean)[:, None, None]).div_(torch.tensor(self.std)[:, None, None])
        return padded, (height, width)

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> Preprocessing:
        """The inverse of `to_dict`."""
        mean, std = (tuple(float(value) for value in table[name]) for name in ("mean", "std"))
        return cls(**{**table, "mean": mean, "std": std})

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, ready for JSON."""
        return asdict(self)
