"""Boundary IoU (Cheng et al., CVPR 2021): IoU of the pixels near the outlines, where mIoU hardly looks."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

DILATION = 0.02  # of the photo's diagonal, the paper's choice


class BoundaryIoU:
    """Sums over the set, a class: pixels in both boundary bands, in the truth's, in the prediction's; int64.

    A pixel is in its class's band where a square of 2·d + 1 pixels around it holds another class or leaves the
    photo; d is 2 % of the photo's diagonal, at least 1. Pixels that the truth ignores are not counted and make
    no outline in either map, so a prediction that is right wherever the truth is known scores 1.

    Args:
        num_classes: K.
        ignore_index: true pixels of this value.
        device: where the counts [3, K] are kept.
    """

    def __init__(self, num_classes: int, *, ignore_index: int = 255, device: str | torch.device = "cpu") -> None:
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.counts = torch.zeros(3, num_classes, dtype=torch.int64, device=device)

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Add one photo's label maps [H, W] of class ids (and, in the truth, the ignore index), both checked already.

        Raises:
            ValueError: they are no label maps of equal size.
        """
        if predicted.shape != truth.shape or truth.ndim != 2:
            raise ValueError(
                f"prediction {tuple(predicted.shape)} and mask {tuple(truth.shape)}: give two maps [H, W] of equal size"
            )
        device, height, width = self.counts.device, *truth.shape
        known = truth.to(device) != self.ignore_index  # H W
        distance = band_width(height, width)
        dtype = torch.uint8 if self.num_classes <= 255 else torch.int32
        maps = [torch.where(known, labels.to(device), 0).to(dtype) for labels in (truth, predicted)]
        bands = [known & near_outline(labels, known, distance) for labels in maps]
        true, guess = (labels[band] for labels, band in zip(maps, bands, strict=True))
        both = maps[0][bands[0] & bands[1] & (maps[0] == maps[1])]
        for row, labels in zip(self.counts, (both, true, guess), strict=True):
            row += torch.bincount(labels, minlength=self.num_classes)

    def class_iou(self) -> Tensor:
        """Boundary IoU a class, float64 [K] in 0 … 1; NaN for a class that is neither in the truth nor predicted."""
        both, true, guess = self.counts.unbind()
        return both.double() / (true + guess - both)

    def mean_iou(self) -> float:
        """The mean of `class_iou` over the classes that occur."""
        return float(self.class_iou().nanmean())


def band_width(height: int, width: int) -> int:
    """d, in pixels, of a photo of that size."""
    return max(round(DILATION * math.hypot(height, width)), 1)


def near_outline(labels: Tensor, known: Tensor, distance: int) -> Tensor:
    """bool [H, W]: pixels with another known class or the photo's end within `distance`, all classes at once.

    Args:
        labels: class ids [H, W], 0 at unknown pixels, below the dtype's maximum.
        known: bool [H, W].
        distance: in pixels, along either axis.
    """
    height, width = labels.shape
    near = torch.ones_like(known)
    if min(height, width) > 2 * distance:  # else the photo's end is near everywhere
        most = torch.iinfo(labels.dtype).max
        lowest = _extreme(labels.masked_fill(~known, most), distance, torch.minimum)
        highest = _extreme(labels, distance, torch.maximum)  # which the unknown 0 never raises
        near[distance:-distance, distance:-distance] = lowest < highest
    return near


def _extreme(labels: Tensor, distance: int, better: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The minimum or maximum of the square around each pixel, [H - 2·distance, W - 2·distance].

    Windows of 1, 2, 4, … pixels: each is two of the ones before, so the work grows with log(distance).
    """
    window = 2 * distance + 1
    for dim in (0, 1):
        length, reach = labels.shape[dim] - window + 1, 1
        while 2 * reach <= window:
            count = labels.shape[dim] - reach
            labels = better(labels.narrow(dim, 0, count), labels.narrow(dim, reach, count))
            reach *= 2
        labels = better(labels.narrow(dim, 0, length), labels.narrow(dim, window - reach, length))
    return labels
