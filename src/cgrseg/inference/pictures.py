"""A `Segmentation` as pictures with names and legend: overlay and outlines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from cgrseg.images import render
from cgrseg.images.names import draw_names
from cgrseg.images.text import drawable
from cgrseg.labels import Color

if TYPE_CHECKING:
    from .result import Segmentation

UNKNOWN = "unknown"
PLAIN = (255, 255, 255)  # in legends, of what is not coloured
Listed = tuple[int, str, Color | None, float]  # id, name, colour, share


def overlay(result: Segmentation, alpha: float, *, legend: bool, names: bool) -> Image.Image:
    """See `Segmentation.overlay`."""
    picture = render.overlay(result.photo, result.labels, result.label_space, alpha=alpha)
    listed = entries(result) if legend else []
    seen = render.seen_colors(picture, result.labels, [label for label, *_ in listed])
    shown = _legend(result, [(*each[:2], color, each[3]) for each, color in zip(listed, seen, strict=True)])
    if names:
        picture = _with_names(result, render.draw_outlines(picture, result.labels, result.label_space))
    return render.with_legend(picture, shown) if legend else picture


def outline(result: Segmentation, *, legend: bool, names: bool, width: int | None) -> Image.Image:
    """See `Segmentation.outline`."""
    picture = Image.fromarray(result.photo)
    picture = render.draw_outlines(picture, result.labels, result.label_space, width=width)
    if names:
        picture = _with_names(result, picture)
    return render.with_legend(picture, _legend(result, entries(result))) if legend else picture


def entries(result: Segmentation) -> list[Listed]:
    """The classes of an image, the largest first; unknown pixels have the ignore_index and no colour."""
    counts, pixels = result.counts(), result.labels.size
    names, colors = result.names, result.label_space.colors
    found: list[Listed] = [(int(k), names[k], colors[k], int(counts[k]) / pixels) for k in np.flatnonzero(counts)]
    if unknown := pixels - int(counts.sum()):
        found.append((result.label_space.ignore_index, UNKNOWN, None, unknown / pixels))
    return sorted(found, key=lambda each: -each[3])


def _legend(result: Segmentation, listed: Sequence[Listed]) -> list[render.Entry]:
    plain = (result.label_space.background, result.label_space.ignore_index)
    return [(_shown(label, name), PLAIN if label in plain else color, share) for label, name, color, share in listed]


def _shown(label: int, name: str) -> str:
    """The name, or "class 7" if no font on this machine has its letters."""
    return drawable(name, f"class {label}")


def _with_names(result: Segmentation, picture: Image.Image) -> Image.Image:
    background = result.label_space.background
    shown = [_shown(*each) for each in enumerate(result.names)]
    draw_names(picture, result.labels, shown, skip=[] if background is None else [background])
    return picture
