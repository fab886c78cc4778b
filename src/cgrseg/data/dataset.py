"""What every labelled split is, whatever its files look like: names, photos, masks of class ids, one explicit map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from cgrseg.images.photos import DAMAGE, read_photo
from cgrseg.labels import LabelSpace

Ids = np.ndarray[Any, np.dtype[Any]]
MASK_MODES = ("L", "P", "I;16", "I;16B", "I", "1")
SHOW = 6  # values named in an error


class Samples(Protocol):
    """One split: what training, evaluation and check-data ask of a dataset."""

    @property
    def labels(self) -> LabelSpace:
        """Names, colours, the ignore index and the map of raw ids."""

    @property
    def split(self) -> str:
        """train, val or test."""

    def __len__(self) -> int:
        """The number of pairs."""

    def name(self, index: int) -> str:
        """The photo's file name."""

    def read(self, index: int) -> tuple[Image.Image, Image.Image]:
        """The photo in RGB and its mask of class ids (mode L or I;16), of equal size.

        Raises:
            ValueError: the pair is unusable; it names the file, the value and the cure.
        """


def read_mask_file(path: Path) -> Ids:
    """The raw ids [H, W] of a one-channel picture, as they are stored.

    Raises:
        ValueError: the picture has colours.
        OSError and what else Pillow raises on damage: it can't be decoded.
    """
    with Image.open(path) as mask:
        if mask.mode not in MASK_MODES:
            raise ColoredMask(
                f"mask {path} has mode {mask.mode}: masks hold one class id a pixel, not colours; "
                "`cgrseg convert-masks` makes such masks"
            )
        ids = np.asarray(mask)
    return ids.astype(np.uint8) if ids.dtype == bool else ids


class ColoredMask(ValueError):
    """A mask in colours instead of class ids."""


@dataclass(frozen=True)
class Labelled:
    """The pairs of one split, on disk.

    Args:
        pairs: (photo, mask) paths, in the order of the split.
        labels: names, colours, the ignore index, and in `raw_ids` what a stored id means (None: itself, while
            255 and 65535 are ignored where no class has them).
        split: train, val or test.
        read_ids: mask path -> raw ids [H, W].
    """

    pairs: tuple[tuple[Path, Path], ...]
    labels: LabelSpace
    split: str = "train"
    read_ids: Callable[[Path], Ids] = read_mask_file

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        """The photo's file name."""
        return self.pairs[index][0].name

    def read(self, index: int) -> tuple[Image.Image, Image.Image]:
        """The photo in RGB and its mask as class ids in one channel (L, or I;16 past 255), of equal size.

        Raises:
            ValueError: a file can't be decoded, the sizes differ, the mask has colours, or an id is not in the map.
        """
        photo_path, mask_path = self.pairs[index]
        try:
            photo = read_photo(photo_path)  # H W 3
            raw = self.read_ids(mask_path)  # H W
        except ColoredMask:
            raise
        except DAMAGE as error:
            raise ValueError(
                f"can't read the pair {photo_path.name}, {mask_path.name}: {error}; replace or remove the pair"
            ) from error
        if raw.shape != photo.shape[:2]:
            raise ValueError(size_problem(photo_path, mask_path, photo, raw))
        return Image.fromarray(photo), Image.fromarray(self._checked(raw, mask_path))

    def read_mask(self, index: int) -> Ids:
        """The mask alone, as class ids: uint8 or uint16 [H, W].

        Raises:
            ValueError: the file can't be decoded, has colours, or holds an id that is not in the map.
        """
        mask_path = self.pairs[index][1]
        try:
            raw = self.read_ids(mask_path)
        except ColoredMask:
            raise
        except DAMAGE as error:
            raise ValueError(f"can't read the mask {mask_path}: {error}; replace or remove the pair") from error
        return self._checked(raw, mask_path)

    def classes_of(self, raw: Ids) -> Ids:
        """int32, raw ids -> classes or ignore; -1 where the map says nothing."""
        small = raw.dtype in (np.uint8, np.uint16)
        classes: Ids = self._table[raw if small else raw.astype(np.int64).clip(-1, len(self._table) - 1)]
        return classes

    def id_problem(self, mask_path: Path, wrong: Ids) -> str:
        """What to say of a mask that holds the ids `wrong`, which are not in the map."""
        values = ", ".join(map(str, wrong[:SHOW])) + (", …" if len(wrong) > SHOW else "")
        named = "the class list" if self.labels.raw_ids else "classes.json"
        return (
            f"mask {mask_path} holds class {values}, but {named} ends at {self._last_id}: "
            "add the class, or map it to ignore"
        )

    def _checked(self, raw: Ids, mask_path: Path) -> Ids:
        classes = self.classes_of(raw)
        if classes.min(initial=0) < 0:
            raise ValueError(self.id_problem(mask_path, np.unique(raw[classes < 0])))
        return classes.astype(np.uint8 if self.labels.ignore_index < 256 and len(self.labels) <= 256 else np.uint16)

    @property
    def _last_id(self) -> int:
        ignored = {self.labels.ignore_index}
        return max(raw for raw, label in id_map(self.labels).items() if label not in ignored)

    @cached_property
    def _table(self) -> Ids:
        """int32 [65537], raw id -> class or ignore, -1 where the map says nothing; the last entry is never an id."""
        table = np.full(65537, -1, np.int32)
        for raw, label in id_map(self.labels).items():
            table[raw] = label
        return table


def size_problem(photo_path: Path, mask_path: Path, photo: Ids, raw: Ids) -> str:
    """What to say of a mask [h, w] that has not the size of its photo [H, W, 3]."""
    with Image.open(photo_path) as stored:
        unturned = stored.size == (raw.shape[1], raw.shape[0])
    return (
        f"mask {mask_path} is {(raw.shape[1], raw.shape[0])}, but its photo is {(photo.shape[1], photo.shape[0])} "
        "(width, height): export it again at the photo's size"
        + (" (it fits the photo before its EXIF rotation: turn the mask too)" if unturned else "")
    )


def id_map(labels: LabelSpace) -> dict[int, int]:
    """The explicit map: raw mask id -> class, or -> `ignore_index`."""
    if labels.raw_ids is not None:
        return dict(labels.raw_ids)
    ignored = {255, 65535, labels.ignore_index} - set(range(len(labels)))
    return {**{number: number for number in range(len(labels))}, **dict.fromkeys(ignored, labels.ignore_index)}


def describe_map(dataset: Samples) -> str:
    """The map raw id -> class or ignore, one line a class; ids that are not listed are errors."""
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
