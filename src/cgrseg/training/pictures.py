"""The pictures of a run: curves, IoU per class, and predictions beside the masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cgrseg.data.dataset import Samples
from cgrseg.evaluation import Scores
from cgrseg.evaluation.plots import classes_figure, legend_entries, side_by_side
from cgrseg.images import render
from cgrseg.images.bands import as_rgb
from cgrseg.images.files import save_figure, save_image
from cgrseg.inference.network import Network
from cgrseg.inference.predictor import Predictor
from cgrseg.nn import CGRSeg

from .checkpoint import RunFolder

PICTURES = ("curves", "classes", "samples")  # NAME.png in a run folder
LEAST_SPAN = 5.0  # points of mIoU on the axis
SHEET_ROWS = 6
SHEET_HEIGHT = 240  # pixels per image


def draw(folder: RunFolder, model: CGRSeg, samples: Samples, scores: Scores) -> None:
    """Write curves.png, classes.png and samples.png into the run folder."""
    draw_curves(folder, folder.path / "curves.png")
    save_figure(classes_figure(scores.confusion, samples.labels), folder.path / "classes.png", dpi=120)
    save_image(samples_sheet(model, samples), folder.path / "samples.png")


def draw_curves(folder: RunFolder, path: Path) -> None:
    """Loss and learning rate over the steps from train.jsonl, val mIoU from metrics.csv."""
    from matplotlib.figure import Figure

    log, metrics = folder.read_log(), folder.read_metrics()
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = [row["step"] for row in log]
    left.plot(steps, [row["loss"] for row in log], label="loss (running mean)")
    left.set(xlabel="step", ylabel="loss")
    rates = left.twinx()
    rates.plot(steps, [row["lr"] for row in log], color="grey", linestyle=":", label="learning rate")
    rates.set_ylabel("learning rate")
    figure.legend(handles=[*left.lines, *rates.lines], loc="outside lower left", ncols=2, frameon=False)
    scores = [100 * float(row["miou"]) for row in metrics]
    right.plot([int(row["step"]) for row in metrics], scores, marker="o")
    right.set(xlabel="step", ylabel=f"{metrics[0]['split'] if metrics else 'val'} mIoU, %", ylim=score_limits(scores))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    save_figure(figure, path, dpi=120)


def score_limits(scores: Sequence[float]) -> tuple[float, float]:
    """Limits of an axis of per cent: at least 5 points apart, so that noise does not look like a collapse."""
    known = [score for score in scores if score == score]  # without NaN
    low, high = min(known, default=0.0), max(known, default=100.0)
    margin = max(0.1 * (high - low), (LEAST_SPAN - (high - low)) / 2)
    low, high = low - margin, high + margin
    if low < 0:
        low, high = 0.0, max(high, LEAST_SPAN)
    if high > 100:
        low, high = min(low, 100 - LEAST_SPAN), 100.0
    return low, high


def samples_sheet(model: CGRSeg, samples: Samples) -> Image.Image:
    """A sheet of images spread over the split: image, mask, prediction, and a legend."""
    predictor, rows = Predictor(Network.of(model)), []
    truths, predictions = [], []
    for index in np.unique(np.linspace(0, len(samples) - 1, SHEET_ROWS).round().astype(int)):
        photo, mask = samples.read(int(index))
        truths.append(np.asarray(mask))
        predictions.append(predictor.predict([predictor.prepare(photo)])[0].labels)
        rows.append(side_by_side(as_rgb(photo), truths[-1], predictions[-1], samples.labels))
    entries = legend_entries(truths, predictions, samples.labels)
    return render.with_legend(_sheet(rows), entries)


def _sheet(rows: Sequence[Image.Image]) -> Image.Image:
    """Pictures scaled to one height, one below the other."""
    scaled = [row.resize((max(round(row.width * SHEET_HEIGHT / row.height), 1), SHEET_HEIGHT)) for row in rows]
    sheet = Image.new("RGB", (max(row.width for row in scaled), SHEET_HEIGHT * len(rows)), render.PAPER)
    for number, row in enumerate(scaled):
        sheet.paste(row, (0, number * SHEET_HEIGHT))
    return sheet
