"""The clock's report as a picture: one bar a contender, from photo to label map, stage by stage."""

from __future__ import annotations

from pathlib import Path

from cgrseg._atomic import atomic_write

from .report import Report, summary
from .stages import PHOTO_TO_LABELS

COLORS = ("#8da0cb", "#a6d854", "#ffd92f", "#c1272d", "#fc8d62")  # a stage each, the network in red


def write_chart(report: Report, path: Path) -> None:
    """Draw the report as PNG, whole or not at all.

    Raises:
        OSError: it can't be written.
    """
    from matplotlib.figure import Figure

    rows = report["results"]
    figure = Figure(figsize=(8, 1.4 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots()
    ends = [0.0] * len(rows)
    for stage, color in zip(PHOTO_TO_LABELS, COLORS, strict=True):
        lengths = [row["stages_ms"][stage] for row in rows]
        axes.barh(range(len(rows)), lengths, left=ends, color=color, label=stage, height=0.7)
        ends = [end + length for end, length in zip(ends, lengths, strict=True)]
    for place, (row, end) in enumerate(zip(rows, ends, strict=True)):
        times = row["times_as_fast"]["photo_to_labels"]["median"]
        axes.text(end, place, f" {end:.0f} ms, {times:.1f}x", va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [row["label"] for row in rows])
    axes.invert_yaxis()
    axes.set(xlabel="ms from photo to label map (medians of the stages)", xlim=(0, 1.25 * max(ends)))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(COLORS), frameon=False, fontsize=8)
    figure.supxlabel(summary(report), fontsize=6)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150)
