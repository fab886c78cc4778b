"""The benchmark report: JSON file, printed tables, and chart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cgrseg.images.files import save_figure, write_file

STAGES = ("decode", "resize", "normalise", "network", "label map", "encode")
PHOTO_TO_LABELS = STAGES[:-1]  # the sum is "photo to label map"
FORMAT = 1  # version of the file
NEEDED = {"settings", "machine", "results"}
NEEDED_OF_ROWS = {"label", "model", "spec", "network_ms", "images_per_second"}
Report = dict[str, Any]


def write_report(report: Report, path: Path) -> None:
    """Write the report as JSON, atomically.

    Raises:
        OSError: it cannot be written.
    """
    write_file(path, json.dumps(report, indent=1, allow_nan=False) + "\n")


def read_report(path: Path) -> Report:
    """The inverse of `write_report`.

    Raises:
        ValueError: it is not such a file, or of another version.
        OSError: it cannot be read.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a JSON file: give one of `cgrseg benchmark`") from error
    whole = isinstance(report, dict) and report.get("format") == FORMAT and report.keys() >= NEEDED
    if not whole or not all(isinstance(row, dict) and row.keys() >= NEEDED_OF_ROWS for row in report["results"]):
        raise ValueError(f"{path} is not a report of this version: write it again with `cgrseg benchmark`")
    return dict(report)


def summary(report: Report) -> str:
    """One line: size, threads, rounds, versions, machine."""
    settings, machine = report["settings"], report["machine"]
    height, width = settings["size"]
    versions = ", ".join(f"{name} {machine[name].partition(':')[0]}" for name in ("torch", "openvino", "onnxruntime"))
    return (
        f"{height}x{width}, {settings['threads']} threads on cores {', '.join(map(str, settings['cores']))}, "
        f"{settings['rounds']} rounds in turn; {machine['processor']}; {versions}"
    )


def render(report: Report, published: Mapping[str, float] | None = None) -> str:
    """Three Markdown tables: latency with ratios to the first row, throughput and cost, stages.

    Args:
        published: model -> images a second printed in the paper, on a V100.
    """
    rows = report["results"]
    base = report["settings"]["base"]
    parts = [
        (f"One image, ms (times as fast as {base}, 95 % interval)", _latencies(rows)),
        ("Throughput and cost", _costs(rows, published or {})),
        ("Stages of one image, median ms", _stages(rows)),
    ]
    return "\n".join(f"{title}:\n\n{markdown(lines)}" for title, lines in parts)


def _latencies(rows: Sequence[Report]) -> list[list[str]]:
    lines = [["", "network", "p90", "p99", "times as fast", "photo to label map", "p90", "p99", "times as fast"]]
    for row in rows:
        cells = [row["label"]]
        for name, side in (("network_ms", "network"), ("photo_to_labels_ms", "photo_to_labels")):
            cells += [f"{row[name][at]:.1f}" for at in ("median", "p90", "p99")]
            one = row["times_as_fast"][side]
            cells.append(f"{one['median']:.2f} ({one['low']:.2f} to {one['high']:.2f})")
        lines.append(cells)
    return lines


def _costs(rows: Sequence[Report], published: Mapping[str, float]) -> list[list[str]]:
    lines = [["", "parameters, M", "multiply-adds, G", "images/s", "at batch", "paper on a V100"]]
    lines[0] += ["memory, MB", "cold start, s", "limit, ms", "reached"]
    for row in rows:
        paper = published.get(row["model"])
        lines.append(
            [
                row["label"],
                f"{row['parameters'] / 1e6:.1f}",
                f"{row['macs'] / 1e9:.1f}",
                f"{row['images_per_second']:.1f}",
                str(row["best_batch"]),
                "" if paper is None else f"{paper:.1f}",
                "" if row["peak_memory_mb"] is None else f"{row['peak_memory_mb']:.0f}",
                f"{row['cold_start_seconds']:.1f}",
                f"{row['limit_ms']:.1f}",
                f"{row['share_of_limit']:.0%}",
            ]
        )
    return lines


def _stages(rows: Sequence[Report]) -> list[list[str]]:
    lines = [["", *STAGES]]
    return lines + [[row["label"], *(f"{row['stages_ms'][stage]:.2f}" for stage in STAGES)] for row in rows]


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table from a heading and rows; the first column is aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = [f"{'':-<{width + 1}}" + ("-:"[index > 0]) for index, width in enumerate(widths)]
    bars = [[f" {cell:{'>' if index else '<'}{widths[index]}} " for index, cell in enumerate(line)] for line in lines]
    return "".join(f"|{'|'.join(cells)}|\n" for cells in (bars[0], rule, *bars[1:]))


COLORS = ("#8da0cb", "#a6d854", "#ffd92f", "#c1272d", "#fc8d62")  # one per stage, the network in red


def write_chart(report: Report, path: Path) -> None:
    """Draw one bar per candidate, from photo to label map, as PNG.

    Raises:
        OSError: it cannot be written.
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
    save_figure(figure, path, dpi=150)
