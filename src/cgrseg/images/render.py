"""Label maps as pictures: overlays, outlines, legends with names and shares, palette masks, confidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from cgrseg.labels import Color, LabelSpace

from .names import letter_size
from .text import drawable, font, shortened

Pixels = np.ndarray[Any, np.dtype[Any]]
Entry = tuple[str, Color | None, float]  # name, colour of the swatch (None: no swatch), share of the pixels

INK, PAPER, SWATCH_EDGE = (30, 30, 30), (255, 255, 255), (128, 128, 128)
SAMPLED = 1 << 14  # pixels that the mean colours of a legend are computed from
FEWEST_ROWS = 4  # minimum rows of a legend, also for the smallest image


def overlay(photo: Pixels, labels: Pixels, label_space: LabelSpace, *, alpha: float = 0.5) -> Image.Image:
    """The image blended with the colours of its classes; "background" and ids without a class are not coloured.

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
    original = Image.fromarray(photo)
    if labels.dtype == np.uint8:
        colors = mask_picture(labels, label_space).convert("RGB")
    else:
        colors = Image.fromarray(_colors(label_space)[labels])
    picture = Image.blend(original, colors, alpha)
    plain = uncolored(labels, label_space)
    if plain.any():
        picture.paste(original, mask=Image.fromarray(plain))
    return picture


def uncolored(labels: Pixels, label_space: LabelSpace) -> Pixels:
    """bool [H, W]: pixels of "background", and of ids without a class."""
    plain: Pixels = labels >= len(label_space)
    return plain if label_space.background is None else plain | (labels == label_space.background)


def draw_outlines(
    picture: Image.Image, labels: Pixels, label_space: LabelSpace, *, width: int | None = None
) -> Image.Image:
    """The picture with a line along the inner side of each region, in the colour of its class.

    Args:
        picture: RGB.
        labels: class ids [H, W] of the same size; "background" and ids without a class have no line.
        label_space: gives the colours.
        width: of the line in pixels; by default it follows the size of the picture.
    """
    width = width or max(round((picture.width * picture.height) ** 0.5 / 400), 1)
    edge = np.zeros(labels.shape, bool)
    for one, other in (  # pixels and their neighbours
        (np.s_[:, 1:], np.s_[:, :-1]),
        (np.s_[1:], np.s_[:-1]),
        (np.s_[1:, 1:], np.s_[:-1, :-1]),
        (np.s_[1:, :-1], np.s_[:-1, 1:]),
    ):
        differ = labels[one] != labels[other]
        edge[one] |= differ
        edge[other] |= differ
    if width > 1:
        from scipy import ndimage  # type: ignore[import-untyped]  # here, because it takes a fifth of a second

        edge = ndimage.maximum_filter(edge, 2 * width - 1)
    edge &= ~uncolored(labels, label_space)
    result = np.array(picture)
    result[edge] = _colors(label_space)[labels[edge]]
    return Image.fromarray(result)


def seen_colors(picture: Image.Image, labels: Pixels, classes: Sequence[int]) -> list[Color]:
    """The mean colour of each class in a picture of the size of the label map, which contains these classes."""
    step = max(int((labels.size / SAMPLED) ** 0.5), 1)
    pixels, sampled = np.asarray(picture), labels[::step, ::step].ravel()
    counts = np.bincount(sampled, minlength=max(classes, default=0) + 1)
    channels = pixels[::step, ::step].reshape(-1, 3).T
    sums = np.stack([np.bincount(sampled, channel, len(counts)) for channel in channels], 1)
    means = []
    for label in classes:
        mean = sums[label] / counts[label] if counts[label] else pixels[labels == label].mean(0)  # of a small class
        means.append(tuple(map(int, mean.round())))
    return means  # type: ignore[return-value]


def _colors(label_space: LabelSpace) -> Pixels:
    """uint8 [65536, 3]: a colour for any id; ids without a class are black."""
    colors = np.zeros((1 << 16, 3), np.uint8)
    colors[: len(label_space)] = label_space.colors
    return colors


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
    letter = letter_size(width, height)
    row, margin = round(letter * 1.5), letter // 2
    column = 3 * margin + letter + max((_width(letter, entry) for entry in entries), default=0)
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
        text = _text(entry)
        draw.text((x + letter + margin, y + letter // 2), text, INK, font(letter, text), anchor="lm")
    return page


def with_title(picture: Image.Image, title: str) -> Image.Image:
    """The picture with a line of text above it; the page is wide enough for both."""
    letter = letter_size(picture.width, picture.height)
    letters = font(letter, title)
    width = max(picture.width, math.ceil(letters.getlength(title)) + letter)
    page = Image.new("RGB", (width, picture.height + 2 * letter), PAPER)
    page.paste(picture, (0, 2 * letter))
    ImageDraw.Draw(page).text((letter // 2, letter), title, INK, letters, anchor="lm")
    return page


def _shortened(entries: Sequence[Entry], places: int) -> Sequence[Entry]:
    if len(entries) <= places:
        return entries
    shown, rest = entries[: places - 1], entries[places - 1 :]
    return [*shown, (f"{len(rest)} more", None, sum(share for _, _, share in rest))]


def _text(entry: Entry) -> str:
    name, share = drawable(shortened(entry[0])), entry[2]
    return f"{name}  {share:.1%}" if share >= 0.001 else f"{name}  < 0.1%"


def _width(letter: int, entry: Entry) -> int:
    text = _text(entry)
    return round(font(letter, text).getlength(text)) + 1
