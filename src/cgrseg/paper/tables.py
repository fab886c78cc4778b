"""The paper's tables with our numbers beside them. Our columns have only what was counted or measured here."""

from __future__ import annotations

import csv
import dataclasses
import html
import io
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from cgrseg.description import VARIANTS, ModelSpec

from .published import Row, Table

DATASETS = {"coco-stuff10k": "coco-stuff", "coco-stuff164k": "coco-stuff"}  # format of the data -> name in the paper
PAPER, OURS = "paper", "ours"
SIZE = (512, 512)  # of the image, for operations and speeds


@dataclasses.dataclass(frozen=True)
class Measured:
    """Measurements of one architecture.

    Args:
        spec: the architecture.
        images_per_second: from a benchmark file, at the best batch.
        latency_ms: of the network for one image, from a benchmark file.
        miou: in %, by (dataset as named in the paper, mode of evaluation).
    """

    spec: ModelSpec
    images_per_second: float | None = None
    latency_ms: float | None = None
    miou: Mapping[tuple[str, str], float] = dataclasses.field(default_factory=dict)


def spec_of(row: Row) -> ModelSpec | None:
    """The architecture of a row, if it can be built here."""
    if row.ours is None:
        return None
    fields = {key: value for key, value in row.ours.items() if key != "model"}
    return dataclasses.replace(VARIANTS[row.ours["model"]], **fields)


@dataclasses.dataclass(frozen=True)
class Counts:
    """Parameters, operations by the paper's counter and true multiply-adds, at 512x512 and 150 classes."""

    parameters: int
    paper_flops: int
    macs: int


@cache
def counts() -> dict[ModelSpec, Counts]:
    """The counts of all rows that can be built here, from counts.json. A test compares them with the models."""
    text = resources.files("cgrseg.paper").joinpath("counts.json").read_text(encoding="utf-8")
    return {ModelSpec(**entry["spec"]): Counts(**entry["counts"]) for entry in json.loads(text)}


def cost_of(spec: ModelSpec) -> Counts:
    """The counts of an architecture; one that is not in counts.json is built and counted."""
    free: dict[str, Any] = {"num_classes": 150, "dropout": 0.1, "drop_path": None, "bias_mode": "relative"}
    spec = dataclasses.replace(spec, **free)
    return counts().get(spec) or count(spec)


def count(spec: ModelSpec) -> Counts:
    """Build a model on the meta device and count it."""
    import torch

    from cgrseg.measure.complexity import complexity
    from cgrseg.nn import CGRSeg

    with torch.device("meta"):
        total = complexity(CGRSeg(spec=spec)).total
    return Counts(total.parameters, total.paper_flops, total.macs)


def heading(table: Table) -> list[str]:
    """The names of the columns of `lines`."""
    columns = ["method"]
    for name, unit, _, _ in _columns(table):
        columns += [f"{name} {PAPER}{unit}", f"{name} {OURS}{unit}"]
    return columns


def lines(table: Table, measured: Sequence[Measured] = ()) -> list[list[str]]:
    """The cells of a table, one list per row in the order of `heading`; "" if there is no number.

    Ours are rounded to as many digits as the paper prints.
    """
    return [_line(row, table, measured) for row in table.rows]


def _line(row: Row, table: Table, measured: Sequence[Measured]) -> list[str]:
    spec = spec_of(row)
    found = [one for one in measured if spec is not None and one.spec.same_architecture(spec)]
    speeds = [one.images_per_second for one in found if one.images_per_second is not None]
    scores = [one.miou[table.dataset, table.mode] for one in found if (table.dataset, table.mode) in one.miou]
    cost = cost_of(spec) if spec is not None else None
    ours: dict[str, float | None] = {
        "miou": scores[-1] if scores else None,
        "flops_g": None if cost is None else cost.paper_flops / 1e9,
        "params_m": None if cost is None else cost.parameters / 1e6,
        "images_per_second": speeds[-1] if speeds else None,
    }
    label = row.method or "(label lost)"
    cells = [f"{label} on {row.backbone}" if table.number == 7 else label]
    for _, _, field, digits in _columns(table):
        cells += [_number(getattr(row, field), digits), _number(ours[field], digits)]
    return cells


def _columns(table: Table) -> list[tuple[str, str, str, int]]:
    """(name, unit, field, digits) of the columns."""
    fine = table.number in (4, 5, 8)
    columns = [
        ("mIoU", ", %", "miou", 2 if table.number in (4, 8, 9, 10) else 1),
        ("FLOPs", ", G", "flops_g", 2 if fine or table.number > 8 else 1),
        ("parameters", ", M", "params_m", 2 if table.number in (4, 9, 10) else 1),
    ]
    return [*columns, ("speed", ", images/s", "images_per_second", 1)] if table.number == 1 else columns


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def title(table: Table) -> str:
    """The title in one line."""
    scale = ", multi-scale and flip" if table.mode == "tta" else ""
    return f"Table {table.number}: {table.title.lower()}, {table.dataset}{scale}"


def render(table: Table, measured: Sequence[Measured], form: str) -> str:
    """The table as text: "md", "csv" (no title) or "html"."""
    head, rows = heading(table), lines(table, measured)
    if form == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(
            [["table", *head], *([str(table.number), *row] for row in rows)]
        )
        return text.getvalue()
    if form == "html":
        cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
        return f"<h2>{html.escape(title(table))}</h2>\n<table>\n<tr>{cells}</tr>\n{body}</table>\n"
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    bars = [
        "|".join(("", *(f" {cell:{width}} " for cell, width in zip(row, widths, strict=True)), ""))
        for row in [head, *rows]
    ]
    rule = "|" + "|".join("-" * (width + 1) + (":" if index else "-") for index, width in enumerate(widths)) + "|"
    lost = [
        f"- {row.method or 'the row of ' + str(row.miou)}: the text extraction lost {row.lost}"
        for row in table.rows
        if row.lost
    ]
    return "\n".join([f"## {title(table)}", "", bars[0], rule, *bars[1:], *([""] if lost else []), *lost]) + "\n"


def read_scores(place: Path) -> list[Measured]:
    """Reports of `cgrseg val --out`: a scores.json, or all in a folder, the oldest first.

    Raises:
        ValueError: there is none, or one is not such a file.
    """
    paths = [place] if place.is_file() else sorted(place.rglob("scores.json"), key=lambda path: path.stat().st_mtime)
    if not paths:
        raise ValueError(f"--scores {place} has no scores.json: give a folder that `cgrseg val --out` wrote")
    return [_read_score(path) for path in paths]


def _read_score(path: Path) -> Measured:
    table = _json(path, "`cgrseg val --out` of this version")
    try:
        dataset = DATASETS.get(table["format"], table["format"])
        return Measured(spec=ModelSpec(**table["spec"]), miou={(dataset, table["mode"]): 100 * table["miou"]})
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} has no {error}: write it again with `cgrseg val --out` of this version") from error


def read_speeds(path: Path) -> list[Measured]:
    """Our architectures in a report of `cgrseg benchmark`, each with its best throughput and latency.

    Raises:
        ValueError: it is not such a file, has another size than 512x512, or has none of our models.
    """
    from cgrseg.measure.report import read_report

    report, found = read_report(path), dict[ModelSpec, Measured]()
    if (size := tuple(report["settings"]["size"])) != SIZE:
        raise ValueError(f"--speed {path} was measured at {size[0]}x{size[1]}, the paper at 512x512: measure it there")
    for row in report["results"]:
        if row["spec"] is None:
            continue
        spec = dataclasses.replace(ModelSpec(**row["spec"]), bias_mode="relative")
        speed, latency = row["images_per_second"], row["network_ms"]["median"]
        if (known := found.get(spec)) is not None:
            speed, latency = max(speed, known.images_per_second or 0), min(latency, known.latency_ms or latency)
        found[spec] = Measured(spec=spec, images_per_second=speed, latency_ms=latency)
    if not found:
        raise ValueError(f"--speed {path} has none of our models: measure one, for example `cgrseg benchmark cgrseg_t`")
    return list(found.values())


def _json(path: Path, maker: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a JSON file: give one of {maker}") from error
