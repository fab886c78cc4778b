"""Which tool wrote a folder: each format is recognised by its own files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cgrseg.data.settings import ImportFormat

from .coco import is_coco, is_panoptic, read_coco, read_panoptic
from .source import Annotations, Source

SAMPLED = 20  # JSON files that are read to recognise the format; the others are checked when they are read
Files = dict[ImportFormat, list[Path]]
TITLES: dict[ImportFormat, str] = {
    "coco": "COCO JSON",
    "coco-panoptic": "COCO panoptic",
}
READERS: dict[ImportFormat, Callable[[Source, list[Path]], Annotations]] = {
    "coco": read_coco,
    "coco-panoptic": read_panoptic,
}
JSON_KINDS: tuple[tuple[ImportFormat, Callable[[Any], bool]], ...] = (
    ("coco-panoptic", is_panoptic),
    ("coco", is_coco),
)


def recognize(source: Source) -> Files:
    """The formats that a folder has files of, with these files.

    Raises:
        ValueError: a JSON file can't be read.
    """
    files: Files = {}
    unread: list[Path] = []
    for number, path in enumerate(source.with_suffix(".json")):
        if number >= SAMPLED:
            unread.append(path)
            continue
        content = source.json(path)
        for format, fits in JSON_KINDS:
            if fits(content):
                files.setdefault(format, []).append(path)
                break
    for format in files:
        files[format] += unread
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
