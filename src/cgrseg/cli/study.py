"""`cgrseg study`: does a claim hold where it can be tested? Arms x seeds, one table, one plot."""

from __future__ import annotations

from pathlib import Path


def study(
    study: Path, *, out: Path, data: str | None = None, device: str | None = None, workers: int | None = None
) -> int:
    """Train every arm of a study with every seed, and say of each claim: holds, does not, undecided.

    A study file names one training configuration, the arms (what each changes in it), seeds and claims; see
    recipes/studies. Arms are compared seed by seed. Finished cells are skipped and a broken one goes on where
    it stopped, so the same command continues a study that was stopped. --out gets study.md, study.csv, study.png,
    study.svg, and a run folder a cell.

    Args:
        study: the study file (YAML)
        out: folder of the study
        data: the dataset's folder; default: what the file says
        device: auto, cpu or cuda; default: what the file says
        workers: processes that read and crop; default: what the file says
    """
    import sys

    from cgrseg.paper.study import read_study, run, text_report
    from cgrseg.training.loop import train
    from cgrseg.training.progress import Stopped

    given = {"data": data, "device": device, "workers": workers}
    plan = read_study(study, **{key: value for key, value in given.items() if value is not None})
    try:
        scores = run(plan, out, train, print)
    except Stopped as stop:
        print(f"cgrseg: {stop}; the same command goes on from there", file=sys.stderr)
        return stop.exit_code
    print(f"\n{text_report(plan, scores)}\nin {out}")
    return 0
