"""The published numbers are the paper's: each is read again from its text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cgrseg import rivals
from cgrseg.nn import ModelSpec
from cgrseg.paper.measured import model_of
from cgrseg.paper.published import Table, published

TABLES = published()


def printed_tables(text: str) -> list[list[list[str]]]:
    """The cells of every row of every table in the text, by the lines that end in a bar."""
    tables: list[list[list[str]]] = []
    inside = False
    for line in text.splitlines():
        is_row = line.rstrip().endswith("|")
        if line.startswith("---"):
            continue
        if is_row and "mIoU" in line:
            tables.append([])
            inside = True
        elif is_row and inside:
            tables[-1].append([cell.strip() for cell in line.split("|")])
        else:
            inside = False
    return tables


def numbers(cells: list[str]) -> list[float]:
    return [float(cell) for cell in cells if re.fullmatch(r"\d+\.\d+", cell)]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: f"table{table.number}")
def test_every_number_and_label_is_in_the_papers_text(table: Table, shared: Path) -> None:
    printed = printed_tables((shared / "paper.txt").read_text(encoding="utf-8"))
    assert len(printed) == len(TABLES) == 10
    lines = printed[table.number - 1]
    assert len(lines) == len(table.rows)
    for row, cells in zip(table.rows, lines, strict=True):
        ours = [row.miou, row.flops_g, row.params_m, row.images_per_second]
        assert [value for value in ours if value is not None] == numbers(cells)
        label = cells[0]
        if row.lost is None and table.number != 4:
            assert row.method is not None and label.startswith(row.method)
            assert (f"[{row.reference}]" in label) == (row.reference is not None)
            assert row.venue is None or row.venue.replace(" 20", "’") in label
        elif table.number in (9, 10):
            assert not re.match(r"[A-Za-z0-9]+[x×]", label)  # the text really has no label there


def test_the_rows_that_are_marked_lost_are_those_whose_labels_the_text_lost() -> None:
    lost = {table.number: sum(row.lost is not None for row in table.rows) for table in TABLES}
    assert {number: count for number, count in lost.items() if count} == {4: 3, 9: 4, 10: 3}


def test_every_row_that_is_ours_can_be_built() -> None:
    for table in TABLES:
        for row in table.rows:
            if row.ours is not None and (model := model_of(row)) in rivals.NAMES:
                assert row.ours == {"model": model}
            elif row.ours is not None:
                assert isinstance(model, ModelSpec)
