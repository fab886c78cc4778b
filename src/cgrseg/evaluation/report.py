"""Scores as a table to read, files to work with and pictures to look at."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from cgrseg.data.dataset import Samples
from cgrseg.images import render
from cgrseg.images.files import atomic_write
from cgrseg.images.render import Pixels

from . import Scores
from .plots import classes_figure, confusion_figure, legend_entries, side_by_side

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("class", "share", "IoU", "accuracy", "precision", "boundary IoU")
WORST = 20  # photos drawn
LONGEST_SIDE = 640  # pixels of a photo in the pictures of the worst ones


def summary(scores: Scores) -> dict[str, float]:
    """Name -> score of the whole set, 0 … 1; NaN where nothing was counted."""
    confusion = scores.confusion
    return {
        "miou": confusion.mean_iou(),
        "mean_accuracy": confusion.mean_accuracy(),
        "accuracy": confusion.accuracy(),
        "frequency_weighted_iou": confusion.frequency_weighted_iou(),
        "boundary_iou": scores.boundary.mean_iou(),
    }


def class_rows(scores: Scores) -> list[tuple[str, float, float, float, float, float]]:
    """A row a class in the order of `COLUMNS`: its name, then scores 0 … 1, NaN where a class never occurs."""
    confusion = scores.confusion
    columns = (
        confusion.class_share(),
        confusion.class_iou(),
        confusion.class_accuracy(),
        confusion.class_precision(),
        scores.boundary.class_iou(),
    )
    return list(zip(scores.labels.names, *(column.tolist() for column in columns), strict=True))


def text_table(scores: Scores) -> str:
    """The scores of each class and of the set as aligned lines, in %; "-" where a class never occurs."""
    rows = [COLUMNS, *((row[0], *map(_percent, row[1:])) for row in class_rows(scores))]
    confusion, whole = scores.confusion, summary(scores)
    precision = float(confusion.class_precision().nanmean())
    means = (whole["miou"], whole["mean_accuracy"], precision, whole["boundary_iou"])
    rows.append(("mean", "", *map(_percent, means)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    lines.insert(-1, "")
    said = {"mIoU": "miou", "accuracy": "accuracy", "frequency-weighted IoU": "frequency_weighted_iou"}
    lines += ["", ", ".join(f"{name} {_percent(whole[key])} %" for name, key in said.items())]
    return "\n".join(lines)


def write_report(
    folder: Path,
    scores: Scores,
    samples: Samples,
    predict: Callable[[Image.Image], Pixels],
    about: Mapping[str, Any] = {},
) -> None:
    """Write scores, tables and pictures into a folder, each file whole or not at all.

    table.txt (what `text_table` gives), classes.csv, photos.csv (IoU a photo, the worst first), confusion.csv (pixels,
    a row a true class), scores.json, classes.png, confusion.png, and worst/NN_NAME.png: the 20 worst photos, each
    with its truth (ignored pixels black) and its prediction.

    Args:
        folder: is made if need be; earlier reports in it are written over.
        scores: what `evaluate` gave for `samples`.
        samples: the split, of which the worst photos are read once more.
        predict: an RGB photo -> class ids [H, W] at its size, as they were scored.
        about: what goes into scores.json beside the scores, such as the weights' name; ready for JSON.

    Raises:
        OSError: the folder can't be written to.
    """
    table = "".join(f"{key}: {value}\n" for key, value in about.items())
    _write(folder / "table.txt", f"{table}\n{text_table(scores)}\n" if table else f"{text_table(scores)}\n")
    _write(folder / "classes.csv", _csv(COLUMNS, class_rows(scores)))
    photos = [(samples.name(index), scores.photo_iou[index]) for index in scores.worst(len(scores.photo_iou))]
    _write(folder / "photos.csv", _csv(("photo", "IoU"), photos))
    names = scores.labels.names
    counts = zip(names, scores.confusion.counts.tolist(), strict=True)
    _write(folder / "confusion.csv", _csv(("true \\ predicted", *names), [(name, *row) for name, row in counts]))
    _write(folder / "scores.json", json.dumps(_json(scores, about), indent=2, ensure_ascii=False) + "\n")
    _save(folder / "classes.png", classes_figure(scores.confusion, scores.labels))
    _save(folder / "confusion.png", confusion_figure(scores.confusion, scores.labels))
    for earlier in (folder / "worst").glob("[0-9][0-9]_*.png"):
        earlier.unlink()
    for place, index in enumerate(scores.worst(WORST), 1):
        picture = _worst(index, scores, samples, predict)
        with atomic_write(folder / "worst" / f"{place:02}_{Path(samples.name(index)).stem}.png") as temporary:
            picture.save(temporary)


def _worst(index: int, scores: Scores, samples: Samples, predict: Callable[[Image.Image], Pixels]) -> Image.Image:
    photo, mask = samples.read(index)
    predicted, truth = predict(photo), np.asarray(mask)
    sheet = side_by_side(np.asarray(photo), truth, predicted, scores.labels)
    shrink = min(1.0, LONGEST_SIDE / max(photo.size))
    if shrink < 1:
        sheet = sheet.resize((max(round(sheet.width * shrink), 3), max(round(sheet.height * shrink), 1)))
    title = f"photo, truth, prediction (IoU {100 * scores.photo_iou[index]:.1f} %); below, shares of the truth"
    entries = legend_entries([truth], [predicted], scores.labels)
    return render.with_legend(render.with_title(sheet, title), entries)


def _json(scores: Scores, about: Mapping[str, Any]) -> dict[str, Any]:
    keys = [column.replace(" ", "_").lower() for column in COLUMNS[1:]]
    classes = {
        str(label): {"name": row[0], **{key: _finite(value) for key, value in zip(keys, row[1:], strict=True)}}
        for label, row in enumerate(class_rows(scores))
    }
    whole = {name: _finite(value) for name, value in summary(scores).items()}
    return {**about, "photos": len(scores.photo_iou), **whole, "classes": classes}


def _csv(heading: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heading)
    writer.writerows([_finite(value) for value in row] for row in rows)  # None becomes an empty cell
    return text.getvalue()


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.2f}"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _save(path: Path, figure: Figure) -> None:
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)
