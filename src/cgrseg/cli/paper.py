"""The paper: `cgrseg tables` and `study`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cgrseg._text import printable

if TYPE_CHECKING:
    from cgrseg.paper.measured import Measured


def tables(
    *,
    table: int | None = None,
    format: Literal["md", "csv", "html"] = "md",
    scores: Path | None = None,
    speed: Path | None = None,
    out: Path | None = None,
) -> None:
    """Print the paper's tables beside our own numbers.

    Parameters, operations by the paper's counter, and multiply-adds are counted at 512x512 and 150 classes. Speeds and
    mIoU are printed if they were measured with `cgrseg benchmark` and `cgrseg val`. A score counts for a row only if
    architecture, dataset, split, number of images and classes, mode and size are those of the row; other scores are
    listed at the end, with what differs. With --speed, the latencies follow Table 1, and how far the order of speed is
    the paper's.

    Example: `cgrseg tables --table 1`

    Args:
        table: number of one table, 1 to 10; default: all
        format: md, csv or html
        scores: a folder with reports of `cgrseg val --out`, or one scores.json
        speed: a benchmark.json of `cgrseg benchmark`
        out: a file to write to instead of printing
    """
    from cgrseg.images.files import write_file
    from cgrseg.paper.order import read_timings
    from cgrseg.paper.order import render as render_speed
    from cgrseg.paper.published import published
    from cgrseg.paper.tables import render, render_not_comparable

    chosen = [one for one in published() if table in (None, one.number)]
    if not chosen:
        raise ValueError(f"--table {table}: the paper has tables 1 to 10")
    measured = read_measured(scores, speed)
    texts = [render(one, measured, format) for one in chosen]
    if speed is not None and chosen[0].number == 1:
        texts.insert(1, render_speed(chosen[0], read_timings(speed), format))
    text = "\n".join(texts) + render_not_comparable(chosen, measured, format)
    if out is None:
        print(text, end="")
    else:
        write_file(out, text)


def read_measured(scores: Path | None, speed: Path | None) -> Measured:
    from cgrseg.paper.measured import Measured, read_scores, read_speeds

    return Measured(read_scores(scores) if scores else [], read_speeds(speed) if speed else [])


def study(
    study: Path, /, *, out: Path, data: str | None = None, device: str | None = None, workers: int | None = None
) -> int:
    """Train arms with several seeds and test claims.

    Trains every arm of a study with every seed, and prints for each claim: holds, does not hold, suggested, or
    undecided. A study file has one training configuration, the arms (what each changes in it), seeds and claims; see
    recipes/studies. Arms are compared seed by seed; p-values are corrected for the number of claims (Holm), and
    "suggested" means that only the uncorrected interval leaves 0 out. The same command continues a study that was
    stopped. --out gets study.md, study.csv, study.png, study.svg, and a run folder per arm and seed.

    Example: `cgrseg study recipes/studies/camvid-small.yaml --out runs/study`

    Args:
        study: the study file (YAML)
        out: output folder
        data: the dataset's folder; default: as in the file
        device: auto, cpu, cuda or cuda:N; default: as in the file
        workers: data loading processes; default: as in the file
    """
    if not study.is_file():
        raise FileNotFoundError(f"no study file {study}: check the path")

    from cgrseg.paper.study import read_study, run, text_report
    from cgrseg.training.progress import Stopped

    given = {"data": data, "device": device, "workers": workers}
    plan = read_study(study, **{name: value for name, value in given.items() if value is not None})
    try:
        scores = run(plan, out, print)
    except Stopped as stop:
        print(printable(f"cgrseg: {stop}; the same command continues"), file=sys.stderr)
        return stop.exit_code
    print(f"\n{text_report(plan, scores)}", printable(f"in {out}"), sep="\n")
    return 0
