"""Mask files: class ids as they are stored, colours, and what tells a damaged mask from a good one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from cgrseg._text import printable
from cgrseg.images.photos import DAMAGE, TOO_LARGE

Ids = np.ndarray[Any, np.dtype[Any]]
ID_MODES = ("1", "L", "P", "I;16", "I;16B", "I")
CHANNEL_MODES = ("RGB", "RGBA", "LA", "PA")
STRETCH = {"L;2": 85, "L;4": 17}  # Pillow spreads grey of 2 and 4 bits over 0 … 255
CLEAR = -1  # the colour code of a pixel that is not fully opaque
COLORS = 1 << 24
# Of the steps between neighbouring pixels of a clean mask, at most 4 % pass through an id between two others
# (CamVid, Clothing Co-Parsing, ADE20K, COCO-Stuff); of a mask resized with interpolation, about half.
PASSING = 0.2
FEWEST_PASSING = 20  # pixels


class ColoredMask(ValueError):
    """A mask in colours instead of class ids."""


def read_mask_file(path: Path) -> Ids:
    """The ids [H, W] of a mask as they are stored, upright if the file has an EXIF rotation of its own.

    Grey of 1 to 16 bits and palette images hold one id per pixel. Images with several channels are read if all
    channels are equal; a constant opaque alpha channel is ignored.

    Raises:
        ColoredMask: the image has colours.
        OSError, ValueError: it can't be decoded.
    """
    mask, stored = _decode(path)
    if mask.mode in ID_MODES:
        ids = np.asarray(mask)
        ids = ids // STRETCH[stored] if stored in STRETCH else ids
        return ids.astype(np.uint8) if ids.dtype == bool else ids
    if mask.mode in CHANNEL_MODES and "16" not in stored:
        pixels = np.asarray(mask)  # H W C
        first, rest = pixels[..., 0], pixels[..., 1:]
        if mask.mode in ("RGBA", "LA", "PA") and (rest[..., -1] == 255).all():
            rest = rest[..., :-1]
        if (rest == first[..., None]).all():
            return first
    raise ColoredMask(
        printable(f"{path}: has colours (mode {mask.mode}), but masks hold one class id per pixel: ")
        + "`cgrseg convert-masks` makes such masks"
    )


def _decode(path: Path) -> tuple[Image.Image, str]:
    """The upright image, and how its pixels are stored in the file, such as "L;2" or "RGB;16B".

    Raises:
        OSError, ValueError: it can't be decoded.
    """
    try:
        with Image.open(path) as image:
            arguments: Any = image.tile[0][3] if image.tile else None
            stored = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
            ImageOps.exif_transpose(image, in_place=True)
            image.load()
    except OSError:
        raise
    except (*DAMAGE, *TOO_LARGE) as error:
        raise ValueError(f"damaged: {error}") from error
    return image, stored if isinstance(stored, str) else image.mode


def read_colors(path: Path) -> Ids:
    """int32 [H, W]: red · 65536 + green · 256 + blue of each pixel, or CLEAR if it is transparent.

    Raises:
        OSError, ValueError: it can't be decoded, or has values that are not colours of 8 bits.
    """
    image, _ = _decode(path)
    if image.mode == "F" or image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        if image.mode == "F" or (grey % 257).any() or grey.min() < 0 or grey.max() > 65535:
            raise ValueError(f"mode {image.mode} holds numbers, not colours of 8 bits")
        return (grey // 257 * 0x010101).astype(np.int32)
    transparent = image.has_transparency_data
    pixels = np.asarray(image.convert("RGBA" if transparent else "RGB")).astype(np.int32)
    codes: Ids = (pixels[..., 0] << 16) | (pixels[..., 1] << 8) | pixels[..., 2]
    if transparent:
        codes[pixels[..., 3] < 255] = CLEAR
    return codes


def color_name(code: int) -> str:
    """0xFF8000 -> "#ff8000"."""
    return "transparent" if code == CLEAR else f"#{code:06x}"


def solid_values(values: Ids) -> Ids:
    """The values that fill a square of 2x2 pixels somewhere: those that were drawn.

    Values that a smooth border, a resize or JPEG put between two others nearly never do.
    """
    corner = values[:-1, :-1]
    solid = (corner == values[1:, :-1]) & (corner == values[:-1, 1:]) & (corner == values[1:, 1:])
    return count_ids(corner[solid])[0]


def count_ids(ids: Ids) -> tuple[Ids, Ids]:
    """The ids that occur, sorted, and the pixels of each; much faster than np.unique for uint8."""
    if ids.dtype != np.uint8:
        return np.unique(ids, return_counts=True)
    counts = np.bincount(ids.ravel(), minlength=256)
    found = np.flatnonzero(counts)
    return found, counts[found]


def passes_between(ids: Ids) -> float:
    """The share of steps from pixel to pixel that lead through an id strictly between its two neighbours'.

    0 if there are too few such pixels to tell.
    """
    passing = steps = 0
    for rows in (ids, ids.T):
        before, middle, after = rows[:, :-2], rows[:, 1:-1], rows[:, 2:]
        between = ((before < middle) & (middle < after)) | ((before > middle) & (middle > after))
        passing += int(np.count_nonzero(between))
        steps += int(np.count_nonzero(middle != before))
    return passing / steps if passing >= FEWEST_PASSING else 0.0


def is_binary(values: set[int]) -> bool:
    """Whether a set of ids is that of black and white masks, 0 and 255 (or 65535)."""
    return values in ({0, 255}, {0, 65535})


def are_grey_levels(values: set[int]) -> bool:
    """Whether ids are three or more levels spread evenly over 0 … 255, such as 0, 127, 255."""
    steps = len(values) - 1
    return 2 <= steps < 32 and all(abs(value - 255 * place / steps) <= 1 for place, value in enumerate(sorted(values)))
