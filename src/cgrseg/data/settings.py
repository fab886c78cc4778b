"""Settings of the data: dataset formats and augmentation. Imports neither torch nor numpy, to keep `--help` fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Format = Literal["folder", "ade20k", "coco-stuff164k", "coco-stuff10k", "pascal-context", "cityscapes", "voc"]
ImportFormat = Literal[
    "coco",
    "coco-panoptic",
    "labelme",
    "cvat",
    "cvat-masks",
    "yolo",
    "roboflow",
    "label-studio",
    "voc",
    "supervisely",
    "cityscapes",
    "mapillary",
    "lists",
]


@dataclass(frozen=True)
class Augmentation:
    """How training crops are drawn. The defaults are the released ones, with crops of 256 for a machine without a GPU.

    Args:
        crop: side of the crop in pixels.
        resize_to: (long, short) side that the photo is fitted into before `scale`, keeping its aspect; None keeps the
            photo's own size.
        scale: smallest and largest random scale factor, uniform between them.
        max_class_share: a crop is drawn again, up to 10 times, while one class covers at least this share of its
            labelled pixels; 1 keeps the first crop.
        flip: probability of a horizontal flip.
        photometric: whether to distort brightness, contrast, saturation and hue.

    Raises:
        ValueError: a value is out of range.
    """

    crop: int = 256
    resize_to: tuple[int, int] | None = (2048, 512)
    scale: tuple[float, float] = (0.5, 2.0)
    max_class_share: float = 0.75
    flip: float = 0.5
    photometric: bool = True

    def __post_init__(self) -> None:
        if self.crop < 32:
            raise ValueError(f"augment.crop is {self.crop}: it must be at least 32 pixels")
        if self.resize_to is not None and min(self.resize_to) < 1:
            raise ValueError(f"augment.resize_to is {list(self.resize_to)}: give the long and the short side in pixels")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"augment.scale is {list(self.scale)}: give the smallest factor, then the largest")
        if not 0 < self.max_class_share <= 1:
            raise ValueError(f"augment.max_class_share is {self.max_class_share}: use a share above 0, up to 1")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"augment.flip is {self.flip}: use a probability from 0 to 1")
