"""Polygons of a label map are exact, valid, and share their borders when simplified."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.path import Path as Outline
from scipy import ndimage

from cgrseg.images.polygons import Polygon, find_polygons, polygon_area

Array = np.ndarray[Any, np.dtype[Any]]
NOWHERE = -1
RINGS = np.array([[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 0, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]])
HOLES_IN_HOLES = np.pad(np.kron(RINGS, np.ones((1, 1), int)), 2, constant_values=2).repeat(3, 0).repeat(3, 1)
HOLES_IN_HOLES[7 + 6, 7 + 6] = 1
DIAGONALS = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]])
PINCHED = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]])  # holes touch each other and the outside


def covered(polygons: list[Polygon], shape: tuple[int, ...], at: tuple[float, float] = (0.5, 0.5)) -> Array:
    """The class of the one polygon that contains a point of each pixel; fails where two do."""
    rows, columns = np.indices(shape)
    points = np.stack([columns.ravel() + at[0], rows.ravel() + at[1]], 1)
    classes = np.full(len(points), NOWHERE)
    for polygon in polygons:
        inside = np.zeros(len(points), bool)
        for ring in (polygon.exterior, *polygon.holes):
            inside ^= Outline(ring).contains_points(points)
        assert (classes[inside] == NOWHERE).all(), "two polygons overlap"
        classes[inside] = polygon.class_id
    return classes.reshape(shape)


maps = arrays(np.uint8, st.tuples(st.integers(1, 13), st.integers(1, 13)), elements=st.integers(0, 3))


@settings(deadline=None, max_examples=150, derandomize=True)
@given(labels=maps)
@example(labels=np.zeros((1, 1), np.uint8))
@example(labels=HOLES_IN_HOLES)
@example(labels=DIAGONALS)
@example(labels=PINCHED)
def test_exact_polygons_give_the_label_map_back_and_their_areas_are_pixel_counts(labels: Array) -> None:
    polygons = find_polygons(labels, range(4))
    assert np.array_equal(covered(polygons, labels.shape), labels)
    assert all(polygon_area(polygon) == polygon.area for polygon in polygons)
    for label in range(4):
        assert sum(p.area for p in polygons if p.class_id == label) == np.count_nonzero(labels == label)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(labels=maps, tolerance=st.sampled_from([0.3, 1.0, 2.5, 8.0]), scale=st.integers(1, 4))
@example(labels=HOLES_IN_HOLES, tolerance=3.0, scale=1)
@example(labels=PINCHED, tolerance=1.0, scale=3)
def test_simplified_polygons_still_cover_each_point_of_the_image_once(
    labels: Array, tolerance: float, scale: int
) -> None:
    labels = labels.repeat(scale, 0).repeat(scale, 1)
    polygons = find_polygons(labels, range(4), tolerance=tolerance)
    assert (covered(polygons, labels.shape, at=(0.5137, 0.4871)) != NOWHERE).all()
    assert sum(map(polygon_area, polygons)) == labels.size
    assert [(p.class_id, p.area) for p in polygons] == [(p.class_id, p.area) for p in find_polygons(labels, range(4))]


def test_coordinates_are_pixel_corners_with_y_down() -> None:
    labels = np.zeros((6, 9), np.uint8)
    labels[2, 5] = 1
    outside, pixel = find_polygons(labels, range(2))
    assert pixel.exterior.tolist() == [[5, 2], [6, 2], [6, 3], [5, 3]] and pixel.bounds == (5, 2, 6, 3)
    assert outside.bounds == (0, 0, 9, 6)
    (hole,) = outside.holes
    assert {tuple(corner) for corner in hole.tolist()} == {(5, 2), (6, 2), (6, 3), (5, 3)}


def test_pixels_that_touch_at_a_corner_are_regions_of_their_own() -> None:
    polygons = find_polygons(DIAGONALS, [1])
    assert [polygon.area for polygon in polygons] == [1] * 5
    assert all(len(polygon.exterior) == 4 and not polygon.holes for polygon in polygons)


def test_a_boundary_moves_no_farther_than_the_tolerance_and_loses_corners() -> None:
    rows, columns = np.indices((200, 300))
    labels = (np.hypot(rows - 90, columns - 140) < 70).astype(np.uint8)
    (exact,), (simple,) = (find_polygons(labels, [1], tolerance=tolerance) for tolerance in (0, 1))
    assert len(simple.exterior) < len(exact.exterior) / 4
    corners = {tuple(corner) for corner in exact.exterior.tolist()}
    assert corners >= {tuple(corner) for corner in simple.exterior.tolist()}
    after = np.roll(simple.exterior, -1, 0)
    along = np.linspace(0, 1, 200)[:, None, None]
    line = (simple.exterior * (1 - along) + after * along).reshape(-1, 2)
    distances = np.hypot(*(exact.exterior[:, None] - line[None]).transpose(2, 0, 1)).min(1)
    assert distances.max() <= 1.001


def test_the_corners_of_the_image_are_kept() -> None:
    labels = np.zeros((40, 40), np.uint8)
    labels[:20] = 1
    for tolerance in (30, float("inf")):
        (half,) = find_polygons(labels, [1], tolerance=tolerance)
        assert sorted(half.exterior.tolist()) == [[0, 0], [0, 20], [40, 0], [40, 20]]


def test_classes_that_are_left_out_are_holes() -> None:
    (ring,) = find_polygons(RINGS, [1])
    assert ring.area == 8 and len(ring.holes) == 1
    assert find_polygons(RINGS, [7]) == []


@pytest.mark.parametrize("tolerance", [-1, float("nan")])
def test_a_tolerance_that_is_not_a_distance_is_refused(tolerance: float) -> None:
    with pytest.raises(ValueError, match="tolerance is"):
        find_polygons(RINGS, [1], tolerance=tolerance)


@pytest.mark.parametrize("seed", [39, 144, 177, 230, 270, 271])
def test_lines_that_would_cross_are_simplified_less(seed: int) -> None:
    """Maps whose borders cross if each line is simplified to the tolerance."""
    random = np.random.default_rng(seed)
    side = random.integers(8, 24)
    labels = ndimage.median_filter(random.integers(0, 3, (side, side)).astype(np.uint8), 3)
    polygons = find_polygons(labels, range(3), tolerance=float(random.choice([1, 2, 3, 5])))
    assert (covered(polygons, labels.shape, at=(0.5137, 0.4871)) != NOWHERE).all()


def test_an_island_stays_in_the_region_around_it() -> None:
    labels = np.zeros((30, 30), np.uint8)
    labels[15:] = 1
    labels[10:15, 10:17] = 1  # a bump that the tolerance would remove, with an island in it
    labels[12, 13] = 2
    polygons = find_polygons(labels, range(3), tolerance=8)
    assert (covered(polygons, labels.shape, at=(0.5137, 0.4871)) != NOWHERE).all()
    assert len(polygons[-1].exterior) == 4  # rectangles keep their corners
