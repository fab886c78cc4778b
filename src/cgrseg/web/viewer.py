"""What the page's viewer is given: the labelled photo as small pictures, and its legend."""

from __future__ import annotations

import base64
import html
import io
import json
import os
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cgrseg.images.render import confidence_picture
from cgrseg.inference.labelmap import confidence
from cgrseg.inference.result import Segmentation

LONGEST = 1280  # pixels of the viewer's longer side: no screen shows more, and every one is drawn in JavaScript


def source(name: str) -> str:
    """What is to run in the browser: one of the files beside this one."""
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def payload(segmentation: Segmentation, note: str) -> dict[str, Any]:
    """The value of the viewer, ready for JSON.

    Args:
        segmentation: what to show; its confidence is left out where the logits were released.
        note: the line below the legend.

    Returns:
        "photo" (JPEG), "mask" (PNG, grey = class id up to 256 classes, beyond them red + 256 * green) and
        "confidence" (grey JPEG, or None) as data addresses, all of one size; "classes" with id, name, color [3] and
        share, the largest first; "note".
    """
    height, width = segmentation.labels.shape
    scale = min(1.0, LONGEST / max(height, width))
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    photo = Image.fromarray(segmentation.photo).resize(size, Image.Resampling.BILINEAR, reducing_gap=2)
    ids = Image.fromarray(segmentation.labels).resize(size, Image.Resampling.NEAREST)
    return {
        "photo": _address(photo, "jpeg", quality=88),
        "mask": _address(ids if ids.mode == "L" else _colored(ids), "png", compress_level=1),
        "confidence": _confidence(segmentation, (size[1], size[0])),
        "classes": classes(segmentation),
        "note": note,
    }


def classes(segmentation: Segmentation) -> list[dict[str, Any]]:
    """id, name, color [3] and share (0 … 1) of each class in the photo, the largest first."""
    counts = np.bincount(segmentation.labels.ravel(), minlength=len(segmentation.names))
    space, pixels = segmentation.label_space, segmentation.labels.size
    return [
        {"id": index, "name": space.names[index], "color": list(space.colors[index]), "share": counts[index] / pixels}
        for index in map(int, np.argsort(-counts, kind="stable"))
        if counts[index]
    ]


def _colored(ids: Image.Image) -> Image.Image:
    """A browser reads 8 bits a channel: the low ones go into red, the high ones into green."""
    values = np.asarray(ids)
    return Image.fromarray(np.stack([values & 255, values >> 8, np.zeros_like(values)], axis=2).astype(np.uint8))


def _confidence(segmentation: Segmentation, size: tuple[int, int]) -> str | None:
    if segmentation.logits is None:
        return None
    with torch.inference_mode():
        values = confidence(segmentation.logits, size, input_size=segmentation.input_size, valid=segmentation.valid)
    return _address(confidence_picture(values[0].cpu().numpy()), "jpeg", quality=90)


def _address(picture: Image.Image, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def save_files(result: Segmentation, stem: Path, facts: dict[str, Any], alpha: float) -> Sequence[Path]:
    """Save overlay, mask and JSON, named after `stem`; the facts go into the JSON."""
    mask, table = stem.with_name(f"{stem.name}.mask.png"), stem.with_name(f"{stem.name}.json")
    result.save(mask)
    height, width = result.labels.shape
    content = {"width": width, "height": height, **facts, "classes": classes(result)}
    table.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
    return save_overlay(result, stem, alpha), mask, table


def save_overlay(result: Segmentation, stem: Path, alpha: float) -> Path:
    path = stem.with_name(f"{stem.name}.overlay.jpg")
    result.overlay(alpha=alpha).save(path, quality=92, subsampling=0)
    return path


def fresh_folder() -> Path:
    """In Gradio's own folder: it serves files from there, and clears them away after an hour."""
    cache = Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio")
    cache.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="cgrseg-", dir=cache))


def comparison(one: str, left: Segmentation, other: str, right: Segmentation) -> str:
    """A table of both shares by class name, and on how much of the photo the two name the same class."""
    first, second = left.areas(), right.areas()
    names = sorted({*first, *second}, key=lambda name: -first.get(name, 0) - second.get(name, 0))
    same = float(np.mean(np.array(left.names)[left.labels] == np.array(right.names)[right.labels]))
    rows = [
        f"<tr><td>{html.escape(name)}</td><td>{first.get(name, 0):.1%}</td><td>{second.get(name, 0):.1%}</td></tr>"
        for name in names
    ]
    head = f"<tr><th>class</th><th>{html.escape(one)}</th><th>{html.escape(other)}</th></tr>"
    return f"<p>Both name the same class on {same:.1%} of the photo.</p><table>{head}{''.join(rows)}</table>"
