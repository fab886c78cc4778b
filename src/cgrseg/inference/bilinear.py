"""Bilinear resizing written as sparse sums: which sources each pixel reads, with which weights.

It gives any rows of full-size logits alone, finds neighbouring pixels with the same sources, and blends the logits of
overlapping windows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cgrseg.preprocessing import Size

LONGEST_BLOCK = 16  # pixels along the side of a block, at most
BAND_VALUES = 1 << 22  # floats in one band of full-size logits


class Blocks(NamedTuple):
    """One axis of the result, divided into blocks of neighbouring pixels with the same source logits."""

    pixels: Tensor  # blocks x length: pixel numbers, the last one repeated in a short block
    source: Tensor  # blocks x taps: positions on the logits' axis that the block reads
    weight: Tensor  # blocks x length x taps: weights of each pixel, each row sums to 1
    number: Tensor  # pixels: the block of each


@dataclass(frozen=True)
class Resized:
    """Maps [B, K, h, w] resized to full size [B, K, H, W]; only the requested rows are computed.

    Args:
        shape: (B, K, h, w).
        size: (H, W).
        read: rows of the source -> float32 [B, K, rows, w].
        lines: what each full-size row reads of the source's rows.
        horizontal: the resizes of the other axis, as [(source length, target length), ...].
    """

    shape: tuple[int, int, int, int]
    size: Size
    read: Callable[[slice], Tensor]
    lines: Blocks
    horizontal: Sequence[Size]

    def rows(self, rows: slice) -> Tensor:
        """Full-size rows, float32 [B, K, rows, W]; the caller may change them."""
        source, weight = self.lines.source[rows].T, self.lines.weight[rows, 0].T[..., None]  # taps rows, taps rows 1
        low, high = source.aminmax()
        values = self.read(slice(int(low), int(high) + 1))
        band = blend([values[:, :, line - low] for line in source], weight)  # B K rows w
        for used, target in self.horizontal:
            if not used == band.shape[3] == target:
                band = F.interpolate(band[..., :used].flatten(0, 1), target, mode="linear")
                band = band.view(*values.shape[:2], -1, target)
        return band

    def bands(self, count: int | None = None) -> Iterator[tuple[slice, Tensor]]:
        """(rows, values) from top to bottom; by default as many rows at a time as fit into 16 MB."""
        batch, classes, height, width = self.shape
        widest = max(width, *(target for _, target in self.horizontal))
        read = -(-height // self.size[0])  # source rows per full-size row
        count = count or max(1, BAND_VALUES // (batch * classes * widest * read))
        for top in range(0, self.size[0], count):
            rows = slice(top, min(top + count, self.size[0]))
            yield rows, self.rows(rows)


def resized(logits: Tensor, size: Size, *, input_size: Size | None = None, valid: Size | None = None) -> Resized:
    """The full-size logits whose winners are `label_map` of the same arguments; only for [B, K, h, w].

    Raises:
        ValueError: as `label_map`, and for logits without a batch axis.
    """
    vertical, horizontal = steps(logits, size, input_size, valid)
    if logits.ndim != 4:
        raise ValueError(f"full-size rows need logits [B, K, h, w], got {list(logits.shape)}: add the batch axis")
    lines = blocks(logits.shape[2], vertical, logits.device, longest=1)
    batch, classes, height, width = logits.shape
    return Resized((batch, classes, height, width), size, lambda rows: logits[:, :, rows].float(), lines, horizontal)


def steps(logits: Tensor, size: Size, input_size: Size | None, valid: Size | None) -> list[tuple[Size, ...]]:
    """The resizes of the vertical and of the horizontal axis, each as [(source length, target length), ...]."""
    if logits.ndim not in (3, 4) or 0 in logits.shape[-3:] or not logits.is_floating_point():
        raise ValueError(
            f"logits are {logits.dtype} {list(logits.shape)}: give floating point [B, K, h, w] or [K, h, w]"
        )
    if valid is not None and input_size is None:
        raise ValueError(f"valid={tuple(valid)} is a part of input_size: give input_size as well")
    for name, value in (("size", size), ("input_size", input_size), ("valid", valid)):
        if value is not None and (len(value) != 2 or min(value) < 1):
            raise ValueError(f"{name}={tuple(value)}: give (height, width), both at least 1")
    here, resizes = (logits.shape[-2], logits.shape[-1]), []
    if input_size is not None:
        resizes, here = [(here, input_size)], valid or input_size
        if here[0] > input_size[0] or here[1] > input_size[1]:
            raise ValueError(f"valid={tuple(here)} does not fit into input_size={tuple(input_size)}")
    resizes.append((here, size))
    return [tuple((taken[axis], made[axis]) for taken, made in resizes) for axis in (0, 1)]


def _taps(source: int, target: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The `source` positions that each of `target` pixels reads, and the weights: both [target, 3], on the CPU.

    The weights come from `interpolate` itself: any other formula differs in the last bits of the position, which
    is too much far from the origin.
    """
    nearest = ((torch.arange(target, dtype=torch.float64) + 0.5) * source / target - 0.5).round().long()
    index = nearest[:, None] + torch.arange(-1, 2)
    every_third = (torch.arange(source) % 3 == torch.arange(3)[:, None]).float().to(device)
    response = F.interpolate(every_third[None, :, :, None], (target, 1), mode="bilinear")[0, :, :, 0].cpu()
    weight = response.T.gather(1, index % 3)
    used = index[torch.arange(target), weight.argmax(1)]
    return torch.where(weight > 0, index, used[:, None]), weight


@lru_cache(maxsize=64)  # images of a folder often have the same size
def blocks(length: int, steps: tuple[Size, ...], device: torch.device, longest: int = LONGEST_BLOCK) -> Blocks:
    """Divide one axis of the result into blocks that read no more source positions than a single pixel may."""
    index, weight = torch.arange(length)[:, None], torch.ones(length, 1)
    for taken, made in steps:
        inner, part = _taps(taken, made, device)
        index = index[inner].flatten(1)  # made taps
        weight = (weight[inner] * part[..., None]).flatten(1)
    index = torch.where(weight > 0, index, index.gather(1, weight.argmax(1, keepdim=True)))
    low, high = index.amin(1), index.amax(1)  # both are monotonic
    taps = max(2, int((high - low).max()) + 1)
    longest = min(longest, -(-len(index) // int(high[-1] + 1)))
    starts, lows = [0], low.tolist()
    for pixel, last in enumerate(high.tolist()):
        if pixel - starts[-1] == longest or last - lows[starts[-1]] >= taps:
            starts.append(pixel)
    start = torch.tensor(starts)
    end = torch.tensor([*starts[1:], len(index)])
    pixels = torch.minimum(start[:, None] + torch.arange(int((end - start).max())), end[:, None] - 1)
    source = torch.minimum(low[start, None] + torch.arange(taps), high[end - 1, None])
    dense = torch.zeros(*pixels.shape, taps)
    dense.scatter_add_(2, index[pixels] - low[start, None, None], weight[pixels])
    number = torch.arange(len(start)).repeat_interleave(end - start)
    return Blocks(pixels.to(device), source.to(device), dense.to(device), number.to(device))


def blend(values: Sequence[Tensor], weights: Tensor) -> Tensor:
    """The weighted sum, elementwise: matrix products could be rounded to TF32 or bfloat16."""
    total = values[0] * weights[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total.addcmul_(value, weight)
    return total


class Window(NamedTuple):
    """Position of a window in the padded input, and its logits at the size of the window."""

    top: int
    left: int
    logits: Resized


def blended(windows: Sequence[Window], input_size: Size, *, valid: Size, size: Size, cosine: bool) -> Resized:
    """The weighted mean of the logits of all windows, cropped to the image and resized to its size.

    Args:
        windows: cover the input.
        input_size: (height, width) of the padded input.
        valid: (height, width) of the part that is not padding.
        size: (height, width) of the image.
        cosine: weights sin^2 along both axes of a window; otherwise all weights are 1.
    """
    height, width = input_size
    batch, classes = windows[0].logits.shape[:2]
    device = windows[0].logits.lines.weight.device
    # The windows form a grid, so the sum of their weights is the product of one sum per axis.
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

    lines = blocks(height, ((valid[0], size[0]),), device, longest=1)
    return Resized((batch, classes, height, width), size, read, lines, [(valid[1], size[1])])


def _sides(window: Window) -> Size:
    """Height and width of a window."""
    return len(window.logits.lines.source), window.logits.horizontal[-1][1]


def _weights(length: int, device: torch.device) -> Tensor:
    """sin^2 along the side of a window, float32 [length], never 0."""
    middle = (torch.arange(length, device=device) + 0.5) / length
    return (middle * math.pi).sin().square()


def _sums(starts: dict[int, int], length: int, cosine: bool, device: torch.device) -> Tensor:
    """Sum of the weights of all windows along one axis at each pixel, float32 [length]."""
    total = torch.zeros(length, device=device)
    for start, side in starts.items():
        total[start : start + side] += _weights(side, device) if cosine else 1
    return total
