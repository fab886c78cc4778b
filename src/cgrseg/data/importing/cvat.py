"""CVAT for images 1.1 (https://docs.cvat.ai/docs/other/xml_format): polygons, boxes, ellipses and masks in one XML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from .labelme import CIRCLE, paint_in_order
from .raster import Patch, Region, place_bits, runs_to_bits, union_of_rings
from .source import Annotations, Item, Source, read_xml

ORDER = "by z_order, then by the order in the file: later regions cover earlier ones"
DRAWN = ("polygon", "box", "ellipse", "mask")
FLAT = ("polyline", "points", "cuboid", "skeleton")


def read_cvat(source: Source, paths: Sequence[Path]) -> Annotations:
    """The classes are the labels of the task, in its order."""
    found = Annotations([], ORDER)
    for path in paths:
        root = read_xml(path)
        if root.find("track") is not None:
            cause = 'holds tracks of a video: export it as "CVAT for images 1.1"'
            found.add("tracks", path, cause)
        for label in root.iterfind("meta//labels/label"):
            name = label.findtext("name") or ""
            if name.strip():
                number = found.class_id(name)
                color = (label.findtext("color") or "").strip().removeprefix("#")
                if len(color) == 6 and all(letter in "0123456789abcdefABCDEF" for letter in color):
                    red, green, blue = bytes.fromhex(color)
                    found.colors[found.names[number]] = (red, green, blue)
        for image in root.iterfind("image"):
            _read_image(found, source, path, image)
    return found


def _read_image(found: Annotations, source: Source, path: Path, image: Element) -> None:
    width, height = image.get("width", ""), image.get("height", "")
    if not (width.isdecimal() and height.isdecimal()):
        cause = f"image {image.get('name')} has no width and height: export again"
        found.add("images without a size", path, cause)
        return
    if (photo := found.photo(source, image.get("name"), path)) is None:
        return
    shapes = []
    for number, shape in enumerate(image, 1):
        about = f"{shape.tag} {number} ({shape.get('label')})"
        if shape.tag in DRAWN:
            z_order = shape.get("z_order", "0")
            order = int(z_order) if z_order.lstrip("-").isdecimal() else 0
            shapes.append((order, Region(found.class_id(shape.get("label")), partial(_draw, shape), about)))
        elif shape.tag in FLAT:
            cause = "has no area: it is left out"
            found.add("shapes without area", f"{path}, {photo.name}, {about}", cause, is_error=False)
    regions = [region for _, region in sorted(shapes, key=lambda each: each[0])]
    # Tasks of a project are subsets, whose names CVAT writes as an attribute.
    subset = image.get("subset")
    split = source.split_of(source.root / subset / photo.name) if subset and ".." not in subset else None
    split = split or source.split_of(photo) or source.split_of(path)
    found.items.append(Item(photo, path, split, partial(paint_in_order, regions), (int(width), int(height))))


def _draw(shape: Element, height: int, width: int) -> Patch:
    if shape.tag == "polygon":
        points = [point.split(",") for point in shape.get("points", "").split(";") if point.strip()]
        return union_of_rings([points], height, width)
    if shape.tag == "box":
        left, top, right, bottom = _numbers(shape, "xtl", "ytl", "xbr", "ybr")
        ring = [[left, top], [right, top], [right, bottom], [left, bottom]]
        turn = math.radians(_numbers(shape, "rotation")[0]) if "rotation" in shape.attrib else 0.0
        return union_of_rings([_rotated(ring, (left + right) / 2, (top + bottom) / 2, turn)], height, width)
    if shape.tag == "ellipse":
        x, y, across, down = _numbers(shape, "cx", "cy", "rx", "ry")
        turns = [2 * math.pi * k / CIRCLE for k in range(CIRCLE)]
        ring = [[x + across * math.cos(turn), y + down * math.sin(turn)] for turn in turns]
        turn = math.radians(_numbers(shape, "rotation")[0]) if "rotation" in shape.attrib else 0.0
        return union_of_rings([_rotated(ring, x, y, turn)], height, width)
    left, top, columns, rows = (int(value) for value in _numbers(shape, "left", "top", "width", "height"))
    if not (0 < columns <= width and 0 < rows <= height):
        raise ValueError(f"has a size of {columns}x{rows} in a photo of {width}x{height}: export both again")
    try:
        runs = [int(run) for run in shape.get("rle", "").split(",")]
    except ValueError as error:
        raise ValueError("has an rle that is not a list of numbers: export it again") from error
    return place_bits(runs_to_bits(runs, columns * rows).reshape(rows, columns), left, top, height, width)


def _rotated(ring: list[list[float]], x: float, y: float, turn: float) -> list[list[float]]:
    """The ring turned clockwise on the screen around (x, y)."""
    if not turn:
        return ring
    cos, sin = math.cos(turn), math.sin(turn)
    return [[x + (a - x) * cos - (b - y) * sin, y + (a - x) * sin + (b - y) * cos] for a, b in ring]


def _numbers(shape: Element, *names: str) -> list[float]:
    values: list[Any] = [shape.get(name) for name in names]
    try:
        numbers = [float(value) for value in values]
        if not all(map(math.isfinite, numbers)):
            raise ValueError
        return numbers
    except (TypeError, ValueError) as error:
        wrong = dict(zip(names, values, strict=True))
        raise ValueError(f"has the values {wrong}: they must be numbers; export it again") from error
