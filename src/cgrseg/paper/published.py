"""The paper's ten tables as printed, from published.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
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
        note: how our numbers differ from the printed ones, or the paper's from each other.
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
    note: str | None = None
    ours: dict[str, Any] | None = field(default=None, hash=False)


@dataclass(frozen=True)
class Protocol:
    """How a score was measured; scores of different protocols cannot be compared.

    Args:
        dataset: its format, as in `cgrseg val --format`.
        split, images: the name of the split, and how many of its images count.
        classes: K.
        mode: as in `cgrseg val --mode`; it determines scales and flips.
        short_side, long_side: limits in pixels that images are resized to fit.
    """

    dataset: str
    split: str
    images: int
    classes: int
    mode: str
    short_side: int | None
    long_side: int | None

    def differences(self, other: Protocol) -> list[str]:
        """What is not as in `other`, such as "split train, not val"."""
        pairs = [(one.name, getattr(self, one.name), getattr(other, one.name)) for one in fields(self)]
        return [f"{name.replace('_', ' ')} {ours}, not {theirs}" for name, ours, theirs in pairs if ours != theirs]


@dataclass(frozen=True)
class Table:
    """One table: number, title, protocol of its scores, rows, and a note printed below it."""

    number: int
    title: str
    protocol: Protocol
    rows: tuple[Row, ...] = field(repr=False)
    note: str | None = None


def published() -> tuple[Table, ...]:
    """The paper's tables 1 to 10."""
    text = resources.files("cgrseg.paper").joinpath("published.yaml").read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    protocols = {name: Protocol(**fields) for name, fields in content["protocols"].items()}
    return tuple(
        Table(
            number=table["number"],
            title=table["title"],
            protocol=protocols[table["protocol"]],
            rows=tuple(Row(**row) for row in table["rows"]),
            note=table.get("note"),
        )
        for table in content["tables"]
    )


def speeds() -> dict[str, float]:
    """Images per second on a V100 in Table 1, by variant."""
    rows = published()[0].rows
    return {row.ours["model"]: row.images_per_second for row in rows if row.ours and row.images_per_second}
