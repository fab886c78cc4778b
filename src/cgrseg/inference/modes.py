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
from torch.nn import functional as F

from cgrseg.nn import CGRSeg
from cgrseg.preprocessing import Preprocessing, Size

from .labelmap import bands, label_map

BAND_VALUES = 1 << 24  # floats that one band of full-size logits may hold


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
def slide(model: CGRSeg, images: Tensor, *, valid: Size, size: Size, window: int = 512, stride: int = 341) -> Tensor:
    """Overlapping windows, their logits averaged; the last window of a row or column is shifted inward.

    It holds one sum of logits at the padded size, K x Hp x Wp floats a photo.

    Args:
        model, images, valid, size: as for `whole`.
        window: side of the square windows; an input smaller than that is one window.
        stride: pixels from window to window.

    Returns:
        As `whole`.

    Raises:
        ValueError: window or stride is below 1, or windows would leave gaps between them.
    """
    if not 1 <= stride <= window:
        raise ValueError(f"windows of {window} pixels every {stride} leave gaps: use a stride from 1 to the window")
    height, width = _size(images)
    tops, lefts = _starts(height, window, stride), _starts(width, window, stride)
    total: Tensor | None = None
    count = images.new_zeros(height, width)
    for top in tops:
        for left in lefts:
            part = slice(top, top + window), slice(left, left + window)
            crop = images[:, :, part[0], part[1]]
            logits = F.interpolate(model(crop), _size(crop), mode="bilinear", align_corners=False)
            if total is None:
                total = logits.new_zeros(*logits.shape[:2], height, width)
            total[:, :, part[0], part[1]] += logits
            count[part] += 1
    assert total is not None
    total /= count
    return label_map(total, size, input_size=(height, width), valid=valid)


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
    device = next(model.parameters()).device
    passes = [(model(image[None].to(device)), _size(image), valid, mirrored) for image, valid, mirrored in inputs]
    classes = passes[0][0].shape[1]
    labels = torch.empty(size, dtype=torch.uint8 if classes <= 256 else torch.int32, device=device)
    parts = [
        bands(logits, size, input_size=input_size, valid=valid, band_rows=max(BAND_VALUES // (classes * size[1]), 1))
        for logits, input_size, valid, _ in passes
    ]
    for band in zip(*parts, strict=True):
        total = torch.zeros((), device=device)
        for (_, logits), (_, _, _, mirrored) in zip(band, passes, strict=True):
            total = total + (logits.flip(3) if mirrored else logits).softmax(1)
        labels[band[0][0]] = total[0].argmax(0)
    return labels


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
