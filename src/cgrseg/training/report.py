"""The pictures of a run: curves, a bar a class, and predictions beside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cgrseg._atomic import atomic_write
from cgrseg.data.labelled import Samples
from cgrseg.evaluation.confusion import ConfusionMatrix
from cgrseg.inference import render
from cgrseg.inference.segmenter import Segmenter
from cgrseg.labels import LabelSpace
from cgrseg.nn import CGRSeg

from .checkpoint import RunFolder

SHEET_ROWS = 6
SHEET_HEIGHT = 240  # pixels a photo


def draw(folder: RunFolder, model: CGRSeg, samples: Samples, scores: ConfusionMatrix) -> None:
    """Write curves.png, classes.png and samples.png into the run folder."""
    draw_curves(folder, folder.path / "curves.png")
    draw_classes(samples.labels, scores, folder.path / "classes.png")
    draw_samples(model, samples, folder.path / "samples.png")


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
    right.plot([int(row["step"]) for row in metrics], [100 * float(row["miou"]) for row in metrics], marker="o")
    right.set(xlabel="step", ylabel=f"{metrics[0]['split'] if metrics else 'val'} mIoU, %")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)


def draw_classes(labels: LabelSpace, scores: ConfusionMatrix, path: Path) -> None:
    """A bar a class: its IoU, in its colour, best first."""
    from matplotlib.figure import Figure

    iou = np.nan_to_num(100 * scores.class_iou().cpu().numpy(), nan=0.0)
    order = np.argsort(iou)
    figure = Figure(figsize=(6, max(2.0, 0.28 * len(labels) + 1)), layout="constrained")
    axes = figure.subplots()
    colors = [tuple(channel / 255 for channel in labels.colors[index]) for index in order]
    bars = axes.barh([labels.names[index] for index in order], iou[order], color=colors, edgecolor="grey")
    axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=8)
    axes.set(xlabel="IoU, %", xlim=(0, 105), title=f"mIoU {100 * scores.mean_iou():.1f} %")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)


def draw_samples(model: CGRSeg, samples: Samples, path: Path) -> None:
    """A sheet of photos spread over the split: photo, truth, prediction, and the classes below."""
    segmenter, rows, shares = Segmenter(model), [], np.zeros(len(samples.labels))
    for index in np.unique(np.linspace(0, len(samples) - 1, SHEET_ROWS).round().astype(int)):
        picture, mask = samples.read(int(index))
        photo, truth = np.asarray(picture), np.asarray(mask)
        predicted = segmenter(picture).labels
        shares += np.bincount(predicted.ravel(), minlength=len(shares))[: len(shares)] / predicted.size
        known = np.where(truth < len(samples.labels), truth, 0).astype(truth.dtype)
        drawn = render.overlay(photo, known, samples.labels, alpha=0.6)
        drawn.paste((0, 0, 0), mask=Image.fromarray((truth >= len(samples.labels)).astype(np.uint8) * 255))
        rows.append([picture, drawn, render.overlay(photo, predicted, samples.labels, alpha=0.6)])
    order = np.argsort(-shares, kind="stable")
    entries = [
        (samples.labels.names[index], samples.labels.colors[index], float(shares[index] / len(rows)))
        for index in order
        if shares[index]
    ]
    with atomic_write(path) as temporary:
        render.with_legend(_sheet(rows), entries).save(temporary)


def _sheet(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Pictures of one height, row under row."""
    scaled = [
        [side.resize((max(round(side.width * SHEET_HEIGHT / side.height), 1), SHEET_HEIGHT)) for side in row]
        for row in rows
    ]
    width = max(sum(side.width for side in row) for row in scaled)
    sheet = Image.new("RGB", (width, SHEET_HEIGHT * len(rows)), render.PAPER)
    for number, row in enumerate(scaled):
        left = 0
        for side in row:
            sheet.paste(side, (left, number * SHEET_HEIGHT))
            left += side.width
    return sheet
