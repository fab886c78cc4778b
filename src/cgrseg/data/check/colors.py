"""What kind of picture a mask is: colours instead of ids, or values that a smooth border invented."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ..dataset import Ids

CLEAR = -1  # the colour code of a pixel that is not fully opaque
COLORS = 1 << 24
# Of the steps between neighbouring pixels of a clean mask, at most 4 % pass through an id between two others
# (CamVid, Clothing Co-Parsing, ADE20K, COCO-Stuff); of a mask resized with interpolation, about half.
PASSING = 0.2
FEWEST_PASSING = 20  # pixels


def color_codes(path: Path) -> Ids:
    """int32 [H, W]: red · 65536 + green · 256 + blue of each pixel, or CLEAR where it is transparent."""
    with Image.open(path) as picture:
        transparent = picture.has_transparency_data
        pixels = np.asarray(picture.convert("RGBA" if transparent else "RGB")).astype(np.int32)
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
    found: Ids = np.unique(corner[solid])
    return found


def passes_between(ids: Ids) -> float:
    """The share of steps from pixel to pixel that lead through an id strictly between its two neighbours'.

    0 where there are too few to tell.
    """
    passing = steps = 0
    for rows in (ids, ids.T):
        before, middle, after = rows[:, :-2], rows[:, 1:-1], rows[:, 2:]
        between = ((before < middle) & (middle < after)) | ((before > middle) & (middle > after))
        passing += int(np.count_nonzero(between))
        steps += int(np.count_nonzero(middle != before))
    return passing / steps if passing >= FEWEST_PASSING else 0.0


def color_problem(path: Path) -> tuple[str, str]:
    """(kind, message) for a mask that has colours.

    Raises:
        OSError and what else Pillow raises on damage: it can't be decoded.
    """
    with Image.open(path) as picture:
        mode = picture.mode
    codes = color_codes(path)
    found, counts = np.unique(codes, return_counts=True)
    blended = ~np.isin(found, solid_values(codes))
    share = counts[blended].sum() / codes.size
    if blended.sum() > max(len(found) // 2, 2):
        return (
            "anti-aliased masks",
            f"mask {path} is a colour picture (mode {mode}) with {len(found)} colours, {blended.sum()} of them "
            f"({share:.1%} of its pixels) only along borders: it was anti-aliased, resized or saved as JPEG; export "
            "it without smoothing, or see `cgrseg convert-masks --unknown`",
        )
    shown = ", ".join(color_name(int(code)) for code in found[np.argsort(-counts, kind="stable")][:6])
    return (
        "masks in colours",
        f"mask {path} is a colour picture (mode {mode}, colours {shown}"
        f"{', …' if len(found) > 6 else ''}): `cgrseg convert-masks` makes class ids of them",
    )
