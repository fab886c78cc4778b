"""The exact streaming confusion matrix, and mIoU, mAcc and aAcc from its sums over the whole set."""

from __future__ import annotations

import torch
from torch import Tensor


class ConfusionMatrix:
    """Counts pixels: row = true class, column = predicted class, int64.

    Args:
        num_classes: K.
        ignore_index: true pixels of this value are not counted.
    """

    def __init__(self, num_classes: int, *, ignore_index: int = 255) -> None:
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Add one photo's (or batch's) integer label maps, of equal shape.

        Raises:
            ValueError: the shapes differ, or a true label is neither a class nor the ignore index.
        """
        if predicted.shape != truth.shape:
            raise ValueError(f"prediction {tuple(predicted.shape)} and mask {tuple(truth.shape)} differ in size")
        truth, predicted = truth.flatten().long(), predicted.flatten().long()
        valid = truth != self.ignore_index
        truth, predicted = truth[valid], predicted[valid]
        if truth.numel() and not 0 <= int(truth.min()) <= int(truth.max()) < self.num_classes:
            raise ValueError(f"a mask holds class {int(truth.max())}, but there are {self.num_classes} classes")
        cells = torch.bincount(truth * self.num_classes + predicted, minlength=self.num_classes**2)
        self.counts += cells.view(self.num_classes, self.num_classes).cpu()

    def class_iou(self) -> Tensor:
        """IoU a class, float64 [K] in 0 … 1; NaN for a class that is neither in the truth nor predicted."""
        hits = self.counts.diagonal().double()
        return hits / (self.counts.sum(0) + self.counts.sum(1) - self.counts.diagonal())

    def mean_iou(self) -> float:
        """The mean of `class_iou` over the classes that occur."""
        return float(self.class_iou().nanmean())

    def mean_accuracy(self) -> float:
        """The mean recall over the classes that the truth holds."""
        return float((self.counts.diagonal().double() / self.counts.sum(1)).nanmean())

    def accuracy(self) -> float:
        """The share of pixels that are right."""
        return float(self.counts.diagonal().sum() / self.counts.sum())
