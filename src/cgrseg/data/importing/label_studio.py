"""Label Studio's JSON (https://labelstud.io/guide/export): polygons and boxes in percent, brushes as run lengths."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from cgrseg.images.photos import IMAGE_SUFFIXES

from .labelme import DRAWING, paint_in_order
from .raster import Array, Patch, Region, cropped, union_of_rings
from .source import Annotations, Item, Source, class_name, entries, stated_size

KINDS = ("polygonlabels", "brushlabels", "rectanglelabels", "ellipselabels")


def is_label_studio(content: Any) -> bool:
    tasks = content if isinstance(content, list) else []
    return bool(tasks) and all(isinstance(task, dict) and {"data", "annotations"} <= task.keys() for task in tasks[:3])


def read_label_studio(source: Source, paths: Sequence[Path]) -> Annotations:
    """The classes are the labels that occur, sorted. Of several annotations of a task, the first is used."""
    found = Annotations([], DRAWING)
    tasks = [(path, task) for path in paths for task in source.json(path) if isinstance(task, dict)]
    results = [_result(found, path, task) for path, task in tasks]
    for name in sorted({name for result in results for each in result or () for name in _names(each)}):
        found.class_id(name)
    for (path, task), result in zip(tasks, results, strict=True):
        if result is None:
            cause = "has no annotation: it is left out; submit one"
            found.add("tasks without annotation", f"{path}, task {task.get('id')}", cause, is_error=False)
            continue
        regions = []
        for each in result:
            for name in _names(each):
                about = f"task {task.get('id')}, region {each.get('id')} ({name})"
                regions.append(Region(found.class_id(name), partial(_draw, each), about))
        try:
            photo = _photo(source, path, task)
        except ValueError as error:
            found.add("annotations without a photo", f"{path}, task {task.get('id')}", str(error))
            continue
        last = result[-1] if result else {}
        size = stated_size(last.get("original_width"), last.get("original_height"))
        found.items.append(Item(photo, path, source.split_of(photo), partial(paint_in_order, regions), size))
    return found


def decode_brush(data: Any, size: int) -> Array:
    """The `size` values of a brush: the run lengths of @thi.ng/rle-pack, which Label Studio uses.

    A header of 32 bits for the number of values, 5 for the bits of a value less 1, and 4 times 4 for the bits of
    lengths less 1. Then blocks: a bit (1: one value that is repeated, 0: single values), 2 bits for which of the four
    widths the length has, the length less 1, and the value or values. The first bit of a byte is its highest.

    Raises:
        ValueError: it holds another number of values, or is cut.
    """
    try:
        bits = np.unpackbits(np.array(data, np.uint8))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError("has an rle that is not a list of bytes: export it again") from error
    text = bits.tobytes().translate(bytes([48, 49]) + bytes(254)).decode()
    place = 0

    def read(count: int) -> int:
        nonlocal place
        place += count
        if place > len(text):
            raise ValueError("has an rle that is cut: export it again")
        return int(text[place - count : place], 2)

    count, word = read(32), read(5) + 1
    if count != size or word > 8:
        raise ValueError(f"has an rle of {count} values instead of {size} (4 per pixel): export it again")
    widths = [read(4) + 1 for _ in range(4)]
    values, done = np.zeros(size, np.uint8), 0
    while done < size:
        repeated, length = read(1), read(widths[read(2)]) + 1
        end = min(done + length, size)
        if repeated:
            values[done:end] = read(word)
        else:
            for number in range(done, end):
                values[number] = read(word)
        done = end
    return values


def _result(found: Annotations, path: Path, task: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The regions of the first annotation that was submitted; None if none was."""
    submitted = [each for each in entries(task, "annotations") if not each.get("was_cancelled")]
    if len(submitted) > 1:
        cause = f"has {len(submitted)} annotations: the first is used"
        found.add("several annotations", f"{path}, task {task.get('id')}", cause, is_error=False)
    if not submitted:
        return None
    results, where = entries(submitted[0], "result"), f"{path}, task {task.get('id')}"
    regions = [each for each in results if each.get("type") in KINDS]
    drawn = [each for each in results if "original_width" in each]  # others are choices and texts
    for kind in sorted({str(each.get("type")) for each in drawn} - set(KINDS)):
        cause = f"has regions of the type {kind}, which are left out: use {', '.join(KINDS)}"
        found.add("shapes without area", where, cause, is_error=False)
    if len({each.get("to_name") for each in regions}) > 1:
        found.add("several images", where, "has regions on several images: export one image per task")
    return regions


def _names(region: dict[str, Any]) -> list[str]:
    value = region.get("value")
    names = value.get(str(region.get("type"))) if isinstance(value, dict) else None
    return [class_name(name) for name in names] if isinstance(names, list) else []


def _photo(source: Source, path: Path, task: dict[str, Any]) -> Path:
    """The photo of a task: by its URL or path, also without the eight letters that an upload puts before its name."""
    data = task.get("data")
    texts = [str(value) for value in data.values()] if isinstance(data, dict) else []
    names = [unquote(text.rpartition("?d=")[2].partition("?")[0]) for text in texts]
    name = next((name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES), None)
    if name is None:
        raise ValueError("names no photo in data: export it again")
    try:
        return source.find_photo(name, path)
    except ValueError:
        short = re.sub(r"^[0-9a-f]{8}-", "", name.replace("\\", "/").rpartition("/")[2])
        return source.find_photo(short if short != name else name, path)


def _draw(region: dict[str, Any], height: int, width: int) -> Patch:
    value, kind = region["value"], region["type"]
    if region.get("image_rotation"):
        raise ValueError(
            f"has the image_rotation {region['image_rotation']}: rotate the photo itself, and label it again"
        )
    if kind == "brushlabels":
        values = decode_brush(value.get("rle"), height * width * 4)
        return cropped(values.reshape(height, width, 4)[..., 3] > 0)  # the alpha channel
    scale = np.array([width, height]) / 100
    if kind == "polygonlabels":
        points = value.get("points")
        try:
            ring = np.array(points, np.float64) * scale
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError("is not a polygon of three or more corners (x, y): draw it again") from error
        return union_of_rings([ring], height, width)
    names = ("x", "y", "width", "height") if kind == "rectanglelabels" else ("x", "y", "radiusX", "radiusY")
    try:
        x, y, across, down = (float(value[name]) for name in names)
        turn = math.radians(float(value.get("rotation") or 0))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"has no numbers for {', '.join(names)}: export it again") from error
    if kind == "rectanglelabels":
        offsets = np.array([[0, 0], [across, 0], [across, down], [0, down]]) * scale
    else:
        turns = np.arange(64) * (2 * math.pi / 64)
        offsets = np.stack([across * np.cos(turns), down * np.sin(turns)], 1) * scale
    cos, sin = math.cos(turn), math.sin(turn)  # clockwise around (x, y)
    return union_of_rings([np.array([x, y]) * scale + offsets @ np.array([[cos, sin], [-sin, cos]])], height, width)
