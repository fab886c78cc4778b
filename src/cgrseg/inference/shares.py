"""A table of class shares: one row per image, one column per class, as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from cgrseg.labels import LabelSpace

from .result import Segmentation

COLUMNS = ["file", "width", "height"]


def csv_row(result: Segmentation, file_name: str) -> list[Any]:
    """A row of the table: file, width, height, the share of each class, and of unknown pixels."""
    counts, size = result.counts(), result.labels.size
    height, width = result.labels.shape
    shares = [f"{count / size:.6g}" for count in [*counts.tolist(), size - int(counts.sum())]]
    return [file_name, width, height, *shares]


def csv_text(label_space: LabelSpace, rows: Iterable[Sequence[Any]]) -> str:
    """A table in CSV with a column per class; equal names get the class id."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(csv_header(label_space))
    writer.writerows(rows)
    return text.getvalue()


def csv_header(label_space: LabelSpace) -> list[str]:
    """The names of the columns."""
    taken = [*COLUMNS, "unknown"]
    names = [*taken, *label_space.names]
    columns = [f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(label_space.names)]
    return [*COLUMNS, *columns, "unknown"]
