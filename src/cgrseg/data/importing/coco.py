"""COCO JSON: polygons, run lengths and crowds (https://cocodataset.org/#format-data), and panoptic PNGs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cgrseg.data.masks import read_colors

from .raster import IGNORED, Array, Patch, Region, cropped, paint, runs_to_bits, union_of_rings
from .source import Annotations, Item, Source, Warn, class_name, entries, number_of, stated_size

AREA = "by area: smaller regions cover larger ones"


def is_coco(content: Any) -> bool:
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys()


def is_panoptic(content: Any) -> bool:
    return is_coco(content) and any("segments_info" in each for each in entries(content, "annotations")[:1])


def read_coco(source: Source, paths: Sequence[Path]) -> Annotations:
    """Instances: several files are several splits. A crowd is a region of its class, as any other."""
    found = Annotations([], AREA)
    for path in paths:
        content = source.json(path)
        classes = _classes(found, content)
        regions: defaultdict[Any, list[Region]] = defaultdict(list)
        for each in entries(content, "annotations"):
            about = f"annotation {each.get('id')}"
            label = classes.get(number_of(each.get("category_id")), IGNORED)
            if label == IGNORED:
                cause = f"has the category_id {each.get('category_id')}, which is not in categories: add its name"
                found.add("ids without a name", f"{path}, {about}", cause)
            if each.get("segmentation"):
                regions[number_of(each.get("image_id"))].append(
                    Region(label, partial(_draw, each["segmentation"]), about)
                )
            else:
                cause = "has a box but no segmentation: it is left out; draw its outline"
                found.add("boxes", f"{path}, {about}", cause, is_error=False)
        for image in entries(content, "images"):
            _add(found, source, path, image, partial(_paint, regions.pop(number_of(image.get("id")), [])))
        for image_id in regions:
            cause = f"has annotations of the image_id {image_id}, which is not in images: add it, or remove them"
            found.add("annotations without a photo", path, cause)
    return found


def read_panoptic(source: Source, paths: Sequence[Path]) -> Annotations:
    """Panoptic PNGs: the segment of a pixel is red + 256 green + 65536 blue; 0 is unlabelled."""
    found = Annotations([], "none: each pixel has one segment", unlabeled="ignore")
    for path in paths:
        content = source.json(path)
        classes = _classes(found, content)
        images = {number_of(image.get("id")): image for image in entries(content, "images")}
        for each in entries(content, "annotations"):
            image = images.get(number_of(each.get("image_id")))
            if image is None:
                cause = f"has annotations of the image_id {each.get('image_id')}, which is not in images: add it"
                found.add("annotations without a photo", path, cause)
                continue
            table = {0: -1}
            for segment in entries(each, "segments_info"):
                label = classes.get(number_of(segment.get("category_id")), IGNORED)
                if label == IGNORED:
                    cause = (
                        f"has the category_id {segment.get('category_id')}, which is not in categories: add its name"
                    )
                    found.add("ids without a name", f"{path}, segment {segment.get('id')}", cause)
                if type(segment.get("id")) is int:
                    table[segment["id"]] = label
            try:
                mask = source.find_photo(each.get("file_name"), path.with_suffix("") / "mask")
            except ValueError as error:
                found.add("missing masks", path, str(error).replace("photo", "mask", 1))
                continue
            _add(found, source, path, image, partial(_segments, mask, table), unlike=mask)
    return found


def decode_counts(text: str) -> list[int]:
    """The run lengths of a compressed RLE (`rleFrString` of pycocotools): 5 bits per character, from the lowest on.

    Raises:
        ValueError: the text is cut, or has other characters.
    """
    runs: list[int] = []
    value = shift = 0
    for letter in text.encode("ascii", "replace"):
        bits = letter - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError(f"has the character {chr(letter)!a} in its compressed RLE: export it again")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits >> 4 & 1) << shift  # the sign
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("has a compressed RLE that is cut: export it again")
    return runs


def _classes(found: Annotations, content: Any) -> dict[Any, int]:
    """category id -> class, by increasing id."""
    categories = [each for each in entries(content, "categories") if type(each.get("id")) is int]
    used = {number_of(each.get("category_id")) for each in entries(content, "annotations")}
    groups = {each.get("supercategory") for each in categories if each.get("supercategory") != each.get("name")}
    classes = {}
    for each in sorted(categories, key=lambda each: int(each["id"])):
        if not str(each.get("name") or "").strip():
            continue
        if each["id"] == 0 and each["name"] in groups and 0 not in used:
            continue  # Roboflow lists the group of all classes as category 0
        classes[each["id"]] = found.class_id(each["name"])
        color = each.get("color")
        if isinstance(color, list) and len(color) == 3 and all(type(c) is int and 0 <= c <= 255 for c in color):
            found.colors[class_name(each["name"])] = (color[0], color[1], color[2])
    return classes


def _add(
    found: Annotations, source: Source, path: Path, image: dict[str, Any], ids: Any, *, unlike: Path | None = None
) -> None:
    photo = found.photo(source, image.get("file_name"), path)
    if photo is None:
        return
    if photo == unlike:
        cause = f"names {image.get('file_name')} as photo and as mask: add the photo"
        found.add("annotations without a photo", path, cause)
        return
    split = source.split_of(path, stem=True) or source.split_of(photo)
    found.items.append(Item(photo, path, split, ids, stated_size(image.get("width"), image.get("height"))))


def _paint(regions: Sequence[Region], height: int, width: int, warn: Warn) -> Array:
    return paint(regions, height, width, by_area=True, warn=warn)


def _segments(mask: Path, table: dict[int, int], height: int, width: int, warn: Warn) -> Array:
    codes = read_colors(mask).clip(0)
    segments = (codes >> 16) | (codes & 0xFF00) | (codes & 255) << 16
    values, places = np.unique(segments, return_inverse=True)
    unknown = [int(value) for value in values if int(value) not in table]
    if unknown:
        warn(f"{mask.name} has the segment {unknown[0]}, which is not in segments_info: export both again", True)
    labels = np.array([table.get(int(value), -1) for value in values], np.int32)
    ids: Array = labels[places].reshape(segments.shape)
    return ids


def _draw(segmentation: Any, height: int, width: int) -> Patch:
    if isinstance(segmentation, dict):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        if size != [height, width]:
            raise ValueError(f"has an RLE of size {size}, but the photo has [{height}, {width}]: export it again")
        runs = decode_counts(counts) if isinstance(counts, str) else counts
        if not isinstance(runs, list):
            raise ValueError("has an RLE without counts: export it again")
        return cropped(runs_to_bits(runs, height * width).reshape(width, height).T)  # column by column
    if not isinstance(segmentation, list):
        raise ValueError("has a segmentation that is neither polygons nor RLE: export it again")
    rings = []
    for flat in segmentation:
        if not isinstance(flat, list) or len(flat) % 2:
            raise ValueError("has a polygon with an odd number of values: draw it again, or remove it")
        rings.append([flat[place : place + 2] for place in range(0, len(flat), 2)])
    return union_of_rings(rings, height, width)
