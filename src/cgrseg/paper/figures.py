"""Figures 3 to 5 of the paper from weights and images, and what all figures have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.cm import ScalarMappable
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cgrseg.images.files import save_figure
from cgrseg.labels import LabelSpace

from .attention_maps import Heat, Photo, Stages

COLUMN = 3.5  # inches
STYLE: dict[Any, Any] = {
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "svg.fonttype": "none",
    "lines.markersize": 4,
}
OURS, THEIRS, MEASURED = "#c1272d", "#3b6fa8", "#111111"
BARS = 12


@rc_context(STYLE)
def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write NAME.png (300 dots an inch) and NAME.svg into `folder`."""
    paths = [folder / f"{name}.{ending}" for ending in ("png", "svg")]
    for path in paths:
        save_figure(figure, path, dpi=300)
    return paths


def new_figure(height: float, width: float = COLUMN) -> Figure:
    """An empty figure of these inches."""
    return Figure(figsize=(width, height), layout="constrained")


@rc_context(STYLE)
def attention(photo: Photo, stages: Stages, layer: str) -> Figure:
    """Figure 3: the image, each stage of one RCA's attention, and colour bars with the limits of each map.

    The attention is drawn twice: over 0 to 1, the range of a sigmoid, and over its own range, which can be small.
    """
    own = (float(stages.attention.min()), float(stages.attention.max()))
    panels = [
        ("axial sum", stages.area, None),
        ("horizontal strip", stages.horizontal, None),
        ("vertical strip", stages.vertical, None),
        ("attention, 0 to 1", stages.attention, (0.0, 1.0)),
        ("attention, own range", stages.attention, own),
    ]
    height, width = photo.shape[:2]
    columns = 2 if width > height else 3
    rows = -(-(1 + len(panels)) // columns)
    figure = new_figure(rows * (COLUMN / columns * height / width + 0.4))
    first, *places = figure.subplots(rows, columns, squeeze=False).flat
    first.imshow(photo)
    first.set_title(f"image, {layer}")
    empty = figure.colorbar(ScalarMappable(), ax=first, orientation="horizontal", fraction=0.05, pad=0.03)
    empty.ax.set_visible(False)  # keeps the image as large as the maps
    for axes, (title, heat, limits) in zip(places, panels, strict=True):
        low, high = limits or (float(heat.min()), float(heat.max()))
        drawn = axes.imshow(heat, cmap="viridis", vmin=low, vmax=high if high > low else low + 1e-6)
        axes.set_title(title)
        bar = figure.colorbar(drawn, ax=axes, orientation="horizontal", fraction=0.05, pad=0.03, ticks=[low, high])
        names = bar.ax.set_xticklabels([_limit(low, high - low), _limit(high, high - low)], fontsize=6)
        names[0].set_horizontalalignment("left")
        names[1].set_horizontalalignment("right")
        bar.outline.set_linewidth(0.4)
    for axes in (first, *places):
        axes.set(xticks=[], yticks=[])
    return figure


def _limit(value: float, span: float) -> str:
    """A limit of a colour bar, with two digits of the span; never "-0.00"."""
    digits = min(max(1 - math.floor(math.log10(span)), 0), 6) if span > 0 else 2
    return f"{round(value, digits) + 0.0:.{digits}f}"


@rc_context(STYLE)
def classes(weights: Heat, labels: LabelSpace, areas: dict[str, float]) -> Figure:
    """For Figure 4: the class embedding of an image, and beside it the share of each class in the label map."""
    order = np.argsort(-weights, kind="stable")[:BARS][::-1]
    figure = new_figure(0.9 + 0.2 * len(order))
    places = np.arange(len(order))
    colors = [tuple(channel / 255 for channel in labels.colors[index]) for index in order]
    shares = [100 * areas.get(labels.names[index], 0.0) for index in order]
    panels = [("class embedding, %", (100 * weights[order]).tolist()), ("share of the label map, %", shares)]
    for axes, (title, values) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
        bars = axes.barh(places, values, color=colors, edgecolor="grey", linewidth=0.5, height=0.7)
        axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=6)
        axes.set(xlabel=title, xlim=(0, 1.3 * max(1.0, *values)))
        axes.set_yticks(places, [labels.names[index] for index in order])
        axes.spines[["top", "right"]].set_visible(False)
    return figure


@rc_context(STYLE)
def predictions(rows: Sequence[tuple[Photo, Any, Any, Any]], labels: LabelSpace, names: Sequence[str]) -> Figure:
    """Figure 5: one row per image: image, mask, label maps of a peer and of ours, and where they differ.

    Args:
        rows: (image [H, W, 3], mask, label map of the peer, of ours, each [H, W]); ignored pixels are black.
        labels: names and colours.
        names: titles of the peer and of ours.
    """
    palette = np.array(labels.colors, np.uint8)
    height, width = rows[0][0].shape[:2]
    found = {int(label) for row in rows for ids in row[1:] for label in np.unique(ids)}
    present = sorted(label for label in found if label < len(labels))
    patches = [Patch(color=palette[label] / 255, label=labels.names[label]) for label in present]
    patches += [Patch(color=color, label=word.format(*names)) for word, color in zip(DIFFER, SIDES, strict=True)]
    legend = 0.16 * -(-len(patches) // 4) + 0.1
    figure = new_figure(len(rows) * (2 * COLUMN / 5 * height / width + 0.06) + 0.25 + legend, width=2 * COLUMN)
    grid = figure.subplots(len(rows), 5, squeeze=False)
    for line, (photo, mask, peer, ours) in zip(grid, rows, strict=True):
        line[0].imshow(photo)
        for axes, ids in zip(line[1:], (mask, peer, ours), strict=False):
            picture = palette[np.minimum(ids, len(labels) - 1)]
            picture[ids >= len(labels)] = 0
            axes.imshow(picture, interpolation="nearest")
        picture, shares = difference(mask, peer, ours, len(labels))
        line[4].imshow(picture, interpolation="nearest")
        words = [f"{word} {share:.1%}" for word, share in zip(WORDS, shares, strict=True)]
        line[4].set_xlabel(", ".join(words), fontsize=5)
        for axes in line:
            axes.set(xticks=[], yticks=[])
    for axes, title in zip(grid[0], ("image", "mask", *names, "where they differ"), strict=True):
        axes.set_title(title)
    figure.legend(handles=patches, loc="outside lower center", ncols=4, fontsize=6, frameon=False)
    return figure


# Of the pixels that two models label differently; the rest is light grey.
DIFFER = ("only {1} is right", "only {0} is right", "both are wrong")
WORDS = ("blue", "orange", "grey")
SIDES = ("#3b6fa8", "#e08214", "#4d4d4d")


def difference(mask: Any, peer: Any, ours: Any, classes: int) -> tuple[Photo, list[float]]:
    """Where two label maps differ, as a picture [H, W, 3], and the share of each of `DIFFER` in the labelled pixels."""
    labelled, differ = mask < classes, (peer != ours) & (mask < classes)
    picture = np.full((*mask.shape, 3), 235, np.uint8)
    picture[~labelled] = 0
    shares = []
    for color, kind in zip(SIDES, (ours == mask, peer == mask, (ours != mask) & (peer != mask)), strict=True):
        picture[differ & kind] = [round(255 * channel) for channel in to_rgb(color)]
        shares.append(float((differ & kind).sum() / max(labelled.sum(), 1)))
    return picture, shares
