"""Polygons as COCO annotations, as pycocotools and annotation tools read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cgrseg.labels import LabelSpace

from .polygons import Array, Polygon

INFO = {"description": "Predicted by cgrseg"}


def coco_categories(label_space: LabelSpace) -> list[dict[str, Any]]:
    """The classes; category ids are class ids, from 0, as in mask files."""
    return [{"id": label, "name": name, "supercategory": ""} for label, name in enumerate(label_space.names)]


def coco_annotations(polygons: Sequence[Polygon]) -> Iterator[dict[str, Any]]:
    """One annotation per region, without "id" and "image_id".

    "segmentation" is one polygon, [[x, y, x, y, …]] in pixel corners; "area" is the number of pixels; "bbox" is
    [x, y, width, height]. COCO's polygons have no holes: each hole is joined to the outer boundary by a cut without
    width, which leaves area and pixels as they are.
    """
    for polygon in polygons:
        left, top, right, bottom = polygon.bounds
        yield {
            "category_id": polygon.class_id,
            "segmentation": [without_holes(polygon).ravel().tolist()],
            "area": polygon.area,
            "bbox": [left, top, right - left, bottom - top],
            "iscrowd": 0,
        }


def without_holes(polygon: Polygon) -> Array:
    """The polygon as one ring [n, 2]: a cut leads from the outer boundary to each hole and back."""
    ring = polygon.exterior
    for hole in sorted(polygon.holes, key=lambda hole: int(hole[:, 0].min())):
        first = int(hole[:, 0].argmin())
        nearest = int(np.square(ring - hole[first]).sum(1).argmin())
        around = np.roll(hole, -first, axis=0)
        ring = np.concatenate([ring[: nearest + 1], around, around[:1], ring[nearest:]])
    return ring
