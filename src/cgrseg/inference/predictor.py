"""Ways to run the network over a photo, as the paper tests it: whole, sliding, flips and scales averaged.

All give the label map at the photo's own size: logits go bilinearly to the padded input's size, are cropped
to the part that is photo and go bilinearly to the photo's size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cgrseg.nn import CGRSeg
from cgrseg.preprocessing import Preprocessing, Size

from .bilinear import Resized, Window, blended, resized
from .labelmap import label_map

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # the paper's, on Pascal Context
BAND_VALUES = 1 << 23  # floats that one band of full-size logits may hold


@torch.inference_mode()
def whole(model: CGRSeg, images: Tensor, *, valid: Size, size: Size) -> Tensor:
    """One pass over the whole input.

    Args:
        model: in evaluation mode.
        images: float [B, 3, Hp, Wp], prepared and padded, on the model's device.
        valid: (height, width) of the part that is photo, the same for all.
        size: (height, width) of the photos, and of the result.

    Returns:
        Class ids [B, H, W]; uint8 up to 256 classes, else int32.
    """
    return label_map(model(images), size, input_size=_size(images), valid=valid)


@torch.inference_mode()
def slide(
    model: CGRSeg,
    images: Tensor,
    *,
    valid: Size,
    size: Size,
    window: int = 512,
    stride: int = 341,
    cosine: bool = False,
) -> Tensor:
    """Overlapping windows, their logits averaged; the last window of a row or column is shifted inward.

    It keeps the stride-8 logits of all windows and works on bands of rows, so no full-size logits are ever held.

    Args:
        model, images, valid, size: as for `whole`.
        window: side of the square windows; an input smaller than that is one window.
        stride: pixels from window to window.
        cosine: a window counts less towards its edges, where it sees less around a pixel: weights sin^2 along
            either axis, from 0 at the edge to 1 in the middle. Without, all its pixels count the same.

    Returns:
        As `whole`.

    Raises:
        ValueError: window or stride is below 1, or windows would leave gaps between them.
    """
    if not 1 <= stride <= window:
        raise ValueError(f"windows of {window} pixels every {stride} leave gaps: use a stride from 1 to the window")
    height, width = _size(images)
    parts = []
    for top in _starts(height, window, stride):
        for left in _starts(width, window, stride):
            crop = images[:, :, top : top + window, left : left + window]
            parts.append(Window(top, left, resized(model(crop), _size(crop))))
    return winners(blended(parts, (height, width), valid=valid, size=size, cosine=cosine), size)


def winners(full: Resized, size: Size) -> Tensor:
    """The class of the largest value of every pixel, [B, H, W], band by band."""
    labels: Tensor | None = None
    for rows in _bands(full, size):
        values = full.rows(rows)  # B K rows W
        some = label_map(values, _size(values))
        labels = some.new_empty(len(some), *size) if labels is None else labels
        labels[:, rows] = some
    assert labels is not None
    return labels


def views(
    photo: np.ndarray[Any, np.dtype[np.uint8]],
    preprocessing: Preprocessing,
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = True,
) -> Iterator[tuple[Tensor, Size, bool]]:
    """The inputs that `averaged` takes: the photo at each scale, as it is and, with `flip`, mirrored.

    A scale multiplies the short and long side of the preprocessing, or the photo's own size where that has
    none. The photo is mirrored before it is padded.

    Yields:
        (float32 [3, Hp, Wp], (height, width) of the part that is photo, whether it is mirrored).
    """
    for scale in scales:
        at_scale = _scaled(preprocessing, scale, (photo.shape[0], photo.shape[1]))
        image, valid = at_scale.prepare(photo)
        yield image, valid, False
        if flip:
            mirrored = torch.zeros_like(image)
            mirrored[:, : valid[0], : valid[1]] = image[:, : valid[0], : valid[1]].flip(2)
            yield mirrored, valid, True


@torch.inference_mode()
def averaged(model: CGRSeg, inputs: Iterable[tuple[Tensor, Size, bool]], *, size: Size) -> Tensor:
    """One pass over each view of a photo; the class probabilities (softmax) at the photo's size are averaged.

    It keeps the stride-8 logits of all views and works on bands of rows, so no probability map of the photo's
    full size is ever held.

    Args:
        model: in evaluation mode.
        inputs: see `views`.
        size: (height, width) of the photo.

    Returns:
        Class ids [H, W]; uint8 up to 256 classes, else int32.
    """
    weight = next(model.parameters())
    passes: list[tuple[Resized, bool]] = []
    for image, valid, mirrored in inputs:
        logits = model(image[None].to(weight.device, weight.dtype))
        passes.append((resized(logits, size, input_size=_size(image), valid=valid), mirrored))
    labels: Tensor | None = None
    for rows in _bands(passes[0][0], size):
        total: Tensor | None = None
        for full, mirrored in passes:
            shares = _softmax(full.rows(rows))  # 1 K rows W
            shares = shares.flip(3) if mirrored else shares
            total = shares if total is None else total.add_(shares)
        assert total is not None
        some = label_map(total, _size(total))[0]
        labels = some.new_empty(size) if labels is None else labels
        labels[rows] = some
    assert labels is not None
    return labels


def _bands(full: Resized, size: Size) -> Iterator[slice]:
    """Rows of the result, as many at a time as keep all that is held at once in bounds."""
    batch, classes, height, width = full.shape
    widest = max(width, *(target for _, target in full.horizontal))
    read = -(-height // size[0])  # source rows for one of the result
    count = max(1, BAND_VALUES // (batch * classes * widest * read))
    for top in range(0, size[0], count):
        yield slice(top, min(top + count, size[0]))


def _softmax(logits: Tensor) -> Tensor:
    """Softmax over classes, in the memory of `logits`."""
    shares = logits.sub_(logits.amax(1, keepdim=True)).exp_()
    return shares.div_(shares.sum(1, keepdim=True))


def _size(images: Tensor) -> Size:
    return images.shape[-2], images.shape[-1]


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin so that they cover 0 … length; the last one ends at `length`."""
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


def _scaled(preprocessing: Preprocessing, scale: float, size: Size) -> Preprocessing:
    short, long = preprocessing.short_side, preprocessing.long_side
    if short is None:
        if scale == 1:
            return preprocessing
        short, long = min(size), None
    return dataclasses.replace(
        preprocessing,
        short_side=max(int(short * scale + 0.5), 1),
        long_side=None if long is None else max(int(long * scale + 0.5), 1),
    )
