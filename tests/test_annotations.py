"""GeoJSON and COCO files say what the label map says; pycocotools, where it is installed, reads the same masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cgrseg.images.coco import without_holes
from cgrseg.images.polygons import Polygon
from cgrseg.inference.result import Segmentation
from cgrseg.labels import LabelSpace

Array = np.ndarray[Any, np.dtype[Any]]
SPACE = LabelSpace(names=("sky", "Straße", "tree"), colors=((0, 0, 200), (200, 16, 0), (0, 200, 0)))


def segmentation(labels: Array) -> Segmentation:
    return Segmentation(labels, SPACE, np.zeros((*labels.shape, 3), np.uint8))


@pytest.fixture
def noise() -> Segmentation:
    """Regions with many holes, some of which touch, on an odd size."""
    return segmentation(np.random.default_rng(5).integers(0, 3, (23, 31), dtype=np.uint8))


def area(ring: Any) -> float:
    x, y = np.array(ring, float).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2


def test_geojson_has_a_polygon_per_region_with_exact_areas(noise: Segmentation) -> None:
    table = noise.to_geojson(tolerance=0)
    assert table["type"] == "FeatureCollection"
    totals = dict.fromkeys(range(3), 0)
    for feature in table["features"]:
        rings, about = feature["geometry"]["coordinates"], feature["properties"]
        assert feature["type"] == "Feature" and feature["geometry"]["type"] == "Polygon"
        assert all(ring[0] == ring[-1] for ring in rings)  # RFC 7946, 3.1.6: closed, outer rings first
        assert area(rings[0]) > 0 and all(area(ring) < 0 for ring in rings[1:])
        assert sum(map(area, rings)) == about["pixels"]
        totals[about["class_id"]] += about["pixels"]
        assert about["class"] == SPACE.names[about["class_id"]]
    assert list(totals.values()) == noise.counts().tolist()
    assert {each["properties"]["color"] for each in table["features"]} == {"#0000c8", "#c81000", "#00c800"}


def test_a_transform_gives_map_coordinates_counterclockwise() -> None:
    labels = np.zeros((6, 8), np.uint8)
    labels[1:3, 2:5] = 1
    north_up = (10.0, 0.0, 5000.0, 0.0, -10.0, 7000.0, 0.0, 0.0, 1.0)  # rasterio's Affine has nine numbers
    (feature,) = segmentation(labels).to_geojson(["Straße"], transform=north_up)["features"]
    (ring,) = feature["geometry"]["coordinates"]
    assert {tuple(corner) for corner in ring} == {(5020, 6990), (5050, 6990), (5050, 6970), (5020, 6970)}
    assert area(ring) == 600


def test_coco_areas_and_boxes_are_those_of_the_regions(noise: Segmentation) -> None:
    table = noise.to_coco(tolerance=0, file_name="a.jpg", image_id=7)
    assert table["images"] == [{"id": 7, "file_name": "a.jpg", "width": 31, "height": 23}]
    assert [category["name"] for category in table["categories"]] == list(SPACE.names)
    assert [each["id"] for each in table["annotations"]] == list(range(1, len(table["annotations"]) + 1))
    counts = np.zeros(3, int)
    for each in table["annotations"]:
        (ring,) = each["segmentation"]
        corners = np.array(ring).reshape(-1, 2)
        assert area(corners) == each["area"] and each["image_id"] == 7 and each["iscrowd"] == 0
        assert each["bbox"] == [*corners.min(0), *(corners.max(0) - corners.min(0))]
        counts[each["category_id"]] += each["area"]
    assert counts.tolist() == noise.counts().tolist()


def test_holes_are_joined_to_the_outer_boundary_by_cuts() -> None:
    outer = np.array([[0, 0], [9, 0], [9, 9], [0, 9]])
    holes = tuple(np.array([[x, 2], [x, 4], [x + 2, 4], [x + 2, 2]]) for x in (2, 5))
    ring = without_holes(Polygon(0, 73, outer, holes))
    edges = {(tuple(a), tuple(b)) for a, b in zip(ring.tolist(), np.roll(ring, -1, 0).tolist(), strict=True)}
    cuts = {edge for edge in edges if edge[::-1] in edges}
    assert len(ring) == 4 + 2 * 6 and area(ring) == 81 - 8 and len(cuts) == 4


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in pycocotools
def test_pycocotools_reads_the_same_masks(noise: Segmentation) -> None:
    mask = pytest.importorskip("pycocotools.mask", reason="compares with pycocotools, which is optional")
    for labels in (noise.labels, noise.labels.repeat(3, 0).repeat(2, 1)):
        height, width = labels.shape
        read = np.full(labels.shape, -1)
        for each in segmentation(labels).to_coco(tolerance=0)["annotations"]:
            inside = mask.decode(mask.merge(mask.frPyObjects(each["segmentation"], height, width))) > 0
            assert inside.sum() == each["area"] and (read[inside] == -1).all()
            read[inside] = each["category_id"]
        assert np.array_equal(read, labels)


def test_classes_are_given_by_name_or_id_and_unknown_ones_are_refused(noise: Segmentation) -> None:
    assert {p.class_id for p in noise.polygons(["tree", 0])} == {0, 2}
    assert {p.class_id for p in noise.polygons()} == {0, 1, 2}
    for wrong, near in (("Strasse", "Straße"), (3, "sky"), ("-1", "sky")):
        with pytest.raises(ValueError, match=f"no class is called '?{wrong}'?: .*{near}"):
            noise.polygons([wrong])
