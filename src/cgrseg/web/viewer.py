"""The values and files that the page shows for a labelled photo."""

from __future__ import annotations

import base64
import html
import io
import json
import os
import tempfile
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cgrseg.images.files import save_image, write_file
from cgrseg.images.render import confidence_picture
from cgrseg.inference.labelmap import confidence
from cgrseg.inference.predictor import Prepared
from cgrseg.inference.result import Segmentation
from cgrseg.server.responses import describe_classes

MAX_SIDE = 1280  # pixels of the viewer's longer side: more than screens show, and each is drawn in JavaScript


def source(name: str) -> str:
    """The content of one of the browser's files in this package."""
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def payload(segmentation: Segmentation, note: str, *, prepared: Prepared | None = None) -> dict[str, Any]:
    """The value of the viewer, ready for JSON.

    Args:
        segmentation: the result to show.
        note: the line below the legend.
        prepared: the image that it was made of, for the confidence.

    Returns:
        "photo" (JPEG), "mask" (PNG, grey = class id up to 256 classes, for more red + 256 * green) and
        "confidence" (grey JPEG, or None) as data URLs, all of one size; "classes" as from `describe_classes`;
        "background", the id of the class that has no colour, or None; "note".
    """
    size = display_size(segmentation)
    photo = Image.fromarray(segmentation.photo).resize(size, Image.Resampling.BILINEAR, reducing_gap=2)
    ids = Image.fromarray(segmentation.labels).resize(size, Image.Resampling.NEAREST)
    sure = None
    if prepared is not None and segmentation.prediction is not None and segmentation.prediction.logits is not None:
        input_size = prepared.image.shape[1], prepared.image.shape[2]
        shown = (size[1], size[0])  # at this size only: at the photo's own it takes seconds with many classes
        values = confidence(segmentation.prediction.logits, shown, input_size=input_size, valid=prepared.valid)
        sure = _data_url(confidence_picture(values[0].cpu().numpy()), "jpeg", quality=90)
    return {
        "photo": _data_url(photo, "jpeg", quality=88),
        "mask": _data_url(ids if ids.mode == "L" else _as_rgb(ids), "png", compress_level=1),
        "confidence": sure,
        "classes": describe_classes(segmentation),
        "background": segmentation.label_space.background,
        "note": note,
    }


def display_size(segmentation: Segmentation) -> tuple[int, int]:
    """(width, height) on the page."""
    height, width = segmentation.labels.shape
    scale = min(1.0, MAX_SIDE / max(height, width))
    return max(round(width * scale), 1), max(round(height * scale), 1)


def _as_rgb(ids: Image.Image) -> Image.Image:
    """A browser reads 8 bits per channel: the low ones become red, the high ones green."""
    values = np.asarray(ids)
    return Image.fromarray(np.stack([values & 255, values >> 8, np.zeros_like(values)], axis=2).astype(np.uint8))


def _data_url(picture: Image.Image, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def save_files(result: Segmentation, stem: Path, facts: dict[str, Any]) -> tuple[Path, Path]:
    """Save mask and JSON with names that begin with `stem`; the facts are part of the JSON."""
    mask, table = stem.with_name(f"{stem.name}.mask.png"), stem.with_name(f"{stem.name}.json")
    result.save(mask)
    content = {**facts, "classes": describe_classes(result)}
    write_file(table, json.dumps(content, indent=2, ensure_ascii=False))
    return mask, table


def save_overlay(result: Segmentation, stem: Path, alpha: float) -> Path:
    """Save the overlay with a name that begins with `stem`."""
    path = stem.with_name(f"{stem.name}.overlay.jpg")
    save_image(result.overlay(alpha=alpha), path, quality=92, subsampling=0)
    return path


def new_folder() -> Path:
    """A new folder for results, from which Gradio serves files."""
    return Path(tempfile.mkdtemp(prefix="result-", dir=os.environ["GRADIO_TEMP_DIR"]))


def comparison(one: str, left: Segmentation, other: str, right: Segmentation) -> str:
    """HTML: how much of the photo gets the same class from both, and a table of both shares and colours per class."""
    legends = [{name: (color, share) for name, color, share in result.legend()} for result in (left, right)]
    totals: Counter[str] = Counter()
    for legend in legends:
        totals.update({name: share for name, (_, share) in legend.items()})
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td>{''.join(_share_cell(legend.get(name)) for legend in legends)}</tr>"
        for name, _ in totals.most_common()
    )
    head = f"<tr><th>class</th><th>{html.escape(one)}</th><th>{html.escape(other)}</th></tr>"
    if set(left.names) & set(right.names):
        summary = f"Both predict the same class on {agreement(left, right):.1%} of the photo."
    else:
        summary = "The two class lists have no names in common."
    return f"<p>{summary}</p><table>{head}{rows}</table>"


def _share_cell(entry: tuple[Any, float] | None) -> str:
    if entry is None:
        return "<td>0.0%</td>"
    color, share = entry
    return f'<td><span class="cgr-swatch" style="background: rgb{tuple(color)}"></span>{share:.1%}</td>'


def agreement(left: Segmentation, right: Segmentation) -> float:
    """Share of the pixels to which both give a class of the same name."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys((*left.names, *right.names)))}
    ours, theirs = (np.array([numbers[name] for name in each.names], np.uint16) for each in (left, right))
    rows = zip(left.labels, right.labels, strict=True)
    return sum(np.count_nonzero(ours[a] == theirs[b]) for a, b in rows) / left.labels.size
