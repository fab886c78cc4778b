"""Scores as a text table, as CSV and JSON files and as pictures."""

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

from cgrseg._text import table
from cgrseg.data.dataset import Samples
from cgrseg.images import render
from cgrseg.images.bands import as_rgb
from cgrseg.images.files import save_figure, save_image, write_file
from cgrseg.images.render import Pixels

from . import Scores
from .plots import classes_figure, confusion_figure, legend_entries, side_by_side

if TYPE_CHECKING:
    pass

COLUMNS = ("class", "share", "IoU", "accuracy", "precision", "boundary IoU")
WORST = 20  # photos drawn
LONGEST_SIDE = 640  # pixels, of a photo in worst/


def summary(scores: Scores) -> dict[str, float]:
    """Name -> score of the whole split, 0 … 1; NaN if no pixel was counted."""
    confusion = scores.confusion
    return {
        "miou": confusion.mean_iou(),
        "mean_accuracy": confusion.mean_accuracy(),
        "accuracy": confusion.accuracy(),
        "frequency_weighted_iou": confusion.frequency_weighted_iou(),
        "boundary_iou": scores.boundary.mean_iou(),
    }


def class_rows(scores: Scores) -> list[tuple[str, float, float, float, float, float]]:
    """One row per class in the order of `COLUMNS`: name, then scores 0 … 1, NaN if the class never occurs."""
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
    """The scores per class and of the whole split in %; "-" if a class never occurs."""
    whole = summary(scores)
    precision = float(scores.confusion.class_precision().nanmean())
    means = (whole["miou"], whole["mean_accuracy"], precision, whole["boundary_iou"])
    rows = [(row[0], *map(_percent, row[1:])) for row in class_rows(scores)]
    text = table([COLUMNS, *rows, [""] * len(COLUMNS), ("mean", "", *map(_percent, means))])
    named = {"mIoU": "miou", "accuracy": "accuracy", "frequency-weighted IoU": "frequency_weighted_iou"}
    return f"{text}\n\n" + ", ".join(f"{name} {_percent(whole[key])} %" for name, key in named.items())


def write_report(
    folder: Path,
    scores: Scores,
    samples: Samples,
    predict: Callable[[Any], Pixels],
    about: Mapping[str, Any] = {},
) -> None:
    """Write scores, tables and pictures into a folder, each file atomically.

    table.txt (`text_table`), classes.csv, photos.csv (IoU per photo, worst first), confusion.csv (pixels, one row per
    true class), scores.json, classes.png, confusion.png, and worst/NN_NAME.png: the 20 worst photos, each with its
    truth (ignored pixels black) and its prediction.

    Args:
        folder: is created if it does not exist; earlier reports in it are replaced.
        scores: the result of `evaluate` on `samples`.
        samples: the split, from which the worst photos are read again.
        predict: RGB photo -> class ids [H, W] at its size, as they were scored.
        about: what scores.json and table.txt name besides the scores, such as the weights; JSON values.

    Raises:
        OSError: the folder can't be written to.
    """
    heading = "".join(f"{key}: {value}\n" for key, value in about.items())
    write_file(folder / "table.txt", f"{heading}\n{text_table(scores)}\n".lstrip())
    write_file(folder / "classes.csv", _csv(COLUMNS, class_rows(scores)))
    photos = [(samples.name(index), scores.photo_iou[index]) for index in scores.worst(len(scores.photo_iou))]
    write_file(folder / "photos.csv", _csv(("photo", "IoU"), photos))
    names = scores.labels.names
    counts = zip(names, scores.confusion.counts.tolist(), strict=True)
    write_file(folder / "confusion.csv", _csv(("true \\ predicted", *names), [(name, *row) for name, row in counts]))
    write_file(folder / "scores.json", json.dumps(_json(scores, about), indent=2, ensure_ascii=False) + "\n")
    save_figure(classes_figure(scores.confusion, scores.labels), folder / "classes.png", dpi=120)
    save_figure(confusion_figure(scores.confusion, scores.labels), folder / "confusion.png", dpi=120)
    for earlier in (folder / "worst").glob("[0-9][0-9]_*.png"):
        earlier.unlink()
    for place, index in enumerate(scores.worst(WORST), 1):
        picture = _worst(index, scores, samples, predict)
        save_image(picture, folder / "worst" / f"{place:02}_{Path(samples.name(index)).stem}.png")


def _worst(index: int, scores: Scores, samples: Samples, predict: Callable[[Any], Pixels]) -> Image.Image:
    photo, mask = samples.read(index)
    predicted, truth = predict(photo), np.asarray(mask)
    sheet = side_by_side(as_rgb(photo), truth, predicted, scores.labels)
    shrink = min(1.0, LONGEST_SIDE / max(truth.shape))
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
