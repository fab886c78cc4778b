"""Streaming metrics from sums over the whole set: the confusion matrix, and Boundary IoU (Cheng et al., CVPR 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

BOUNDARY_WIDTH = 0.02  # of the image's diagonal, the paper's choice


class ConfusionMatrix:
    """Pixel counts, exact in int64: row = true class, column = predicted class.

    All scores come from sums over the whole set, as in the paper's tables. A class without the pixels that a score
    needs has NaN and is left out of means. `counts` may be added to and summed over processes.

    Args:
        num_classes: K.
        ignore_index: true pixels of this value are not counted.
        device: device of the counts [K, K]; label maps may come from any device.
        chunk_size: pixels counted at a time, which bounds the memory: int64 cells are eight times a label map.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        ignore_index: int = 255,
        device: str | torch.device = "cpu",
        chunk_size: int = 1 << 20,
    ) -> None:
        self.num_classes, self.ignore_index, self.chunk_size = num_classes, ignore_index, chunk_size
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Add the integer label maps of an image or a batch, of equal shape.

        Raises:
            ValueError: the shapes differ, a true label is neither a class nor the ignore index, or a predicted label
                is not a class. Nothing has been counted then.
        """
        if predicted.shape != truth.shape:
            raise ValueError(f"prediction {tuple(predicted.shape)} and mask {tuple(truth.shape)} differ in size")
        added = torch.zeros_like(self.counts).view(-1)
        parts = (torch.split(labels.reshape(-1), self.chunk_size) for labels in (truth, predicted))
        for true, guess in zip(*parts, strict=True):
            known = true != self.ignore_index
            rows, columns = true[known].to(added.device).long(), guess[known].to(added.device).long()
            self._check(rows, "a mask holds")
            self._check(columns, "the model predicts")
            added += torch.bincount(rows * self.num_classes + columns, minlength=len(added))
        self.counts += added.view_as(self.counts)

    def _check(self, labels: Tensor, source: str) -> None:
        if not labels.numel():
            return
        low, high = torch.stack(labels.aminmax()).tolist()
        if low < 0 or high >= self.num_classes:
            wrong = low if low < 0 else high
            raise ValueError(f"{source} class {wrong}, but there are {self.num_classes} classes, from 0")

    def class_iou(self) -> Tensor:
        """IoU per class, float64 [K] in 0 … 1; NaN for a class that is neither in the truth nor predicted."""
        hits = self.counts.diagonal()
        return hits.double() / (self.counts.sum(0) + self.counts.sum(1) - hits)

    def class_accuracy(self) -> Tensor:
        """Recall: share of a class's true pixels that are found, float64 [K]; NaN for a class without true pixels."""
        return self.counts.diagonal().double() / self.counts.sum(1)

    def class_precision(self) -> Tensor:
        """Share of the pixels predicted as a class that belong to it, float64 [K]; NaN for one never predicted."""
        return self.counts.diagonal().double() / self.counts.sum(0)

    def class_share(self) -> Tensor:
        """Share of the counted pixels whose truth is the class, float64 [K] summing to 1; NaN without pixels."""
        return self.counts.sum(1).double() / self.counts.sum()

    def mean_iou(self) -> float:
        """mIoU: the mean of `class_iou` over the classes that occur."""
        return float(self.class_iou().nanmean())

    def mean_accuracy(self) -> float:
        """mAcc: the mean of `class_accuracy` over the classes in the truth."""
        return float(self.class_accuracy().nanmean())

    def accuracy(self) -> float:
        """aAcc: the share of correct pixels."""
        return float(self.counts.diagonal().sum().double() / self.counts.sum())

    def frequency_weighted_iou(self) -> float:
        """The mean of `class_iou`, each class weighted by its share of the true pixels."""
        weighted = self.class_iou() * self.class_share()
        return float(weighted.nansum()) if self.counts.any() else float("nan")


class BoundaryIoU:
    """IoU of the pixels near outlines, which have little weight in mIoU.

    A pixel is in the boundary band of its class if the square of 2·d + 1 pixels around it holds another class or
    leaves the image; d is 2 % of the image's diagonal, at least 1. Pixels ignored in the truth are not counted and
    make no outline in either map, so a prediction that is right wherever the truth is known scores 1.

    `counts` is int64 [3, K]: per class, the pixels in both bands, in the truth's and in the prediction's.

    Args:
        num_classes: K.
        ignore_index: true pixels of this value are ignored.
        device: device of the counts.
    """

    def __init__(self, num_classes: int, *, ignore_index: int = 255, device: str | torch.device = "cpu") -> None:
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.counts = torch.zeros(3, num_classes, dtype=torch.int64, device=device)

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Add the label maps [H, W] of one image. Their values must be valid: `ConfusionMatrix.update` checks them.

        Raises:
            ValueError: they are not two maps [H, W] of equal size.
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
        """Boundary IoU per class, float64 [K] in 0 … 1; NaN for a class neither in the truth nor predicted."""
        both, true, guess = self.counts.unbind()
        return both.double() / (true + guess - both)

    def mean_iou(self) -> float:
        """The mean of `class_iou` over the classes that occur."""
        return float(self.class_iou().nanmean())


def band_width(height: int, width: int) -> int:
    """d of an image of that size, in pixels."""
    return max(round(BOUNDARY_WIDTH * math.hypot(height, width)), 1)


def near_outline(labels: Tensor, known: Tensor, distance: int) -> Tensor:
    """bool [H, W]: pixels with another known class or the image border within `distance`, for all classes at once.

    Args:
        labels: class ids [H, W], 0 at unknown pixels, below the dtype's maximum.
        known: bool [H, W].
        distance: in pixels, along either axis.
    """
    height, width = labels.shape
    near = torch.ones_like(known)
    if min(height, width) > 2 * distance:  # otherwise the border is near everywhere
        most = torch.iinfo(labels.dtype).max
        lowest = _extreme(labels.masked_fill(~known, most), distance, torch.minimum)
        highest = _extreme(labels, distance, torch.maximum)  # an unknown 0 never raises it
        near[distance:-distance, distance:-distance] = lowest < highest
    return near


def _extreme(labels: Tensor, distance: int, better: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The minimum or maximum of the square around each pixel, [H - 2·distance, W - 2·distance].

    Windows of 1, 2, 4, … pixels are each made of two smaller ones, so the work grows with log(distance).
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
