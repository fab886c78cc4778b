"""Losses at full crop size: sums over pixels divided by the pixel count of the whole step.

A step may be split over passes and processes. Each adds its own sum divided by the count of all, so the split does not
change the loss.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .config import LossConfig

OHEM_SURE = 0.7  # a pixel is easy if the probability of its class is higher
OHEM_LEAST = 1 / 16  # minimum share of the valid pixels that is kept


class SegmentationLoss:
    """The loss of logits against labels.

    Args:
        config: the kind of loss and its weights.
        ignore_index: labels of this value are ignored.
        class_weights: float [K], or None for equal ones.
    """

    def __init__(self, config: LossConfig, *, ignore_index: int, class_weights: Tensor | None = None) -> None:
        self.config, self.ignore_index, self.class_weights = config, ignore_index, class_weights

    def count(self, labels: Tensor) -> Tensor:
        """The divisor of the sums over the pixels of `labels` (int64 [B, H, W]), a scalar."""
        if self.config.mean == "all":
            return torch.tensor(float(labels.numel()), device=labels.device, dtype=torch.float64)
        valid = labels != self.ignore_index
        if self.class_weights is None:
            return valid.sum().double()
        return self.class_weights[labels[valid]].double().sum()

    def __call__(self, logits: Tensor, labels: Tensor, *, count: Tensor, share: float = 1.0) -> Tensor:
        """The loss of one pass: a scalar.

        Args:
            logits: float [B, K, h, w] at stride 8; resized bilinearly to the labels here.
            labels: int64 [B, H, W].
            count: `count` of the whole step.
            share: of this pass in the step, for terms that are means (OHEM, dice).
        """
        logits = logits if logits.dtype == torch.float64 else logits.float()
        logits = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)  # B K H W
        kind = self.config.kind
        if kind == "cross_entropy":
            loss = F.cross_entropy(
                logits,
                labels,
                self.class_weights,
                ignore_index=self.ignore_index,
                label_smoothing=self.config.label_smoothing,
                reduction="sum",
            ) / count.clamp(min=1).to(logits.dtype)
        else:
            entropy = F.cross_entropy(
                logits, labels, self.class_weights, ignore_index=self.ignore_index, reduction="none"
            )  # B H W
            with torch.no_grad() if kind == "ohem" else torch.enable_grad():
                plain = F.cross_entropy(logits, labels, ignore_index=self.ignore_index, reduction="none")
                certainty = torch.exp(-plain)  # the probability of the true class
            if kind == "focal":
                loss = ((1 - certainty) ** 2 * entropy).sum() / count.clamp(min=1).to(logits.dtype)
            else:
                loss = share * _hardest(entropy, certainty, labels != self.ignore_index)
        if self.config.dice:
            loss = loss + share * self.config.dice * dice_loss(logits, labels, self.ignore_index)
        return loss


def teacher_loss(logits: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy against the probabilities of another network at stride 8, averaged over the cells of the image.

    Args:
        logits: float [B, K, h, w].
        teacher: float [B, K, h, w], probabilities; all zero where there is no image.
    """
    entropy = -(teacher * logits.float().log_softmax(1)).sum(1)  # B h w
    return entropy.sum() / teacher.sum().clamp(min=1)


def _hardest(entropy: Tensor, certainty: Tensor, valid: Tensor) -> Tensor:
    """The mean over the pixels that are not easy, and over at least OHEM_LEAST of the valid ones."""
    entropy, certainty = entropy[valid], certainty[valid]
    if not entropy.numel():
        return entropy.sum()
    least = max(int(entropy.numel() * OHEM_LEAST), 1)
    limit = certainty.kthvalue(least).values.clamp(min=OHEM_SURE)
    return entropy[certainty <= limit].mean()


def dice_loss(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """1 - the mean over the present classes of 2·Σ p·t / (Σ p + Σ t), over the valid pixels of the batch.

    Args:
        logits: float [B, K, H, W].
        labels: int64 [B, H, W].
        ignore_index: labels of this value are ignored.
    """
    valid = labels != ignore_index
    truth = F.one_hot(labels.where(valid, 0), logits.shape[1]).movedim(-1, 1) * valid[:, None]  # B K H W
    probability = logits.softmax(1) * valid[:, None]
    both = (probability * truth).sum((0, 2, 3))
    sizes = probability.sum((0, 2, 3)) + truth.sum((0, 2, 3))
    occurs = truth.sum((0, 2, 3)) > 0
    scores = (2 * both + 1e-6) / (sizes + 1e-6)
    return 1 - (scores * occurs).sum() / occurs.sum().clamp(min=1)
