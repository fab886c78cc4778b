"""The boundaries between the regions of a label map: closed rings of pixel corners, found exactly.

A region is a set of pixels of one class that touch along their sides. Pixels that touch only at a corner are different
regions, so every ring can be part of a valid polygon.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
OUTSIDE = -1  # the region around the image, and of pixels that are left out
# Directions 0 … 3: right, down, left, up. A boundary edge has its own region on its right-hand side.
STEPS = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])  # row, column
# Of the four cells around the vertex where an edge starts, the one on its right and on its left, in the padded map.
RIGHT = np.array([(1, 1), (1, 0), (0, 0), (0, 1)])
LEFT = np.array([(0, 1), (1, 1), (1, 0), (0, 0)])


@dataclass(frozen=True, eq=False)
class Regions:
    """The regions of a label map.

    Args:
        numbers: int32 [H, W], the region of each pixel, or OUTSIDE.
        classes: the class of each region.
        sizes: the number of pixels of each region.
    """

    numbers: Array
    classes: Array
    sizes: Array


def find_regions(labels: Array, classes: Sequence[int]) -> Regions:
    """Divide the pixels of some classes into regions, numbered by class and then from top to bottom."""
    from scipy import ndimage  # type: ignore[import-untyped]

    numbers = np.full(labels.shape, OUTSIDE, np.int32)
    owners: list[int] = []
    for label in classes:
        found, count = ndimage.label(labels == label)
        inside = found > 0
        numbers[inside] = found[inside] + (len(owners) - 1)
        owners += [label] * count
    sizes = np.bincount(numbers[numbers >= 0], minlength=len(owners))
    return Regions(numbers, np.array(owners, np.int64), sizes)


@dataclass(frozen=True, eq=False)
class Ring:
    """A closed boundary of a region.

    Args:
        region: its number.
        corners: int64 [n, 2], (x, y) of pixel corners, without repeating the first. The region is on the right-hand
            side on the screen: outer rings run clockwise, holes counterclockwise.
        nodes: bool [n], corners where more than two boundaries meet, and the corners of the image.
        is_hole: whether it is the boundary of a hole.
    """

    region: int
    corners: Array
    nodes: Array
    is_hole: bool


def find_rings(numbers: Array) -> list[Ring]:
    """All rings of all regions; only corners where a ring turns, and nodes, are kept."""
    height, width = numbers.shape
    padded = np.pad(numbers, 1, constant_values=OUTSIDE)
    edges = _edges(padded)  # sorted codes: 4 * vertex + direction
    following, turns = _following(padded, edges)
    vertices = edges >> 2
    rows, columns = np.divmod(vertices, width + 1)
    nodes = _is_node(padded, rows, columns)
    nodes |= ((rows == 0) | (rows == height)) & ((columns == 0) | (columns == width))
    before = np.empty_like(following)
    before[following] = np.arange(len(edges))
    kept = nodes | turns[before]
    jump = following.copy()  # to the next kept edge: pointers are doubled
    while not kept[jump].all():
        jump = np.where(kept[jump], jump, jump[jump])
    own = _beside(padded, RIGHT, rows, columns, edges & 3)
    rings = []
    for chain in _cycles(jump, np.flatnonzero(kept)):
        corners = np.stack([columns[chain], rows[chain]], 1)
        rings.append(Ring(int(own[chain[0]]), corners, nodes[chain], doubled_area(corners) < 0))
    return rings


def doubled_area(corners: Array) -> int:
    """Twice the area within a ring: positive if it runs clockwise on the screen."""
    x, y = corners[:, 0].astype(np.int64), corners[:, 1].astype(np.int64)
    return int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())


def _edges(padded: Array) -> Array:
    """All directed boundary edges of regions, as sorted codes 4 * (row * (W + 1) + column) + direction."""
    width = padded.shape[1] - 2
    codes = []
    for direction, (down, right) in enumerate(STEPS):
        own = padded[1:-1, 1:-1]
        # The neighbour on the left-hand side of the direction: above for right, right of it for down, …
        outward = (-right, down)
        other = padded[1 + outward[0] : padded.shape[0] - 1 + outward[0], 1 + outward[1] : width + 1 + outward[1]]
        rows, columns = np.nonzero((own != other) & (own != OUTSIDE))
        start = rows + (direction in (2, 3)), columns + (direction in (1, 2))
        codes.append(((start[0] * (width + 1) + start[1]) << 2) + direction)
    return np.sort(np.concatenate(codes))


def _following(padded: Array, edges: Array) -> tuple[Array, Array]:
    """For each edge, the position in `edges` of the one after it on its ring, and whether the ring turns between."""
    width = padded.shape[1] - 2
    direction = edges & 3
    rows, columns = np.divmod(edges >> 2, width + 1)
    own = _beside(padded, RIGHT, rows, columns, direction)
    rows, columns = rows + STEPS[direction, 0], columns + STEPS[direction, 1]  # of the next vertex
    left = _beside(padded, LEFT, rows, columns, direction) == own
    right = _beside(padded, RIGHT, rows, columns, direction) == own
    turn = np.where(left, 3, np.where(right, 0, 1))  # left, straight on, right
    return np.searchsorted(edges, ((rows * (width + 1) + columns) << 2) + ((direction + turn) & 3)), turn != 0


def _beside(padded: Array, side: Array, rows: Array, columns: Array, direction: Array) -> Array:
    """The regions on the right or left of edges that start at some vertices."""
    beside: Array = padded[rows + side[direction, 0], columns + side[direction, 1]]
    return beside


def _is_node(padded: Array, rows: Array, columns: Array) -> Array:
    """Whether more than two boundary edges meet at a vertex."""
    one, two = padded[rows, columns], padded[rows, columns + 1]
    three, four = padded[rows + 1, columns + 1], padded[rows + 1, columns]
    meeting: Array = (one != two).astype(np.int8) + (two != three) + (three != four) + (four != one)
    crowded: Array = meeting > 2
    return crowded


def _cycles(following: Array, starts: Array) -> list[Array]:
    """The cycles of a permutation of `starts`."""
    links, seen, cycles = following.tolist(), set(), []
    for start in starts.tolist():
        if start in seen:
            continue
        chain, place = [start], links[start]
        while place != start:
            chain.append(place)
            place = links[place]
        seen.update(chain)
        cycles.append(np.array(chain))
    return cycles
