"""convert-masks: masks in colours, in black and white or with ids from 1 become masks of class ids."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from tqdm import tqdm

from cgrseg._text import printable
from cgrseg.images.files import save_image, write_file
from cgrseg.images.find import find_files
from cgrseg.images.photos import IMAGE_SUFFIXES
from cgrseg.labels import LabelSpace

from .dataset import DataProblem, unreadable
from .masks import CLEAR, COLORS, Ids, color_name, read_colors, read_mask_file, solid_values

Unknown = Literal["refuse", "ignore", "nearest"]
MOST_COLORS = 255  # classes without a class list
BLACK, WHITE = 0x000000, 0xFFFFFF
SHOWN = 4  # colours or files named in a message


@dataclass(frozen=True)
class Conversion:
    """What `convert_masks` did.

    Args:
        labels: the classes.
        masks: number of masks found.
        problems: lines on masks that can't be converted; if there is one, nothing was written.
        ignored: share of the pixels that became ignored.
        class_list: the classes.json that was written, if there was none before.
        note: how the masks were read, if not by the colours of the class list.
    """

    labels: LabelSpace
    masks: int
    problems: tuple[str, ...] = ()
    ignored: float = 0.0
    class_list: Path | None = None
    note: str = ""


def convert_masks(
    source: str | Path,
    out: str | Path,
    *,
    classes: str | Path | None = None,
    unknown: Unknown = "refuse",
    one_based: bool = False,
) -> Conversion:
    """Turn the masks in a folder and its sub-folders into PNGs of class ids in another folder.

    All masks are read before the first is written. The colours come from the class list. Without one, black and white
    masks get the classes background and object, and otherwise each colour that fills 2x2 pixels somewhere is a class;
    classes.json is then written to `out`. With a list of two classes in other colours, black is the first class and
    white the second.

    Args:
        source: the folder of the masks.
        out: the new folder; no file in it is overwritten.
        classes: a classes.json with the colours; None for the one in the source folder or the folder above, if any.
        unknown: pixels whose colour has no class: refuse the mask, ignore the pixels, or take the nearest colour.
        one_based: the masks hold ids from 1: subtract 1; 0 becomes ignored.

    Raises:
        FileNotFoundError, NotADirectoryError: a folder or the class list does not exist, or `out` is a file.
        FileExistsError: a file to write exists.
        ValueError: there are no masks, two would become one, `one_based` without a class list, or the class list or
            the colours are unusable.
    """
    source, out = Path(source), Path(out)
    if out.resolve() == source.resolve():
        raise ValueError(f"--out {out} is the source itself: choose another folder")
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out {out} is a file: name a folder")
    listed = _class_list(source, classes)
    masks = [path for path in _find_masks(source) if not path.resolve().is_relative_to(out.resolve())]
    outputs = [out / path.relative_to(source).with_suffix(".png") for path in masks]
    class_list = None if listed else out / "classes.json"
    for path in [*outputs, *([class_list] if class_list else [])]:
        if path.exists():
            raise FileExistsError(f"{path} exists already: choose another --out, or remove it first")
    if one_based:
        if listed is None:
            raise ValueError("--one-based needs a class list: give --classes, whose ids begin with 0")
        labels, note = listed, "ids from 1 became ids from 0, and 0 became ignored"
        read: Callable[[Path], Ids] = partial(_ids_from_one, labels=labels)
    else:
        labels, table, note = _colors_of_classes(masks, listed)
        read = partial(_ids_by_color, table=table, unknown=unknown)
    problems = _problems(masks, read, source)
    if problems:
        return Conversion(labels, len(masks), problems)
    ignored = total = 0
    for path, output in zip(tqdm(masks, unit="mask", delay=1, leave=False, disable=None), outputs, strict=True):
        ids = read(path)
        ignored, total = ignored + int(np.count_nonzero(ids < 0)), total + ids.size
        write_mask(ids, output, labels)
    if class_list:
        write_classes(labels, class_list)
    return Conversion(labels, len(masks), ignored=ignored / total, class_list=class_list, note=note)


class _Refused(ValueError):
    """A mask that can't be converted."""


def _ids_from_one(path: Path, labels: LabelSpace) -> Ids:
    """The classes of a mask with ids from 1: int32 [H, W], -1 for ignored."""
    ids = read_mask_file(path).astype(np.int32)
    ids[np.isin(ids, (255, 65535, labels.ignore_index)) & (ids > len(labels))] = 0
    if ids.max(initial=0) > len(labels):
        raise _Refused(f"holds id {ids.max()}, but the {len(labels)} classes end at id {len(labels)}")
    return ids - 1


def _ids_by_color(path: Path, table: Ids, unknown: Unknown) -> Ids:
    """The classes of a mask in colours: int32 [H, W], -1 for ignored.

    Args:
        path: the mask.
        table: int32 [2^24]: colour code -> class, -1 for none.
        unknown: what to do about other colours; only "refuse" refuses transparent pixels.
    """
    codes = read_colors(path)
    ids: Ids = table[codes.clip(0)]
    ids[codes == CLEAR] = -1
    if unknown == "nearest":
        colors = np.flatnonzero(table >= 0)
        channels = np.stack([colors >> 16, colors >> 8 & 255, colors & 255], 1)  # K 3
        for code in np.unique(codes[(ids < 0) & (codes != CLEAR)]):
            distances = ((channels - (code >> 16, code >> 8 & 255, code & 255)) ** 2).sum(1)
            ids[codes == code] = table[colors[np.argmin(distances)]]
    wrong = codes[ids < 0]
    if unknown != "refuse" or wrong.size == 0:
        return ids
    found, counts = np.unique(wrong, return_counts=True)
    if np.isin(found, solid_values(codes)).mean() < 0.5:
        raise _Refused(
            "has colours without a class along borders: export the mask without anti-aliasing, as PNG; or --unknown "
            "ignore leaves these pixels out, --unknown nearest takes the nearest colour, which may be a third class"
        )
    order = np.argsort(-counts, kind="stable")[:SHOWN]
    names = ", ".join(color_name(int(code)) for code in found[order]) + (", …" if len(found) > SHOWN else "")
    raise _Refused(
        f"has colours without a class ({names}): add them to the class list, or --unknown ignore leaves these pixels "
        "out, --unknown nearest takes the nearest colour"
    )


def _class_list(source: Path, classes: str | Path | None) -> LabelSpace | None:
    options = [Path(classes)] if classes is not None else [source / "classes.json", source.parent / "classes.json"]
    found = next((path for path in options if path.is_file()), None)
    if classes is not None and found is None:
        raise FileNotFoundError(f"no class list at {classes}")
    return None if found is None else LabelSpace.from_classes_json(found)


def _find_masks(source: Path) -> list[Path]:
    if not source.is_dir():
        raise FileNotFoundError(f"no folder {source}: name the folder of the masks")
    masks = find_files(source, IMAGE_SUFFIXES).files
    if not masks:
        raise ValueError(f"{source} has no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    seen: dict[Path, Path] = {}
    for path in masks:
        other = seen.setdefault(path.with_suffix(""), path)
        if other != path:
            raise ValueError(printable(f"{other} and {path.name} would become one mask: remove one"))
    return masks


def _colors_of_classes(masks: Sequence[Path], listed: LabelSpace | None) -> tuple[LabelSpace, Ids, str]:
    """The classes, the table colour code -> class (-1 for none), and a note on how they were found."""
    if listed is None:
        labels = _classes_by_color(masks)
        return labels, _table(labels), ""
    table = _table(listed)
    if len(listed) == 2 and table[WHITE] < 0 and _only_black_and_white(masks):
        table[:] = -1
        table[[BLACK, WHITE]] = 0, 1
        return listed, table, f"black became {listed.names[0]}, white became {listed.names[1]}"
    return listed, table, ""


def _table(labels: LabelSpace) -> Ids:
    table = np.full(COLORS, -1, np.int32)
    for number, (red, green, blue) in enumerate(labels.colors):
        code = red << 16 | green << 8 | blue
        if table[code] >= 0:
            raise ValueError(
                f"classes {labels.names[table[code]]} and {labels.names[number]} both have the colour "
                f"{color_name(code)}: give each class its own"
            )
        table[code] = number
    return table


def _only_black_and_white(masks: Sequence[Path]) -> bool:
    try:
        return all(set(np.unique(read_colors(path)).tolist()) <= {BLACK, WHITE} for path in masks)
    except (OSError, ValueError):  # reported when the masks are checked
        return False


def _classes_by_color(masks: Sequence[Path]) -> LabelSpace:
    """A class for each colour that fills at least 2x2 pixels of a mask, by its code: black is first.

    Raises:
        ValueError: a mask can't be read, has too many colours, or was saved as JPEG.
    """
    found: set[int] = set()
    for path in tqdm(masks, desc="find colours", unit="mask", delay=1, leave=False, disable=None):
        try:
            codes = read_colors(path)
            with Image.open(path) as image:
                jpeg = image.format in ("JPEG", "MPO")
        except (OSError, ValueError) as error:
            raise ValueError(str(unreadable(path, error, kind="masks"))) from error
        if jpeg:
            _refuse_jpeg(path, codes, found)
            continue
        found |= set(solid_values(codes).tolist()) - {CLEAR}
        if len(found) > MOST_COLORS:
            raise ValueError(
                f"the masks up to {path} have over {MOST_COLORS} colours: they are photos, or saved as JPEG; "
                "give the classes and their colours with --classes"
            )
    if not found:
        raise ValueError(f"no colour of {masks[0]} and the other masks fills 2x2 pixels: give --classes")
    codes_found = sorted(found)
    colors = tuple((code >> 16, code >> 8 & 255, code & 255) for code in codes_found)
    binary = found == {BLACK, WHITE}
    names = ("background", "object") if binary else tuple(map(color_name, codes_found))
    return LabelSpace(names=names, colors=colors, ignore_index=255)


def _refuse_jpeg(path: Path, codes: Ids, found: set[int]) -> None:
    """JPEG changes colours: only black and white can still be told without a class list."""
    channels = np.stack([codes >> 16, codes >> 8 & 255, codes & 255])
    if ((channels < 64).all(0) | (channels > 191).all(0)).mean() < 0.99:
        raise ValueError(
            f"{path} is a JPEG file, which changes colours: export it again as PNG, or give the classes with --classes "
            "and use --unknown nearest"
        )
    found |= {BLACK, WHITE}


def _problems(masks: Sequence[Path], read: Callable[[Path], Ids], source: Path) -> tuple[str, ...]:
    """One line per cause, with the masks that can't be converted for it."""
    causes: dict[str, list[Path]] = defaultdict(list)
    for path in tqdm(masks, desc="check masks", unit="mask", delay=1, leave=False, disable=None):
        try:
            read(path)
        except _Refused as error:
            causes[str(error)].append(path)
        except (OSError, ValueError) as error:
            causes[unreadable(path, error, kind="masks").cause].append(path)
    lines = []
    for cause, paths in causes.items():
        names = ", ".join(str(path.relative_to(source)) for path in paths[:SHOWN])
        more = f", … ({len(paths)} masks)" if len(paths) > SHOWN else ""
        lines.append(str(DataProblem("", cause, names + more)))
    return tuple(lines)


def write_mask(ids: Ids, target: Path, labels: LabelSpace) -> None:
    """Write ids [H, W], -1 for ignored, as a palette PNG, or as 16-bit grey if the ignore index needs it."""
    wide = labels.ignore_index > 255 or len(labels) > 256
    picture = Image.fromarray(np.where(ids < 0, labels.ignore_index, ids).astype(np.uint16 if wide else np.uint8))
    if not wide:
        picture.putpalette(labels.palette())
    save_image(picture, target)


def write_classes(labels: LabelSpace, path: Path) -> None:
    classes: list[dict[str, Any]] = [
        {"id": number, "name": name, "color": list(color)}
        for number, (name, color) in enumerate(zip(labels.names, labels.colors, strict=True))
    ]
    text = json.dumps({"classes": classes, "ignore_index": labels.ignore_index}, indent=1)
    write_file(path, text + "\n")
