"""Label maps as pictures: overlays, legends with names and shares, palette masks, confidence."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cgrseg.labels import Color, LabelSpace

Pixels = np.ndarray[Any, np.dtype[Any]]
Entry = tuple[str, Color | None, float]  # name, colour of the swatch (None: no swatch), share of the pixels

INK, PAPER, SWATCH_EDGE = (30, 30, 30), (255, 255, 255), (128, 128, 128)
LONGEST_NAME = 28  # letters; longer names end in "…"
FEWEST_ROWS = 4  # minimum rows of a legend, also for the smallest image


def overlay(photo: Pixels, labels: Pixels, label_space: LabelSpace, *, alpha: float = 0.5) -> Image.Image:
    """The image blended with the colours of its classes.

    Args:
        photo: uint8 RGB [H, W, 3].
        labels: uint8 or uint16 [H, W], class ids.
        label_space: gives the colours.
        alpha: from 0 (only the image) to 1 (only the colours).

    Raises:
        ValueError: alpha is not from 0 to 1.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}: use a number from 0 (only the image) to 1 (only the colours)")
    if labels.dtype == np.uint8:
        colors = mask_picture(labels, label_space).convert("RGB")
    else:
        colors = Image.fromarray(np.array(label_space.colors, np.uint8)[labels])
    return Image.blend(Image.fromarray(photo), colors, alpha)


def mask_picture(labels: Pixels, label_space: LabelSpace) -> Image.Image:
    """The label map itself: uint8 ids with the class colours as palette (mode P), uint16 as 16-bit grey."""
    picture = Image.fromarray(labels)
    if labels.dtype == np.uint8:
        picture.putpalette(label_space.palette())
    return picture


def confidence_picture(confidence: Pixels) -> Image.Image:
    """float [H, W], 0 … 1 -> 8-bit grey, 0 … 255: white is certain."""
    return Image.fromarray((confidence * 255 + 0.5).astype(np.uint8))


def with_legend(picture: Image.Image, entries: Sequence[Entry]) -> Image.Image:
    """Add a panel with swatch, name and share of each class: below a wide picture, to the right of a tall one.

    The font size follows the picture. If not all classes fit, the last line counts the others.

    Args:
        picture: RGB.
        entries: (name, colour, share) in display order.
    """
    width, height = picture.size
    letter = min(max(12, round((width * height) ** 0.5 / 42)), 160)  # pixels
    letters, row, margin = font(letter), round(letter * 1.5), letter // 2
    column = 3 * margin + letter + max((_width(letters, entry) for entry in entries), default=0)
    beside = height > width
    if beside:
        columns, rows = 1, max((height - 2 * margin) // row, FEWEST_ROWS)
    else:
        columns = max((width - margin) // column, 1)
        rows = max(height // (2 * row), FEWEST_ROWS)
    entries = _shortened(entries, columns * rows)
    rows = -(-len(entries) // columns)
    panel = (columns * column + margin, rows * row + 2 * margin)
    if beside:
        size, (left, top) = (width + panel[0], max(height, panel[1])), (width, 0)
    else:
        size, (left, top) = (max(width, panel[0]), height + panel[1]), (0, height)
    page = Image.new("RGB", size, PAPER)
    page.paste(picture, (0, 0))
    draw = ImageDraw.Draw(page)
    for index, entry in enumerate(entries):
        x, y = left + margin + index // rows * column, top + margin + index % rows * row
        if entry[1] is not None:
            draw.rectangle((x, y, x + letter, y + letter), fill=entry[1], outline=SWATCH_EDGE)
        draw.text((x + letter + margin, y + letter // 2), _text(entry), INK, letters, anchor="lm")
    return page


def with_title(picture: Image.Image, title: str) -> Image.Image:
    """The picture with a line of text above it, cut at the picture's width."""
    letter = min(max(12, round((picture.width * picture.height) ** 0.5 / 42)), 160)  # pixels, as in the legend
    page = Image.new("RGB", (picture.width, picture.height + 2 * letter), PAPER)
    page.paste(picture, (0, 2 * letter))
    ImageDraw.Draw(page).text((letter // 2, letter), title, INK, font(letter), anchor="lm")
    return page


def _shortened(entries: Sequence[Entry], places: int) -> Sequence[Entry]:
    if len(entries) <= places:
        return entries
    shown, rest = entries[: places - 1], entries[places - 1 :]
    return [*shown, (f"{len(rest)} more", None, sum(share for _, _, share in rest))]


def _text(entry: Entry) -> str:
    name, share = " ".join(entry[0].split()), entry[2]
    name = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
    return f"{name}  {share:.1%}" if share >= 0.001 else f"{name}  < 0.1%"


def _width(letters: ImageFont.FreeTypeFont, entry: Entry) -> int:
    return round(letters.getlength(_text(entry))) + 1


@lru_cache(maxsize=16)
def font(letter: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic and more. Pillow's own font has only ASCII.

    Args:
        letter: size in pixels.

    Raises:
        OSError: Pillow was built without FreeType.
    """
    package = find_spec("matplotlib")
    assert package is not None and package.origin is not None
    path = Path(package.origin).with_name("mpl-data") / "fonts/ttf/DejaVuSans.ttf"  # importing it takes 0.2 s
    if not path.is_file():  # a system's own package
        from matplotlib import get_data_path

        path = Path(get_data_path(), "fonts/ttf/DejaVuSans.ttf")
    try:
        return ImageFont.truetype(path, letter)
    except ImportError as error:
        raise OSError("this Pillow was built without FreeType, which draws the legend: `pip install pillow`") from error
