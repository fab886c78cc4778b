"""The result of check-data, as values and as text."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cgrseg._text import printable, table
from cgrseg.labels import LabelSpace

from ..dataset import DataProblem

Counts = np.ndarray[Any, np.dtype[np.int64]]
MOST_SIZES = 3  # named in the table


@dataclass(frozen=True)
class SplitReport:
    """The contents of one split, as far as they could be read.

    Args:
        name: train, val or test.
        photos: number of photos.
        checked: number of pairs that were opened.
        sizes: (width, height) -> photos.
        pixels: int64 [K], labelled pixels per class.
        holders: int64 [K], photos with the class.
        ignored: pixels without a class.
        raw: stored id -> pixels.
        note: where the split comes from, if not from its own folder, and what was left out.
    """

    name: str
    photos: int
    checked: int
    sizes: Counter[tuple[int, int]]
    pixels: Counts
    holders: Counts
    ignored: int
    raw: Counter[int] = field(default_factory=Counter)
    note: str = ""

    @property
    def shares(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """float64 [K]: share of the labelled pixels per class."""
        return self.pixels / max(int(self.pixels.sum()), 1)

    @property
    def ignore_share(self) -> float:
        """Share of all pixels without a class."""
        return self.ignored / max(int(self.pixels.sum()) + self.ignored, 1)


@dataclass(frozen=True)
class DatasetReport:
    """All problems of a dataset. `str(report)` is the text; `errors` is empty if a training can begin.

    Args:
        root: the dataset's folder.
        format: how it was read.
        labels: its classes; None if they are unknown.
        splits: the contents of each split.
        problems: in the order in which they were found.
    """

    root: Path
    format: str
    labels: LabelSpace | None
    splits: tuple[SplitReport, ...] = ()
    problems: tuple[DataProblem, ...] = ()

    @property
    def errors(self) -> tuple[str, ...]:
        """What would stop a training or make its scores wrong, one line each with file, value and cure."""
        return tuple(str(problem) for problem in self.problems if problem.is_error)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What does not stop a training, but is probably not intended."""
        return tuple(str(problem) for problem in self.problems if not problem.is_error)

    def refuse_errors(self, *, unreadable: int = 0) -> None:
        """Raise ValueError with the first error and the number of the others, if there is one.

        Args:
            unreadable: number of files that can't be decoded and are accepted.
        """
        undecoded = [str(problem) for problem in self.problems if problem.kind.startswith("unreadable")]
        allowed = undecoded if len(undecoded) <= unreadable else []
        errors = [error for error in self.errors if error not in allowed]
        if errors:
            more = len(errors) - 1
            others = f" (and {more} more: `cgrseg check-data {printable(self.root)}` lists them)" if more else ""
            raise ValueError(errors[0] + others)

    def text(self, *, limit: int = 10) -> str:
        """Tables of splits and classes, then the problems by kind and cause.

        Args:
            limit: causes shown per kind, and files per cause; 0 shows all.
        """
        classes = "classes unknown" if self.labels is None else f"{len(self.labels)} classes"
        parts = [f"{printable(self.root)}, format {self.format}, {classes}"]
        if self.splits:
            parts.append(_indented(table(_split_rows(self.splits), left=(0, 3))))
        if self.labels is not None and self.splits:
            rows = _class_rows(self.labels, self.splits)
            parts.append(f"share of the labelled pixels\n{_indented(table(rows))}")
        for title, is_error in (("error", True), ("warning", False)):
            chosen = [problem for problem in self.problems if problem.is_error == is_error]
            if chosen:
                heading = f"{len(chosen)} {title}{'s' if len(chosen) > 1 else ''}"
                parts.append("\n".join([heading, *_listed(chosen, limit)]))
        if not self.problems:
            parts.append("nothing wrong found")
        return "\n\n".join(parts)

    def __str__(self) -> str:
        return self.text()


def _indented(text: str) -> str:
    return textwrap.indent(text, "  ")


def _split_rows(splits: Sequence[SplitReport]) -> list[list[str]]:
    rows = [["split", "photos", "ignored", "width x height"]]
    for split in splits:
        sizes = [f"{width}x{height} ({count})" for (width, height), count in split.sizes.most_common(MOST_SIZES)]
        if len(split.sizes) == 1:
            sizes = [sizes[0].partition(" ")[0]]
        if len(split.sizes) > MOST_SIZES:
            sizes.append(f"{len(split.sizes) - MOST_SIZES} more sizes")
        checked = f"{split.checked} checked" if split.checked < split.photos else ""
        note = ", ".join(filter(None, (split.note, checked)))
        last = ", ".join(sizes) + (f"  ({note})" if note else "")
        rows.append([split.name, str(split.photos), f"{split.ignore_share:.1%}", last])
    return rows


def _class_rows(labels: LabelSpace, splits: Sequence[SplitReport]) -> list[list[str]]:
    rows = [["class", *(split.name for split in splits)]]
    for number, name in enumerate(labels.names):
        rows.append([f"{number} {name}", *(_share(split, number) for split in splits)])
    return rows


def _share(split: SplitReport, number: int) -> str:
    pixels, share = int(split.pixels[number]), float(split.shares[number])
    return "none" if pixels == 0 else f"{share:.1%}" if share >= 0.001 else "< 0.1%"


def _listed(problems: Sequence[DataProblem], limit: int) -> Iterator[str]:
    """The problems by kind; files with the same cause stand below it."""
    for kind in dict.fromkeys(problem.kind for problem in problems):
        alike = [problem for problem in problems if problem.kind == kind]
        yield f"  {kind} ({len(alike)})"
        causes = list(dict.fromkeys(problem.cause for problem in alike))
        for cause in causes[: limit or None]:
            same = [problem for problem in alike if problem.cause == cause]
            if len(same) == 1:
                yield f"    {same[0]}"
                continue
            yield f"    {printable(cause)}"
            shown = same[: limit or None]
            yield from (f"      {printable(str(problem.where))}" for problem in shown)
            if len(shown) < len(same):
                yield f"      … and {len(same) - len(shown)} more files"
        if limit and len(causes) > limit:
            yield f"    … and {len(causes) - limit} more of this kind"
