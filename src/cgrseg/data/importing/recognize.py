"""Which tool wrote a folder: each format is recognised by its own files."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from cgrseg._yaml import read_yaml
from cgrseg.data.settings import ImportFormat

from .coco import is_coco, is_panoptic, read_coco, read_panoptic
from .cvat import read_cvat
from .label_studio import is_label_studio, read_label_studio
from .labelme import is_labelme, read_labelme
from .masks import read_cvat_masks, read_lists, read_roboflow, read_voc
from .source import Annotations, Source
from .street import is_cityscapes, is_mapillary, read_cityscapes, read_mapillary
from .supervisely import is_supervisely, read_supervisely
from .yolo import is_yolo, read_yolo

SAMPLED = 20  # JSON files that are read to recognise the format; the others are checked when they are read
Files = dict[ImportFormat, list[Path]]
TITLES: dict[ImportFormat, str] = {
    "coco": "COCO JSON",
    "coco-panoptic": "COCO panoptic",
    "labelme": "labelme JSON",
    "cvat": "CVAT for images",
    "cvat-masks": "CVAT segmentation masks",
    "yolo": "YOLO polygons",
    "roboflow": "Roboflow semantic masks",
    "label-studio": "Label Studio JSON",
    "voc": "VOC",
    "supervisely": "Supervisely",
    "cityscapes": "Cityscapes polygons",
    "mapillary": "Mapillary polygons",
    "lists": "lists of photos and masks",
}
READERS: dict[ImportFormat, Callable[[Source, list[Path]], Annotations]] = {
    "coco": read_coco,
    "coco-panoptic": read_panoptic,
    "labelme": read_labelme,
    "cvat": read_cvat,
    "cvat-masks": read_cvat_masks,
    "yolo": read_yolo,
    "roboflow": read_roboflow,
    "label-studio": read_label_studio,
    "voc": read_voc,
    "supervisely": read_supervisely,
    "cityscapes": read_cityscapes,
    "mapillary": read_mapillary,
    "lists": read_lists,
}
JSON_KINDS: tuple[tuple[ImportFormat, Callable[[Any], bool]], ...] = (
    ("coco-panoptic", is_panoptic),
    ("coco", is_coco),
    ("labelme", is_labelme),
    ("label-studio", is_label_studio),
    ("supervisely", is_supervisely),
    ("cityscapes", is_cityscapes),
    ("mapillary", is_mapillary),
)


def recognize(source: Source) -> Files:
    """The formats that a folder has files of, with these files.

    Raises:
        ValueError: a JSON file can't be read, and there is no other file by which a format is recognised.
    """
    files: Files = {}
    problem: ValueError | None = None
    unread: list[Path] = []
    for number, path in enumerate(source.with_suffix(".json")):
        if number >= SAMPLED:
            unread.append(path)
            continue
        try:
            content = source.json(path)
        except ValueError as error:  # one of many files: the reader of the format lists it
            problem = problem or error
            unread.append(path)
            continue
        for format, fits in JSON_KINDS:
            if fits(content):
                files.setdefault(format, []).append(path)
                break
    for format in files:
        files[format] += unread
    for path in source.with_suffix(".xml"):
        with open(path, "rb") as file:
            if b"<annotations" in file.read(4096):
                files.setdefault("cvat", []).append(path)
    for path in source.with_suffix(".yaml", ".yml"):
        with suppress(ValueError):  # other YAML files
            if is_yolo(read_yaml(path)):
                files.setdefault("yolo", []).append(path)
    if paths := source.named("labelmap.txt"):
        files["cvat-masks"] = paths
    elif any(path.parent.name.startswith("SegmentationClass") for path in source.photos):
        files["voc"] = []
    if paths := source.named("_classes.csv"):
        files["roboflow"] = paths
    if paths := [path for path in source.named("train.txt", "val.txt", "test.txt") if path.parent == source.root]:
        files.setdefault("lists", paths)
    if len(files) > 1 and "lists" in files:
        del files["lists"]  # other tools write such lists, too
    if problem is not None and not files:
        raise problem
    return files


def read_annotations(source: Source, wanted: ImportFormat | None) -> tuple[ImportFormat, Annotations]:
    """The format of a folder and what it says.

    Raises:
        ValueError: it has no format that is known, or several and none is wanted; or a file can't be read.
    """
    files = recognize(source)
    if wanted is None and len(files) > 1:
        found = "; ".join(f"{TITLES[each]} ({_relative(source, paths)})" for each, paths in files.items())
        raise ValueError(f"{source.root} has annotations of several tools: {found}: choose one with --from")
    if wanted is not None and wanted not in files:
        found = ", ".join(files) or "no format that is known"
        raise ValueError(f"{source.root} has no {TITLES[wanted]}: found {found}; check --from and the folder")
    if not files:
        known = ", ".join(TITLES.values())
        raise ValueError(f"{source.root} has no annotations that are recognised: known are {known}")
    format: ImportFormat = next(iter(files)) if wanted is None else wanted
    return format, READERS[format](source, files[format])


def _relative(source: Source, paths: list[Path]) -> str:
    return paths[0].relative_to(source.root).as_posix() if paths else ""
