"""labelme JSON, one file per photo (https://github.com/wkentaro/labelme): polygons, rectangles, circles and masks."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cgrseg.images.photos import DAMAGE, TOO_LARGE

from .raster import Array, Patch, Region, paint, place_bits, union_of_rings
from .source import Annotations, Item, Source, Warn, class_name, entries, stated_size

DRAWING = "by the order of drawing: later regions cover earlier ones"
CIRCLE = 64  # corners


def is_labelme(content: Any) -> bool:
    return isinstance(content, dict) and "shapes" in content and "imagePath" in content


def read_labelme(source: Source, paths: Sequence[Path]) -> Annotations:
    """The classes are the labels, sorted; `labels.txt` gives another order."""
    found = Annotations([], DRAWING)
    tables = []
    for path, content in found.tables(source, paths):
        if is_labelme(content):
            content.pop("imageData", None)  # the photo itself, of which the memory would hold all
            tables.append((path, content))
        else:
            found.add("other files", path, "is not a labelme file: it is left out", is_error=False)
    for path in source.named("labels.txt"):
        for line in path.read_text(encoding="utf-8-sig").splitlines():
            if line.strip() and line.strip() != "__ignore__":
                found.class_id(line)
    used = {class_name(each.get("label")) for _, content in tables for each in entries(content, "shapes")}
    for name in sorted(used):
        found.class_id(name)
    for path, content in tables:
        regions = []
        for number, each in enumerate(entries(content, "shapes"), 1):
            label, kind = found.class_id(each.get("label")), each.get("shape_type") or "polygon"
            about = f"shape {number} ({class_name(each.get('label'))})"
            if kind in ("point", "points", "line", "linestrip"):
                cause = f"is a {kind}, which has no area: it is left out"
                found.add("shapes without area", f"{path}, {about}", cause, is_error=False)
            else:
                regions.append(Region(label, partial(_draw, each, kind), about))
        if (photo := found.photo(source, content.get("imagePath"), path)) is None:
            continue
        size = stated_size(content.get("imageWidth"), content.get("imageHeight"))
        ids = partial(paint_in_order, regions)
        found.items.append(Item(photo, path, source.split_of(photo) or source.split_of(path), ids, size))
    return found


def paint_in_order(regions: Sequence[Region], height: int, width: int, warn: Warn) -> Array:
    return paint(regions, height, width, by_area=False, warn=warn)


def mask_from_base64(text: Any) -> Array:
    """The pixels of a mask that is stored as a PNG in base64: its alpha channel, or what is not black: bool [h, w].

    Raises:
        ValueError: it can't be decoded.
    """
    try:
        with Image.open(BytesIO(base64.b64decode(str(text), validate=True)), formats=["PNG"]) as picture:
            picture.load()
            last = picture.convert("RGBA").getchannel("A") if picture.has_transparency_data else picture.convert("L")
            return np.asarray(last) > 0
    except (binascii.Error, *DAMAGE, *TOO_LARGE) as error:
        raise ValueError(f"has a mask that can't be decoded ({error}): export it again") from error


def _draw(shape: dict[str, Any], kind: str, height: int, width: int) -> Patch:
    points = shape.get("points")
    if kind in ("polygon", "oriented_rectangle"):  # labelme 6 stores the four corners
        return union_of_rings([points], height, width)
    if not isinstance(points, list) or len(points) != 2:
        raise ValueError(f"is a {kind} without two points: draw it again, or remove it")
    try:
        (left, top), (right, bottom) = [[float(value) for value in point] for point in points]
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"is a {kind} without two points: draw it again, or remove it") from error
    if kind == "rectangle":
        return union_of_rings([[[left, top], [right, top], [right, bottom], [left, bottom]]], height, width)
    if kind == "circle":  # its centre, and a point on it
        radius, turns = math.hypot(right - left, bottom - top), [2 * math.pi * k / CIRCLE for k in range(CIRCLE)]
        ring = [[left + radius * math.cos(turn), top + radius * math.sin(turn)] for turn in turns]
        return union_of_rings([ring], height, width)
    if kind == "mask":  # its box, with both corners included
        return place_bits(mask_from_base64(shape.get("mask")), left, top, height, width)
    raise ValueError(f"has the shape_type {kind}, which is not read: draw a polygon, or remove it")
