"""The folder that is imported: its files by name, read within limits, and what a format finds in it.

Names in annotations are only compared with the files in the folder and never opened, so no name leads out of it.
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from cgrseg.data.dataset import DataProblem
from cgrseg.images.find import find_files
from cgrseg.images.photos import IMAGE_SUFFIXES

from .raster import Array

LARGEST_TEXT = 2**30  # bytes
TEXTS = frozenset((".json", ".xml", ".txt", ".csv", ".yaml", ".yml"))
WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
Warn = Callable[[str, bool], None]  # a message on an annotation, and whether it is an error


@dataclass(frozen=True)
class Item:
    """A photo with its annotation.

    Args:
        photo: the file.
        annotation: the file that says what is on it.
        split: train, val or test, if the source says so.
        ids: (height, width, warn) -> class ids int32 [H, W], UNLABELED or IGNORED.
        size: (width, height) of the photo as the annotation says.
    """

    photo: Path
    annotation: Path
    split: str | None
    ids: Callable[[int, int, Warn], Array]
    size: tuple[int, int] | None = None


@dataclass
class Annotations:
    """What a format found.

    Args:
        names: the classes, in the order of their ids.
        overlaps: how overlaps are resolved, in words.
        items: the photos.
        colors: class name -> color, if the source has them.
        unlabeled: what pixels without annotation are: "background" or "ignore".
        problems: what is wrong with the annotations.
    """

    names: list[str]
    overlaps: str
    items: list[Item] = field(default_factory=list)
    colors: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    unlabeled: str = "background"
    problems: list[DataProblem] = field(default_factory=list)

    def add(self, kind: str, where: str | Path, cause: str, *, is_error: bool = True) -> None:
        self.problems.append(DataProblem(kind, cause, where, is_error))

    def tables(self, source: Source, paths: Iterable[Path]) -> Iterator[tuple[Path, Any]]:
        """Each JSON file with its content; files that can't be read are problems."""
        for path in paths:
            try:
                content = source.json(path)
            except ValueError as error:
                self.add("files that can't be read", path, str(error).removeprefix(f"{path} "))
            else:
                yield path, content

    def photo(self, source: Source, name: Any, near: Path) -> Path | None:
        """`Source.find_photo`; a photo that is missing is a problem of the annotations in the file `near`."""
        try:
            return source.find_photo(name, near)
        except ValueError as error:
            self.add("annotations without a photo", near, str(error))
            return None

    def class_id(self, name: Any) -> int:
        """The id of a class, which is added if it is new."""
        text = class_name(name)
        if text not in self.names:
            self.names.append(text)
        return self.names.index(text)


class Source:
    """A folder whose files are found once.

    Raises:
        FileNotFoundError: there is no such folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            hint = "unpack it first" if root.is_file() else "check the path"
            raise FileNotFoundError(f"no folder {root}: {hint}")
        self.root = root
        found = find_files(root, TEXTS | IMAGE_SUFFIXES)
        self.files = found.files
        self._photos: defaultdict[str, list[Path]] = defaultdict(list)
        for path in self.files:
            if path.suffix.lower() in IMAGE_SUFFIXES:
                self._photos[_composed(path.name)].append(path)
        self._kept: dict[Path, Any] = {}

    def with_suffix(self, *suffixes: str) -> list[Path]:
        return [path for path in self.files if path.suffix.lower() in suffixes]

    def named(self, *names: str) -> list[Path]:
        return [path for path in self.files if path.name in names]

    @cached_property
    def photos(self) -> list[Path]:
        return sorted(path for paths in self._photos.values() for path in paths)

    def json(self, path: Path) -> Any:
        """The content of a JSON file; a few are kept, since they are read to recognise the format, too.

        Raises:
            ValueError: it is not JSON in UTF-8, or too large.
        """
        if path not in self._kept:
            try:
                content = json.loads(read_text(path), parse_constant=_no_constant)
            except RecursionError as error:
                raise ValueError(f"{path} is nested too deeply: export it again") from error
            except ValueError as error:
                raise ValueError(f"{path} can't be read as JSON in UTF-8 ({error}): export it again") from error
            if len(self._kept) >= 4:
                return content
            self._kept[path] = content
        return self._kept[path]

    def find_photo(self, name: Any, near: Path) -> Path:
        """The photo in the folder with this name; of several, the one that fits name and `near` best.

        Raises:
            ValueError: there is none, or several fit as well.
        """
        wanted = PurePosixPath(_composed(str(name)).replace("\\", "/"))
        paths = self._photos.get(wanted.name, [])
        if not paths:
            raise ValueError(f"names the photo {name}, which is not in {self.root}: add it, or remove its annotations")
        split = self.split_of(near, stem=True)
        scores = []
        for path in paths:
            own = self.split_of(path)
            same = 2 if own == split else 1 if own is None or split is None else 0
            end = _shared_end(path.relative_to(self.root).parts, wanted.parts)
            scores.append((end, same, _shared_start(path.parts, near.parts)))
        best = [path for path, score in zip(paths, scores, strict=True) if score == max(scores)]
        if len(best) > 1:
            names = ", ".join(path.relative_to(self.root).as_posix() for path in best[:3])
            raise ValueError(f"names the photo {name}, which can be {names}: give photos different names")
        return best[0]

    def split_of(self, path: Path, *, stem: bool = False) -> str | None:
        """The split that the names of the folders mean, such as valid/; with `stem` also instances_val2017.json."""
        parts = path.relative_to(self.root).parts
        for part in reversed(parts if stem else parts[:-1]):
            for word in re.split(r"[^A-Za-z0-9]+", part):
                if found := WORDS.get(re.sub(r"\d{4}$", "", word.lower())):
                    return found
        return None


def stated_size(width: Any, height: Any) -> tuple[int, int] | None:
    """(width, height) as an annotation says; None if it does not say them in whole numbers."""
    return (width, height) if type(width) is int and type(height) is int else None


def read_text(path: Path) -> str:
    """UTF-8 text, at most LARGEST_TEXT bytes.

    Raises:
        ValueError: it is larger, or not UTF-8.
    """
    if path.stat().st_size > LARGEST_TEXT:
        raise ValueError(f"{path} has over {LARGEST_TEXT >> 30} GiB: split it into several files")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8") from error


def read_csv(path: Path) -> list[list[str]]:
    return [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(read_text(path))) if row]


def read_xml(path: Path) -> Element:
    """The root of an XML file. A document type is refused: its entities can expand to gigabytes or name other files.

    Raises:
        ValueError: it is not XML, has a document type, or is too large.
    """
    if path.stat().st_size > LARGEST_TEXT:
        raise ValueError(f"{path} has over {LARGEST_TEXT >> 30} GiB: split it into several files")
    builder, parser, depth = TreeBuilder(), expat.ParserCreate(), 0

    def begin(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > 50:
            raise ValueError(f"{path} is nested too deeply: export it again")
        builder.start(tag, attributes)

    def finish(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: object) -> None:
        raise ValueError(f"{path} has a document type (<!DOCTYPE), which is not read: remove it")

    parser.StartElementHandler, parser.EndElementHandler = begin, finish
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(path.read_bytes(), True)
        return builder.close()
    except expat.ExpatError as error:
        raise ValueError(f"{path} can't be read as XML ({error}): export it again") from error


def entries(table: Any, key: str) -> list[dict[str, Any]]:
    """The objects in a list of a JSON object; none if there is no such list."""
    found = table.get(key) if isinstance(table, dict) else None
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def number_of(value: Any) -> int | str | None:
    """An id as a key of a table; None if it is neither a number nor a text."""
    return value if isinstance(value, int | str) else None


def class_name(name: Any) -> str:
    return unicodedata.normalize("NFC", str(name).strip())


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def _shared_start(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    pairs = list(zip(first, second, strict=False))
    return next((number for number, (a, b) in enumerate(pairs) if a != b), len(pairs))


def _shared_end(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    return _shared_start(first[::-1], second[::-1])
