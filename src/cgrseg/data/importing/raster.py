"""Polygons and run lengths to pixels.

A pixel belongs to a polygon if its centre is inside by the even-odd rule: parts that a ring covers twice are outside.
A centre exactly on the boundary belongs to the polygon on its right or below it, so polygons with a common border share
no pixel. Coordinates are pixel corners: the first pixel is the square from (0, 0) to (1, 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

Array = np.ndarray[Any, np.dtype[Any]]
UNLABELED, IGNORED = -1, -2
FARTHEST = 1e7  # pixels
OUTSIDE = 1.0  # pixels that a corner may be outside without a warning: tools round
CHUNK = 1 << 22  # crossings at once


@dataclass(frozen=True)
class Patch:
    """Pixels of a region: bool [h, w] whose upper left pixel is in row `top` and column `left`; `notes` warn."""

    bits: Array
    top: int = 0
    left: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Region:
    """An annotated region.

    Args:
        label: the class, or IGNORED.
        draw: (height, width) of the photo -> its pixels; raises ValueError with the cause and the cure.
        about: what messages call it, such as "annotation 7".
    """

    label: int
    draw: Callable[[int, int], Patch]
    about: str


def paint(
    regions: Sequence[Region], height: int, width: int, *, by_area: bool, warn: Callable[[str, bool], None]
) -> Array:
    """Class ids int32 [H, W], UNLABELED where no region is.

    Args:
        regions: in the order of drawing: later ones cover earlier ones.
        height, width: of the photo.
        by_area: smaller regions cover larger ones instead.
        warn: called with a message and whether it is an error.
    """
    ids = np.full((height, width), UNLABELED, np.int32)
    patches: list[tuple[int, Patch]] = []
    for region in regions:
        try:
            patch = region.draw(height, width)
        except ValueError as error:
            warn(f"{region.about} {error}", True)
            continue
        for note in patch.notes:
            warn(f"{region.about} {note}", False)
        patches.append((region.label, patch))
    if by_area:
        patches.sort(key=lambda each: -int(np.count_nonzero(each[1].bits)))
    for label, patch in patches:
        rows, columns = patch.bits.shape
        ids[patch.top : patch.top + rows, patch.left : patch.left + columns][patch.bits] = label
    return ids


def union_of_rings(rings: Sequence[Any], height: int, width: int) -> Patch:
    """The pixels inside of at least one ring [[x, y], …], each by the rule of this module.

    Raises:
        ValueError: a ring has under three corners, values that are not coordinates, or is outside of the photo.
    """
    corners = [to_corners(ring) for ring in rings]
    bits = np.zeros((height, width), bool)
    notes: dict[str, None] = {}
    for ring in corners:
        patch = fill(ring, height, width)
        rows, columns = patch.bits.shape
        bits[patch.top : patch.top + rows, patch.left : patch.left + columns] |= patch.bits
        notes |= dict.fromkeys(patch.notes)
    notes |= dict.fromkeys(check_inside(np.concatenate(corners), height, width))
    return cropped(bits, tuple(notes))


def drawn_with_border(exterior: Any, interiors: Sequence[Any], height: int, width: int) -> Patch:
    """A polygon whose corners are pixels, not corners of pixels: the pixels below its border belong to it.

    Supervisely (`cv2.fillPoly`) and Cityscapes (`ImageDraw.polygon`) draw so. Interiors are cut out with their border.
    """
    picture = Image.new("1", (width, height))
    drawing = ImageDraw.Draw(picture)
    ring = to_corners(exterior)
    notes = check_inside(ring + 0.5, height, width)
    drawing.polygon([(x, y) for x, y in ring.tolist()], fill=1, outline=1)
    for interior in interiors:
        drawing.polygon([(x, y) for x, y in to_corners(interior).tolist()], fill=0, outline=0)
    return cropped(np.asarray(picture), notes)


def to_corners(ring: Any) -> Array:
    """float64 [n, 2] from [[x, y], …].

    Raises:
        ValueError: it has another shape, under three corners, or values that can't be coordinates.
    """
    try:
        corners = np.asarray(ring, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        corners = np.empty(0)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
        raise ValueError("is not a polygon of three or more corners (x, y): draw it again, or remove it")
    if not (np.abs(corners) < FARTHEST).all():
        value = corners[~(np.abs(corners) < FARTHEST)][0]
        raise ValueError(f"has the coordinate {value}: draw it again, or remove it")
    return corners


def check_inside(corners: Array, height: int, width: int) -> tuple[str, ...]:
    """A warning if corners are outside of the photo.

    Raises:
        ValueError: the whole polygon is.
    """
    low, high = corners.min(0), corners.max(0)
    extent = f"x {low[0]:g} to {high[0]:g} and y {low[1]:g} to {high[1]:g}"
    if (high <= 0).any() or low[0] >= width or low[1] >= height:
        raise ValueError(f"is outside of the photo of {width}x{height} ({extent}): move or remove it")
    if (low < -OUTSIDE).any() or high[0] > width + OUTSIDE or high[1] > height + OUTSIDE:
        return (f"reaches beyond the photo of {width}x{height} ({extent}): it is cut at the border",)
    return ()


def fill(corners: Array, height: int, width: int) -> Patch:
    """The pixels inside of one ring, corners [n, 2], by the rule of this module."""
    first, last = np.ceil(corners.min(0) - 0.5), np.ceil(corners.max(0) - 0.5)
    left, right = (int(value) for value in np.clip((first[0], last[0]), 0, width))
    top, bottom = (int(value) for value in np.clip((first[1], last[1]), 0, height))
    turns = _winding(corners, top, bottom, left, right)
    low, high = int(turns.min(initial=0)), int(turns.max(initial=0))
    notes = () if -low + high <= 1 else ("crosses itself: parts that it covers twice are outside",)
    return Patch(turns % 2 == 1, top, left, notes)


def _winding(corners: Array, top: int, bottom: int, left: int, right: int) -> Array:
    """How often the ring turns around the centre of each pixel of a window: int32 [bottom - top, right - left]."""
    table = np.zeros((bottom - top, right - left + 1), np.int32)
    start, end = corners, np.roll(corners, -1, axis=0)
    down = (end[:, 1] > start[:, 1])[:, None]
    upper, lower = np.where(down, start, end), np.where(down, end, start)
    sign = np.where(down[:, 0], 1, -1).astype(np.int32)
    first = np.clip(np.ceil(upper[:, 1] - 0.5), top, bottom).astype(np.int64)  # the rows whose centres the edge passes
    count = np.clip(np.ceil(lower[:, 1] - 0.5), top, bottom).astype(np.int64) - first
    parts = np.cumsum(count) // CHUNK
    for part in np.unique(parts[count > 0]):
        chosen = np.flatnonzero((parts == part) & (count > 0))
        edge = np.repeat(chosen, count[chosen])
        before = np.cumsum(count[chosen]) - count[chosen]
        row = np.arange(len(edge)) - np.repeat(before, count[chosen]) + first[edge]
        slope = (lower[edge, 0] - upper[edge, 0]) / (lower[edge, 1] - upper[edge, 1])
        x = upper[edge, 0] + (row + 0.5 - upper[edge, 1]) * slope
        column = np.clip(np.ceil(x - 0.5), left, right).astype(np.int64)
        np.add.at(table, (row - top, column - left), sign[edge])
    return np.cumsum(table, axis=1, dtype=np.int32)[:, :-1]


def cropped(bits: Array, notes: tuple[str, ...] = ()) -> Patch:
    """The smallest patch with all set pixels: hundreds of regions of a photo are held at once."""
    rows, columns = np.flatnonzero(bits.any(1)), np.flatnonzero(bits.any(0))
    if not len(rows):
        return Patch(np.zeros((0, 0), bool), notes=notes)
    part = bits[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()
    return Patch(part, int(rows[0]), int(columns[0]), notes)


def runs_to_bits(runs: Sequence[int], size: int) -> Array:
    """Bool [size] from the lengths of runs, which are 0, 1, 0, … in turn.

    Raises:
        ValueError: a length is negative or no integer, or they have another sum.
    """
    if not all(type(run) is int and 0 <= run <= size for run in runs) or sum(runs) != size:
        total = sum(run for run in runs if type(run) is int)
        raise ValueError(f"has run lengths of {total} pixels instead of {size}: export it again")
    return np.repeat(np.arange(len(runs)) % 2 == 1, np.asarray(runs, np.int64))


def place_bits(bits: Array, left: Any, top: Any, height: int, width: int) -> Patch:
    """A small mask bool [h, w] at its place in the photo.

    Raises:
        ValueError: it is not wholly within the photo.
    """
    rows, columns = bits.shape
    if not (0 <= left <= width - columns and 0 <= top <= height - rows):
        raise ValueError(
            f"has a mask of {columns}x{rows} at ({left:g}, {top:g}), which is outside of the photo of "
            f"{width}x{height}: export both again"
        )
    return Patch(bits, int(top), int(left))
