"""The paper's figures from published and measured numbers and from weights, one column wide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgrseg.images.files import save_figure
from cgrseg.labels import LabelSpace

from .attention_maps import Heat, Photo, Stages
from .measured import Measured, model_of
from .published import Row, published
from .tables import cost_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMN = 3.5  # inches
STYLE: dict[Any, Any] = {
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "svg.fonttype": "none",
    "lines.markersize": 4,
}
OURS, THEIRS, MEASURED = "#c1272d", "#3b6fa8", "#111111"
FAMILIES = ("CGRSeg", "SegNeXt", "Segformer", "FeedFormer")  # drawn as lines from small to large
BARS = 12


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write NAME.png (300 dots an inch) and NAME.svg into `folder`."""
    from matplotlib import rc_context

    paths = [folder / f"{name}.{ending}" for ending in ("png", "svg")]
    for path in paths:
        with rc_context(STYLE):
            save_figure(figure, path, dpi=300)
    return paths


def _figure(height: float, width: float = COLUMN) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def frontier(measured: Measured) -> Figure:
    """Figure 1: mIoU on ADE20K as published over operations; our scores are crosses.

    The first panel has the operations as published, which the authors of the methods counted in different ways. The
    second has the multiply-adds of all models that can be built here, with all matrix products. With measured speeds a
    third panel has our latency.
    """
    from matplotlib import rc_context

    table = published()[0]
    built = [(row, model) for row in table.rows if (model := model_of(row)) is not None]
    panels = [
        ("FLOPs at 512x512, G, as published", [(row.flops_g, row) for row in table.rows if row.flops_g is not None]),
        ("multiply-adds at 512x512, G, counted here", [(cost_of(model).macs / 1e9, row) for row, model in built]),
    ]
    latencies = [(speed.latency_ms, row) for row in table.rows if (speed := measured.speed(row)) is not None]
    panels += [("latency measured here, ms per image", latencies)] if latencies else []
    scores = {row: score[0] for row, _ in built if (score := measured.score(row, table)) is not None}
    with rc_context(STYLE):
        figure = _figure(2.7 * len(panels))
        for axes, (label, points) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
            _draw_frontier(axes, points, label)
            for x, row in points:
                if row in scores:
                    axes.plot(x, scores[row], "x", color=MEASURED)
                    axes.annotate("measured here", (x, scores[row]), (4, -6), textcoords="offset points", fontsize=5.5)
        return figure


def _draw_frontier(axes: Any, points: Sequence[tuple[float, Row]], label: str) -> None:
    for family in FAMILIES:
        line = [(x, row.miou) for x, row in points if str(row.method).startswith(family)]
        color = OURS if family == "CGRSeg" else THEIRS
        axes.plot(*zip(*sorted(line), strict=True) if line else ((), ()), color=color, linewidth=0.8, alpha=0.6)
    for x, row in points:
        ours = str(row.method).startswith("CGRSeg")
        color, marker, size = (OURS, "*", 8) if ours else (THEIRS, "o", 3.5)
        axes.plot(x, row.miou, marker=marker, color=color, markersize=size)
        right = row.method not in TO_THE_LEFT
        axes.annotate(
            row.method,
            (x, row.miou),
            xytext=(4 if right else -4, BELOW.get(str(row.method), 0)),
            textcoords="offset points",
            ha="left" if right else "right",
            va="center",
            fontsize=5.5,
            fontweight="bold" if ours else "normal",
        )
    places = [x for x, _ in points]
    axes.set(
        xscale="log",
        xlim=(min(places) / 1.9, max(places) * 1.9),
        xlabel=label,
        ylabel="mIoU on ADE20K, % (published)",
    )
    ticks = [2**power for power in range(-2, 13) if min(places) / 1.9 < 2**power < max(places) * 1.9]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3, linewidth=0.4)


# Placement of names that would overlap.
TO_THE_LEFT = ("LRFormer-T", "Seaformer-L", "SegNeXt-S", "SegNeXt-T", "FeedFormer-B0", "FeedFormer-B2", "CCNet")
BELOW = {"Segformer-B1": -3, "SegNeXt-S": -1, "Segformer-B2": -5, "MaskFormer": 4, "CGRSeg-T": 3, "FeedFormer-B2": 2}


def attention(photo: Photo, stages: Stages, layer: str) -> Figure:
    """Figure 3: the image, then each stage of one RCA's attention over it, from dark blue (low) to yellow (high).

    Each map is scaled to its own range, which is printed below it.
    """
    from matplotlib import rc_context

    with rc_context(STYLE):
        height, width = photo.shape[:2]
        panels = [
            ("photo", None),
            ("axial sum", stages.area),
            ("horizontal strip", stages.horizontal),
            ("vertical strip", stages.vertical),
            ("attention", stages.attention),
        ]
        columns = 2 if width > height else 3
        rows = -(-len(panels) // columns)
        figure = _figure(rows * (COLUMN / columns * height / width + 0.36))
        places = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, (title, heat) in zip(places, panels, strict=False):
            axes.imshow(photo if heat is None else photo.mean(2), cmap=None if heat is None else "gray")
            axes.set_title(title)
            if heat is not None:
                axes.imshow(heat, cmap="viridis", alpha=0.65)
                axes.set_xlabel(f"{heat.min():.2f} to {heat.max():.2f}", fontsize=6)
            axes.set_xticks([])
            axes.set_yticks([])
        for axes in places[len(panels) :]:
            axes.axis("off")
        places[0].set_xlabel(layer, fontsize=6)
        return figure


def classes(weights: Heat, labels: LabelSpace, areas: dict[str, float]) -> Figure:
    """For Figure 4: the class embedding of an image as bars, and the share of each class in the label map."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        order = np.argsort(-weights, kind="stable")[:BARS][::-1]
        figure = _figure(0.9 + 0.2 * len(order))
        axes = figure.subplots()
        places = np.arange(len(order))
        colors = [tuple(channel / 255 for channel in labels.colors[index]) for index in order]
        bars = axes.barh(places, 100 * weights[order], color=colors, edgecolor="grey", linewidth=0.5, height=0.7)
        axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=6)
        shares = [100 * areas.get(labels.names[index], 0.0) for index in order]
        axes.plot(shares, places, "D", color="black", markersize=3)
        axes.set_yticks(places, [labels.names[index] for index in order])
        axes.set(xlabel="%", xlim=(0, 1.18 * max(100 * float(weights.max()), *shares)))
        axes.set_title("bars: class embedding; diamonds: share of the label map")
        return figure


def predictions(rows: Sequence[tuple[Photo, Any, Any, Any]], labels: LabelSpace, names: Sequence[str]) -> Figure:
    """Figure 5: one row per image with image, mask, and the predictions of two models; a legend below.

    Args:
        rows: (image [H, W, 3], mask, label map of each model, [H, W]); ignored pixels are black.
        labels: names and colours.
        names: the two models' titles.
    """
    from matplotlib import rc_context
    from matplotlib.patches import Patch

    palette = np.array(labels.colors, np.uint8)
    with rc_context(STYLE):
        shape = rows[0][0].shape
        present = sorted(
            {int(label) for row in rows for ids in row[1:] for label in np.unique(ids) if label < len(labels)}
        )
        legend = 0.16 * -(-len(present) // 4) + 0.1
        figure = _figure(len(rows) * (2 * COLUMN / 4 * shape[0] / shape[1] + 0.05) + 0.25 + legend, width=2 * COLUMN)
        grid = figure.subplots(len(rows), 4, squeeze=False)
        for line, row in zip(grid, rows, strict=True):
            line[0].imshow(row[0])
            for axes, ids in zip(line[1:], row[1:], strict=True):
                picture = palette[np.minimum(ids, len(labels) - 1)]
                picture[ids >= len(labels)] = 0
                axes.imshow(picture, interpolation="nearest")
            for axes in line:
                axes.set_xticks([])
                axes.set_yticks([])
        for axes, title in zip(grid[0], ("image", "mask", *names), strict=True):
            axes.set_title(title)
        patches = [Patch(color=palette[label] / 255, label=labels.names[label]) for label in present]
        figure.legend(handles=patches, loc="outside lower center", ncols=4, fontsize=6, frameon=False)
        return figure
