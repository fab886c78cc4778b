"""Figures of an evaluation: confusion matrix, IoU per class, truth and prediction side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from cgrseg.images import render
from cgrseg.images.render import Pixels
from cgrseg.images.text import drawable, font
from cgrseg.labels import LabelSpace

from .metrics import ConfusionMatrix

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

NUMBERED = 20  # classes up to which the confusion matrix shows its numbers
IGNORED = (0, 0, 0)


def confusion_figure(confusion: ConfusionMatrix, labels: LabelSpace) -> Figure:
    """The matrix, each row in % of the true class; a class without true pixels has a grey row."""
    from matplotlib.figure import Figure

    count = len(labels)
    shares = (100 * confusion.counts.double() / confusion.counts.sum(1, keepdim=True)).cpu().numpy()
    side = max(4.0, (0.55 if count <= NUMBERED else 0.17) * count)
    figure = Figure(figsize=(side + 2.6, side + 1.6), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("lightgrey")
    drawn = axes.imshow(np.ma.masked_invalid(shares), cmap="Blues", vmin=0, vmax=100)
    letters = 9 if count <= NUMBERED else 6
    _name_ticks(axes.xaxis, labels, range(count), letters, rotation=90)
    _name_ticks(axes.yaxis, labels, range(count), letters)
    axes.set(xlabel="predicted", ylabel="true")
    if count <= NUMBERED:
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.5:
                ink = "white" if share > 60 else "black"
                axes.text(column, row, f"{share:.0f}", ha="center", va="center", color=ink, fontsize=8)
    figure.colorbar(drawn, ax=axes, label="share of the true class, %", shrink=0.7)
    return figure


def classes_figure(confusion: ConfusionMatrix, labels: LabelSpace) -> Figure:
    """One bar per class: its IoU in %, in the class colour, best on top; "absent" if it never occurs."""
    from matplotlib.figure import Figure

    iou = 100 * confusion.class_iou().cpu().numpy()
    order = np.argsort(np.nan_to_num(iou, nan=-1.0), kind="stable")
    figure = Figure(figsize=(6, max(2.0, 0.28 * len(labels) + 1)), layout="constrained")
    axes = figure.subplots()
    colors = [tuple(channel / 255 for channel in labels.colors[index]) for index in order]
    places = range(len(labels))  # not the names: two classes may share one
    bars = axes.barh(places, np.nan_to_num(iou[order]), color=colors, edgecolor="grey")
    _name_ticks(axes.yaxis, labels, order.tolist(), 10)
    texts = ["absent" if np.isnan(value) else f"{value:.1f}" for value in iou[order]]
    axes.bar_label(bars, labels=texts, padding=2, fontsize=8)
    axes.set(xlabel="IoU, %", xlim=(0, 109), ylim=(-0.6, len(labels) - 0.4))
    axes.set_title(f"mIoU {100 * confusion.mean_iou():.1f} %")
    return figure


def _shown(labels: LabelSpace, label: int) -> str:
    """The name of a class, or "class 7" if no font on this machine has its letters."""
    return drawable(labels.names[label], f"class {label}")


def _name_ticks(axis: Axis, labels: LabelSpace, order: Sequence[int], size: int, **options: Any) -> None:
    """Tick k has the name of class order[k], in a font that has its letters."""
    from matplotlib.font_manager import FontProperties

    names = [_shown(labels, index) for index in order]
    axis.set_ticks(range(len(names)), names, parse_math=False, **options)
    for text, name in zip(axis.get_ticklabels(), names, strict=True):
        text.set_fontproperties(FontProperties(fname=str(font(size, name).path), size=size))


def side_by_side(photo: Pixels, truth: Pixels, predicted: Pixels, labels: LabelSpace) -> Image.Image:
    """The photo, the truth over the photo and the prediction over the photo, side by side, RGB [H, 3 W].

    Args:
        photo: uint8 RGB [H, W, 3].
        truth: class ids [H, W]; values outside the classes are ignored and drawn black.
        predicted: class ids [H, W].
        labels: gives the colours.
    """
    height, width = truth.shape
    ignored = truth >= len(labels)
    ids = np.uint8 if len(labels) <= 256 else np.uint16
    sheet = Image.new("RGB", (3 * width, height))
    sheet.paste(Image.fromarray(photo), (0, 0))
    for place, ids_of in ((1, np.where(ignored, 0, truth)), (2, predicted)):
        sheet.paste(render.overlay(photo, ids_of.astype(ids), labels, alpha=0.6), (place * width, 0))
    sheet.paste(IGNORED, (width, 0), Image.fromarray(ignored.astype(np.uint8) * 255))
    return sheet


def legend_entries(truths: Sequence[Pixels], predicted: Sequence[Pixels], labels: LabelSpace) -> list[render.Entry]:
    """(name, colour, share of the true pixels) of all classes in the label maps [H, W], largest first."""
    counts, guesses = (
        sum((np.bincount(ids[ids < len(labels)].ravel(), minlength=len(labels)) for ids in maps), np.zeros(len(labels)))
        for maps in (truths, predicted)
    )
    shares = counts / max(counts.sum(), 1)
    order = np.lexsort((-guesses, -shares))
    shown = [label for label in order if counts[label] or guesses[label]]
    return [(_shown(labels, label), labels.colors[label], float(shares[label])) for label in shown]
