"""Supervisely projects: meta.json, DATASET/img and DATASET/ann (https://docs.supervisely.com, "Supervisely format")."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .labelme import DRAWING, mask_from_base64, paint_in_order
from .raster import IGNORED, Patch, Region, drawn_with_border, place_bits
from .source import Annotations, Item, Source, class_name, entries, stated_size

LARGEST_PNG = 2**26  # bytes


def is_supervisely(content: Any) -> bool:
    """Whether it is an annotation or the meta.json of a project."""
    objects = entries(content, "objects")
    if isinstance(content, dict) and isinstance(content.get("size"), dict) and isinstance(content.get("objects"), list):
        return all("classTitle" in each for each in objects)
    classes = entries(content, "classes")
    return bool(classes) and all("title" in each and "shape" in each for each in classes)


def read_supervisely(source: Source, paths: Sequence[Path]) -> Annotations:
    """The classes are those of meta.json, in its order; the names of datasets can give the splits."""
    found = Annotations([], DRAWING)
    tables = list(found.tables(source, paths))
    for _, content in tables:
        for each in entries(content, "classes"):
            number = found.class_id(each.get("title"))
            color = str(each.get("color") or "").removeprefix("#")
            if len(color) == 6 and all(letter in "0123456789abcdefABCDEF" for letter in color):
                red, green, blue = bytes.fromhex(color)
                found.colors[found.names[number]] = (red, green, blue)
    for path, content in tables:
        if not isinstance(content, dict) or not isinstance(content.get("size"), dict):
            continue
        regions = []
        for number, each in enumerate(entries(content, "objects"), 1):
            title, kind = class_name(each.get("classTitle")), each.get("geometryType")
            about = f"object {number} ({title})"
            if kind in ("line", "point", "graph", "cuboid", "any"):
                cause = f"is a {kind}, which has no area: it is left out"
                found.add("shapes without area", f"{path}, {about}", cause, is_error=False)
                continue
            if title not in found.names:
                cause = f"has the class {title}, which is not in meta.json: add it there"
                found.add("ids without a name", f"{path}, {about}", cause)
            label = found.names.index(title) if title in found.names else IGNORED
            regions.append(Region(label, partial(_draw, each), about))
        if (photo := found.photo(source, path.stem, path)) is None:  # a.jpg.json
            continue
        size = stated_size(content["size"].get("width"), content["size"].get("height"))
        split = source.split_of(photo)
        found.items.append(Item(photo, path, split, partial(paint_in_order, regions), size))
    return found


def _draw(figure: dict[str, Any], height: int, width: int) -> Patch:
    kind, points = figure.get("geometryType"), figure.get("points")
    if kind == "bitmap":
        bitmap = figure.get("bitmap")
        if not isinstance(bitmap, dict):
            raise ValueError("has no bitmap: export it again")
        try:
            left, top = (int(value) for value in bitmap["origin"])
            reader = zlib.decompressobj()
            png = reader.decompress(base64.b64decode(bitmap["data"], validate=True), LARGEST_PNG)
        except (KeyError, TypeError, ValueError, OverflowError, binascii.Error, zlib.error) as error:
            raise ValueError(f"has a bitmap that can't be decoded ({error}): export it again") from error
        return place_bits(mask_from_base64(base64.b64encode(png).decode()), left, top, height, width)
    if not isinstance(points, dict) or kind not in ("polygon", "rectangle"):
        raise ValueError(f"has the geometryType {kind}, which is not read: draw a polygon, or remove it")
    exterior, interiors = points.get("exterior"), points.get("interior") or []
    if kind == "rectangle":
        try:
            (left, top), (right, bottom) = np.array(exterior, np.float64).tolist()
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError("is a rectangle without two points: draw it again, or remove it") from error
        exterior = [[left, top], [right, top], [right, bottom], [left, bottom]]
    return drawn_with_border(exterior, interiors if isinstance(interiors, list) else [], height, width)
