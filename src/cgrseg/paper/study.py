"""A study: train arms x seeds, then test each claim."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from cgrseg._yaml import read_yaml
from cgrseg.images.files import write_file
from cgrseg.measure.report import markdown
from cgrseg.training.config import CONFIG, TrainConfig
from cgrseg.typed import build, merged
from cgrseg.weights.artifact import describe

from .statistics import holm, interval, p_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVEL = 0.05  # of the verdicts
Scores = dict[tuple[str, int], float]  # (arm, seed) -> mIoU in %


@dataclass(frozen=True)
class Claim:
    """The claim that the arm `better` scores higher than the arm `worse`."""

    say: str
    better: str
    worse: str


@dataclass(frozen=True)
class Study:
    """The content of a study file.

    Args:
        title: one line.
        arms: name -> training configuration, without folder and seed.
        seeds: each arm is trained once per seed; arms are compared seed by seed.
        claims: to be tested.
    """

    title: str
    arms: dict[str, TrainConfig]
    seeds: tuple[int, ...]
    claims: tuple[Claim, ...]

    def cells(self, out: Path) -> list[tuple[str, int, TrainConfig]]:
        """Every (arm, seed, configuration), seed by seed, so that an unfinished study has pairs."""
        return [
            (arm, seed, dataclasses.replace(config, out=str(out / arm / f"seed-{seed}"), seed=seed))
            for seed in self.seeds
            for arm, config in self.arms.items()
        ]


@dataclass(frozen=True)
class _StudyFile:
    title: str
    train: dict[str, Any]
    arms: dict[str, Any]
    seeds: list[int]
    claims: list[dict[str, Any]]


def read_study(path: Path, **overrides: Any) -> Study:
    """Read a study file; `overrides` change the training configuration of every arm.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it is not a study.
    """
    try:
        file = build(_StudyFile, read_yaml(path))
        claims = tuple(build(Claim, claim, "claims.") for claim in file.claims)
    except ValueError as error:
        raise ValueError(f"{path} is not a study: {error}") from error
    arms = {}
    for name, changes in file.arms.items():
        if not isinstance(name, str):
            raise ValueError(f"{path}: an arm is called {name!r}, which YAML does not read as text: write it in quotes")
        if not isinstance(changes, dict | None):
            raise ValueError(f"{path}: arm {name} is {changes!r}: give a mapping of what it changes")
        fields = merged(file.train, changes or {})
        try:
            arms[name] = TrainConfig.from_dict({**merged(fields, overrides), "out": "."})
        except ValueError as error:
            raise ValueError(f"{path}: arm {name}: {error}") from error
        if arms[name].patience is not None or arms[name].batch == "auto":
            raise ValueError(f"{path}: arm {name} has patience or batch auto: all runs of a study need the same steps")
    for claim in claims:
        for arm in (claim.better, claim.worse):
            if arm not in arms:
                raise ValueError(f"{path}: the claim {claim.say!r} names {arm!r}, which is not an arm: add it")
    seeds = tuple(file.seeds)
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"{path}: seeds are {list(seeds)}: give one or more, each once")
    return Study(title=file.title, arms=arms, seeds=seeds, claims=claims)


def run(study: Study, out: Path, report: Callable[[str], None]) -> Scores:
    """Train all cells that are not finished; table and plot in `out` are updated after each.

    Args:
        study: the arms, seeds and claims.
        out: folder of the study; the run folder of a cell is ARM/seed-N.
        report: called with one line per cell.

    Raises:
        ValueError: the folder of a cell has a run of another configuration.
        Stopped: by a signal; the same call continues.
    """
    from cgrseg.training.run import train
    from cgrseg.training.setup import resolved

    cells = [(arm, seed, resolved(config)) for arm, seed, config in study.cells(out)]
    for _, _, config in cells:
        written = Path(config.out) / CONFIG
        if written.is_file():
            _refuse_other(config, read_yaml(written), written.parent)
    for number, (arm, seed, config) in enumerate(cells, 1):
        finished = finished_score(config) is not None
        if not finished:
            train(config, resume=True)
            write_report(study, read_scores(study, out), out)
        note = ", finished before" if finished else ""
        report(f"{number}/{len(cells)} {arm}, seed {seed}: {finished_score(config):.2f} %{note}")
    scores = read_scores(study, out)
    write_report(study, scores, out)
    return scores


def _refuse_other(config: TrainConfig, written: Any, place: Path) -> None:
    """Refuse the run of another configuration. A run can be extended, but not in a study: its schedule would differ."""
    config.refuse_other(written, place)
    if written["steps"] != config.steps:
        raise ValueError(f"{place} is of a run with steps {written['steps']}, not {config.steps}: choose another --out")


def finished_score(config: TrainConfig) -> float | None:
    """mIoU in % of a finished cell's last weights on the test split (or val); None if it is not finished."""
    weights = Path(config.out) / "last.safetensors"
    if not weights.is_file():
        return None
    card = describe(weights).card
    return float(card["miou"]) if card.get("step") == config.steps else None


def read_scores(study: Study, out: Path) -> Scores:
    """The scores of all finished cells."""
    found = {(arm, seed): finished_score(config) for arm, seed, config in study.cells(out)}
    return {cell: score for cell, score in found.items() if score is not None}


def differences(claim: Claim, seeds: tuple[int, ...], scores: Scores) -> list[float]:
    """`better` minus `worse` per seed in points of mIoU; seeds without both are left out."""
    return [
        scores[claim.better, seed] - scores[claim.worse, seed]
        for seed in seeds
        if (claim.better, seed) in scores and (claim.worse, seed) in scores
    ]


@dataclass(frozen=True)
class Verdict:
    """What the seeds say about one claim.

    Args:
        differences: per seed, in points of mIoU.
        p: of the paired t-test, two-sided; NaN for fewer than two seeds.
        corrected: p after Holm's correction for all claims of the study.
    """

    differences: list[float]
    p: float
    corrected: float

    @property
    def word(self) -> str:
        """What can be said at the level of 5 %.

        "holds" or "does not hold" if the corrected p is below 0.05; "suggested" or "opposite suggested" if only the
        plain 95 % interval leaves 0 out; otherwise "undecided".
        """
        positive = bool(self.differences) and mean(self.differences) > 0
        if self.corrected < LEVEL:
            return "holds" if positive else "does not hold"
        if self.p < LEVEL:
            return "suggested" if positive else "opposite suggested"
        return "undecided"


def judge(study: Study, scores: Scores) -> list[Verdict]:
    """One verdict per claim, with Holm's correction over all claims."""
    values = [differences(claim, study.seeds, scores) for claim in study.claims]
    plain = [p_value(one) for one in values]
    return [Verdict(*one) for one in zip(values, plain, holm(plain), strict=True)]


def text_report(study: Study, scores: Scores) -> str:
    """Arms and claims as Markdown tables."""
    arms = [["arm", *(f"seed {seed}" for seed in study.seeds), "mean, 95 % interval"]]
    for arm in study.arms:
        cells = [f"{scores[arm, seed]:.2f}" if (arm, seed) in scores else "" for seed in study.seeds]
        arms.append([arm, *cells, _spread([scores[arm, seed] for seed in study.seeds if (arm, seed) in scores])])
    how = f"Verdicts: paired t-tests, p corrected for {len(study.claims)} claims (Holm), level {LEVEL:.0%}"
    note = f"mIoU in %. Intervals: Student's t over the seeds, not corrected. {how}."
    claims = [["claim", "arms", "difference, 95 % interval", "seeds", "p", "p, Holm", "verdict"]]
    for claim, verdict in zip(study.claims, judge(study, scores), strict=True):
        values = verdict.differences
        cells = [claim.say, f"{claim.better} - {claim.worse}", _spread(values, "+"), str(len(values))]
        cells += ["" if math.isnan(one) else f"{one:.3f}" for one in (verdict.p, verdict.corrected)]
        claims.append([*cells, verdict.word])
    return f"# {study.title}\n\n{markdown(arms)}\n{note}\n\n{markdown(claims)}"


def _spread(values: list[float], sign: str = "") -> str:
    middle, half = interval(values)
    if math.isnan(middle):
        return ""
    return f"{middle:{sign}.2f}" if math.isnan(half) else f"{middle:{sign}.2f} ± {half:.2f}"


def write_report(study: Study, scores: Scores, out: Path) -> None:
    """Write study.md, study.csv (a row per cell), study.png and study.svg to `out`."""
    from .figures import save

    write_file(out / "study.md", text_report(study, scores))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [("arm", "seed", "miou"), *((*cell, miou) for cell, miou in scores.items())]
    )
    write_file(out / "study.csv", text.getvalue())
    if scores:
        save(plot(study, scores), out, "study")


def plot(study: Study, scores: Scores) -> Figure:
    """Two panels, arms and claims: a dot per seed, the mean, and its 95 % interval."""
    from matplotlib import rc_context

    from .figures import OURS, STYLE, THEIRS, new_figure

    arms = {arm: [scores[arm, seed] for seed in study.seeds if (arm, seed) in scores] for arm in study.arms}
    claims = {f"{one.better} - {one.worse}": differences(one, study.seeds, scores) for one in study.claims}
    heights = [1 + len(arms), 1 + len(claims)]
    with rc_context(STYLE):
        figure = new_figure(0.28 * sum(heights))
        above, below = figure.subplots(2, height_ratios=heights)
        _draw_lines(above, arms, [OURS, *[THEIRS] * (len(arms) - 1)], "mIoU, %: seeds, mean, 95 % interval")
        _draw_lines(below, claims, [OURS] * len(claims), "difference, points of mIoU, paired by seed")
        below.axvline(0, color="black", linewidth=0.6)
        return figure


def _draw_lines(axes: Axes, lines: Mapping[str, list[float]], colors: list[str], label: str) -> None:
    for place, (values, color) in enumerate(zip(lines.values(), colors, strict=True)):
        middle, half = interval(values)
        axes.plot(values, [place] * len(values), "o", color=color, alpha=0.4, markersize=3)
        spread = None if math.isnan(half) else half
        axes.errorbar(middle, place, xerr=spread, fmt="|", color=color, markersize=8, capsize=2)
    axes.set_yticks(range(len(lines)), list(lines))
    axes.set_ylim(max(len(lines), 1) - 0.5, -0.5)
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.3, linewidth=0.4)
