"""A `Segmentation` as the body of an HTTP response: pictures, polygons, shares as JSON, or run lengths."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cgrseg.inference.outputs import DEFAULT, MEDIA_TYPES, OutputOptions, encode
from cgrseg.inference.result import Segmentation

Output = Literal["mask", "overlay", "outline", "cutout", "confidence", "json", "rle", "geojson", "coco", "csv"]


@dataclass(frozen=True)
class EncodedResult:
    """An encoded result.

    Args:
        content: the body.
        media_type: its type.
        confidence: mean probability of the predicted class over the photo, if requested.
    """

    content: bytes
    media_type: str
    confidence: float | None = None


def encode_result(
    result: Segmentation,
    output: Output,
    *,
    confidence: bool = False,
    threshold: float = 0.0,
    options: OutputOptions = DEFAULT,
    file_name: str = "photo",
) -> EncodedResult:
    """Encode a result.

    "json" lists the classes of the photo, the largest first, and "rle" adds the `run_lengths` of each. For the others
    see `cgrseg.inference.outputs.encode`.

    Args:
        result: of one photo, with its logits if the confidence is requested.
        output: the encoding.
        confidence: add the mean confidence of the photo and (in JSON) of each class.
        threshold: pixels below it are unknown.
        options: classes and tolerance of cut-outs and polygons, alpha of overlays.
        file_name: in "coco" and "csv".
    """
    result = result.with_threshold(threshold)
    values = result.confidence() if confidence else None
    mean = None if values is None else float(values.mean(dtype=np.float64))
    if output in ("json", "rle"):
        height, width = result.labels.shape
        content = {"width": width, "height": height, "classes": describe_classes(result, values, runs=output == "rle")}
        if mean is not None:
            content["confidence"] = mean
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        return EncodedResult(text.encode(), "application/json", mean)
    return EncodedResult(encode(result, output, options, file_name=file_name), MEDIA_TYPES[output], mean)


def describe_classes(
    result: Segmentation, confidence: np.ndarray[Any, Any] | None = None, *, runs: bool = False
) -> list[dict[str, Any]]:
    """The classes of a photo, the largest first: id, name, color, pixels, share.

    Args:
        result: of one photo.
        confidence: [H, W]; adds the mean of each class.
        runs: add run lengths.
    """
    counts, sums = result.counts(), np.zeros(len(result.names))
    if confidence is not None:
        for labels, values in zip(result.labels, confidence, strict=True):  # row by row: bincount copies to int64
            sums += np.bincount(labels, values, len(sums))[: len(sums)]  # without unknown pixels
    lengths = run_lengths(result.labels) if runs else {}
    classes = []
    for label in map(int, np.argsort(-counts, kind="stable")):
        if counts[label] == 0:
            break
        entry: dict[str, Any] = {
            "id": label,
            "name": result.names[label],
            "color": list(result.label_space.colors[label]),
            "pixels": int(counts[label]),
            "share": float(counts[label] / result.labels.size),
        }
        if confidence is not None:
            entry["confidence"] = float(sums[label] / counts[label])
        if runs:
            entry["rle"] = {"size": list(result.labels.shape), "counts": lengths[label]}
        classes.append(entry)
    return classes


def run_lengths(labels: np.ndarray[Any, Any]) -> dict[int, list[int]]:
    """Class id -> uncompressed COCO counts, down the columns from left to right, alternately outside and inside.

    The first count is of pixels outside (0 if the class includes the first pixel); they sum to H x W.
    """
    flat = labels.ravel(order="F")
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))  # of the runs of all classes
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
