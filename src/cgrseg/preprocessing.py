"""From image to tensor: resize, normalise, pad, exactly as in the paper's evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # importing torch takes seconds
    from torch import Tensor

Size = tuple[int, int]  # height, width
Pixels = np.ndarray[Any, np.dtype[np.uint8]]
LARGEST = {"short_side": 8192, "long_side": 65536, "pad_multiple": 1024}  # larger values need more memory than exists


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the network's input. Saved in every weights file.

    Args:
        mean: one value per channel of the images, on the scale 0 … 255; ImageNet's for RGB by default.
        std: as many values; their number is the number of channels.
        short_side: resize the image, keeping its aspect ratio, so that its shorter side has this many pixels;
            None keeps the image's own size.
        long_side: upper limit of the longer side after resizing (only with `short_side`); None for no limit.
        pad_multiple: pad with zeros at the right and bottom, *after* normalisation, to a multiple of this.

    Raises:
        ValueError: a value has the wrong type or is out of range.
    """

    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)
    short_side: int | None = None
    long_side: int | None = 2048
    pad_multiple: int = 32

    def __post_init__(self) -> None:
        for name, least in (("mean", 0.0), ("std", 1e-6)):
            values = getattr(self, name)
            if not values or not all(type(v) in (int, float) and least <= v <= 255 for v in values):
                raise ValueError(f"{name} is {values!r}: use one number per channel, on the scale 0 to 255")
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values and std {len(self.std)}: use one per channel in both")
        for name, largest in LARGEST.items():
            value = getattr(self, name)
            if value is None and name != "pad_multiple":
                continue
            if type(value) is not int or not 1 <= value <= largest:
                raise ValueError(f"{name} is {value!r}: use a whole number from 1 to {largest}")

    @property
    def channels(self) -> int:
        """The number of channels of the images."""
        return len(self.mean)

    def with_channels(self, channels: int) -> Preprocessing:
        """The same for images with another number of channels, from mean and std of RGB.

        One channel gets the average of the three values, more channels get them in turn: R, G, B, R, …
        """
        if channels == self.channels:
            return self

        def values(rgb: tuple[float, ...]) -> tuple[float, ...]:
            return (sum(rgb) / len(rgb),) if channels == 1 else tuple(rgb[k % len(rgb)] for k in range(channels))

        return replace(self, mean=values(self.mean), std=values(self.std))

    def resized_size(self, size: Size) -> Size:
        """(height, width) after the resize that keeps the aspect ratio: int(n·s + 0.5) per side, at least 1."""
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

    def resize(self, photo: Pixels) -> Tensor:
        """uint8 [H, W, C] -> uint8 [C, h, w], bilinear without antialiasing."""
        import torch
        from torch.nn import functional as F

        image = torch.from_numpy(np.require(photo, requirements=["C", "W"])).permute(2, 0, 1)  # C H W
        size = self.resized_size((photo.shape[0], photo.shape[1]))
        if size != tuple(image.shape[1:]):
            image = F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]
        return image

    def normalise(self, image: Tensor) -> Tensor:
        """uint8 [..., C, h, w] -> float32 [..., C, Hp, Wp]: (image - mean) / std, padded with zeros."""
        import torch

        height, width = image.shape[-2:]
        padded = torch.zeros(*image.shape[:-2], *self.padded_size((height, width)))
        valid = padded[..., :height, :width]
        valid.copy_(image)
        valid.sub_(torch.tensor(self.mean)[:, None, None]).div_(torch.tensor(self.std)[:, None, None])
        return padded

    def prepare(self, photo: Pixels) -> tuple[Tensor, Size]:
        """uint8 [H, W, C] -> (float32 [C, Hp, Wp], (h, w) of the part that is not padding)."""
        image = self.resize(photo)
        return self.normalise(image), (image.shape[1], image.shape[2])

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Preprocessing:
        """The inverse of `to_dict`.

        Raises:
            ValueError: a value is missing, unknown, of the wrong type or out of range.
        """
        names = [each.name for each in fields(cls)]
        if sorted(table) != sorted(names):
            raise ValueError(f"its preprocessing has the fields {', '.join(map(str, table))}, not {', '.join(names)}")
        values = dict(table)
        for name in ("mean", "std"):
            if not isinstance(values[name], list | tuple):
                raise ValueError(f"{name} is {values[name]!r}: use one number per channel, on the scale 0 to 255")
            values[name] = tuple(values[name])
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers for JSON."""
        return asdict(self)
