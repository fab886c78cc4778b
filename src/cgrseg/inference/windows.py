"""Logits of overlapping windows blended into those of the whole photo, a few rows at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cgrseg.preprocessing import Size

from .resizing import Resized, blocks


class Window(NamedTuple):
    """Where a window begins in the padded input, and its logits at the window's own size."""

    top: int
    left: int
    logits: Resized


def blended(windows: Sequence[Window], input_size: Size, *, valid: Size, size: Size, cosine: bool) -> Resized:
    """The weighted mean of all windows' logits, cropped to the photo and resized to its size.

    Args:
        windows: together they cover the input.
        input_size: (height, width) of the padded input.
        valid: (height, width) of the part that is photo.
        size: (height, width) of the photo.
        cosine: weights sin^2 along either axis of a window; else all 1.
    """
    height, width = input_size
    batch, classes = windows[0].logits.shape[:2]
    device = windows[0].logits.lines.weight.device
    # The windows lie on a grid, so the sum of their weights is a product of one sum an axis.
    row_sums = _sums({window.top: _sides(window)[0] for window in windows}, height, cosine, device)
    column_sums = _sums({window.left: _sides(window)[1] for window in windows}, width, cosine, device)

    def read(rows: slice) -> Tensor:
        total = torch.zeros(batch, classes, rows.stop - rows.start, width, device=device)
        for window in windows:
            tall, wide = _sides(window)
            start, stop = max(rows.start, window.top), min(rows.stop, window.top + tall)
            if start >= stop:
                continue
            part = window.logits.rows(slice(start - window.top, stop - window.top))  # B K rows wide
            if cosine:
                part *= _weights(tall, device)[start - window.top : stop - window.top, None] * _weights(wide, device)
            total[:, :, start - rows.start : stop - rows.start, window.left : window.left + wide] += part
        return total.div_(row_sums[rows, None] * column_sums)

    lines = blocks(height, [(valid[0], size[0])], device, longest=1)
    return Resized((batch, classes, height, width), read, lines, [(valid[1], size[1])])


def _sides(window: Window) -> Size:
    """Height and width of a window."""
    return len(window.logits.lines.source), window.logits.horizontal[-1][1]


def _weights(length: int, device: torch.device) -> Tensor:
    """sin^2 over a window's side, float32 [length], never 0."""
    middle = (torch.arange(length, device=device) + 0.5) / length
    return (middle * math.pi).sin().square()


def _sums(starts: dict[int, int], length: int, cosine: bool, device: torch.device) -> Tensor:
    """The weights that all windows along one axis give to each pixel, float32 [length]."""
    total = torch.zeros(length, device=device)
    for start, side in starts.items():
        total[start : start + side] += _weights(side, device) if cosine else 1
    return total
