"""Bilinear resizing, once or twice, written out: which few sources each pixel reads, and with what weights.

So any rows of full-size logits can be made alone, and neighbouring pixels that share their sources be found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cgrseg.preprocessing import Size

LONGEST_BLOCK = 16  # pixels along a block's side, at most


class Blocks(NamedTuple):
    """One axis of the result, cut into blocks of neighbouring pixels that share their source logits."""

    pixels: Tensor  # blocks x length: pixel numbers, the last one repeated in a short block
    source: Tensor  # blocks x taps: where on the logits' axis the block reads
    weight: Tensor  # blocks x length x taps: what each pixel takes from there, rows summing to 1
    number: Tensor  # pixels: the block of each


@dataclass(frozen=True)
class Resized:
    """Maps [B, K, h, w] resized to full size [B, K, H, W], of which only the rows asked for are made.

    Args:
        shape: (B, K, h, w).
        read: rows of the source -> float32 [B, K, rows, w].
        lines: for each full-size row, what it reads of the source's.
        horizontal: the resizes of the other axis, as [(length taken, length made), ...].
    """

    shape: tuple[int, int, int, int]
    read: Callable[[slice], Tensor]
    lines: Blocks
    horizontal: Sequence[Size]

    def rows(self, rows: slice) -> Tensor:
        """Full-size rows, float32 [B, K, rows, W], the caller's to change."""
        source, weight = self.lines.source[rows].T, self.lines.weight[rows, 0].T[..., None]  # taps rows, taps rows 1
        low, high = source.aminmax()
        values = self.read(slice(int(low), int(high) + 1))
        band = blend([values[:, :, line - low] for line in source], weight)  # B K rows w
        for used, target in self.horizontal:
            if not used == band.shape[3] == target:
                band = F.interpolate(band[..., :used].flatten(0, 1), target, mode="linear")
                band = band.view(*values.shape[:2], -1, target)
        return band


def resized(logits: Tensor, size: Size, *, input_size: Size | None = None, valid: Size | None = None) -> Resized:
    """The full-size logits that `label_map` of the same arguments takes the winners of; [B, K, h, w] only.

    Raises:
        ValueError: as `label_map`, and for logits without a batch axis.
    """
    vertical, horizontal = steps(logits, size, input_size, valid)
    if logits.ndim != 4:
        raise ValueError(f"bands need logits [B, K, h, w], got {list(logits.shape)}: add the batch axis")
    lines = blocks(logits.shape[2], vertical, logits.device, longest=1)
    batch, classes, height, width = logits.shape
    return Resized((batch, classes, height, width), lambda rows: logits[:, :, rows].float(), lines, horizontal)


def steps(logits: Tensor, size: Size, input_size: Size | None, valid: Size | None) -> list[list[Size]]:
    """The resizes of the vertical and of the horizontal axis, each as [(length taken, length made), ...]."""
    if logits.ndim not in (3, 4) or 0 in logits.shape[-3:] or not logits.is_floating_point():
        raise ValueError(
            f"logits are {logits.dtype} {list(logits.shape)}: give floating point [B, K, h, w] or [K, h, w]"
        )
    if valid is not None and input_size is None:
        raise ValueError(f"valid={tuple(valid)} is a part of input_size: give that, too")
    for name, value in (("size", size), ("input_size", input_size), ("valid", valid)):
        if value is not None and (len(value) != 2 or min(value) < 1):
            raise ValueError(f"{name}={tuple(value)}: give (height, width), both at least 1")
    here, resizes = (logits.shape[-2], logits.shape[-1]), []
    if input_size is not None:
        resizes, here = [(here, input_size)], valid or input_size
        if here[0] > input_size[0] or here[1] > input_size[1]:
            raise ValueError(f"valid={tuple(here)} does not fit into input_size={tuple(input_size)}")
    resizes.append((here, size))
    return [[(taken[axis], made[axis]) for taken, made in resizes] for axis in (0, 1)]


def _taps(source: int, target: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which of `source` positions each of `target` pixels reads, and its weights: both [target, 3], on the CPU.

    The weights are read off from `interpolate` itself: those that a device computes differ from any rewritten
    formula in the last bits of the position, which is too much far from the origin.
    """
    nearest = ((torch.arange(target, dtype=torch.float64) + 0.5) * source / target - 0.5).round().long()
    index = nearest[:, None] + torch.arange(-1, 2)
    every_third = (torch.arange(source) % 3 == torch.arange(3)[:, None]).float().to(device)
    response = F.interpolate(every_third[None, :, :, None], (target, 1), mode="bilinear")[0, :, :, 0].cpu()
    weight = response.T.gather(1, index % 3)
    used = index[torch.arange(target), weight.argmax(1)]
    return torch.where(weight > 0, index, used[:, None]), weight


def blocks(length: int, steps: list[Size], device: torch.device, longest: int = LONGEST_BLOCK) -> Blocks:
    """Cut one axis of the result into blocks that read no more source positions than some one pixel does."""
    index, weight = torch.arange(length)[:, None], torch.ones(length, 1)
    for taken, made in steps:
        inner, part = _taps(taken, made, device)
        index = index[inner].flatten(1)  # made taps
        weight = (weight[inner] * part[..., None]).flatten(1)
    index = torch.where(weight > 0, index, index.gather(1, weight.argmax(1, keepdim=True)))
    low, high = index.amin(1), index.amax(1)  # neither ever falls from pixel to pixel
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
    """The weighted sum, elementwise: matrix products would be rounded to TF32 or bfloat16 where that is on."""
    total = values[0] * weights[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total.addcmul_(value, weight)
    return total


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
