"""Figure 1: mIoU on ADE20K as published over operations, and over our latency."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from .figures import MEASURED, OURS, STYLE, THEIRS, new_figure
from .measured import Measured, model_of
from .published import Row, published
from .tables import cost_of

FAMILIES = ("CGRSeg", "SegNeXt", "Segformer", "FeedFormer")  # drawn as lines from small to large
Boxes = np.ndarray[Any, np.dtype[np.float64]]
# Where a name can be beside its point: offset in points, horizontal and vertical alignment; the first is preferred.
PLACES = (
    *((5, 0, "left", "center"), (-5, 0, "right", "center"), (4, 3, "left", "bottom"), (4, -3, "left", "top")),
    *((-4, 3, "right", "bottom"), (-4, -3, "right", "top"), (0, 5, "center", "bottom"), (0, -5, "center", "top")),
)


@rc_context(STYLE)
def frontier(measured: Measured) -> Figure:
    """Figure 1: mIoU on ADE20K as published over operations; our scores are crosses.

    The first panel has the operations as published, which the authors of the methods counted in different ways. The
    second has the multiply-adds of all models that can be built here, with all matrix products. With measured speeds a
    third panel has our latency.
    """
    table = published()[0]
    built = [(row, model) for row in table.rows if (model := model_of(row)) is not None]
    panels = [
        ("FLOPs at 512x512, G, as published", [(row.flops_g, row) for row in table.rows if row.flops_g is not None]),
        ("multiply-adds at 512x512, G, counted here", [(cost_of(model).macs / 1e9, row) for row, model in built]),
    ]
    latencies = [(speed.latency_ms, row) for row in table.rows if (speed := measured.speed(row)) is not None]
    panels += [("latency measured here, ms per image", latencies)] if latencies else []
    scores = {row: score[0] for row, _ in built if (score := measured.score(row, table)) is not None}
    figure = new_figure(2.7 * len(panels))
    for axes, (label, points) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        _draw(axes, points, label)
        for x, row in points:
            if row in scores:
                axes.plot(x, scores[row], "x", color=MEASURED)
                axes.annotate("measured here", (x, scores[row]), (4, -6), textcoords="offset points", fontsize=5.5)
    figure.draw_without_rendering()  # settles the layout, on which the places of the names depend
    for axes, (_, points) in zip(figure.axes, panels, strict=True):
        _name(axes, points)
    return figure


def _draw(axes: Any, points: Sequence[tuple[float, Row]], label: str) -> None:
    for family in FAMILIES:
        line = [(x, row.miou) for x, row in points if str(row.method).startswith(family)]
        color = OURS if family == "CGRSeg" else THEIRS
        axes.plot(*zip(*sorted(line), strict=True) if line else ((), ()), color=color, linewidth=0.8, alpha=0.6)
    for x, row in points:
        color, marker, size = (OURS, "*", 8) if _ours(row) else (THEIRS, "o", 3.5)
        axes.plot(x, row.miou, marker=marker, color=color, markersize=size)
    low, high = min(x for x, _ in points) / 1.9, max(x for x, _ in points) * 1.9
    axes.set(xscale="log", xlim=(low, high), xlabel=label, ylabel="mIoU on ADE20K, % (published)")
    axes.margins(y=0.08)
    ticks = [2**power for power in range(-2, 14) if low < 2**power < high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3, linewidth=0.4)


def _ours(row: Row) -> bool:
    return str(row.method).startswith("CGRSeg")


def _name(axes: Any, points: Sequence[tuple[float, Row]]) -> None:
    """Write the names of the points where they overlap least with points, lines and other names."""
    at = axes.transData.transform([(x, row.miou) for x, row in points])
    taken = [np.concatenate([at - 4, at + 4], axis=1)] * 8  # a point counts more than a line
    for line in axes.lines:
        ends = axes.transData.transform(line.get_xydata())
        for start, end in pairwise(ends):
            along = start + np.linspace(0, 1, 21)[:, None] * (end - start)
            taken.append(np.concatenate([along - 1, along + 1], axis=1))
    x0, y0, x1, y1 = axes.bbox.extents
    names, boxes, costs = [], [], []
    for x, row in points:
        style = {"fontsize": 5.5, "fontweight": "bold" if _ours(row) else "normal"}
        names.append(axes.annotate(row.method, (x, row.miou), (0, 0), textcoords="offset points", **style))
        boxes.append(np.stack([_put(names[-1], place) for place in PLACES]))
        outside = (boxes[-1][:, :2] < (x0, y0)).any(1) | (boxes[-1][:, 2:] > (x1, y1)).any(1)
        costs.append(_overlap(boxes[-1], np.concatenate(taken)) + 1e6 * outside + 3 * np.arange(len(PLACES)))
    chosen = [0] * len(names)
    for _ in range(3):  # each name gives way to the others
        for index in range(len(names)):
            others = [boxes[other][chosen[other]] for other in range(len(names)) if other != index]
            crowded = costs[index] + _overlap(boxes[index], np.reshape(others, (-1, 4)))
            chosen[index] = int(np.argmin(crowded))
    for name, place in zip(names, chosen, strict=True):
        _put(name, PLACES[place])


def _put(text: Any, place: tuple[int, int, str, str]) -> Boxes:
    """Move a name; returns its box (left, bottom, right, top) in pixels, with a margin."""
    right, up, horizontal, vertical = place
    text.xyann = (right, up)
    text.set(ha=horizontal, va=vertical)
    box: Boxes = text.get_window_extent().padded(1.5).extents
    return box


def _overlap(boxes: Boxes, others: Boxes) -> Boxes:
    """For each box [n, 4] the total area that it shares with the others [m, 4]."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared: Boxes = np.clip(high - low, 0, None).prod(axis=2).sum(axis=1)
    return shared
