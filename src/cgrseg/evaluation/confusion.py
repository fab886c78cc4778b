"""The exact streaming confusion matrix, and the scores drawn from its sums over the whole set."""

from __future__ import annotations

import torch
from torch import Tensor

PIXELS_AT_A_TIME = 1 << 20  # cells are int64, eight times the size of a label map


class ConfusionMatrix:
    """Counts pixels: row = true class, column = predicted class, int64, so no count is ever rounded.

    All scores come from sums over the whole set, as in the paper's tables; a class without the pixels that a
    score needs has NaN and is left out of means. `counts` may be added to and summed over processes.

    Args:
        num_classes: K.
        ignore_index: true pixels of this value are not counted.
        device: where the counts [K, K] are kept; label maps may come from anywhere.
    """

    def __init__(self, num_classes: int, *, ignore_index: int = 255, device: str | torch.device = "cpu") -> None:
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Add one photo's (or batch's) integer label maps, of equal shape.

        Raises:
            ValueError: the shapes differ, a true label is neither a class nor the ignore index, or a predicted
                one is no class; nothing has been counted then.
        """
        if predicted.shape != truth.shape:
            raise ValueError(f"prediction {tuple(predicted.shape)} and mask {tuple(truth.shape)} differ in size")
        added = torch.zeros_like(self.counts).view(-1)
        parts = (torch.split(labels.reshape(-1), PIXELS_AT_A_TIME) for labels in (truth, predicted))
        for true, guess in zip(*parts, strict=True):
            known = true != self.ignore_index
            rows, columns = true[known].to(added.device).long(), guess[known].to(added.device).long()
            self._check(rows, "a mask holds")
            self._check(columns, "the model predicts")
            added += torch.bincount(rows * self.num_classes + columns, minlength=len(added))
        self.counts += added.view_as(self.counts)

    def _check(self, labels: Tensor, who: str) -> None:
        if not labels.numel():
            return
        low, high = torch.stack(labels.aminmax()).tolist()
        if low < 0 or high >= self.num_classes:
            wrong = low if low < 0 else high
            raise ValueError(f"{who} class {wrong}, but there are {self.num_classes} classes, from 0")

    def class_iou(self) -> Tensor:
        """IoU a class, float64 [K] in 0 … 1; NaN for a class that is neither in the truth nor predicted."""
        hits = self.counts.diagonal()
        return hits.double() / (self.counts.sum(0) + self.counts.sum(1) - hits)

    def class_accuracy(self) -> Tensor:
        """Share of a class's true pixels that are found (recall), float64 [K]; NaN for a class without any."""
        return self.counts.diagonal().double() / self.counts.sum(1)

    def class_precision(self) -> Tensor:
        """Share of the pixels given to a class that belong to it, float64 [K]; NaN for one that is never given."""
        return self.counts.diagonal().double() / self.counts.sum(0)

    def class_share(self) -> Tensor:
        """Share of the counted pixels whose truth is the class, float64 [K] summing to 1; NaN without pixels."""
        return self.counts.sum(1).double() / self.counts.sum()

    def mean_iou(self) -> float:
        """mIoU: the mean of `class_iou` over the classes that occur."""
        return float(self.class_iou().nanmean())

    def mean_accuracy(self) -> float:
        """mAcc: the mean of `class_accuracy` over the classes that the truth holds."""
        return float(self.class_accuracy().nanmean())

    def accuracy(self) -> float:
        """aAcc: the share of pixels that are right."""
        return float(self.counts.diagonal().sum().double() / self.counts.sum())

    def frequency_weighted_iou(self) -> float:
        """The mean of `class_iou`, each class weighted by its share of the true pixels."""
        weighted = self.class_iou() * self.class_share()
        return float(weighted.nansum()) if self.counts.any() else float("nan")
