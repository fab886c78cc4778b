"""import-data: read the annotations, count what they say, and write the folder format at once or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from cgrseg._text import printable, table
from cgrseg.data.convert_masks import write_classes, write_mask
from cgrseg.data.dataset import DataProblem
from cgrseg.data.folder import SPLITS, match_key
from cgrseg.data.settings import ImportFormat
from cgrseg.images.files import PREFIX
from cgrseg.images.photos import photo_size
from cgrseg.labels import Color, LabelSpace

from .raster import IGNORED, UNLABELED, Array
from .recognize import TITLES, read_annotations
from .source import Annotations, Item, Source

Unlabeled = Literal["background", "ignore"]


@dataclass(frozen=True)
class Import:
    """What was found in a folder of annotations; nothing is written yet.

    Args:
        source: the folder.
        format: how it was read.
        annotations: the photos that can be imported, and the classes as the source names them.
        labels: the classes of the dataset.
        background: the class of pixels without annotation; None if they are ignored or there are none.
        pixels, photos: of each class, in the order of `labels`.
        unlabeled, ignored: shares of the pixels.
        problems: errors and warnings.
    """

    source: Path
    format: ImportFormat
    annotations: Annotations
    labels: LabelSpace
    background: int | None
    pixels: tuple[int, ...]
    photos: tuple[int, ...]
    unlabeled: float
    ignored: float
    problems: tuple[DataProblem, ...] = field(repr=False, default=())

    @property
    def errors(self) -> list[DataProblem]:
        return [problem for problem in self.problems if problem.is_error]

    def text(self) -> str:
        """What was found: classes, counts, overlaps, background and splits."""
        items, total = self.annotations.items, max(sum(self.pixels), 1)
        rows = [("id", "class", "photos", "pixels")]
        for number, name in enumerate(self.labels.names):
            rows.append((str(number), name, str(self.photos[number]), f"{self.pixels[number] / total:.2%}"))
        if self.background is not None:
            rest = f"class {self.background}, {self.labels.names[self.background]}"
        else:
            rest = "ignored"
        splits = Counter(item.split or "train" for item in items)
        counts = ", ".join(f"{split} {splits[split]}" for split in SPLITS if splits[split]) or "no photos"
        stated = any(item.split for item in items)
        if items and "val" not in splits:
            counts += "; without val, training takes a tenth of train, chosen by a hash of the name"
        lines = [
            f"{TITLES[self.format]} in {self.source}: {_count(len(items), 'photo')}, "
            f"{_count(len(self.labels), 'class', 'classes')}",
            "",
            *table(rows, left=(1,)).splitlines(),
            "",
            f"overlaps: {self.annotations.overlaps}",
            f"pixels without annotation: {self.unlabeled:.2%}, {rest}",
            *([f"ignored by the source: {self.ignored:.2%}"] if self.ignored else []),
            f"splits {'as in the source' if stated else 'not in the source'}: {counts}",
        ]
        return "\n".join(printable(line) for line in lines)


def _count(number: int, one: str, several: str = "") -> str:
    return f"{number} {one if number == 1 else several or f'{one}s'}"


def find_annotations(
    source: str | Path,
    *,
    format: ImportFormat | None = None,
    unlabeled: Unlabeled | None = None,
    skip_errors: bool = False,
) -> Import:
    """Read the annotations of a folder and draw every mask once, so that all problems are known. Writes nothing.

    Args:
        source: a folder that an annotation tool exported, unpacked.
        format: how to read it; None recognises it.
        unlabeled: what pixels without annotation become; None for what is usual in the format.
        skip_errors: leave out photos with errors.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the format is not recognised, a file can't be read, or no photo with annotations is left.
    """
    files = Source(Path(source))
    format, annotations = read_annotations(files, format)
    problems = list(dict.fromkeys(annotations.problems))
    counts = np.zeros(65538, np.int64)  # per class, then UNLABELED and IGNORED from the end
    photos: Counter[int] = Counter()
    kept: list[Item] = []
    taken: dict[tuple[str, str], Item] = {}
    for item in tqdm(annotations.items, unit="photo", desc="draw masks", delay=1, leave=False, disable=None):
        faults: list[DataProblem] = []
        key = (item.split or "train", match_key(item.photo, files.root))
        if key in taken:
            other = taken[key]
            if item.photo == other.photo:
                again = "twice" if item.annotation == other.annotation else f"as {other.annotation} does"
                cause = f"annotates {item.photo.name} {again}: annotate a photo once"
            else:
                cause = f"{item.photo.name} would have the mask of {other.photo.name}: rename or remove one"
            faults.append(DataProblem("photos that share masks", cause, item.annotation))
        else:
            ids = _draw(item, faults)
            if ids is not None and not any(fault.is_error for fault in faults):
                taken[key] = item
                kept.append(item)
                values, amounts = np.unique(ids, return_counts=True)
                counts[values] += amounts
                photos.update(int(value) for value in values)
        problems += faults
    first = next((problem for problem in problems if problem.is_error), None)
    if not kept and (skip_errors or first is None or not annotations.names):
        raise ValueError(f"{source} has no photo that can be imported{f': {first}' if first else ''}")
    annotations.items = kept
    total = max(int(counts.sum()), 1)
    rest, ignored = int(counts[UNLABELED]), int(counts[IGNORED])
    labels, background, added = _classes(annotations, (unlabeled or annotations.unlabeled) == "background", rest > 0)
    pixels = np.concatenate([np.zeros(added, np.int64), counts[: len(annotations.names)]])
    seen = [0] * added + [photos[label] for label in range(len(annotations.names))]
    if background is not None and rest:
        pixels[background] += rest
        seen[background] = max(seen[background], photos[UNLABELED])
    share, ignored_share = rest / total, ignored / total
    return Import(
        Path(source),
        format,
        annotations,
        labels,
        background,
        tuple(pixels.tolist()),
        tuple(seen),
        share,
        ignored_share,
        tuple(problem for problem in problems if not (skip_errors and problem.is_error))
        + tuple(_as_warning(problem) for problem in problems if skip_errors and problem.is_error),
    )


def write_dataset(found: Import, out: str | Path) -> None:
    """Write photos, masks and classes.json to a new folder, which appears when it is complete.

    Raises:
        FileExistsError: `out` exists.
        ValueError: there are errors.
        OSError: it can't be written.
    """
    out = Path(out)
    check_out(out, found.source)
    if found.errors:
        raise ValueError(f"{found.errors[0]} ({len(found.errors)} errors)")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}import-", dir=out.parent, ignore_cleanup_errors=True) as folder:
        root = Path(folder) / "data"
        with _naming(out, folder):
            _write(found, root)
            os.rename(root, out)


def _write(found: Import, root: Path) -> None:
    added = len(found.labels) - len(found.annotations.names)
    bases = _bases(found.annotations.items)
    items = tqdm(found.annotations.items, unit="photo", desc="write", delay=1, leave=False, disable=None)
    for item in items:
        split = item.split or "train"
        name = item.photo.relative_to(bases[split])
        ids = _draw(item, [])
        assert ids is not None  # it was drawn before
        ids = np.where(ids >= 0, ids + added, ids)
        if found.background is not None:
            ids[ids == UNLABELED] = found.background
        photo = root / "images" / split / name
        photo.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(item.photo, photo)
        write_mask(ids, (root / "masks" / split / name).with_suffix(".png"), found.labels)
    write_classes(found.labels, root / "classes.json")


@contextmanager
def _naming(out: Path, folder: str) -> Iterator[None]:
    """Name the output in errors of the system, such as a full disk, instead of the temporary folder."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and (error.filename is None or str(error.filename).startswith(folder)):
            error.filename = str(out)
        raise


def check_out(out: Path, source: Path) -> None:
    """Refuse an output that exists or is inside of the source.

    Raises:
        FileExistsError, ValueError: it is.
    """
    if os.path.lexists(out):
        raise FileExistsError(f"--out {out} exists already: choose another folder, or remove it first")
    if out.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"--out {out} is inside of the source: choose another folder")


def _draw(item: Item, faults: list[DataProblem]) -> Array | None:
    """The mask of a photo, or None if it has an error; faults are added to the list."""

    def warn(cause: str, is_error: bool) -> None:
        faults.append(DataProblem("annotations", f"{item.photo.name}: {cause}", item.annotation, is_error))

    try:
        height, width = photo_size(item.photo.read_bytes(), str(item.photo))
    except (OSError, ValueError) as error:
        faults.append(DataProblem("photos", str(error)))
        return None
    if item.size is not None and item.size != (width, height):
        turned = item.size == (height, width)
        cure = "remove the orientation from its EXIF data" if turned else "use the photo that was annotated"
        warn(f"is {width}x{height}, but its annotation is for {item.size[0]}x{item.size[1]}: {cure}", True)
        return None
    try:
        ids = item.ids(height, width, warn)
    except (OSError, ValueError) as error:
        warn(str(error), True)
        return None
    if ids.shape != (height, width):
        warn(f"is {width}x{height}, but its mask is {ids.shape[1]}x{ids.shape[0]}: export both again", True)
        return None
    return ids


def _classes(annotations: Annotations, wanted: bool, needed: bool) -> tuple[LabelSpace, int | None, int]:
    """The classes, that of pixels without annotation, and how many were added before those of the source."""
    names = list(annotations.names)
    background = next((k for k, name in enumerate(names) if name.strip("_").casefold() == "background"), None)
    added = 0
    if background is None and wanted and needed:
        names.insert(0, "background")
        background, added = 0, 1
    if not names:
        raise ValueError("the annotations name no class: label something first")
    chosen = LabelSpace.numbered(len(names))
    colors: list[Color] = [annotations.colors.get(name, chosen.colors[k]) for k, name in enumerate(names)]
    if added and "background" not in annotations.colors:
        colors[0] = (0, 0, 0)
    labels = LabelSpace(names=tuple(names), colors=tuple(colors), ignore_index=chosen.ignore_index)
    return labels, background if wanted else None, added


def _bases(items: list[Item]) -> dict[str, Path]:
    """Of each split, the folder that names are relative to: the deepest that holds all its photos."""
    parents: dict[str, set[str]] = {}
    for item in items:
        parents.setdefault(item.split or "train", set()).add(str(item.photo.parent))
    return {split: Path(os.path.commonpath(sorted(folders))) for split, folders in parents.items()}


def _as_warning(problem: DataProblem) -> DataProblem:
    return DataProblem(problem.kind, f"left out: {problem.cause}", problem.where, is_error=False)
