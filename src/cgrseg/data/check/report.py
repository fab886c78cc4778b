"""What check-data found, as data and as text."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cgrseg.labels import LabelSpace

Counts = np.ndarray[Any, np.dtype[np.int64]]
MOST_SIZES = 3  # that the table names


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Args:
        kind: what findings like it are listed under.
        message: file, value and cure in one line.
        ruins: whether a run would fail or its scores be false.
    """

    kind: str
    message: str
    ruins: bool = True


@dataclass(frozen=True)
class SplitReport:
    """What one split holds, as far as it could be read.

    Args:
        name: train, val or test.
        photos: how many there are.
        checked: how many of them were opened.
        sizes: (width, height) -> photos.
        pixels: int64 [K], labelled pixels a class.
        holders: int64 [K], photos that hold the class.
        ignored: pixels that count for no class.
        note: where the split comes from, if not from a folder of its own.
    """

    name: str
    photos: int
    checked: int
    sizes: Counter[tuple[int, int]]
    pixels: Counts
    holders: Counts
    ignored: int
    note: str = ""

    @property
    def shares(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """float64 [K]: share of the labelled pixels a class."""
        return self.pixels / max(int(self.pixels.sum()), 1)

    @property
    def ignore_share(self) -> float:
        """Share of all pixels that count for no class."""
        return self.ignored / max(int(self.pixels.sum()) + self.ignored, 1)


@dataclass(frozen=True)
class Report:
    """All findings about a dataset. `str(report)` is the text; `errors` is empty where a run can begin.

    Args:
        root: the dataset's folder.
        format: how it was read.
        labels: its classes; None where they can't be told.
        splits: what each split holds.
        findings: what is wrong, in the order in which it was found.
    """

    root: Path
    format: str
    labels: LabelSpace | None
    splits: tuple[SplitReport, ...] = ()
    findings: tuple[Finding, ...] = field(default=())

    @property
    def errors(self) -> tuple[str, ...]:
        """What would ruin a run, one line each with file, value and cure."""
        return tuple(finding.message for finding in self.findings if finding.ruins)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a run survives but its owner should know."""
        return tuple(finding.message for finding in self.findings if not finding.ruins)

    def refuse_errors(self, *, unreadable: int = 0) -> None:
        """Raise ValueError with the first error and the number of the others, if there is one.

        Args:
            unreadable: up to so many files that can't be decoded are let through.
        """
        undecoded = [found.message for found in self.findings if found.kind.startswith("unreadable")]
        allowed = undecoded if len(undecoded) <= unreadable else []
        errors = [error for error in self.errors if error not in allowed]
        if errors:
            more = len(errors) - 1
            others = f" (and {more} more: `cgrseg check-data {self.root}` lists them)" if more else ""
            raise ValueError(errors[0] + others)

    def text(self, *, limit: int = 10) -> str:
        """Tables of splits and classes, then the findings by kind.

        Args:
            limit: findings shown of each kind; 0 shows all.
        """
        classes = "classes unknown" if self.labels is None else f"{len(self.labels)} classes"
        parts = [f"{self.root}, format {self.format}, {classes}"]
        if self.splits:
            parts.append(_table(_split_rows(self.splits)))
        if self.labels is not None and self.splits:
            parts.append("share of the labelled pixels\n" + _table(_class_rows(self.labels, self.splits)))
        for title, ruins in (("error", True), ("warning", False)):
            chosen = [finding for finding in self.findings if finding.ruins == ruins]
            if chosen:
                title = f"{len(chosen)} {title}{'s' if len(chosen) > 1 else ''}"
                parts.append("\n".join([title, *_listed(chosen, limit)]))
        if not self.findings:
            parts.append("nothing wrong found")
        return "\n\n".join(parts)

    def __str__(self) -> str:
        return self.text()


def _split_rows(splits: tuple[SplitReport, ...]) -> list[list[str]]:
    rows = [["split", "photos", "ignored", "width x height"]]
    for split in splits:
        sizes = [f"{width}x{height} ({count})" for (width, height), count in split.sizes.most_common(MOST_SIZES)]
        if len(split.sizes) == 1:
            sizes = [sizes[0].partition(" ")[0]]
        if len(split.sizes) > MOST_SIZES:
            sizes.append(f"{len(split.sizes) - MOST_SIZES} more sizes")
        checked = f", {split.checked} looked at" if split.checked < split.photos else ""
        note = f"{split.note}{checked}".removeprefix(", ")
        rows.append(
            [
                split.name,
                str(split.photos),
                f"{split.ignore_share:.1%}",
                ", ".join(sizes) + (f"  ({note})" if note else ""),
            ]
        )
    return rows


def _class_rows(labels: LabelSpace, splits: tuple[SplitReport, ...]) -> list[list[str]]:
    rows = [["class", *(split.name for split in splits)]]
    for number, name in enumerate(labels.names):
        rows.append([f"{number} {name}", *(_share(split, number) for split in splits)])
    return rows


def _share(split: SplitReport, number: int) -> str:
    pixels, share = int(split.pixels[number]), float(split.shares[number])
    return "none" if pixels == 0 else f"{share:.1%}" if share >= 0.001 else "< 0.1%"


def _table(rows: list[list[str]]) -> str:
    """Columns under their heads: numbers to the right, the first and a text column at the end to the left."""
    wide = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    text_last = rows[0][-1] == "width x height"
    lines = []
    for row in rows:
        cells = [row[0].ljust(wide[0])]
        for place, cell in enumerate(row[1:], start=1):
            cells.append(cell if text_last and place == len(row) - 1 else cell.rjust(wide[place]))
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)


def _listed(findings: list[Finding], limit: int) -> list[str]:
    lines: list[str] = []
    for kind in dict.fromkeys(finding.kind for finding in findings):
        alike = [finding.message for finding in findings if finding.kind == kind]
        lines.append(f"  {kind} ({len(alike)})")
        shown = alike if limit == 0 else alike[:limit]
        lines += [f"    {message}" for message in shown]
        if len(shown) < len(alike):
            lines.append(f"    … and {len(alike) - len(shown)} more of this kind")
    return lines
