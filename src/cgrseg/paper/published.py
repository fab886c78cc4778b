"""What the paper prints: every row of its ten tables, typed, from published.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import yaml


@dataclass(frozen=True)
class Row:
    """One row of a table. What the paper does not print is None.

    Args:
        method: its label; None where the text lost it.
        miou: in %.
        flops_g, params_m: operations by the paper's counter in 1e9, parameters in 1e6.
        images_per_second: on one V100.
        venue, reference, backbone: where the method is from, its number in the references, its encoder.
        lost: what of the label the text lost, and what else tells it.
        ours: the name and the spec's fields with which `create_model` builds it; None where nothing here does.
    """

    method: str | None
    miou: float
    flops_g: float | None = None
    params_m: float | None = None
    images_per_second: float | None = None
    venue: str | None = None
    reference: int | None = None
    backbone: str | None = None
    lost: str | None = None
    ours: dict[str, Any] | None = None


@dataclass(frozen=True)
class Table:
    """One table: its number, what it compares, on which dataset and how scored (`cgrseg val --mode`)."""

    number: int
    title: str
    dataset: str
    mode: str
    rows: tuple[Row, ...] = field(repr=False)
    note: str | None = None


def published() -> tuple[Table, ...]:
    """The paper's tables 1 to 10."""
    text = resources.files("cgrseg.paper").joinpath("published.yaml").read_text(encoding="utf-8")
    return tuple(
        Table(**{**table, "rows": tuple(Row(**row) for row in table["rows"])})
        for table in yaml.safe_load(text)["tables"]
    )


def speeds() -> dict[str, float]:
    """Images a second on a V100 of Table 1, by the name of the variant that is built for the row."""
    rows = published()[0].rows
    return {row.ours["model"]: row.images_per_second for row in rows if row.ours and row.images_per_second}
