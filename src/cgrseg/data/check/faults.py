"""What tells a wrong mask or dataset: colours instead of ids, binary masks, shifted ids, JPEG, EXIF rotation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from cgrseg.images.photos import DAMAGE, Pixels
from cgrseg.labels import LabelSpace

from ..dataset import DataProblem, unreadable
from ..folder import BINARY
from ..masks import CHANNEL_MODES, Ids, are_grey_levels, color_name, is_binary, read_colors, solid_values
from .report import SplitReport

NAMED = 12  # absent classes named in a line; the table shows all
FEW_PIXELS = 64  # a class with fewer in train can't be learned
FITS_STORED = 1.3  # how much stronger the photo's edges under the mask's outlines must be


@dataclass(frozen=True)
class MaskColors:
    """The colours of the ids in a mask that has a palette, or equal colour channels.

    Args:
        palette: whether they come from a palette.
        codes: id -> red · 65536 + green · 256 + blue.
    """

    palette: bool
    codes: dict[int, int]


def mask_colors(path: Path, ids: Sequence[int]) -> MaskColors | None:
    """The colours of the ids in a mask; None for grey masks, whose values are ids only."""
    with Image.open(path) as mask:
        if mask.mode in CHANNEL_MODES and mask.mode != "PA":
            return MaskColors(False, {value: value * 0x010101 for value in ids})
        palette = mask.getpalette("RGB") if mask.mode in ("P", "PA") else None
    if palette is None:
        return None
    table = np.array(palette).reshape(-1, 3) @ (65536, 256, 1)
    codes = {value: int(table[value]) for value in ids if value < len(table)}
    return None if all(code == value * 0x010101 for value, code in codes.items()) else MaskColors(True, codes)


def stored_palette(path: Path) -> bytes:
    """The palette of a mask file, without decoding its pixels; empty if it has none or can't be read."""
    try:
        with Image.open(path) as mask:
            return bytes(mask.palette.palette) if mask.mode == "P" and mask.palette is not None else b""
    except DAMAGE:
        return b""


def palette_problems(masks: Sequence[tuple[Path, MaskColors]], labels: LabelSpace | None) -> Iterator[DataProblem]:
    """Masks whose colours contradict those of the class list, or of other masks: then the ids are not the classes."""
    ignored = {255} if labels is None else {labels.ignore_index, 255}
    listed: dict[int, int] = {}
    if labels is not None and labels.raw_ids is None:
        listed = {r << 16 | g << 8 | b: number for number, (r, g, b) in enumerate(labels.colors)}
    used = [(path, mask, {k: v for k, v in mask.codes.items() if k not in ignored}) for path, mask in masks]
    by_color = bool(listed) and all(code in listed for _, _, codes in used for code in codes.values())
    first: dict[int, tuple[int, Path]] = {}
    cure = "if the colours mark the classes, `cgrseg convert-masks` makes ids of them; otherwise save the mask as grey"
    for path, mask, codes in used:
        for number, code in codes.items():
            if by_color and listed[code] != number:
                assert labels is not None
                name = labels.names[listed[code]]
                cause = f"id {number} has the colour {color_name(code)}, which the class list gives to {name!r}: {cure}"
                yield DataProblem("colours that contradict the class list", cause, path)
                break
            before, other = first.setdefault(number, (code, path)) if mask.palette else (code, path)
            if before != code:
                cause = f"id {number} has the colour {color_name(code)}, but {color_name(before)} in {other}: {cure}"
                yield DataProblem("palettes that differ", cause, path)
                break


def jpeg_problem(path: Path) -> Iterator[DataProblem]:
    """JPEG changes values, also in a file called .png."""
    with Image.open(path) as mask:
        if mask.format in ("JPEG", "MPO"):
            cause = "is a JPEG file, which changes ids near borders: export it again as PNG"
            yield DataProblem("JPEG masks", cause, path)


def color_problem(path: Path) -> DataProblem:
    """The problem of a mask that has colours."""
    try:
        codes = read_colors(path)
        with Image.open(path) as image:
            mode, jpeg = image.mode, image.format in ("JPEG", "MPO")
    except (OSError, ValueError) as error:
        return unreadable(path, error, kind="masks")
    found, counts = np.unique(codes, return_counts=True)
    blended = int((~np.isin(found, solid_values(codes))).sum())
    if jpeg or blended > max(len(found) // 2, 2):
        cause = (
            f"has colours (mode {mode}) that lie only along borders: it was anti-aliased, resized or saved as JPEG; "
            "export it as PNG without smoothing, or see `cgrseg convert-masks --unknown`"
        )
        return DataProblem("anti-aliased masks", cause, path)
    shown = ", ".join(color_name(int(code)) for code in found[np.argsort(-counts, kind="stable")][:6])
    cause = f"has colours (mode {mode}: {shown}{', …' * (len(found) > 6)}): `cgrseg convert-masks` makes ids of them"
    return DataProblem("masks in colours", cause, path)


def rotated(photo_path: Path, mask_path: Path, photo: Pixels, mask: Ids) -> Iterator[DataProblem]:
    """A mask that fits the stored pixels of a photo that EXIF rotates, where the size can't tell (180°, squares).

    Args:
        photo_path, mask_path: the files.
        photo: uint8 [H, W, C], upright.
        mask: ids [H, W].
    """
    try:
        with Image.open(photo_path) as stored:
            if stored.format == "PNG" and "exif" not in stored.info:
                return  # Pillow would decode it all
            orientation = stored.getexif().get(ExifTags.Base.Orientation, 1)
    except UnidentifiedImageError:  # TIFFs of several bands, which are never rotated
        return
    if orientation not in range(2, 9):
        return
    image = Image.fromarray(mask.astype(np.int32))
    image.getexif()[ExifTags.Base.Orientation] = orientation
    turned = np.asarray(ImageOps.exif_transpose(image))
    grey = photo.astype(np.int32).sum(2)
    if turned.shape == mask.shape and _edges(grey, turned) > FITS_STORED * _edges(grey, mask):
        cause = "fits the photo before its EXIF rotation, but photos are rotated: rotate the mask too"
        yield DataProblem("masks that fit the unrotated photo", cause, mask_path, is_error=False)


def _edges(grey: Ids, mask: Ids) -> float:
    """The mean step of the photo [H, W] at the outlines of the mask [H, W]."""
    total = count = 0
    for axis in (0, 1):
        outline = np.diff(mask.astype(np.int64), axis=axis) != 0
        total += int(np.abs(np.diff(grey, axis=axis))[outline].sum())
        count += int(outline.sum())
    return total / max(count, 1)


def class_problems(splits: Sequence[SplitReport], labels: LabelSpace, *, complete: bool) -> Iterator[DataProblem]:
    """What the ids and classes of whole splits show: too few classes, binary masks, ids from 1, absent classes.

    Args:
        splits: their counts.
        labels: the classes.
        complete: whether all masks were counted.
    """
    yield from _shifted(splits, labels)
    for color, count in Counter(labels.colors).items() if labels.raw_ids is None else ():
        if count > 1:
            names = ", ".join(name for name, own in zip(labels.names, labels.colors, strict=True) if own == color)
            cause = f"the classes {names} have the same colour {color}: they look alike in pictures"
            yield DataProblem("classes", cause, is_error=False)
    for split in splits:
        values = set(split.raw)
        if not split.pixels.any() and not split.ignored:
            continue  # no mask could be read, or no id is in the class list: that is reported already
        held = [name for name, count in zip(labels.names, split.pixels, strict=True) if count]
        if is_binary(values):
            yield DataProblem("classes", f"the {split.name} masks {BINARY}")
            continue
        if len(held) < (2 if split.name == "train" else 1):
            found = f"only the class {held[0]}" if held else "no class"
            ignored = f"; {split.ignore_share:.1%} of the pixels are ignored" if split.ignored else ""
            cause = f"the {split.name} masks hold {found}{ignored}: a training needs two classes or more"
            yield DataProblem("classes", cause)
            continue
        if not complete:
            continue
        absent = [name for name in labels.names if name not in held]
        if absent:
            effect = "can't be learned" if split.name == "train" else "get no score there"
            shown = ", ".join(absent[:NAMED]) + (", …" if len(absent) > NAMED else "")
            cause = f"{len(absent)} of {len(labels)} classes are in no {split.name} mask and {effect}: {shown}"
            yield DataProblem("absent classes", cause, is_error=False)
        for name, pixels in zip(labels.names, split.pixels, strict=True):
            if split.name == "train" and 0 < pixels < FEW_PIXELS:
                cause = f"class {name} has {pixels} pixels in train: too few to learn; add photos of it"
                yield DataProblem("tiny classes", cause, is_error=False)


def _shifted(splits: Sequence[SplitReport], labels: LabelSpace) -> Iterator[DataProblem]:
    """Ids that begin with 1, and grey levels, in place of the ids of the class list."""
    if labels.raw_ids is not None:
        return
    values = {value for split in splits for value in split.raw}
    ids = values - {255, 65535, labels.ignore_index}
    count = len(labels)
    if are_grey_levels(values) and max(ids) >= count:
        cause = f"the masks hold the grey levels {', '.join(map(str, sorted(values)))}, not ids from 0 to {count - 1}"
        yield DataProblem("classes", f"{cause}: `cgrseg convert-masks` makes class ids of them")
    elif ids and max(ids) == count:
        zero = "id 0 becomes ignored" if 0 in ids else "no mask has id 0"
        cause = (
            f"the mask ids end at {count}, but the {count} classes at {count - 1}: off by one? If the ids begin with 1 "
        )
        yield DataProblem("classes", f"{cause}({zero}), `cgrseg convert-masks --one-based` subtracts 1")
    elif count > 2 and ids and min(ids) == 1 and len(ids) > 1:
        cause = f"no mask has id 0 ({labels.names[0]}): off by one? If the ids begin with 1, see "
        yield DataProblem("classes", f"{cause}`cgrseg convert-masks --one-based`", is_error=False)
