"""Our measurements: scores of `cgrseg val --out` and speeds of `cgrseg benchmark`, and the rows that they belong to."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cgrseg.description import VARIANTS, ModelSpec
from cgrseg.measure.report import read_report

from .published import Protocol, Row, Table

SIZE = (512, 512)  # of the image, for operations and speeds
Model = ModelSpec | str  # an architecture of ours, or the name of a rival


@dataclasses.dataclass(frozen=True)
class Speed:
    """The speed of one architecture at 512x512: images per second at the best batch, and latency of one image."""

    model: Model
    images_per_second: float
    latency_ms: float


@dataclasses.dataclass(frozen=True)
class Score:
    """mIoU in % of one architecture, how it was measured, and the file that reports it."""

    model: Model
    miou: float
    protocol: Protocol
    source: str


@dataclasses.dataclass(frozen=True)
class Measured:
    """All measurements; later ones of the same kind replace earlier ones."""

    scores: Sequence[Score] = ()
    speeds: Sequence[Speed] = ()

    def score(self, row: Row, table: Table) -> tuple[float, str] | None:
        """The last score that counts for a row, with a mark such as "N = 6"."""
        found = [
            (one.miou, mark)
            for one in self.scores
            if one.protocol == table.protocol and (mark := match(one.model, row)) is not None
        ]
        return found[-1] if found else None

    def speed(self, row: Row) -> Speed | None:
        """The last speed of a row's architecture."""
        return next((one for one in reversed(self.speeds) if match(one.model, row) == ""), None)


def model_of(row: Row) -> Model | None:
    """The architecture of a row, if it can be built here."""
    if row.ours is None:
        return None
    fields = {key: value for key, value in row.ours.items() if key != "model"}
    name: str = row.ours["model"]
    return dataclasses.replace(VARIANTS[name], **fields) if name in VARIANTS else name


def match(model: Model, row: Row) -> str | None:
    """Whether a model has the architecture of a row: "", or "N = 6" for the released B, or None if it has not."""
    expected = model_of(row)
    if isinstance(model, str) or isinstance(expected, str) or expected is None:
        return "" if model == expected else None
    if model.same_architecture(expected):
        return ""
    released_b = dataclasses.replace(VARIANTS["cgrseg_b"], context_blocks=6)
    if expected == VARIANTS["cgrseg_b"] and model.same_architecture(released_b):
        return "N = 6"
    return None


def not_comparable(tables: Sequence[Table], scores: Sequence[Score]) -> list[str]:
    """One line for each score that counts for no row of `tables`: what differs from the nearest row."""
    lines = []
    for score in scores:
        differences = []
        for table in tables:
            protocol = score.protocol.differences(table.protocol)
            same = [row for row in table.rows if match(score.model, row) is not None]
            row = f"Table {table.number}, {same[0].method}" if same else f"Table {table.number}"
            differences.append((row, [*protocol, *([] if same else ["no row has this architecture"])]))
        row, nearest = min(differences, key=lambda one: len(one[1]))
        if nearest:
            name = score.model if isinstance(score.model, str) else score.model.name
            lines.append(f"{name}, {score.miou:.2f} % ({score.source}), against {row}: {'; '.join(nearest)}")
    return lines


def read_scores(place: Path) -> list[Score]:
    """Reports of `cgrseg val --out`: a scores.json, or all in a folder, the oldest first.

    Raises:
        ValueError: there is none, or one is not such a file.
    """
    paths = [place] if place.is_file() else sorted(place.rglob("scores.json"), key=lambda path: path.stat().st_mtime)
    if not paths:
        raise ValueError(f"--scores {place} has no scores.json: give a folder that `cgrseg val --out` wrote")
    return [_read_score(path) for path in paths]


def _read_score(path: Path) -> Score:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a JSON file: give one of `cgrseg val --out` of this version") from error
    try:
        protocol = Protocol(
            dataset=table["format"],
            split=table["split"],
            images=table["photos"],
            classes=len(table["classes"]),
            mode=table["mode"],
            short_side=table["preprocessing"]["short_side"],
            long_side=table["preprocessing"]["long_side"],
        )
        return Score(ModelSpec(**table["spec"]), 100 * table["miou"], protocol, str(path))
    except KeyError as error:
        raise ValueError(f"{path} has no {error}: write it again with `cgrseg val --out` of this version") from error
    except TypeError as error:
        raise ValueError(f"{path} has a value of another type: write it again with `cgrseg val --out`") from error


def read_speeds(path: Path) -> list[Speed]:
    """The models in a report of `cgrseg benchmark`, each with its best throughput and latency in float32.

    Weights files count as their architecture; a rival counts by its name.

    Raises:
        ValueError: as `read_512`, or the file has no model of ours or of the paper.
    """
    found = dict[Model, Speed]()
    for row in read_512(path)["results"]:
        if (model := model_of_result(row)) is None:
            continue
        speed, latency = row["images_per_second"], row["network_ms"]["median"]
        if (known := found.get(model)) is not None:
            speed, latency = max(speed, known.images_per_second), min(latency, known.latency_ms)
        found[model] = Speed(model, speed, latency)
    if not found:
        raise ValueError(
            f"--speed {path} has no model of ours or of the paper: measure one, for example `cgrseg benchmark cgrseg_t`"
        )
    return list(found.values())


def read_512(path: Path) -> dict[str, Any]:
    """A report of `cgrseg benchmark` at 512x512.

    Raises:
        ValueError: it is not such a file, or has another size.
    """
    report = read_report(path)
    if (size := tuple(report["settings"]["size"])) != SIZE:
        raise ValueError(f"--speed {path} was measured at {size[0]}x{size[1]}, the paper at 512x512: measure it there")
    return report


def model_of_result(result: Mapping[str, Any]) -> Model | None:
    """The architecture of a result in such a report; None for models that are neither ours nor of the paper."""
    from cgrseg.rivals import NAMES

    if result["spec"] is not None:
        return dataclasses.replace(ModelSpec(**result["spec"]), bias_mode="relative")
    name: str = result["model"]
    return name if name in NAMES else None
