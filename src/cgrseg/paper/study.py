"""A study: arms x seeds through the training loop, then what each claim is worth at this size."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import yaml
from jsonargparse import ArgumentParser

from cgrseg.images.files import atomic_write
from cgrseg.training.config import TrainConfig
from cgrseg.weights.artifact import describe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIELDS = ("title", "train", "arms", "seeds", "claims")
# 97.5 % quantiles of Student's t for 1, 2, … degrees of freedom; beyond them the normal's.
T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)
Scores = dict[tuple[str, int], float]  # (arm, seed) -> mIoU in %


@dataclass(frozen=True)
class Claim:
    """`better` is said to score higher than `worse`, two arms."""

    say: str
    better: str
    worse: str


@dataclass(frozen=True)
class Study:
    """What a study file says.

    Args:
        title: one line.
        arms: name -> its training configuration, but for folder and seed.
        seeds: each arm is trained once a seed; arms are compared seed by seed.
        claims: what is tested.
    """

    title: str
    arms: dict[str, TrainConfig]
    seeds: tuple[int, ...]
    claims: tuple[Claim, ...]

    def cells(self, out: Path) -> list[tuple[str, int, TrainConfig]]:
        """Every (arm, seed, configuration), all arms of a seed together, so that an unfinished study has pairs."""
        return [
            (arm, seed, dataclasses.replace(config, out=str(out / arm / f"seed-{seed}"), seed=seed))
            for seed in self.seeds
            for arm, config in self.arms.items()
        ]


def read_study(path: Path, **overrides: Any) -> Study:
    """Read a study file; `overrides` go over the training configuration of every arm.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it is no study; the message says what is wrong.
    """
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(table, dict) or set(table) != set(FIELDS):
        raise ValueError(f"{path} is no study: it must have the fields {', '.join(FIELDS)} and no others")
    arms = {}
    for name, changes in table["arms"].items():
        fields = _merged(table["train"], changes or {})
        arms[name] = _config(_merged(fields, overrides), f"{path}: arm {name}")
    claims = tuple(Claim(**claim) for claim in table["claims"])
    for claim in claims:
        for arm in (claim.better, claim.worse):
            if arm not in arms:
                raise ValueError(f"{path}: the claim {claim.say!r} names {arm!r}, which is no arm: add it")
    seeds = tuple(table["seeds"])
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"{path}: seeds are {list(seeds)}: give one or more, each once")
    return Study(title=table["title"], arms=arms, seeds=seeds, claims=claims)


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Dictionaries within are merged, too."""
    merged = dict(base)
    for key, value in changes.items():
        within = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if within else value
    return merged


def _config(fields: dict[str, Any], where: str) -> TrainConfig:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TrainConfig, "config")
    try:
        chosen = parser.instantiate(parser.parse_object({"config": {**fields, "out": "."}})).config
    except Exception as error:  # jsonargparse has no one type for it
        raise ValueError(f"{where}: {' '.join(str(error).split())}") from error
    return chosen if isinstance(chosen, TrainConfig) else TrainConfig(**vars(chosen))


def run(study: Study, out: Path, train: Callable[..., Any], report: Callable[[str], None]) -> Scores:
    """Train what is not finished yet, score by score; the table and the plot in `out` are renewed after each.

    Args:
        study: what to train.
        out: its folder; each cell's run folder is ARM/seed-N in it.
        train: `cgrseg.training.loop.train`.
        report: told a line a cell.

    Raises:
        ValueError: a cell's folder holds a run of another configuration.
        Stopped: a cell was asked to stop; the same call goes on from there.
    """
    cells = study.cells(out)
    for _, _, config in cells:
        written = Path(config.out) / "config.yaml"
        if written.is_file():
            config.refuse_other(yaml.safe_load(written.read_text(encoding="utf-8")) or {}, written.parent)
    for number, (arm, seed, config) in enumerate(cells, 1):
        finished = finished_score(config) is not None
        if not finished:
            train(config, resume=True)
            write_report(study, read_scores(study, out), out)
        there = ", was there" if finished else ""
        report(f"{number}/{len(cells)} {arm}, seed {seed}: {finished_score(config):.2f} %{there}")
    scores = read_scores(study, out)
    write_report(study, scores, out)
    return scores


def finished_score(config: TrainConfig) -> float | None:
    """mIoU in % of a finished cell's last weights on the test split (val, if there is none), else None."""
    weights = Path(config.out) / "last.safetensors"
    if not weights.is_file():
        return None
    card = describe(weights).card
    return float(card["miou"]) if card.get("step") == config.steps else None


def read_scores(study: Study, out: Path) -> Scores:
    """The scores of all cells that are finished."""
    found = {(arm, seed): finished_score(config) for arm, seed, config in study.cells(out)}
    return {cell: score for cell, score in found.items() if score is not None}


def interval(values: list[float]) -> tuple[float, float]:
    """Mean of the values and half the width of its 95 % interval (Student's t; NaN for fewer than two)."""
    if len(values) < 2:
        return (values[0] if values else math.nan), math.nan
    freedom = len(values) - 1
    quantile = T[freedom - 1] if freedom <= len(T) else 1.96
    return mean(values), quantile * stdev(values) / math.sqrt(len(values))


def differences(claim: Claim, seeds: tuple[int, ...], scores: Scores) -> list[float]:
    """`better` minus `worse`, seed by seed, in points of mIoU; seeds that lack one of them are left out."""
    return [
        scores[claim.better, seed] - scores[claim.worse, seed]
        for seed in seeds
        if (claim.better, seed) in scores and (claim.worse, seed) in scores
    ]


def verdict(values: list[float]) -> str:
    """What paired differences say: "holds" or "does not" where their 95 % interval leaves 0 out, else "undecided"."""
    middle, half = interval(values)
    if math.isnan(half) or abs(middle) <= half:
        return "undecided"
    return "holds" if middle > 0 else "does not"


def text_report(study: Study, scores: Scores) -> str:
    """Arms and claims as Markdown tables."""
    lines = [
        f"# {study.title}",
        "",
        "| arm | " + " | ".join(f"seed {seed}" for seed in study.seeds) + " | mean, 95 % interval |",
    ]
    lines += ["|---|" + "---:|" * (len(study.seeds) + 1)]
    for arm in study.arms:
        values = [scores[arm, seed] for seed in study.seeds if (arm, seed) in scores]
        cells = [f"{scores[arm, seed]:.2f}" if (arm, seed) in scores else "" for seed in study.seeds]
        lines.append(f"| {arm} | {' | '.join(cells)} | {_spread(values)} |")
    lines += ["", "mIoU in %. Intervals: Student's t over the seeds, each claim by itself, paired by seed.", ""]
    lines += ["| claim | arms | difference, 95 % interval | seeds | verdict |", "|---|---|---:|---:|---|"]
    for claim in study.claims:
        values = differences(claim, study.seeds, scores)
        pair = f"{claim.better} - {claim.worse}"
        lines.append(f"| {claim.say} | {pair} | {_spread(values, '+')} | {len(values)} | {verdict(values)} |")
    return "\n".join(lines) + "\n"


def _spread(values: list[float], sign: str = "") -> str:
    middle, half = interval(values)
    if math.isnan(middle):
        return ""
    return f"{middle:{sign}.2f}" if math.isnan(half) else f"{middle:{sign}.2f} ± {half:.2f}"


def write_report(study: Study, scores: Scores, out: Path) -> None:
    """study.md, study.csv (a row a cell), study.png and study.svg in `out`."""
    from .figures import save

    with atomic_write(out / "study.md") as temporary:
        temporary.write_text(text_report(study, scores), encoding="utf-8")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [("arm", "seed", "miou"), *((*cell, miou) for cell, miou in scores.items())]
    )
    with atomic_write(out / "study.csv") as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
    if scores:
        save(plot(study, scores), out, "study")


def plot(study: Study, scores: Scores) -> Figure:
    """Two panels, a line an arm and a line a claim: a dot a seed, the mean, and its 95 % interval."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from .figures import COLUMN, OURS, STYLE, THEIRS

    arms = {arm: [scores[arm, seed] for seed in study.seeds if (arm, seed) in scores] for arm in study.arms}
    claims = {f"{one.better} - {one.worse}": differences(one, study.seeds, scores) for one in study.claims}
    heights = [1 + len(arms), 1 + len(claims)]
    with rc_context(STYLE):
        figure = Figure(figsize=(COLUMN, 0.28 * sum(heights)), layout="constrained")
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
