"""Losses at full crop size: sums over pixels divided by the pixel count of the whole step.

A step may be split over passes and processes. Each adds its own sum divided by the count of all, so the split does not
change the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import LossConfig

OHEM_SURE = 0.7  # a pixel is easy if the probability of its class is higher
OHEM_LEAST = 1 / 16  # minimum share of the valid pixels that is kept
BAND_VALUES = {"cpu": 1 << 22, "cuda": 1 << 26}  # full-size logits that exist at the same time


class SegmentationLoss(nn.Module):
    """The loss of a training, as a module: `SegmentationLoss(kind="focal")(model(images), masks)`.

    Args:
        kind: "cross_entropy"; "ohem", cross-entropy on the hardest pixels; "focal", (1 - p)^2 · cross-entropy.
        dice: weight of an additional dice loss.
        mean: over the "valid" pixels, or over "all" pixels including ignored ones.
        label_smoothing: share of the target that is distributed over all classes; with cross-entropy only.
        class_weights: K values of 0 or more; None for equal ones.
        ignore_index: labels of this value are ignored.

    Raises:
        ValueError: a value is out of range, or two exclude each other.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        kind: Literal["cross_entropy", "ohem", "focal"] = "cross_entropy",
        dice: float = 0.0,
        mean: Literal["valid", "all"] = "valid",
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | Tensor | None = None,
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        weights = None if class_weights is None else torch.as_tensor(class_weights)
        self.config = LossConfig(
            kind=kind,
            dice=dice,
            mean=mean,
            label_smoothing=label_smoothing,
            class_weights="none" if weights is None else weights.tolist(),
        )
        self.ignore_index = ignore_index
        self.register_buffer("class_weights", weights, persistent=False)

    def count(self, labels: Tensor) -> Tensor:
        """The divisor of the sums over the pixels of `labels` (int64 [B, H, W]), a scalar."""
        if self.config.mean == "all":
            return torch.tensor(float(labels.numel()), device=labels.device, dtype=torch.float64)
        valid = labels != self.ignore_index
        if self.class_weights is None:
            return valid.sum().double()
        classes = len(self.class_weights)
        pixels = torch.bincount(labels.where(valid, classes).flatten(), minlength=classes)[:classes]
        return pixels.double() @ self.class_weights.to(labels.device, torch.float64)

    def forward(self, logits: Tensor, labels: Tensor, *, count: Tensor | None = None, share: float = 1.0) -> Tensor:
        """The loss: a scalar. Bfloat16 and float16 logits are computed in float32.

        Args:
            logits: float [B, K, h, w], at most as large as the labels; resized bilinearly to their size here.
            labels: int64 [B, H, W], class ids or the ignore index.
            count: only for a step in several passes, the sum of their `count`; None for that of these labels.
            share: of this pass in such a step, for terms that are means (OHEM, dice).

        Raises:
            ValueError: the shapes do not fit, or the labels are not int64.
        """
        if logits.ndim != 4 or labels.shape[:1] != logits.shape[:1] or labels.ndim != 3 or labels.dtype != torch.int64:
            raise ValueError(
                f"logits are {list(logits.shape)} and labels {labels.dtype} {list(labels.shape)}: give logits "
                "[B, K, h, w] and labels int64 [B, H, W]"
            )
        if self.class_weights is not None and len(self.class_weights) != logits.shape[1]:
            raise ValueError(
                f"there are {len(self.class_weights)} class weights, but logits of {logits.shape[1]} classes: give one "
                "weight per class"
            )
        logits = logits if logits.dtype == torch.float64 else logits.float()
        divisor = (self.count(labels) if count is None else count).clamp(min=1).to(logits.dtype)
        if self.config.kind != "ohem" and not self.config.dice:
            return sum_over_pixels(self._sum, logits, labels) / divisor
        logits = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)  # B K H W
        if self.config.kind == "ohem":
            entropy = self._entropy(logits, labels)
            certainty = self._certainty(logits.detach(), labels)
            loss = share * _hardest(entropy, certainty, labels != self.ignore_index)
        else:
            loss = self._sum(logits, labels) / divisor
        if self.config.dice:
            loss = loss + share * self.config.dice * dice_loss(logits, labels, self.ignore_index)
        return loss

    def _weights(self, logits: Tensor) -> Tensor | None:
        return None if self.class_weights is None else self.class_weights.to(logits)

    def _sum(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy or focal loss, summed over the valid pixels; logits float [B, K, H, W]."""
        if self.config.kind == "focal":
            return ((1 - self._certainty(logits, labels)) ** 2 * self._entropy(logits, labels)).sum()
        return F.cross_entropy(
            logits,
            labels,
            self._weights(logits),
            ignore_index=self.ignore_index,
            label_smoothing=self.config.label_smoothing,
            reduction="sum",
        )

    def _entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Weighted cross-entropy of each pixel, [B, H, W]; 0 where the label is ignored."""
        return F.cross_entropy(logits, labels, self._weights(logits), ignore_index=self.ignore_index, reduction="none")

    def _certainty(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The probability of the true class of each pixel, [B, H, W]."""
        return torch.exp(-F.cross_entropy(logits, labels, ignore_index=self.ignore_index, reduction="none"))


def sum_over_pixels(function: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor) -> Tensor:
    """`function` of the logits resized to the labels, for functions that are sums over pixels.

    Where the labels are a whole number of times as large as the logits, only a band of full-size logits exists at a
    time, and its gradient is computed at once: 16 crops of 512x512 with 150 classes need 0.02 instead of 2.5 GB.

    Args:
        function: logits [b, K, H', W] and labels [b, H', W] -> a scalar.
        logits: float [B, K, h, w].
        labels: int64 [B, H, W].
    """
    scale = labels.shape[1] // logits.shape[2]
    if labels.shape[1:] != (scale * logits.shape[2], scale * logits.shape[3]):
        return function(F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False), labels)
    total: Tensor = _SumInBands.apply(function, logits, labels)
    return total


class _SumInBands(torch.autograd.Function):
    """`sum_over_pixels`: a band reads one more row of logits on each side, so its pixels are those of the whole."""

    @staticmethod
    def forward(ctx: Any, function: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor) -> Tensor:
        batch, classes, height, _ = logits.shape
        scale, width = labels.shape[1] // height, labels.shape[2]
        count = max(1, BAND_VALUES.get(logits.device.type, 1 << 22) // (classes * scale * width))
        gradient, total = torch.zeros_like(logits), logits.new_zeros(())
        for image in range(batch):
            for top in range(0, height, count):
                bottom = min(top + count, height)
                low, high = max(top - 1, 0), min(bottom + 1, height)
                source = logits[image : image + 1, :, low:high].detach().requires_grad_()
                with torch.enable_grad():
                    full = F.interpolate(source, (scale * (high - low), width), mode="bilinear", align_corners=False)
                    band = full[:, :, scale * (top - low) : scale * (bottom - low)]
                    part = function(band, labels[image : image + 1, scale * top : scale * bottom])
                gradient[image : image + 1, :, low:high] += torch.autograd.grad(part, source)[0]
                total += part.detach()
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> Any:
        (gradient,) = ctx.saved_tensors
        return None, gradient * outputs[0], None


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
