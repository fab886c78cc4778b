"""Polygons with holes from a label map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .boundaries import doubled_area, find_regions, find_rings
from .simplify import simplify

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Polygon:
    """A region of one class: pixels that touch along their sides.

    Coordinates are (x, y) in pixels: x to the right and y down, from the upper left corner of the image. They are
    corners of pixels: the pixel in row 2 and column 5 is the square from (5, 2) to (6, 3).

    Args:
        class_id: the class.
        area: the number of pixels of the region, exact also if the polygon is simplified.
        exterior: int64 [n, 2], the outer boundary, clockwise on the screen; the first corner is not repeated.
        holes: the boundaries of its holes, counterclockwise on the screen.
    """

    class_id: int
    area: int
    exterior: Array = field(repr=False)
    holes: tuple[Array, ...] = field(repr=False, default=())

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom)."""
        left, top = self.exterior.min(0).tolist()
        right, bottom = self.exterior.max(0).tolist()
        return left, top, right, bottom


def find_polygons(labels: Array, classes: Sequence[int], *, tolerance: float = 0.0) -> list[Polygon]:
    """The regions of some classes as polygons, by class and then from top to bottom.

    Args:
        labels: class ids [H, W].
        classes: other ids are left out, as if they were outside of the image.
        tolerance: how many pixels the boundary may move so that there are fewer corners. With 0 the polygons cover
            exactly the pixels of the regions. Simplified polygons are valid and keep their common borders.

    Raises:
        ValueError: a tolerance that is negative or not a number.
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance is {tolerance}: use a number of pixels, 0 for exact polygons")
    regions = find_regions(labels, classes)
    if not len(regions.classes):
        return []
    rings = find_rings(regions.numbers)
    tolerance = min(tolerance, float(max(labels.shape)))
    exteriors: dict[int, Array] = {}
    holes: dict[int, list[Array]] = {}
    for ring, corners in zip(rings, simplify(rings, tolerance), strict=True):
        if ring.is_hole:
            holes.setdefault(ring.region, []).append(corners)
        else:
            exteriors[ring.region] = corners
    return [
        Polygon(int(label), int(size), exteriors[region], tuple(holes.get(region, ())))
        for region, (label, size) in enumerate(zip(regions.classes, regions.sizes, strict=True))
    ]


def polygon_area(polygon: Polygon) -> float:
    """The area within the boundaries; of an exact polygon it equals `polygon.area`."""
    return sum(doubled_area(ring) for ring in (polygon.exterior, *polygon.holes)) / 2
