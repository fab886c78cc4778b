"""Polygons of street scenes: Cityscapes (`*_polygons.json`, cityscapesScripts) and Mapillary Vistas 2.0."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .labelme import DRAWING, paint_in_order
from .raster import IGNORED, Patch, Region, drawn_with_border, union_of_rings
from .source import Annotations, Item, Source, class_name, entries, stated_size

# Labels of Cityscapes and Mapillary that mean "not labelled".
VOID = {"unlabeled", "out of roi", "ego vehicle", "rectification border", "void--unlabeled"}

DRAWN = {"labels", "instances", "panoptic"}  # folders of Mapillary whose images have the names of the photos


def is_cityscapes(content: Any) -> bool:
    return isinstance(content, dict) and {"imgHeight", "imgWidth", "objects"} <= content.keys()


def is_mapillary(content: Any) -> bool:
    objects = entries(content, "objects")
    sized = isinstance(content, dict) and {"height", "width"} <= content.keys()
    return sized and bool(objects) and all({"label", "polygon"} <= each.keys() for each in objects)


def read_cityscapes(source: Source, paths: Sequence[Path]) -> Annotations:
    """Drawn as cityscapesScripts do it: with the pixels below the border; "cargroup" is car."""
    return _read(source, paths, ("imgWidth", "imgHeight"))


def read_mapillary(source: Source, paths: Sequence[Path]) -> Annotations:
    return _read(source, paths, ("width", "height"))


def _read(source: Source, paths: Sequence[Path], keys: tuple[str, str]) -> Annotations:
    found = Annotations([], DRAWING, unlabeled="ignore")
    bordered = keys[0] == "imgWidth"
    read = found.tables(source, paths)
    tables = [(path, content) for path, content in read if isinstance(content, dict) and keys[0] in content]
    labels = {class_name(each.get("label")) for _, content in tables for each in entries(content, "objects")}
    for name in sorted({_without_group(name, labels) for name in labels} - VOID):
        found.class_id(name)
    photos = {photo.name: photo.stem for photo in source.photos if photo.parent.name not in DRAWN}
    stems = {stem.removesuffix("_leftImg8bit"): name for name, stem in photos.items()}
    for path, content in tables:
        regions = []
        for number, each in enumerate(entries(content, "objects"), 1):
            name = _without_group(class_name(each.get("label")), labels)
            if not each.get("deleted"):
                label = IGNORED if name in VOID else found.class_id(name)
                regions.append(
                    Region(label, partial(_draw, each.get("polygon"), bordered), f"object {number} ({name})")
                )
        stem = path.stem.removesuffix("_polygons").removesuffix("_gtFine").removesuffix("_gtCoarse")
        if (photo := found.photo(source, stems.get(stem, stem), path)) is None:
            continue
        size = stated_size(content.get(keys[0]), content.get(keys[1]))
        split = source.split_of(photo) or source.split_of(path)
        found.items.append(Item(photo, path, split, partial(paint_in_order, regions), size))
    return found


def _without_group(name: str, labels: set[str]) -> str:
    """Cityscapes calls several objects that can't be told apart "cargroup": their class is that of one."""
    single = name.removesuffix("group")
    return single if single != name and (single in labels or single in ("person", "rider", "car")) else name


def _draw(polygon: Any, bordered: bool, height: int, width: int) -> Patch:
    if bordered:
        return drawn_with_border(polygon, (), height, width)
    return union_of_rings([polygon], height, width)
