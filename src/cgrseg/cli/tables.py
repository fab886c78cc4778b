"""`cgrseg tables`: the paper's tables, with what this package counts and measures beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def tables(
    *,
    table: int | None = None,
    format: Literal["md", "csv", "html"] = "md",
    scores: Path | None = None,
    speed: Path | None = None,
    out: Path | None = None,
) -> None:
    """Print the paper's tables with our numbers beside its own.

    Parameters and operations are counted here, at 512x512 and 150 classes. Speeds and mIoU stand in our columns
    only where you have measured them; else these are empty. A row that nothing here builds has none of ours.

    Args:
        table: number of one table, 1 to 10; default: all
        format: md, csv or html
        scores: a folder with reports of `cgrseg val --out`, or one scores.json; each counts for the rows of its
            architecture, dataset and mode
        speed: benchmark.json of `cgrseg benchmark`
        out: a file to write to instead of printing
    """
    from cgrseg.paper.published import published
    from cgrseg.paper.tables import read_scores, read_speeds, render

    chosen = [one for one in published() if table in (None, one.number)]
    if not chosen:
        raise ValueError(f"--table {table}: the paper has tables 1 to 10")
    measured = [*(read_scores(scores) if scores else []), *(read_speeds(speed) if speed else [])]
    text = "\n".join(render(one, measured, format) for one in chosen)
    if out is None:
        print(text, end="")
        return
    from cgrseg.images.files import atomic_write

    with atomic_write(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
