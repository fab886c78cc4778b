"""From stride-8 logits to the label map at the size of the image, exactly and without full-size logits.

Bilinear resizing, once or twice, is a convex combination of a few logits for every pixel. So a block of pixels
whose source logits all have the same winning class has that class everywhere. Only the other blocks are computed, a
few at a time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cgrseg.preprocessing import Size

from .bilinear import Blocks, blocks, resized, steps

CACHED_VALUES = 1 << 19  # floats that a CPU processes at a time: they fit into its cache


@torch.no_grad()
def label_map(logits: Tensor, size: Size, *, input_size: Size | None = None, valid: Size | None = None) -> Tensor:
    """Winning class of every pixel, at full size.

    Equals `interpolate(interpolate(logits, input_size)[..., :vh, :vw], size).argmax(1)`, or without
    `input_size` `interpolate(logits, size).argmax(1)`, bilinear with align_corners=False, in float32. Where
    the two best logits are equal up to rounding, either may win; of exact ties the lowest class id wins.
    In addition to the result it needs less memory than 3 int32 label maps and one copy of the logits.

    Args:
        logits: [B, K, h, w] or [K, h, w], floating point, all finite, in any memory layout.
        size: (height, width) of the result, larger or smaller than the logits.
        input_size: (height, width) of the padded network input, if the logits are resized to it first.
        valid: (height, width) of the upper left part of `input_size` that is not padding; all of it by default.

    Returns:
        Class ids [B, H, W] (or [H, W]); uint8 up to 256 classes, else int32.

    Raises:
        ValueError: logits of another shape or type, a size below 1, or `valid` not inside `input_size`.
    """
    axes = steps(logits, size, input_size, valid)
    if logits.ndim == 3:
        return label_map(logits[None], size, input_size=input_size, valid=valid)[0]
    batch, classes, height, width = logits.shape
    rows, columns = (blocks(length, axis, logits.device) for length, axis in zip((height, width), axes, strict=True))
    dtype = torch.uint8 if classes <= 256 else torch.int32
    labels = torch.empty(batch, *size, dtype=dtype, device=logits.device)
    for image, result in zip(logits, labels, strict=True):
        _label(image, result, rows, columns)
    return labels


@torch.no_grad()
def confidence(logits: Tensor, size: Size, *, input_size: Size | None = None, valid: Size | None = None) -> Tensor:
    """Largest softmax probability of every pixel, at full size, computed in bands.

    Args:
        logits: as for `label_map`.
        size: the same.
        input_size: the same.
        valid: the same.

    Returns:
        float32 [B, H, W] (or [H, W]), from 1/K to 1: softmax, over classes, of the resized logits.

    Raises:
        ValueError: as `label_map`.
    """
    steps(logits, size, input_size, valid)
    if logits.ndim == 3:
        return confidence(logits[None], size, input_size=input_size, valid=valid)[0]
    result = torch.empty(logits.shape[0], *size, device=logits.device)
    for rows, band in resized(logits, size, input_size=input_size, valid=valid).bands():
        result[:, rows] = band.sub_(band.amax(1, keepdim=True)).exp_().sum(1).reciprocal_()
    return result


def _label(image: Tensor, labels: Tensor, rows: Blocks, columns: Blocks) -> None:
    """Write the label map of logits [K, h, w] into `labels` [H, W]."""
    classes, _, width = image.shape
    budget = 2 * labels.numel()
    if image.device.type == "cpu":
        budget = min(budget, CACHED_VALUES)
    ranks = torch.arange(float(classes), 0, -1, device=image.device)  # K, the first class highest
    lines = torch.split(image, max(1, budget // (classes * width)), 1)
    winner = torch.cat([_rank(line.to(torch.float32, copy=True), ranks[:, None, None], 0) for line in lines])  # h w
    winner = (classes - winner).to(labels.dtype)

    lowest = winner[rows.source].amin(1)[:, columns.source].amin(2)  # of the winners that each block reads
    highest = winner[rows.source].amax(1)[:, columns.source].amax(2)
    labels.copy_(lowest[:, columns.number][rows.number])
    blocks_y, blocks_x = (lowest != highest).nonzero().unbind(1)
    if len(blocks_y) == 0:
        return

    cells = image.permute(1, 2, 0).reshape(-1, classes)  # h·w K
    weights_y, weights_x = (axis.weight.transpose(1, 2).contiguous() for axis in (rows, columns))  # blocks taps length
    taps, area = weights_y.shape[1] * weights_x.shape[1], weights_y.shape[2] * weights_x.shape[2]
    # Matrix products in float32 are exact enough, unless they may be rounded to TF32 or bfloat16.
    dtype = torch.float32 if torch.get_float32_matmul_precision() == "highest" else torch.float64
    buffer = image.new_empty(max(budget, classes * area), dtype=dtype)  # allocated once: new memory is slow
    many = max(1, budget // (2 * classes * (taps + 4)))
    for y, x in zip(torch.split(blocks_y, many), torch.split(blocks_x, many), strict=True):
        source = rows.source[y, :, None] * width + columns.source[x, None]  # N taps_y taps_x
        values = cells.index_select(0, source.flatten()).to(dtype).view(len(y), taps, classes)
        values, chosen = _candidate_classes(values, ranks)
        few = max(1, budget // ((values.shape[2] + taps + 6) * area))
        for part_y, part_x, read, rank in zip(*(torch.split(t, few) for t in (y, x, values, chosen)), strict=True):
            weight = weights_y[part_y][:, :, None, :, None] * weights_x[part_x][:, None, :, None, :]
            shape = (len(read), read.shape[2], area)
            blended = buffer[: math.prod(shape)].view(shape)
            torch.bmm(
                read.transpose(1, 2), weight.reshape(len(read), taps, area).to(dtype), out=blended
            )  # n K tall·wide
            best = classes - _rank(blended, rank[..., None], 1)
            pixels = rows.pixels[part_y, :, None] * labels.shape[1] + columns.pixels[part_x, None]  # n tall wide
            labels.view(-1)[pixels.flatten(1)] = best.to(labels.dtype)


def _candidate_classes(values: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Values [N, taps, K] -> those of the classes that could win between the taps, and their ranks.

    A class whose largest value is below the smallest of another class cannot win. If most could, all are returned.
    """
    able = values.amax(1) >= values.amin(1).amax(1, keepdim=True)  # N K
    most = int(able.sum(1).amax())
    if 2 * most > values.shape[2]:
        return values, ranks.expand(len(values), -1)
    chosen = (able * ranks).topk(most, 1).values.clamp_(min=1)  # N most, the first class first
    classes = (values.shape[2] - chosen).long()
    return values.gather(2, classes[:, None].expand(-1, values.shape[1], -1)), chosen


def _rank(values: Tensor, ranks: Tensor, dim: int) -> Tensor:
    """The rank of the first class with the largest value along `dim`; `values` is overwritten.

    Ten times as fast as argmax on a CPU, because in-place comparisons use vector instructions.
    """
    return values.eq_(values.amax(dim, keepdim=True)).mul_(ranks).amax(dim)
