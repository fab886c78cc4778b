"""Run a model over a labelled split, at each photo's own size, as the paper's tables do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from cgrseg.data.dataset import Samples, to_class_ids
from cgrseg.inference import predictor as modes
from cgrseg.labels import LabelSpace
from cgrseg.nn import CGRSeg
from cgrseg.preprocessing import Preprocessing

from .boundary import BoundaryIoU
from .confusion import ConfusionMatrix
from .processes import gather, processes, rank, sum_in_place

Mode = Literal["whole", "slide", "slide-cosine", "tta"]
READ_AHEAD = 2  # photos that are decoded while the network works


@dataclass(frozen=True)
class Scores:
    """What came out for a split.

    Args:
        labels: names and colours of the classes.
        confusion: sums over all photos; mIoU and its kin.
        boundary: the same for the pixels near outlines.
        photo_iou: index in the split -> mIoU 0 … 1 of that photo alone, over the classes that it or its prediction
            holds; NaN where the truth ignores the whole photo.
    """

    labels: LabelSpace
    confusion: ConfusionMatrix
    boundary: BoundaryIoU
    photo_iou: dict[int, float]

    def mean_iou(self) -> float:
        """mIoU, 0 … 1, from the sums over the set (not the mean of `photo_iou`)."""
        return self.confusion.mean_iou()

    def worst(self, count: int = 20) -> list[int]:
        """Indices of the photos with the lowest IoU, the worst first; photos without truth are left out."""
        known = [index for index, iou in self.photo_iou.items() if not math.isnan(iou)]
        return sorted(known, key=lambda index: (self.photo_iou[index], index))[:count]


def evaluate(
    model: CGRSeg,
    samples: Samples,
    preprocessing: Preprocessing,
    *,
    mode: Mode = "whole",
    window: int = 512,
    indices: Sequence[int] | None = None,
    progress: bool = True,
) -> Scores:
    """Label every photo and compare it with its mask, on the model's device and in its precision.

    In a distributed run (torch.distributed is up) each process takes every n-th photo, none twice, and all get
    the same sums; each must call this. The model's parts keep their training flags.

    Args:
        model: tells as many classes apart as `samples` has.
        samples: a labelled split.
        preprocessing: how the model wants its photos.
        mode: whole; slide (windows, every 2/3 of a window), slide-cosine (blended by cosine weights); tta (the
            scales 0.5 to 1.75, each with its mirror image, probabilities averaged).
        window: side of the windows, in pixels of the resized photo.
        indices: these photos only, each once; all by default.
        progress: show a bar.

    Raises:
        ValueError: a pair can't be read, the mode is unknown, or the model predicts a class that the split lacks.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"no mode {mode!r}: choose from {', '.join(get_args(Mode))}")
    classes, ignored = len(samples.labels), samples.labels.ignore_index
    device = next(model.parameters()).device
    confusion = ConfusionMatrix(classes, ignore_index=ignored, device=device)
    boundary = BoundaryIoU(classes, ignore_index=ignored, device=device)
    mine = sorted(set(range(len(samples)) if indices is None else indices))[rank() :: processes()]
    photo_iou: dict[int, float] = {}
    problem: Exception | None = None
    try:
        with _testing(model):
            bar = tqdm(mine, unit="photo", desc="evaluate", leave=False, disable=not progress or rank() > 0)
            for index, (photo, mask) in zip(bar, _read(samples, mine), strict=True):
                predicted = label_photo(model, photo, preprocessing, mode=mode, window=window)
                truth = torch.from_numpy(to_class_ids(mask)).to(device)
                alone = ConfusionMatrix(classes, ignore_index=ignored, device=device)
                alone.update(predicted, truth)
                confusion.counts += alone.counts
                boundary.update(predicted, truth)
                photo_iou[index] = alone.mean_iou()
    except Exception as error:
        problem = error
    # First what went wrong anywhere: a process that stopped alone would leave the others waiting for its sums.
    found = gather((photo_iou, problem))
    for _, failed in found:
        if failed is not None:
            raise failed
    sum_in_place(confusion.counts)
    sum_in_place(boundary.counts)
    merged = {index: iou for part, _ in found for index, iou in part.items()}
    return Scores(samples.labels, confusion, boundary, dict(sorted(merged.items())))


@torch.inference_mode()
def label_photo(
    model: CGRSeg, photo: Image.Image, preprocessing: Preprocessing, *, mode: Mode = "whole", window: int = 512
) -> Tensor:
    """The label map [H, W] of an RGB photo at its own size, by a model in evaluation mode; see `evaluate`."""
    pixels, size = np.asarray(photo), (photo.height, photo.width)
    if mode == "tta":
        return modes.averaged(model, modes.views(pixels, preprocessing, scales=modes.SCALES), size=size)
    weight = next(model.parameters())
    image, valid = preprocessing.prepare(pixels)
    images = image[None].to(weight.device, weight.dtype)
    if mode == "whole":
        return modes.whole(model, images, valid=valid, size=size)[0]
    stride, cosine = max(window * 2 // 3, 1), mode == "slide-cosine"
    return modes.slide(model, images, valid=valid, size=size, window=window, stride=stride, cosine=cosine)[0]


@contextmanager
def _testing(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every part has the flag that it had."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


def _read(samples: Samples, indices: Sequence[int]) -> Iterator[tuple[Image.Image, Image.Image]]:
    """The pairs in order, a few decoded ahead on another thread."""
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
