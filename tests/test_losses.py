"""Losses: torch's own numbers where torch has them, sums indifferent to how a step is split, ignored pixels ignored."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cgrseg.training import losses
from cgrseg.training.config import LossConfig
from cgrseg.training.losses import OHEM_SURE, SegmentationLoss, dice_loss


def batch(count: int = 4) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(count, 5, 4, 6, generator=random, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 5, (count, 29, 43), generator=random)
    labels[torch.rand(labels.shape, generator=random) < 0.3] = 255
    labels[0, :20] = 255  # uneven over the batch
    return logits, labels


WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 1.0, 0.1], dtype=torch.float64)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_the_mean_over_valid_pixels_is_torchs_own_cross_entropy(weights: Tensor | None) -> None:
    logits, labels = batch()
    loss = SegmentationLoss(class_weights=weights)
    full = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)
    expected = F.cross_entropy(full, labels, weights, ignore_index=255)
    torch.testing.assert_close(loss(logits, labels, count=loss.count(labels)), expected)


def test_the_mean_over_all_pixels_counts_the_ignored_ones() -> None:
    logits, labels = batch()
    loss = SegmentationLoss(mean="all")
    full = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)
    expected = F.cross_entropy(full, labels, ignore_index=255, reduction="none").mean()
    torch.testing.assert_close(loss(logits, labels, count=loss.count(labels)), expected)


@pytest.mark.parametrize("options", [{}, {"kind": "focal"}, {"mean": "all"}, {"label_smoothing": 0.1}])
def test_a_step_in_passes_has_the_gradient_of_the_step_in_one(options: dict[str, Any]) -> None:
    logits, labels = batch()
    loss = SegmentationLoss(**options, class_weights=WEIGHTS)
    count = loss.count(labels)
    (whole,) = torch.autograd.grad(loss(logits, labels, count=count), logits)
    total: Any = 0
    for some, truth in zip(logits.chunk(2), labels.chunk(2), strict=True):
        total = total + loss(some, truth, count=count, share=0.5)
    (parts,) = torch.autograd.grad(total, logits)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("options", [{}, {"kind": "focal"}, {"kind": "ohem"}, {"dice": 1.0}])
def test_ignored_pixels_give_no_gradient_and_an_empty_batch_no_nan(options: dict[str, Any]) -> None:
    logits, labels = batch()
    labels[1] = 255
    loss = SegmentationLoss(**options)
    (gradient,) = torch.autograd.grad(loss(logits, labels, count=loss.count(labels)), logits)
    assert gradient[1].abs().max() == 0 and gradient[2].abs().max() > 0
    nothing = torch.full_like(labels, 255)
    value = loss(logits, nothing, count=loss.count(nothing))
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.isfinite() and gradient.abs().max() == 0


def test_focal_weighs_pixels_by_how_unsure_they_are() -> None:
    logits = torch.tensor([[2.0], [0.0]], dtype=torch.float64).reshape(1, 2, 1, 1)
    labels = torch.zeros(1, 1, 1, dtype=torch.int64)
    p = torch.sigmoid(torch.tensor(2.0, dtype=torch.float64))
    loss = SegmentationLoss(kind="focal")
    torch.testing.assert_close(loss(logits, labels, count=loss.count(labels)), -((1 - p) ** 2) * p.log())


def test_ohem_takes_the_mean_over_the_pixels_that_are_not_yet_sure() -> None:
    logits = torch.zeros(1, 2, 4, 8, dtype=torch.float64)
    logits[0, 0, :, :4] = 9  # the left half is sure of class 0
    labels = torch.zeros(1, 4, 8, dtype=torch.int64)
    loss = SegmentationLoss(kind="ohem")
    value = loss(logits, labels, count=loss.count(labels))
    torch.testing.assert_close(value, torch.tensor(0.5, dtype=torch.float64).log().neg())
    assert OHEM_SURE > 0.5
    logits[0, 0] = 9  # all are sure: a sixteenth is kept nevertheless
    assert loss(logits, labels, count=loss.count(labels)) > 0


def test_dice_is_zero_for_a_perfect_and_one_for_a_wrong_prediction() -> None:
    labels = torch.tensor([[[0, 1], [1, 255]]])
    right = F.one_hot(labels.clamp(max=1), 2).movedim(-1, 1).double() * 200 - 100
    assert dice_loss(right, labels, 255) == pytest.approx(0, abs=1e-5)
    assert dice_loss(-right, labels, 255) == pytest.approx(1, abs=1e-5)


def test_impossible_losses_are_refused() -> None:
    for options in (
        {"label_smoothing": 1.0},
        {"dice": -1.0},
        {"class_weights": [1.0, -1.0]},
        {"kind": "ohem", "label_smoothing": 0.1},
    ):
        with pytest.raises(ValueError, match=r"loss\."):
            LossConfig(**options)
        with pytest.raises(ValueError, match=r"loss\."):
            SegmentationLoss(**options)


@pytest.mark.parametrize("options", [{}, {"kind": "ohem"}, {"dice": 0.5}])
def test_people_call_it_as_they_call_any_loss(options: dict[str, Any]) -> None:
    logits, labels = batch()
    loss = SegmentationLoss(**options, class_weights=[0.5, 1, 2, 1, 0.1])
    assert isinstance(loss, torch.nn.Module) and not loss.state_dict()
    torch.testing.assert_close(loss(logits, labels), loss(logits, labels, count=loss.count(labels)))
    assert loss(logits.bfloat16(), labels).dtype == torch.float32
    with pytest.raises(ValueError, match=r"labels torch.int32 \[4, 29, 43\]: give logits"):
        loss(logits, labels.int())
    with pytest.raises(ValueError, match="5 class weights, but logits of 4 classes"):
        loss(logits[:, :4], labels)


@pytest.mark.parametrize("options", [{}, {"kind": "focal"}, {"mean": "all"}, {"label_smoothing": 0.1}])
@pytest.mark.parametrize(("scale", "rows"), [(8, 1), (8, 3), (4, 2), (3, 5), (1, 1)])
def test_bands_have_the_loss_and_gradient_of_the_whole(
    options: dict[str, Any], scale: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 5, 7, 6, generator=random, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 5, (2, 7 * scale, 6 * scale), generator=random)
    labels[:, :scale] = 255
    labels[1] = 255
    loss = SegmentationLoss(**options, class_weights=WEIGHTS)
    count = loss.count(labels)
    full = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)
    expected = loss._sum(full, labels) / count
    monkeypatch.setitem(losses.BAND_VALUES, "cpu", rows * 5 * scale * labels.shape[2])
    found = loss(logits, labels, count=count)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    wanted, gradient = (torch.autograd.grad(3 * value, logits)[0] for value in (expected, found))
    torch.testing.assert_close(gradient, wanted, rtol=1e-11, atol=1e-15)


def test_no_full_size_copy_of_the_logits_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    original = F.interpolate

    def interpolate(*arguments: Any, **options: Any) -> Tensor:
        made = original(*arguments, **options)
        sizes.append(made.numel())
        return made

    monkeypatch.setattr(losses.F, "interpolate", interpolate)
    monkeypatch.setitem(losses.BAND_VALUES, "cpu", 150 * 16 * 128)
    logits = torch.zeros(2, 150, 16, 16, requires_grad=True)
    labels = torch.zeros(2, 128, 128, dtype=torch.int64)
    loss = SegmentationLoss()
    loss(logits, labels, count=loss.count(labels)).backward()
    assert len(sizes) == 2 * 8
    assert max(sizes) == 150 * 4 * 8 * 128, "two rows of logits and one more on each side"
