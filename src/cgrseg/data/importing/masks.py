"""Masks that tools write: VOC and CVAT's segmentation masks, Roboflow's semantic masks, and plain lists of files."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from cgrseg.data.masks import COLORS, Ids, color_name, count_ids, is_binary, read_colors, read_mask_file
from cgrseg.images.photos import DAMAGE
from cgrseg.labels import LabelSpace

from .raster import IGNORED, UNLABELED, Array
from .source import Annotations, Item, Source, Warn, read_csv, read_text

NONE = "none: each pixel has one class"
VOID = (224, 224, 192)  # VOC's border between objects


def read_voc(source: Source, paths: Sequence[Path]) -> Annotations:
    """SegmentationClass, ImageSets/Segmentation and JPEGImages; masks hold ids, or the colours of the classes."""
    labels = LabelSpace.from_classes_json(Path(__file__).parent.parent / "classes" / "voc.json")
    found = Annotations(list(labels.names), NONE, colors=dict(zip(labels.names, labels.colors, strict=True)))
    return _class_masks(found, source, {color: number for number, color in enumerate(labels.colors)})


def read_cvat_masks(source: Source, paths: Sequence[Path]) -> Annotations:
    """As VOC, with the colours of labelmap.txt: `name:red,green,blue:parts:actions`."""
    found = Annotations([], NONE)
    table = {}
    for number, line in enumerate(read_text(paths[0]).splitlines(), 1):
        match = re.fullmatch(r"(.+?):\s*(\d+),\s*(\d+),\s*(\d+)\s*(:.*)?", line.strip())
        if match and max(int(match[k]) for k in (2, 3, 4)) < 256:
            color = int(match[2]), int(match[3]), int(match[4])
            table[color] = found.class_id(match[1])
            found.colors[found.names[table[color]]] = color
        elif line.strip() and not line.startswith("#"):
            cause = f"has {line.strip()!r}: write name:red,green,blue::"
            found.add("ids without a name", f"{paths[0]}, line {number}", cause)
    return _class_masks(found, source, table)


def read_roboflow(source: Source, paths: Sequence[Path]) -> Annotations:
    """Semantic segmentation masks: NAME.jpg, NAME_mask.png, and _classes.csv with "Pixel Value, Class"."""
    found = Annotations([], NONE)
    for path in paths:
        classes = {}
        for number, row in enumerate(read_csv(path)[1:], 2):
            if len(row) >= 2 and row[0].isdecimal():
                classes[int(row[0])] = found.class_id(row[1])
            else:
                cause = f"has {', '.join(row)!r}: write a pixel value and the name of its class"
                found.add("ids without a name", f"{path}, line {number}", cause)
        photos = [photo for photo in source.photos if photo.parent == path.parent]
        masks = {photo.stem.removesuffix("_mask"): photo for photo in photos if photo.stem.endswith("_mask")}
        for photo in photos:
            if photo in masks.values():
                continue
            if photo.stem in masks:
                ids = partial(_by_id, masks[photo.stem], classes, path.name)
                found.items.append(Item(photo, masks[photo.stem], source.split_of(path), ids))
            else:
                found.add("photos without a mask", photo, f"has no {photo.stem}_mask.png: add it, or remove the photo")
    return found


def read_lists(source: Source, paths: Sequence[Path]) -> Annotations:
    """train.txt, val.txt and test.txt: a photo and a mask of class ids per line; labels.txt can name the classes."""
    found = Annotations([], NONE)
    pairs = []
    for path in paths:
        for number, line in enumerate(read_text(path).splitlines(), 1):
            apart = re.split(r"\s*[,;\t]\s*", line.strip())
            words = apart if len(apart) > 1 else line.rsplit(maxsplit=1)
            if not line.strip():
                continue
            try:
                if len(words) != 2:
                    raise ValueError(f"has {len(words)} names: write a photo and its mask")
                photo, mask = source.find_photo(words[0], path), source.find_photo(words[1], path)
                pairs.append((path, photo, mask))
            except ValueError as error:
                found.add("annotations without a photo", f"{path}, line {number}", str(error))
    named = [path for path in source.named("labels.txt", "classes.txt") if path.parent == paths[0].parent]
    names = [line for path in named[:1] for line in read_text(path).splitlines() if line.strip()]
    held: set[int] = set()
    if not names:
        for _, _, mask in pairs:
            try:
                held |= set(count_ids(read_mask_file(mask))[0].tolist())
            except (*DAMAGE, Image.DecompressionBombError):
                continue  # reported when the masks are drawn
    if is_binary(held):
        table = {0: found.class_id("background"), max(held): found.class_id("object")}
    elif names:
        table = {number: found.class_id(name) for number, name in enumerate(names)}
    else:
        table = {number: found.class_id(f"class {number}") for number in sorted(held - {255, 65535})}
    for path, photo, mask in pairs:
        ids = partial(_by_id, mask, table, named[0].name if named else "the list of classes")
        found.items.append(Item(photo, mask, source.split_of(path, stem=True), ids))
    return found


def _class_masks(found: Annotations, source: Source, table: Mapping[tuple[int, int, int], int]) -> Annotations:
    """The masks in SegmentationClass, in the splits of ImageSets/Segmentation."""
    masks: dict[tuple[Path, str], Path] = {}  # of several exports, each has its own names
    photos: defaultdict[str, list[Path]] = defaultdict(list)
    for path in source.photos:
        folder = path.parent.name
        if not folder.startswith("Segmentation"):
            photos[path.stem].append(path)
        elif folder.startswith("SegmentationClass") and not folder.endswith("Visualization"):
            masks[path.parent.parent, path.stem] = path
    names = {name for _, name in masks}
    splits: dict[str, str | None] = {}
    for path in source.with_suffix(".txt"):
        if path.parent.name == "Segmentation":
            for line in read_text(path).splitlines():
                name = line.strip().rpartition("/")[2]
                if name and (path.stem != "trainval" or name not in splits):
                    splits[name] = source.split_of(path, stem=True) if path.stem != "trainval" else "train"
                if name and name not in names:
                    found.add("listed masks", path, f"names {name}, which has no mask in SegmentationClass: add it")
    for (root, name), mask in masks.items():
        if splits and name not in splits:
            continue
        beside = [path for path in photos[name] if path.parent == root / "JPEGImages"] or photos[name]
        if len(beside) != 1:
            cause = "has no photo of the same name: export the photos, too, or remove the mask"
            if beside:
                several = ", ".join(path.relative_to(source.root).as_posix() for path in beside[:3])
                cause = f"can belong to {several}: keep the photos in JPEGImages"
            found.add("annotations without a photo", mask, cause)
            continue
        found.items.append(Item(beside[0], mask, splits.get(name), partial(_by_color, mask, table)))
    return found


def _by_color(mask: Path, table: Mapping[tuple[int, int, int], int], height: int, width: int, warn: Warn) -> Array:
    codes = read_colors(mask).clip(0)
    lookup: Ids = np.full(COLORS, -3, np.int32)
    lookup[0] = UNLABELED
    lookup[_code(VOID)] = IGNORED
    for color, label in table.items():
        lookup[_code(color)] = label
    ids: Array = lookup[codes]
    if (ids == -3).any():
        with Image.open(mask) as image:
            grey = image.mode == "L"
        if grey:  # ids without a palette
            return _by_id(mask, {number: number for number in table.values()}, "the class list", height, width, warn)
        code = int(codes[ids == -3][0])
        warn(f"{mask.name} has the colour {color_name(code)}, which no class has: add it to the list of classes", True)
    return ids


def _by_id(mask: Path, table: Mapping[int, int], listed: str, height: int, width: int, warn: Warn) -> Array:
    stored = read_mask_file(mask)
    values, places = np.unique(stored, return_inverse=True)
    labels = []
    for value in values.tolist():
        label = table.get(value, IGNORED)
        if value not in table and value not in (255, 65535):
            cause = f"{mask.name} has the id {value}, which is not in {listed}: add its name"
            hint = "; the ids begin with 1: see `cgrseg convert-masks --one-based`" if value == len(table) else ""
            warn(cause + hint, True)
        labels.append(label)
    ids: Array = np.array(labels, np.int32)[places].reshape(stored.shape)
    return ids


def _code(color: tuple[int, int, int]) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]
