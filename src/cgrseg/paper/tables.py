"""The paper's tables with our numbers beside them. Our columns have only what was counted or measured here."""

from __future__ import annotations

import csv
import dataclasses
import html
import io
import json
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from cgrseg.description import ModelSpec
from cgrseg.measure.report import markdown

from .measured import Measured, Model, model_of, not_comparable
from .published import Row, Table

PAPER, OURS = "paper", "ours"


@dataclasses.dataclass(frozen=True)
class Counts:
    """Parameters, operations by the paper's counter and true multiply-adds, at 512x512 and 150 classes."""

    parameters: int
    paper_flops: int
    macs: int


@cache
def counts() -> dict[Model, Counts]:
    """The counts of all rows that can be built here, from counts.json. A test compares them with the models."""
    text = resources.files("cgrseg.paper").joinpath("counts.json").read_text(encoding="utf-8")
    return {
        entry["rival"] if "rival" in entry else ModelSpec(**entry["spec"]): Counts(**entry["counts"])
        for entry in json.loads(text)
    }


def cost_of(model: Model) -> Counts:
    """The counts of an architecture; one that is not in counts.json is built and counted."""
    if isinstance(model, ModelSpec):
        free: dict[str, Any] = {"num_classes": 150, "dropout": 0.1, "drop_path": None, "bias_mode": "relative"}
        model = dataclasses.replace(model, **free)
    return counts().get(model) or count(model)


def count(model: Model) -> Counts:
    """Build a model on the meta device and count it."""
    import torch

    from cgrseg import rivals
    from cgrseg.measure.complexity import complexity
    from cgrseg.nn import CGRSeg

    with torch.device("meta"):
        network = rivals.build(model) if isinstance(model, str) else CGRSeg(spec=model)
        total = complexity(network).total
    return Counts(total.parameters, total.paper_flops, total.macs)


def heading(table: Table) -> list[str]:
    """The names of the columns of `lines`."""
    columns = ["method"]
    for name, unit, field, _ in _columns(table):
        columns += [f"{name} {source}{unit}" for source in (PAPER, OURS) if (field, source) != ("macs_g", PAPER)]
    return columns


def lines(table: Table, measured: Measured) -> list[list[str]]:
    """The cells of a table, one list per row in the order of `heading`; "" if there is no number.

    Ours are rounded to as many digits as the paper prints. The paper prints one count of operations per row, by the
    counter of that method's authors; ours are counted in both ways for every row.
    """
    return [_line(row, table, measured) for row in table.rows]


def _line(row: Row, table: Table, measured: Measured) -> list[str]:
    model = model_of(row)
    score, speed = measured.score(row, table), measured.speed(row)
    cost = cost_of(model) if model is not None else None
    ours: dict[str, float | None] = {
        "miou": score[0] if score else None,
        "flops_g": None if cost is None else cost.paper_flops / 1e9,
        "macs_g": None if cost is None else cost.macs / 1e9,
        "params_m": None if cost is None else cost.parameters / 1e6,
        "images_per_second": speed.images_per_second if speed else None,
    }
    cells = [label_of(row, table)]
    for _, _, field, digits in _columns(table):
        if field != "macs_g":
            cells.append(_number(getattr(row, field), digits))
        cells.append(_number(ours[field], digits))
        if field == "miou" and score and score[1]:
            cells[-1] += f" ({score[1]})"
    return cells


def label_of(row: Row, table: Table) -> str:
    """The method of a row, with its backbone if the table needs it to tell rows apart."""
    label = row.method or "(label lost)"
    repeated = table.number == 7 or [one.method for one in table.rows].count(row.method) > 1
    return f"{label} on {row.backbone}" if row.backbone and repeated else label


def _columns(table: Table) -> list[tuple[str, str, str, int]]:
    """(name, unit, field, digits) of the columns."""
    fine = 2 if table.number in (4, 5, 8) or table.number > 8 else 1
    columns = [
        ("mIoU", ", %", "miou", 2 if table.number in (4, 8, 9, 10) else 1),
        ("FLOPs", ", G", "flops_g", fine),
        ("multiply-adds", ", G", "macs_g", fine),
        ("parameters", ", M", "params_m", 2 if table.number in (4, 9, 10) else 1),
    ]
    return [*columns, ("speed", ", images/s", "images_per_second", 1)] if table.number == 1 else columns


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def title(table: Table) -> str:
    """The title in one line."""
    scale = ", multi-scale and flip" if table.protocol.mode == "tta" else ""
    return f"Table {table.number}: {table.title}, {table.protocol.dataset}{scale}"


def notes(table: Table) -> list[str]:
    """What a reader of the table must know, one line each."""
    found = [table.note] if table.note else []
    for row in table.rows:
        name = row.method or f"the row of {row.miou}"
        found += [f"{name}: the text extraction lost {row.lost}"] if row.lost else []
        found += [f"{name}: {row.note}"] if row.note else []
    return found


def render(table: Table, measured: Measured, form: str) -> str:
    """The table as text: "md", "csv" (no title and notes) or "html"."""
    head, rows = heading(table), lines(table, measured)
    if form == "csv":
        head, rows = ["table", *head], [[str(table.number), *row] for row in rows]
    return layout(title(table), head, rows, notes(table), form)


def layout(title: str, head: list[str], rows: list[list[str]], notes: list[str], form: str) -> str:
    """A table as text, see `render`."""
    if form == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([head, *rows])
        return text.getvalue()
    if form == "html":
        cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
        texts = "".join(f"<p>{html.escape(line)}</p>\n" for line in notes)
        return f"<h2>{html.escape(title)}</h2>\n<table>\n<tr>{cells}</tr>\n{body}</table>\n{texts}"
    below = "".join(f"- {line}\n" for line in notes)
    return f"## {title}\n\n{markdown([head, *rows])}" + (f"\n{below}" if notes else "")


def render_not_comparable(tables: Sequence[Table], measured: Measured, form: str) -> str:
    """The scores that count for no row of `tables`, with what differs; "" if there are none."""
    found = not_comparable(tables, measured.scores)
    title = "Scores that cannot be compared"
    if not found:
        return ""
    if form == "csv":
        return "".join(f"# {title[:-1]}: {line}\n" for line in found)
    if form == "html":
        return f"<h2>{title}</h2>\n" + "".join(f"<p>{html.escape(line)}</p>\n" for line in found)
    return f"\n## {title}\n\n" + "".join(f"- {line}\n" for line in found)
