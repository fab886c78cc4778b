"""Datasets of image and mask files: names, photos, masks of class ids, and an explicit map of the stored ids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from cgrseg._text import printable
from cgrseg.images.bands import ChannelsError, read_image
from cgrseg.labels import LabelSpace
from cgrseg.preprocessing import Pixels

from .masks import ColoredMask, Ids, read_mask_file

NAMED = 6  # ids named in an error


class Samples(Protocol):
    """One labelled split, as training, evaluation and check-data use it."""

    @property
    def labels(self) -> LabelSpace:
        """Names, colours, the ignore index and the map of raw ids."""

    @property
    def split(self) -> str:
        """train, val or test."""

    def __len__(self) -> int:
        """The number of pairs."""

    def name(self, index: int) -> str:
        """The photo's file name, with the sub-folders of its split."""

    def read(self, index: int) -> tuple[Image.Image | Pixels, Image.Image]:
        """The photo, RGB or uint8 [H, W, C], and its mask of class ids (mode L or I;16), of equal size.

        Raises:
            ValueError: the pair is unusable; the message names the file, the value and the cure.
        """


@dataclass(frozen=True)
class DataProblem:
    """One fault of a dataset.

    Args:
        kind: the heading under which such faults are listed.
        cause: the fault and its cure, in words that are the same for all files with this fault.
        where: the file or folder, if it is one.
        is_error: whether a training would fail or its scores would be wrong; otherwise it is a warning.
    """

    kind: str
    cause: str
    where: str | Path = ""
    is_error: bool = True

    def __str__(self) -> str:
        return printable(f"{self.where}: {self.cause}" if self.where else self.cause)


@dataclass(frozen=True)
class SegmentationDataset:
    """Image and mask files of one split.

    Args:
        pairs: (photo, mask) paths, in the order of the split.
        labels: names, colours, the ignore index, and in `raw_ids` the meaning of stored ids (None: each id is its
            class, and 255 and 65535 are ignored unless they are classes).
        split: train, val or test.
        read_ids: mask path -> raw ids [H, W].
        folder: the folder that names are relative to; None for bare file names.
        channels: of the photos.
    """

    pairs: tuple[tuple[Path, Path], ...]
    labels: LabelSpace
    split: str = "train"
    read_ids: Callable[[Path], Ids] = read_mask_file
    folder: Path | None = None
    channels: int = 3

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        """The photo's file name, with the sub-folders below `folder`."""
        photo = self.pairs[index][0]
        return printable(photo.name if self.folder is None else photo.relative_to(self.folder).as_posix())

    def read(self, index: int) -> tuple[Pixels, Image.Image]:
        """The photo, uint8 [H, W, C], and its mask as class ids in one channel (L, or I;16 past 255), of equal size.

        Raises:
            ValueError: a file can't be decoded or has another number of channels, the sizes differ, the mask has
                colours, or an id is not in the map.
        """
        photo_path, mask_path = self.pairs[index]
        try:
            photo = read_image(photo_path, self.channels)  # H W C
        except (OSError, ValueError) as error:
            raise ValueError(str(unreadable(photo_path, error, kind="photos"))) from error
        ids = self.read_mask(index)  # H W
        if ids.shape != photo.shape[:2]:
            raise ValueError(str(size_problem(photo_path, mask_path, photo, ids)))
        return photo, Image.fromarray(ids)

    def read_mask(self, index: int) -> Ids:
        """The mask alone, as class ids: uint8 or uint16 [H, W].

        Raises:
            ValueError: the file can't be decoded, has colours, or has an id that is not in the map.
        """
        mask_path = self.pairs[index][1]
        try:
            raw = self.read_ids(mask_path)
        except ColoredMask:
            raise
        except (OSError, ValueError) as error:
            raise ValueError(str(unreadable(mask_path, error, kind="masks"))) from error
        classes = self.classes_of(raw)
        if classes.min(initial=0) < 0:
            raise ValueError(printable(f"{mask_path}: {self.id_problem(np.unique(raw[classes < 0]))}"))
        return classes.astype(np.uint8 if self.labels.ignore_index < 256 and len(self.labels) <= 256 else np.uint16)

    def classes_of(self, raw: Ids) -> Ids:
        """int32: raw ids -> classes or the ignore index; -1 for ids that are not in the map."""
        small = raw.dtype in (np.uint8, np.uint16)
        classes: Ids = self._table[raw if small else raw.astype(np.int64).clip(-1, len(self._table) - 1)]
        return classes

    def id_problem(self, wrong: Ids) -> str:
        """The message about a mask with the ids `wrong`, which are not in the map."""
        values = ", ".join(map(str, wrong[:NAMED])) + (", …" if len(wrong) > NAMED else "")
        listed = "the class list" if self.labels.raw_ids else "classes.json"
        last = max(raw for raw, label in id_map(self.labels).items() if label != self.labels.ignore_index)
        return f"holds class {values}, but {listed} ends at {last}: add the class, or map it to ignore"

    @cached_property
    def _table(self) -> Ids:
        """int32 [65537], raw id -> class or ignore index, -1 if unknown; the last entry is never an id."""
        table = np.full(65537, -1, np.int32)
        for raw, label in id_map(self.labels).items():
            table[raw] = label
        return table


def unreadable(path: Path, error: OSError | ValueError, *, kind: str) -> DataProblem:
    """The problem of a file that can't be decoded; `kind` is "photos" or "masks"."""
    text = str(error).replace(f" {str(path)!r}", "").replace(str(path), "").strip(" :")
    cause = text if str(error).startswith(str(path)) else f"can't be read ({text}): replace or remove the pair"
    other = isinstance(error, ChannelsError)
    return DataProblem("photos with other channels" if other else f"unreadable {kind}", cause, path)


def size_problem(photo_path: Path, mask_path: Path, photo: Ids, raw: Ids) -> DataProblem:
    """The problem of a mask [h, w] whose size differs from that of its photo [H, W, C]."""
    try:
        with Image.open(photo_path) as stored:
            unturned = stored.size == (raw.shape[1], raw.shape[0])
    except UnidentifiedImageError:  # TIFFs of several bands, which are never rotated
        unturned = False
    cause = (
        f"is {(raw.shape[1], raw.shape[0])}, but its photo is {(photo.shape[1], photo.shape[0])} (width, height): "
        "export the mask at the photo's size"
    )
    if unturned:
        cause += " (it fits the photo before its EXIF rotation: rotate the mask too)"
    return DataProblem("masks of another size", cause, mask_path)


def id_map(labels: LabelSpace) -> dict[int, int]:
    """The explicit map: raw mask id -> class or `ignore_index`."""
    if labels.raw_ids is not None:
        return dict(labels.raw_ids)
    ignored = {255, 65535, labels.ignore_index} - set(range(len(labels)))
    return {**{number: number for number in range(len(labels))}, **dict.fromkeys(ignored, labels.ignore_index)}


def describe_map(dataset: Samples) -> str:
    """The map of raw ids as text, one line per class; any other id is an error."""
    labels = dataset.labels
    known = id_map(labels)
    wide = len(str(max(known)))
    lines = [f"raw mask id -> class, {dataset.split} ({len(dataset)} photos, {len(labels)} classes)"]
    for raw, label in sorted(known.items(), key=lambda item: (item[1], item[0])):
        if label != labels.ignore_index:
            lines.append(f"  {raw:>{wide}} -> {label} {labels.names[label]}")
    ignored = sorted(raw for raw, label in known.items() if label == labels.ignore_index)
    lines.append(f"  {_ranges(ignored)} -> ignored; any other id is an error")
    return "\n".join(lines)


def _ranges(numbers: list[int]) -> str:
    """[0, 3, 4, 5] -> "0, 3-5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)


def to_class_ids(mask: Image.Image) -> np.ndarray[Any, np.dtype[np.int64]]:
    """A mask as int64 class ids [H, W]."""
    return np.asarray(mask).astype(np.int64)
