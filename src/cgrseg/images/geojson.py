"""Polygons as GeoJSON (RFC 7946)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cgrseg.labels import LabelSpace

from .polygons import Array, Polygon


def geojson(
    polygons: Sequence[Polygon], label_space: LabelSpace, *, transform: Sequence[float] | None = None
) -> dict[str, Any]:
    """A FeatureCollection with one Polygon per region.

    Args:
        polygons: the regions.
        label_space: gives names and colours.
        transform: (a, b, c, d, e, f) from pixel corners to a map, x' = a x + b y + c and y' = d x + e y + f, in the
            order of rasterio's `dataset.transform`, which can be given. Without it coordinates are pixel corners: x to
            the right, y down.

    Raises:
        ValueError: a transform of fewer than six numbers.
    """
    return {"type": "FeatureCollection", "features": [_feature(each, label_space, transform) for each in polygons]}


def _feature(polygon: Polygon, label_space: LabelSpace, transform: Sequence[float] | None) -> dict[str, Any]:
    properties = {
        "class": label_space.names[polygon.class_id],
        "class_id": polygon.class_id,
        "pixels": polygon.area,
        "color": "#{:02x}{:02x}{:02x}".format(*label_space.colors[polygon.class_id]),
    }
    rings = [_closed(ring, transform) for ring in (polygon.exterior, *polygon.holes)]
    return {"type": "Feature", "properties": properties, "geometry": {"type": "Polygon", "coordinates": rings}}


def _closed(ring: Array, transform: Sequence[float] | None) -> list[list[float]]:
    """The ring with its first corner repeated; outer rings are counterclockwise where y is up, as the RFC says."""
    ring = np.concatenate([ring, ring[:1]])
    if transform is None:
        return ring.tolist()  # type: ignore[no-any-return]
    if len(transform) < 6:
        raise ValueError(f"transform has {len(transform)} numbers: give six, as rasterio's dataset.transform does")
    a, b, c, d, e, f = map(float, tuple(transform)[:6])
    placed = ring @ np.array([[a, d], [b, e]]) + (c, f)
    return (placed if a * e - b * d > 0 else placed[::-1]).tolist()  # type: ignore[no-any-return]
