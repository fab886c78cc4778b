"""The paper's ten tables as printed, from published.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import yaml


@dataclass(frozen=True)
class Row:
    """One row of a table; None for values that the paper does not print.

    Args:
        method: its label; None if the text extraction lost it.
        miou: in %.
        flops_g, params_m: operations by the paper's counter in 1e9, parameters in 1e6.
        images_per_second: on one V100.
        venue, reference, backbone: of the method; its number in the references; its encoder.
        lost: the part of the label that the text extraction lost, and how it was identified.
        ours: name and spec fields for `create_model`; None if it cannot be built here.
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
    """One table: number, title, dataset, and mode of evaluation (`cgrseg val --mode`)."""

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
    """Images per second on a V100 in Table 1, by variant."""
    rows = published()[0].rows
    return {row.ours["model"]: row.images_per_second for row in rows if row.ours and row.images_per_second}
