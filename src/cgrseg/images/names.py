"""Class names written on the large regions of a picture, where they fit and do not cover each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from .text import font, shortened

Array = np.ndarray[Any, np.dtype[Any]]
GRID = 160  # cells along the longer side: regions are searched for places in a small copy of the label map
SMALLEST_REGION = 0.01  # share of the picture
MOST_NAMES = 40
SMALLEST_LETTER = 10  # pixels
FILL, STROKE = (255, 255, 255), (0, 0, 0)


class Place(NamedTuple):
    """A name in the picture: its text, the middle of its box in pixels, and the size of its letters."""

    text: str
    x: float
    y: float
    letter: int


def draw_names(picture: Image.Image, labels: Array, names: Sequence[str], *, skip: Sequence[int] = ()) -> None:
    """Write the names of the classes on their large regions, white with a black contour.

    Args:
        picture: RGB, is changed.
        labels: class ids [H, W] of the same size.
        names: of the classes; ids beyond them have no names.
        skip: classes without a name in the picture.
    """
    draw = ImageDraw.Draw(picture)
    for place in place_names(labels, names, skip=skip):
        stroke = max(place.letter // 9, 1)
        letters = font(place.letter, place.text)
        draw.text((place.x, place.y), place.text, FILL, letters, anchor="mm", stroke_width=stroke, stroke_fill=STROKE)


def letter_size(width: int, height: int) -> int:
    """Height in pixels of the letters on a picture, and in its legend."""
    return min(max(12, round(math.sqrt(width * height) / 42)), 160)


def place_names(labels: Array, names: Sequence[str], *, skip: Sequence[int] = ()) -> list[Place]:
    """Where names fit, the largest regions first. They lie in their regions, so they do not cover each other."""
    height, width = labels.shape
    scale = max(height, width) / GRID if max(height, width) > GRID else 1.0
    rows, columns = (  # a side of one cell may be shorter than half a cell
        np.minimum((np.arange(max(int(side / scale), 1)) + 0.5) * scale, side - 1).astype(int) for side in labels.shape
    )
    small = labels[rows[:, None], columns]
    largest = letter_size(width, height)
    places = []
    for label, (rows_of, columns_of), region in _large_regions(small, names, skip):
        text = shortened(names[label])
        for letter in (largest, max(round(largest * 0.75), SMALLEST_LETTER)):
            box = _box(text, letter, scale)
            found = _best(region, box)
            if found is not None:
                top, left = rows_of.start + found[0], columns_of.start + found[1]
                middle = ((left + box[1] / 2) * scale, (top + box[0] / 2) * scale)
                places.append(Place(text, *middle, letter))
                break
    return places


def _large_regions(
    small: Array, names: Sequence[str], skip: Sequence[int]
) -> list[tuple[int, tuple[slice, slice], Array]]:
    """(class, rows and columns of its box, bool [h, w] in the box) of regions, the largest first."""
    from scipy import ndimage  # type: ignore[import-untyped]

    regions = []
    for label in np.unique(small).tolist():
        if label >= len(names) or label in skip:
            continue
        numbers, _ = ndimage.label(small == label)
        sizes = np.bincount(numbers.ravel())[1:]
        boxes = ndimage.find_objects(numbers)
        for number in np.flatnonzero(sizes >= SMALLEST_REGION * small.size).tolist():
            regions.append((int(sizes[number]), label, boxes[number], numbers[boxes[number]] == number + 1))
    regions.sort(key=lambda each: -each[0])
    return [(label, box, region) for _, label, box, region in regions[:MOST_NAMES]]


def _box(text: str, letter: int, scale: float) -> tuple[int, int]:
    """Rows and columns of the grid that a name takes."""
    wide = font(letter, text).getlength(text) + letter / 2
    return max(int(np.ceil(1.3 * letter / scale)), 1), max(int(np.ceil(wide / scale)), 1)


def _best(region: Array, box: tuple[int, int]) -> tuple[int, int] | None:
    """Top and left of the place for a box in the region whose middle is farthest from the border; None if none fits."""
    if box[0] > region.shape[0] or box[1] > region.shape[1]:
        return None
    fits = _sums(region, box) == box[0] * box[1]
    if not fits.any():
        return None
    from scipy import ndimage

    depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    middle = depth[box[0] // 2 :, box[1] // 2 :][: fits.shape[0], : fits.shape[1]]
    top, left = np.unravel_index(int(np.where(fits, middle, -1).argmax()), fits.shape)
    return int(top), int(left)


def _sums(values: Array, box: tuple[int, int]) -> Array:
    """The sum in each box, by the place of its upper left corner."""
    totals = np.pad(values.astype(np.int32).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    tall, wide = box
    sums: Array = totals[tall:, wide:] - totals[:-tall, wide:] - totals[tall:, :-wide] + totals[:-tall, :-wide]
    return sums
