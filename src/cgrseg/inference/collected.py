"""Outputs that are one file per folder: COCO annotations and a table of shares, of all images of the folder.

While images are labelled, their records are appended to a hidden file beside the output, one JSON line each. When the
run ends, the output is written from it. So a killed run loses nothing that was done, and memory does not grow.
"""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from cgrseg.images.coco import INFO, coco_annotations, coco_categories
from cgrseg.images.files import atomic_write
from cgrseg.labels import LabelSpace

from .result import Segmentation
from .shares import COLUMNS, csv_header, csv_text

Record = dict[str, Any]  # "file_name", and "row" or what COCO says about the image
COCO_BEGINNING = f'{{"info":{json.dumps(INFO)},\n"images":[\n'


def coco_record(result: Segmentation, file_name: str, classes: Sequence[str | int] | None, tolerance: float) -> Record:
    """What the COCO file of a folder contains of one image."""
    height, width = result.labels.shape
    annotations = list(coco_annotations(result.polygons(classes, tolerance=tolerance)))
    return {"file_name": file_name, "width": width, "height": height, "annotations": annotations}


def check_owned(paths: Iterable[Path]) -> None:
    """Check that existing files are outputs of earlier runs, so that nobody's annotations are overwritten.

    Raises:
        ValueError: one is not.
    """
    for path in set(paths):
        beginning = COCO_BEGINNING if path.suffix == ".json" else ",".join(COLUMNS)
        if path.exists() and path.stat().st_size:
            with open(path, encoding="utf-8", errors="replace") as file:
                if file.read(len(beginning)) != beginning:
                    raise ValueError(f"{path} is not an output of cgrseg and would be overwritten: use another --out")


def collected_names(path: Path) -> set[str]:
    """The images whose records an output or its hidden file has; none if it is damaged."""
    return {record["file_name"] for record in (*_records(path), *(record for _, record in _lines(path)))}


class CollectedFiles:
    """Writes the outputs of all folders; a context manager. When the block ends, complete files replace old ones.

    Args:
        paths: the outputs of the run, whose names are values of `FOLDER_OUTPUTS`.
        label_space: the classes.
        keep: keep the records of earlier runs.

    Raises:
        ValueError: records that are to be kept have other classes; see also `check_owned`.
    """

    def __init__(self, paths: Iterable[Path], label_space: LabelSpace, *, keep: bool = False) -> None:
        self._paths, self._label_space, self._keep = sorted(set(paths)), label_space, keep
        self._lock = threading.Lock()
        check_owned(self._paths)
        for path in self._paths:
            if not keep:
                _hidden(path).unlink(missing_ok=True)
            elif not self._has_these_classes(path):
                raise ValueError(f"{path} has other classes than these weights: use another --out, or remove it")

    def __enter__(self) -> CollectedFiles:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            for path in self._paths:
                self._write(path)

    def add(self, path: Path, record: Record) -> int:
        """Append the record of an image; may be called from several threads. Returns its position in the hidden file.

        The first line of the file are the classes.
        """
        with self._lock:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(_hidden(path), "ab+") as file:
                size = file.tell()
                file.seek(max(size - 1, 0))
                cut = file.read(1) != b"\n"  # by the end of a process that was killed
                before = b"\n" * cut if size else _as_line({"classes": self._label_space.names})
                file.write(before + _as_line(record))
        return size + len(before)

    def _has_these_classes(self, path: Path) -> bool:
        """Whether the records of earlier runs, if there are any, have the classes of this one."""
        with suppress(OSError, ValueError), open(_hidden(path), "rb") as lines:
            if json.loads(lines.readline()).get("classes") != list(self._label_space.names):
                return False
        if not path.exists() or not _records(path):
            return True
        if path.suffix == ".json":
            return bool(_read_json(path)["categories"] == coco_categories(self._label_space))
        with _open_csv(path) as file:
            return next(csv.reader(file)) == csv_header(self._label_space)

    def _write(self, path: Path) -> None:
        """Write the output from its records, sorted by name; of several for one image the last counts."""
        hidden = _hidden(path)
        places = {record["file_name"]: place for place, record in _lines(path)}
        for record in _records(path) if self._keep else ():
            if record["file_name"] not in places:
                places[record["file_name"]] = self.add(path, record)
        if not places:
            return
        order = [places[name] for name in sorted(places)]
        with (
            open(hidden, "rb") as lines,
            atomic_write(path) as temporary,
            _open_csv(temporary, "w") as file,
        ):
            write = self._write_coco if path.suffix == ".json" else self._write_csv
            write(file, lambda: (json.loads(_line_at(lines, place)) for place in order))
        hidden.unlink()

    def _write_csv(self, file: IO[str], records: Any) -> None:
        file.write(csv_text(self._label_space, (record["row"] for record in records())))

    def _write_coco(self, file: IO[str], records: Any) -> None:
        file.write(COCO_BEGINNING)
        for number, record in enumerate(records(), 1):
            image = {"id": number, **{key: record[key] for key in ("file_name", "width", "height")}}
            file.write(",\n" * (number > 1) + json.dumps(image))
        file.write('\n],\n"annotations":[\n')
        count = 0
        for number, record in enumerate(records(), 1):
            for annotation in record["annotations"]:
                count += 1
                line = json.dumps({"id": count, "image_id": number, **annotation}, separators=(",", ":"))
                file.write(",\n" * (count > 1) + line)
        file.write(f'\n],\n"categories":{json.dumps(coco_categories(self._label_space))}}}\n')


def _hidden(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _as_line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def _open_csv(path: Path, mode: str = "r") -> IO[str]:
    """Names that are not UTF-8 keep their bytes."""
    return open(path, mode, encoding="utf-8", errors="surrogateescape", newline="")


def _line_at(lines: IO[bytes], place: int) -> bytes:
    lines.seek(place)
    return lines.readline()


def _lines(path: Path) -> Iterator[tuple[int, Record]]:
    """(position, record) of each record in the hidden file; a cut line is left out."""
    if not _hidden(path).exists():
        return
    with open(_hidden(path), "rb") as file:
        place = 0
        for line in file:
            with suppress(ValueError):
                record = json.loads(line)
                if "file_name" in record:
                    yield place, record
            place += len(line)


def _read_json(path: Path) -> Mapping[str, Any]:
    content = json.loads(path.read_bytes())
    return content if isinstance(content, dict) else {}


def _records(path: Path) -> list[Record]:
    """The records of a finished output; none if it is missing or damaged."""
    try:
        if path.suffix == ".json":
            content = _read_json(path)
            images = {image["id"]: {**image, "annotations": []} for image in content["images"]}
            for annotation in content["annotations"]:
                kept = {key: value for key, value in annotation.items() if key not in ("id", "image_id")}
                images[annotation["image_id"]]["annotations"].append(kept)
            return [{key: value for key, value in image.items() if key != "id"} for image in images.values()]
        with _open_csv(path) as file:
            header, *rows = csv.reader(file)
        return [{"file_name": row[0], "row": row} for row in rows if len(row) == len(header)]
    except (OSError, ValueError, KeyError, IndexError, csv.Error):
        return []
