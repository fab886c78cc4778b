"""A `Segmentation` as the bytes of an HTTP answer: mask, overlay, shares as JSON, or run lengths."""

from __future__ import annotations

import json
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal

import numpy as np

from cgrseg.images import render
from cgrseg.inference.pipeline import JPEG
from cgrseg.inference.result import RUN_LENGTHS, Segmentation

Output = Literal["mask", "overlay", "json", "rle"]


@dataclass(frozen=True)
class Answer:
    """What is sent back.

    Args:
        content: the body.
        media_type: its type.
        confidence: mean probability of the winning class over the photo, where it was asked for.
    """

    content: bytes
    media_type: str
    confidence: float | None = None


def make_answer(result: Segmentation, output: Output, *, confidence: bool = False) -> Answer:
    """Encode what was asked for.

    "mask" is the palette PNG that `Segmentation.save` writes, "overlay" a JPEG with legend. "json" lists the
    classes of the photo, the largest first, and "rle" adds where each of them is, see `run_lengths`.

    Args:
        result: of one photo, with its logits if the confidence is wanted.
        output: which.
        confidence: add the mean confidence, of the photo and (in JSON) of each class.
    """
    values = result.confidence() if confidence else None
    mean = None if values is None else float(values.mean(dtype=np.float64))
    if output in ("json", "rle"):
        text = json.dumps(describe(result, values, runs=output == "rle"), ensure_ascii=False, separators=(",", ":"))
        return Answer(text.encode(), "application/json", mean)
    buffer = BytesIO()
    if output == "mask":
        picture = render.mask_picture(result.labels, result.label_space)
        picture.save(buffer, format="PNG", compress_type=RUN_LENGTHS)
        return Answer(buffer.getvalue(), "image/png", mean)
    result.overlay().save(buffer, format="JPEG", **JPEG)
    return Answer(buffer.getvalue(), "image/jpeg", mean)


def describe(result: Segmentation, confidence: np.ndarray[Any, Any] | None, *, runs: bool) -> dict[str, Any]:
    """Size of the photo and its classes: id, name, colour, pixels, share; also confidence and run lengths."""
    height, width = result.labels.shape
    counts = np.bincount(result.labels.ravel(), minlength=len(result.names))
    sums = None if confidence is None else np.bincount(result.labels.ravel(), confidence.ravel(), len(result.names))
    lengths = run_lengths(result.labels) if runs else {}
    classes = []
    for label in np.argsort(-counts, kind="stable").tolist():
        if counts[label] == 0:
            break
        entry: dict[str, Any] = {
            "id": label,
            "name": result.names[label],
            "color": list(result.label_space.colors[label]),
            "pixels": int(counts[label]),
            "share": float(counts[label] / result.labels.size),
        }
        if sums is not None:
            entry["confidence"] = float(sums[label] / counts[label])
        if runs:
            entry["rle"] = {"size": [height, width], "counts": lengths[label]}
        classes.append(entry)
    whole: dict[str, Any] = {"width": width, "height": height, "classes": classes}
    if confidence is not None:
        whole["confidence"] = float(confidence.mean(dtype=np.float64))
    return whole


def run_lengths(labels: np.ndarray[Any, Any]) -> dict[int, list[int]]:
    """Class id -> uncompressed COCO counts: down the columns, left to right, outside and inside in turn.

    The first count is of pixels outside (0 where the class begins at once); they sum to H x W.
    """
    flat = labels.ravel(order="F")
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))  # of runs of whatever class
    ends = np.append(starts[1:], flat.size)
    owner = flat[starts]
    order = np.argsort(owner, kind="stable")
    present, first = np.unique(owner[order], return_index=True)
    lengths = {}
    for label, runs in zip(present.tolist(), np.split(order, first[1:]), strict=True):
        edges = np.stack([starts[runs], ends[runs]], 1).ravel()
        counts = np.diff(edges, prepend=0).tolist()
        rest = flat.size - int(edges[-1])
        lengths[label] = [*counts, rest] if rest else counts
    return lengths
