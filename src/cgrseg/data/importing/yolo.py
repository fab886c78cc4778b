"""YOLO segmentation (https://docs.ultralytics.com/datasets/segment): data.yaml, and one text file per photo.

A line is a class id and x, y in turn, from 0 to 1. `labels/NAME.txt` belongs to `images/NAME.jpg`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cgrseg._yaml import read_yaml

from .coco import AREA
from .raster import IGNORED, Array, Patch, Region, paint, union_of_rings
from .source import Annotations, Item, Source, Warn, read_text


def is_yolo(table: Any) -> bool:
    return isinstance(table, dict) and isinstance(table.get("names"), list | dict)


def read_yolo(source: Source, paths: Sequence[Path]) -> Annotations:
    """The paths in data.yaml are not used: the photos are those in the folder, and their folders give the splits."""
    found = Annotations([], AREA)
    listed = read_yaml(paths[0])["names"]
    names = {str(key): name for key, name in (listed.items() if isinstance(listed, dict) else enumerate(listed))}
    classes = {key: found.class_id(name) for key, name in names.items()}
    used = set()
    texts = {_name(path, source): path for path in source.with_suffix(".txt")}
    for photo in source.photos:
        name = _name(photo, source)  # the file is in labels, or beside the photo
        text = texts.get(Path(*("labels" if part == "images" else part for part in name.parts)), texts.get(name))
        regions = []
        if text is None:
            found.add("photos without annotation", photo, "has no file in labels: it is all background", is_error=False)
        else:
            used.add(text)
            for number, line in enumerate(read_text(text).splitlines(), 1):
                about, words = f"line {number}", line.split()
                if not words:
                    continue
                label = classes.get(words[0], IGNORED)
                if label == IGNORED:
                    cause = f"has the class {words[0]}, which is not in names of {paths[0].name}: add its name"
                    found.add("ids without a name", f"{text}, {about}", cause)
                if len(words) == 5:
                    cause = "is a box, not a polygon: it is left out; draw its outline"
                    found.add("boxes", f"{text}, {about}", cause, is_error=False)
                else:
                    regions.append(Region(label, partial(_draw, words[1:]), about))
        ids = partial(_paint, regions)
        found.items.append(Item(photo, text or photo, source.split_of(photo), ids))
    for path in texts.values():
        if path not in used and "labels" in path.relative_to(source.root).parts:
            cause = "has no photo of the same name in images: add it, or remove the file"
            found.add("annotations without a photo", path, cause)
    return found


def _name(path: Path, source: Source) -> Path:
    return Path(unicodedata.normalize("NFC", str(path.relative_to(source.root).with_suffix(""))))


def _paint(regions: Sequence[Region], height: int, width: int, warn: Warn) -> Array:
    return paint(regions, height, width, by_area=True, warn=warn)


def _draw(words: Sequence[str], height: int, width: int) -> Patch:
    try:
        values = np.array([float(word) for word in words])
    except ValueError as error:
        raise ValueError("has a value that is not a number: export it again") from error
    if len(values) < 6 or len(values) % 2:
        raise ValueError(f"has {len(values)} coordinates: a polygon needs x and y of three corners or more")
    if (np.abs(values) > 2).any():
        raise ValueError(f"has the coordinate {values[np.abs(values) > 2][0]:g}: YOLO's are shares from 0 to 1")
    return union_of_rings([values.reshape(-1, 2) * (width, height)], height, width)
