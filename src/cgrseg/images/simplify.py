"""Fewer corners for the rings of a label map: neighbouring regions keep a common border, and nothing crosses.

Rings are divided into arcs where more than two regions meet. Each arc is simplified once (Douglas and Peucker, 1973),
so both of its regions get the same line. Where lines would cross, they are simplified less.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from .boundaries import Ring, doubled_area

Array = np.ndarray[Any, np.dtype[Any]]
Key = tuple[int, ...]
SMALLEST = 0.25  # pixels: an arc that is wrong even at this tolerance stays exact
CELL = 16  # pixels: segments are compared with others in the same cells of this size


def simplify(rings: Sequence[Ring], tolerance: float) -> list[Array]:
    """The corners of each ring, moved by at most `tolerance` pixels: a subset of the exact corners, in their order.

    Lines do not cross or touch where the exact ones do not, and every hole stays in its region.
    """
    if tolerance <= 0:
        return [ring.corners for ring in rings]
    exact: dict[Key, Array] = {}
    arcs = [[_shared(arc, exact) for arc in _arcs(ring)] for ring in rings]
    tolerances = dict.fromkeys(exact, tolerance)
    lines = {key: line[_kept(line, tolerance)] for key, line in exact.items()}
    while wrong := {key for key in _wrong(rings, arcs, lines) if tolerances[key]}:
        for key in wrong:
            tolerances[key] = tolerances[key] / 2 if tolerances[key] > SMALLEST else 0.0
            lines[key] = exact[key][_kept(exact[key], tolerances[key])] if tolerances[key] else exact[key]
    return [_joined(ring, lines) for ring in arcs]


def _arcs(ring: Ring) -> list[Array]:
    """The ring in parts from node to node, each with both ends; without nodes, from its first corner around."""
    nodes = np.flatnonzero(ring.nodes)
    if not len(nodes):
        nodes = np.array([np.lexsort(ring.corners.T)[0]])
    start = nodes[0]
    around = np.concatenate([ring.corners[start:], ring.corners[: start + 1]])
    cuts = [*(nodes - start).tolist(), len(ring.corners)]
    return [around[first : last + 1] for first, last in pairwise(cuts)]


def _shared(arc: Array, exact: dict[Key, Array]) -> tuple[Key, bool]:
    """The key of an arc, the same from both sides, and whether it is reversed. The line is added to `exact`."""
    # The first and last edges tell arcs apart: two arcs never share an edge. A step gives the edge's direction.
    forward = (*arc[0].tolist(), *np.sign(arc[1] - arc[0]).tolist(), *arc[-1].tolist(), *np.sign(arc[-2] - arc[-1]))
    backward = (*forward[4:], *forward[:4])
    key, is_reversed = (backward, True) if backward < forward else (forward, False)
    key = tuple(map(int, key))
    exact.setdefault(key, arc[::-1] if is_reversed else arc)
    return key, is_reversed


def _kept(line: Array, tolerance: float) -> Array:
    """bool [n]: the corners that Douglas and Peucker's method keeps; of closed lines at least three.

    Rectangles, such as single pixels, keep all corners.
    """
    is_closed = np.array_equal(line[0], line[-1])
    if is_closed and len(line) <= 5:
        return np.ones(len(line), bool)
    kept = np.zeros(len(line), bool)
    kept[[0, -1]] = True
    waiting = [(0, len(line) - 1)]
    if is_closed:
        away = int(np.square(line - line[0]).sum(1).argmax())
        off = _distances(line, line[0], line[away]) * (np.arange(len(line)) != away)
        third = int(off.argmax())
        kept[[away, third]] = True
        low, high = sorted((away, third))
        waiting = [(0, low), (low, high), (high, len(line) - 1)]
    while waiting:
        first, last = waiting.pop()
        if last - first < 2:
            continue
        distances = _distances(line[first + 1 : last], line[first], line[last])
        farthest = int(distances.argmax())
        if distances[farthest] > tolerance:
            middle = first + 1 + farthest
            kept[middle] = True
            waiting += [(first, middle), (middle, last)]
    return kept


def _distances(points: Array, start: Array, end: Array) -> Array:
    """Distances of points to the segment from start to end."""
    along = (end - start).astype(float)
    length = float(along @ along)
    share = np.clip((points - start) @ along / length, 0, 1) if length else np.zeros(len(points))
    distances: Array = np.hypot(*(points - start - share[:, None] * along).T)
    return distances


def _joined(ring: Sequence[tuple[Key, bool]], lines: dict[Key, Array]) -> Array:
    return np.concatenate([(lines[key][::-1] if back else lines[key])[:-1] for key, back in ring])


def _wrong(rings: Sequence[Ring], arcs: Sequence[Sequence[tuple[Key, bool]]], lines: dict[Key, Array]) -> set[Key]:
    """The arcs that cross others, that turn a ring around, or that leave a hole outside of its region."""
    wrong = _crossing(lines)
    outer: dict[int, int] = {}
    joined = [_joined(ring, lines) for ring in arcs]
    for place, (ring, corners) in enumerate(zip(rings, joined, strict=True)):
        area = doubled_area(corners)
        if area == 0 or (area < 0) != ring.is_hole:
            wrong.update(key for key, _ in arcs[place])
        if not ring.is_hole:
            outer[ring.region] = place
    for place, ring in enumerate(rings):
        if ring.is_hole and not _contains(joined[outer[ring.region]], joined[place][:2].mean(0)):
            wrong.update(key for key, _ in (*arcs[place], *arcs[outer[ring.region]]))
    return wrong


def _contains(corners: Array, point: Array) -> bool:
    """Whether a point is inside a ring."""
    (x, y), after = corners.T, np.roll(corners, -1, 0)
    crossed = (y > point[1]) != (after[:, 1] > point[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        at = x + (point[1] - y) / (after[:, 1] - y) * (after[:, 0] - x)
    return bool(np.count_nonzero(crossed & (point[0] < at)) % 2)


def _crossing(lines: dict[Key, Array]) -> set[Key]:
    """Arcs with segments that cross or touch other segments, apart from common ends."""
    keys = list(lines)
    owner = np.repeat(np.arange(len(keys)), [len(lines[key]) - 1 for key in keys])
    start = np.concatenate([lines[key][:-1] for key in keys])
    end = np.concatenate([lines[key][1:] for key in keys])
    one, two = _neighbours(start, end)
    a, b, c, d = start[one], end[one], start[two], end[two]
    sides = [np.sign(_cross(p, q, r)) for p, q, r in ((a, b, c), (a, b, d), (c, d, a), (c, d, b))]
    boxes = (np.minimum(a, b) <= np.maximum(c, d)) & (np.minimum(c, d) <= np.maximum(a, b))
    meet = (sides[0] * sides[1] <= 0) & (sides[2] * sides[3] <= 0) & boxes.all(1)
    # Segments with a common end only meet there, unless one lies on the other.
    joined = np.zeros(len(one), bool)
    for p, q, r, s in ((a, b, c, d), (a, b, d, c), (b, a, c, d), (b, a, d, c)):
        same = (p == r).all(1)
        overlap = (_cross(p, q, s) == 0) & (((q - p) * (s - p)).sum(1) > 0)
        joined |= same & ~overlap
    found = meet & ~joined
    return {keys[place] for place in np.unique(np.concatenate([owner[one[found]], owner[two[found]]])).tolist()}


def _cross(origin: Array, one: Array, two: Array) -> Array:
    first, second = one - origin, two - origin
    product: Array = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    return product


def _neighbours(start: Array, end: Array) -> tuple[Array, Array]:
    """Pairs of segments whose boxes have a cell of a grid in common: only these can meet."""
    low, high = np.minimum(start, end) // CELL, np.maximum(start, end) // CELL
    tall, wide = (high - low + 1).T[::-1]
    count = tall * wide
    segment = np.repeat(np.arange(len(start)), count)
    within = np.arange(len(segment)) - np.repeat(np.cumsum(count) - count, count)
    row, column = low[segment, 1] + within // wide[segment], low[segment, 0] + within % wide[segment]
    cell = row * (int(high[:, 0].max()) + 1) + column
    order = np.argsort(cell, kind="stable")
    cell, segment = cell[order], segment[order]
    size = np.searchsorted(cell, cell, side="right") - np.arange(len(cell)) - 1  # later members of the same cell
    one = np.repeat(np.arange(len(cell)), size)
    two = one + 1 + np.arange(len(one)) - np.repeat(np.cumsum(size) - size, size)
    pairs = np.unique(np.sort(np.stack([segment[one], segment[two]], 1), axis=1), axis=0)
    return pairs[:, 0], pairs[:, 1]
