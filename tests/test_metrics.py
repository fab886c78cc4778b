"""The scores equal those of torchmetrics and of a plain numpy count."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex, MulticlassPrecision

from cgrseg.evaluation.metrics import BoundaryIoU, ConfusionMatrix, band_width


def drawn(classes: int, ignore: int, seed: int, size: tuple[int, int] = (37, 53)) -> tuple[Tensor, Tensor]:
    """(predicted, truth): blocks of classes, partly right, with ignored pixels."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, (-(-size[0] // 9), -(-size[1] // 9))).repeat(9, 0).repeat(9, 1)
    truth = truth[: size[0], : size[1]].astype(np.int64)
    predicted = np.where(random.random(size) < 0.7, truth, random.integers(0, classes, size))
    truth[random.random(size) < 0.1] = ignore
    return torch.from_numpy(predicted), torch.from_numpy(truth)


def naive(predicted: Tensor, truth: Tensor, classes: int, ignore: int) -> np.ndarray:
    counts = np.zeros((classes, classes), np.int64)
    for true, guess in zip(truth.numpy().ravel(), predicted.numpy().ravel(), strict=True):
        if true != ignore:
            counts[true, guess] += 1
    return counts


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    classes=st.integers(1, 40),
    ignore=st.sampled_from([255, 65535, -1]),
    seed=st.integers(0, 999),
    chunk_size=st.sampled_from([1, 100, 1 << 20]),
)
def test_counts_are_those_of_a_loop_over_pixels(classes: int, ignore: int, seed: int, chunk_size: int) -> None:
    matrix = ConfusionMatrix(classes, ignore_index=ignore, chunk_size=chunk_size)
    expected = np.zeros((classes, classes), np.int64)
    for photo in range(2):
        predicted, truth = drawn(classes, ignore, seed + photo, (11, 13))
        matrix.update(predicted.to(torch.uint8), truth)
        expected += naive(predicted, truth, classes, ignore)
    np.testing.assert_array_equal(matrix.counts, expected)
    assert matrix.counts.dtype == torch.int64


def test_scores_are_those_of_torchmetrics() -> None:
    classes, ignore = 7, 255
    matrix = ConfusionMatrix(classes, ignore_index=ignore)
    options = {"num_classes": classes, "ignore_index": ignore}
    iou = MulticlassJaccardIndex(average=None, **options)
    weighted = MulticlassJaccardIndex(average="weighted", **options)
    recall, precision = MulticlassAccuracy(average=None, **options), MulticlassPrecision(average=None, **options)
    overall = MulticlassAccuracy(average="micro", **options)
    for seed in range(3):
        predicted, truth = drawn(classes, ignore, seed)
        matrix.update(predicted, truth)
        for metric in (iou, weighted, recall, precision, overall):
            metric.update(predicted, truth)
    torch.testing.assert_close(matrix.class_iou(), iou.compute().double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(matrix.class_accuracy(), recall.compute().double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(matrix.class_precision(), precision.compute().double(), atol=1e-6, rtol=0)
    assert matrix.mean_iou() == pytest.approx(float(iou.compute().mean()), abs=1e-6)
    assert matrix.mean_accuracy() == pytest.approx(float(recall.compute().mean()), abs=1e-6)
    assert matrix.accuracy() == pytest.approx(float(overall.compute()), abs=1e-6)
    assert matrix.frequency_weighted_iou() == pytest.approx(float(weighted.compute()), abs=1e-6)
    assert float(matrix.class_share().sum()) == pytest.approx(1)


def test_scores_by_hand_and_classes_that_never_occur() -> None:
    matrix = ConfusionMatrix(4)
    matrix.update(torch.tensor([0, 0, 1, 2, 3]), torch.tensor([0, 0, 0, 1, 255]))
    torch.testing.assert_close(
        matrix.class_iou(), torch.tensor([2 / 3, 0, 0, torch.nan], dtype=torch.float64), equal_nan=True
    )
    torch.testing.assert_close(
        matrix.class_accuracy(), torch.tensor([2 / 3, 0, torch.nan, torch.nan], dtype=torch.float64), equal_nan=True
    )
    assert matrix.mean_iou() == pytest.approx(2 / 9) and matrix.mean_accuracy() == pytest.approx(1 / 3)
    assert matrix.accuracy() == 0.5 and matrix.frequency_weighted_iou() == pytest.approx(0.75 * 2 / 3)
    empty = ConfusionMatrix(2)
    empty.update(torch.tensor([0]), torch.tensor([255]))
    for score in (empty.mean_iou(), empty.mean_accuracy(), empty.accuracy(), empty.frequency_weighted_iou()):
        assert np.isnan(score)


def test_counts_past_what_float32_can_hold_stay_exact() -> None:
    matrix = ConfusionMatrix(1)
    matrix.counts += 2**40
    matrix.update(torch.tensor([0]), torch.tensor([0]))
    assert int(matrix.counts) == 2**40 + 1


@pytest.mark.parametrize(
    ("predicted", "truth", "message"),
    [
        ([0, 1], [0], "differ in size"),
        ([0, 1], [0, 2], "a mask holds class 2"),
        ([0, 1], [-1, 0], "a mask holds class -1"),
        ([0, 2], [0, 1], "predicts class 2"),
    ],
)
def test_labels_out_of_range_are_refused_and_not_counted(predicted: list, truth: list, message: str) -> None:
    matrix = ConfusionMatrix(2)
    with pytest.raises(ValueError, match=message):
        matrix.update(torch.tensor(predicted), torch.tensor(truth))
    assert not matrix.counts.any()


def naive_band(labels: np.ndarray, known: np.ndarray, label: int, distance: int) -> np.ndarray:
    """The pixels of a class that `distance` erosions by a 3x3 square take away; unknown pixels don't erode."""
    mask = labels == label
    kept = np.pad(mask | ~known, 1)  # outside of the photo nothing is of the class
    for _ in range(distance):
        padded = np.pad(kept, 1)
        shifts = [
            padded[y : y + kept.shape[0], x : x + kept.shape[1]]
            for y in range(3)
            for x in range(3)
        ]  # fmt: skip
        kept = np.logical_and.reduce(shifts)
    return mask & known & ~kept[1:-1, 1:-1]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    height=st.integers(1, 140),
    width=st.integers(1, 140),
    classes=st.sampled_from([1, 2, 5, 254, 255, 300]),
    seed=st.integers(0, 999),
)
def test_boundary_iou_is_that_of_eroded_masks(height: int, width: int, classes: int, seed: int) -> None:
    distance = max(round(0.02 * np.hypot(height, width)), 1)
    assert band_width(height, width) == distance
    ignore = 65535
    predicted, truth = drawn(classes, ignore, seed, (height, width))
    boundary = BoundaryIoU(classes, ignore_index=ignore)
    boundary.update(predicted.int(), truth)
    known = truth.numpy() != ignore
    for label in np.unique([truth.numpy()[known].max(initial=0), 0, classes - 1, *predicted.numpy()[0, :3]]):
        true = naive_band(truth.numpy(), known, label, distance)
        guess = naive_band(np.where(known, predicted.numpy(), ignore), known, label, distance)
        expected = [(true & guess).sum(), true.sum(), guess.sum()]
        np.testing.assert_array_equal(boundary.counts[:, label], expected, err_msg=f"class {label}")


def test_a_prediction_right_wherever_the_truth_is_known_has_boundary_iou_1_and_a_shifted_one_less() -> None:
    _, truth = drawn(3, 255, 0, (90, 120))
    truth[:, 40:50] = 255
    predicted = torch.where(truth == 255, 1, truth)
    boundary = BoundaryIoU(3)
    boundary.update(predicted, truth)
    assert boundary.mean_iou() == 1
    matrix, shifted = ConfusionMatrix(3), BoundaryIoU(3)
    moved = predicted.roll(2, 1)
    matrix.update(moved, truth)
    shifted.update(moved, truth)
    assert shifted.mean_iou() < matrix.mean_iou() < 1


def test_boundary_iou_takes_one_map_at_a_time() -> None:
    with pytest.raises(ValueError, match="equal size"):
        BoundaryIoU(2).update(torch.zeros(1, 4, 4), torch.zeros(1, 4, 4))
