"""Choices about data as plain values: the formats and the augmentation. Imports no torch, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Format = Literal["folder", "ade20k", "coco-stuff164k", "coco-stuff10k", "pascal-context", "cityscapes", "voc"]


@dataclass(frozen=True)
class Augmentation:
    """How a photo becomes a training crop (the released training's defaults).

    Args:
        crop: side of the crop in pixels.
        resize_to: (long, short) sides that the photo is brought to, keeping its aspect, before it is scaled;
            null keeps its own size. Photos are scored at this size, too.
        scale: smallest and largest factor on top of it, drawn evenly.
        max_class_share: a crop is drawn again, up to 10 times, while one class has a larger share of its
            labelled pixels.
        flip: probability of mirroring.
        photometric: distort brightness, contrast, saturation and hue.
    """

    crop: int = 512
    resize_to: tuple[int, int] | None = (2048, 512)
    scale: tuple[float, float] = (0.5, 2.0)
    max_class_share: float = 0.75
    flip: float = 0.5
    photometric: bool = True

    def __post_init__(self) -> None:
        if self.crop < 32:
            raise ValueError(f"augment.crop is {self.crop}: it must be at least 32")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"augment.scale is {list(self.scale)}: give the smallest factor, then the largest")
        for name in ("max_class_share", "flip"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augment.{name} is {getattr(self, name)}: it must lie in 0 … 1")
