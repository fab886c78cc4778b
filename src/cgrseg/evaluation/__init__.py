"""Evaluate a model on a labelled split, at the size of each image, as in the paper's tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from lightning_fabric import Fabric
from PIL import Image
from tqdm import tqdm

from cgrseg.data.dataset import Samples, to_class_ids
from cgrseg.data.torch_dataset import TorchSamples
from cgrseg.inference.predictor import Predictor
from cgrseg.labels import LabelSpace
from cgrseg.preprocessing import Pixels

from .metrics import BoundaryIoU, ConfusionMatrix

READ_AHEAD = 2  # images that are decoded while the network works


@dataclass(frozen=True)
class Scores:
    """The result of an evaluation.

    Args:
        labels: names and colours of the classes.
        confusion: sums over all images, for mIoU and the other scores.
        boundary: sums over the pixels near outlines.
        photo_iou: index in the split -> mIoU 0 … 1 of that image, over the classes in its mask or its prediction; NaN
            if the mask ignores the whole image.
    """

    labels: LabelSpace
    confusion: ConfusionMatrix
    boundary: BoundaryIoU
    photo_iou: dict[int, float]

    def mean_iou(self) -> float:
        """mIoU, 0 … 1, from the sums over the set (not the mean of `photo_iou`)."""
        return self.confusion.mean_iou()

    def worst(self, count: int = 20) -> list[int]:
        """Indices of the images with the lowest IoU, worst first; images without labels are left out."""
        known = [index for index, iou in self.photo_iou.items() if not math.isnan(iou)]
        return sorted(known, key=lambda index: (self.photo_iou[index], index))[:count]


def evaluate(
    predictor: Predictor,
    samples: Samples,
    *,
    indices: Sequence[int] | None = None,
    fabric: Fabric | None = None,
    progress: bool = True,
) -> Scores:
    """Predict every image and compare it with its mask.

    Args:
        predictor: has the classes of `samples`.
        samples: a labelled split.
        indices: only these images, each once; None evaluates all.
        fabric: in a distributed run each process evaluates every n-th image and all get the same sums; each must call
            this.
        progress: show a progress bar.

    Raises:
        TypeError: the first arguments are not a predictor and a labelled split, but for example paths.
        ValueError: a pair cannot be read, or the model predicts a class that the split does not have.
    """
    if not hasattr(predictor, "network") or not hasattr(samples, "read"):
        given = f"{type(predictor).__name__} and {type(samples).__name__}"
        cure = "give Segmenter(FILE).predictor and cgrseg.data.listing.open_dataset(FOLDER, SPLIT)"
        raise TypeError(f"evaluate takes a predictor and a labelled split, not {given}: {cure}")
    classes, ignored = len(samples.labels), samples.labels.ignore_index
    rank, world = (0, 1) if fabric is None else (fabric.global_rank, fabric.world_size)
    device = predictor.network.device if fabric is None else fabric.device
    confusion = ConfusionMatrix(classes, ignore_index=ignored, device=device)
    boundary = BoundaryIoU(classes, ignore_index=ignored, device=device)
    photo_iou = torch.zeros(len(samples), dtype=torch.float64, device=device)  # 0: another process
    chosen = sorted(set(range(len(samples)) if indices is None else indices))
    mine = chosen[rank::world]
    problem: Exception | None = None
    try:
        bar = tqdm(mine, unit="image", desc="evaluate", leave=False, disable=True if not progress or rank else None)
        for index, (photo, mask) in zip(bar, _read_ahead(samples, mine), strict=True):
            (prediction,) = predictor.predict([predictor.prepare(photo)])
            predicted = torch.from_numpy(prediction.labels.astype("int64")).to(device)
            truth = torch.from_numpy(to_class_ids(mask)).to(device)
            alone = ConfusionMatrix(classes, ignore_index=ignored, device=device)
            alone.update(predicted, truth)
            confusion.counts += alone.counts
            boundary.update(predicted, truth)
            photo_iou[index] = alone.mean_iou()
    except Exception as error:
        problem = error
    if fabric is not None and world > 1:
        problem = _first_problem(fabric, problem)
    if problem is not None:
        raise problem
    if fabric is not None and world > 1:
        confusion.counts = _sum(fabric, confusion.counts)
        boundary.counts = _sum(fabric, boundary.counts)
        photo_iou = _sum(fabric, photo_iou)  # NaN stays NaN
    return Scores(samples.labels, confusion, boundary, {index: float(photo_iou[index]) for index in chosen})


def _sum(fabric: Fabric, values: torch.Tensor) -> torch.Tensor:
    total = fabric.all_reduce(values, reduce_op="sum")
    assert isinstance(total, torch.Tensor)
    return total


def _first_problem(fabric: Fabric, problem: Exception | None) -> Exception | None:
    """The exception of the first process that has one: a process that stopped alone would leave the others waiting."""
    failed = torch.zeros(fabric.world_size, device=fabric.device)
    failed[fabric.global_rank] = problem is not None
    failed = _sum(fabric, failed)
    if not failed.any():
        return None
    return fabric.broadcast(problem, src=int(failed.argmax()))


def _read_ahead(samples: Samples, indices: Sequence[int]) -> Iterator[tuple[Image.Image | Pixels, Image.Image]]:
    """The pairs in order; a few are decoded in advance on another thread."""
    if isinstance(samples, TorchSamples):  # need not be safe in another thread
        yield from map(samples.read, indices)
        return
    with ThreadPoolExecutor(1) as reader:
        waiting = iter(indices)
        ahead: list[Any] = [reader.submit(samples.read, index) for index in islice(waiting, READ_AHEAD)]
        try:
            while ahead:
                yield ahead.pop(0).result()
                ahead += [reader.submit(samples.read, index) for index in islice(waiting, 1)]
        finally:
            for future in ahead:
                future.cancel()
