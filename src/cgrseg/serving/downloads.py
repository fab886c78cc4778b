"""The files that a visitor can take along: overlay, mask and JSON, at the photo's own size."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cgrseg.inference.result import Segmentation

from .viewer import classes


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
