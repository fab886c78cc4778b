"""convert-masks: pictures in colours become masks of class ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from tqdm import tqdm

from cgrseg.images.files import atomic_write
from cgrseg.images.photos import DAMAGE
from cgrseg.labels import LabelSpace

from .check.colors import CLEAR, COLORS, color_codes, color_name, solid_values
from .dataset import Ids

Unknown = Literal["refuse", "ignore", "nearest"]
MASK_SUFFIXES = {".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".jpg", ".jpeg"}
MOST_COLORS = 255  # classes that a palette of found colours may have
SHOWN = 4  # colours named in a complaint


@dataclass(frozen=True)
class Palette:
    """Which colour means which class.

    Args:
        labels: names and colours.
        table: int16 or int32 [2^24]: colour code -> class, -1 where none has it.
    """

    labels: LabelSpace
    table: Ids

    @classmethod
    def of(cls, labels: LabelSpace) -> Palette:
        """The palette of a class list.

        Raises:
            ValueError: two classes have one colour.
        """
        table = np.full(COLORS, -1, np.int16 if len(labels) < 2**15 else np.int32)
        for number, (red, green, blue) in enumerate(labels.colors):
            code = red << 16 | green << 8 | blue
            if table[code] >= 0:
                raise ValueError(
                    f"classes {labels.names[table[code]]} and {labels.names[number]} both have the colour "
                    f"{color_name(code)}: give each class a colour of its own"
                )
            table[code] = number
        return cls(labels, table)

    def classes(self, codes: Ids) -> Ids:
        """int [H, W], -1 where a colour is in no class."""
        found: Ids = self.table[codes.clip(0)]
        found[codes == CLEAR] = -1
        return found

    def with_nearest(self, codes: Ids) -> Ids:
        """As `classes`, with the class of the nearest colour (in red, green, blue) for colours that have none."""
        found = self.classes(codes)
        rest = np.unique(codes[(found < 0) & (codes != CLEAR)])
        colors = np.array(self.labels.colors, np.int32)  # K 3
        for code in rest:
            channels = np.array([code >> 16, code >> 8 & 255, code & 255])
            found[codes == code] = np.argmin(((colors - channels) ** 2).sum(1))
        return found


def find_masks(source: Path) -> list[Path]:
    """The pictures in a folder and its sub-folders, by path, hidden ones left out.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no pictures, or two that differ in their ending alone.
    """
    if not source.is_dir():
        raise FileNotFoundError(f"no folder {source}: name the folder with the masks in colours")
    masks = [path for path in sorted(source.rglob("*")) if path.suffix.lower() in MASK_SUFFIXES and path.is_file()]
    masks = [path for path in masks if not any(part.startswith(".") for part in path.relative_to(source).parts)]
    if not masks:
        raise ValueError(f"{source} holds no pictures ({', '.join(sorted(MASK_SUFFIXES))})")
    seen: dict[Path, Path] = {}
    for path in masks:
        other = seen.setdefault(path.with_suffix(""), path)
        if other != path:
            raise ValueError(f"{other} and {path.name} would become one mask: remove one")
    return masks


def discover(masks: Sequence[Path]) -> LabelSpace:
    """A class for each colour that fills at least 2x2 pixels of a mask, black first, the others by their code.

    Raises:
        ValueError: a mask can't be read, or there are more than 255 such colours.
    """
    found: set[int] = set()
    for path in tqdm(masks, desc="find colours", unit="mask", delay=1, leave=False, disable=None):
        found |= set(solid_values(_read(path)).tolist()) - {CLEAR}
        if len(found) > MOST_COLORS:
            raise ValueError(
                f"the masks up to {path} hold over {MOST_COLORS} colours: they are photos, or saved as JPEG; "
                "give the classes and their colours with --classes"
            )
    if not found:
        raise ValueError(f"no colour of {masks[0]} and the other masks fills 2x2 pixels: give --classes")
    codes = sorted(found)
    colors = tuple((code >> 16, code >> 8 & 255, code & 255) for code in codes)
    return LabelSpace(names=tuple(map(color_name, codes)), colors=colors, ignore_index=255)


def problems(masks: Sequence[Path], palette: Palette, unknown: Unknown) -> list[str]:
    """One line for each mask that can't be converted, with file, value and cure."""
    lines = []
    for path in tqdm(masks, desc="check colours", unit="mask", delay=1, leave=False, disable=None):
        try:
            codes = _read(path)
        except ValueError as error:
            lines.append(str(error))
            continue
        wrong = codes[palette.classes(codes) < 0]
        if unknown == "nearest":
            wrong = wrong[wrong == CLEAR]
        if unknown == "ignore" or wrong.size == 0:
            continue
        found, counts = np.unique(wrong, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:SHOWN]
        names = ", ".join(color_name(int(code)) for code in found[order]) + (", …" if len(found) > SHOWN else "")
        text = f"{path}: {wrong.size / codes.size:.2%} of its pixels have colours of no class ({len(found)}: {names})"
        if np.isin(found, solid_values(codes)).mean() < 0.5:
            cure = "they lie along borders: export the mask without anti-aliasing, as PNG; or --unknown ignore "
            cure += "leaves these pixels out, --unknown nearest takes the nearest colour, which may be a third class"
        else:
            cure = "add the colours to the class list, or --unknown ignore leaves these pixels out"
        lines.append(f"{text}: {cure}")
    return lines


def convert(path: Path, target: Path, palette: Palette, unknown: Unknown) -> tuple[int, int]:
    """Write one mask of class ids; returns (pixels that are ignored, all pixels)."""
    codes = _read(path)
    ids = palette.with_nearest(codes) if unknown == "nearest" else palette.classes(codes)
    ignored = ids < 0
    ids[ignored] = palette.labels.ignore_index
    wide = palette.labels.ignore_index > 255
    picture = Image.fromarray(ids.astype(np.uint16 if wide else np.uint8))
    if not wide:
        picture.putpalette(palette.labels.palette())
    with atomic_write(target) as unfinished:
        picture.save(unfinished)
    return int(np.count_nonzero(ignored)), ids.size


def write_classes(labels: LabelSpace, path: Path) -> None:
    """Write the class list as classes.json."""
    classes: list[dict[str, Any]] = [
        {"id": number, "name": name, "color": list(color)}
        for number, (name, color) in enumerate(zip(labels.names, labels.colors, strict=True))
    ]
    text = json.dumps({"classes": classes, "ignore_index": labels.ignore_index}, indent=1)
    with atomic_write(path) as unfinished:
        unfinished.write_text(text + "\n", encoding="utf-8")


def _read(path: Path) -> Ids:
    try:
        return color_codes(path)
    except DAMAGE as error:
        raise ValueError(f"{path} can't be read ({error}): replace or remove it") from error
