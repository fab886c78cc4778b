"""What can be written of a `Segmentation`, as the content of a file: the same for files, the server and clusters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image

from cgrseg.images import render

from .result import RUN_LENGTHS, Segmentation
from .shares import csv_row, csv_text

# For an image of 400x605: 4 ms, where the fastest PNG takes 35 and is five times larger. Without chroma subsampling
# coloured edges stay sharp.
JPEG: dict[str, Any] = {"quality": 90, "subsampling": 0}
MEDIA_TYPES = {
    **dict.fromkeys(("mask", "confidence", "cutout"), "image/png"),
    **dict.fromkeys(("overlay", "outline"), "image/jpeg"),
    **{"geojson": "application/geo+json", "coco": "application/json", "csv": "text/csv; charset=utf-8"},
}


@dataclass(frozen=True)
class OutputOptions:
    """How outputs are made.

    Args:
        classes: names or ids for cut-outs and polygons; None for all, in cut-outs all but "background".
        tolerance: see `Segmentation.polygons`.
        alpha: of overlays, see `Segmentation.overlay`.

    Raises:
        ValueError: a tolerance that is negative or not a number.
    """

    classes: Sequence[str | int] | None = None
    tolerance: float = 1.0
    alpha: float = 0.5

    def __post_init__(self) -> None:
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance is {self.tolerance}: use a number of pixels, 0 for exact polygons")


DEFAULT = OutputOptions()


def encode(result: Segmentation, kind: str, options: OutputOptions = DEFAULT, *, file_name: str = "") -> bytes:
    """The content of one output.

    Args:
        result: with its logits for "confidence" and "cutout".
        kind: a key of `MEDIA_TYPES`.
        options: see `OutputOptions`.
        file_name: of the image, for "coco" and "csv".
    """
    classes, tolerance = options.classes, options.tolerance
    match kind:
        case "mask":
            return _png(render.mask_picture(result.labels, result.label_space), compress_type=RUN_LENGTHS)
        case "confidence":
            return _png(render.confidence_picture(result.confidence()), compress_level=1)
        case "cutout":
            return _png(result.cutout(classes), compress_level=1)
        case "overlay":
            return _jpeg(result.overlay(options.alpha))
        case "outline":
            return _jpeg(result.outline())
        case "geojson":
            return compact_json(result.to_geojson(classes, tolerance=tolerance))
        case "coco":
            return compact_json(result.to_coco(classes, tolerance=tolerance, file_name=file_name))
        case "csv":
            return csv_text(result.label_space, [csv_row(result, file_name)]).encode()
    raise ValueError(f"{kind!r} is not an output: choose from {', '.join(MEDIA_TYPES)}")


def compact_json(content: Any) -> bytes:
    """UTF-8 without spaces."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def _png(picture: Image.Image, **options: Any) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, format="PNG", **options)
    return buffer.getvalue()


def _jpeg(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, format="JPEG", **JPEG)
    return buffer.getvalue()
