"""What the tests of import-data share: photos, files as tools write them, and the masks that come out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cgrseg.data.importing.importer import Import, find_annotations, write_dataset

WIDTH, HEIGHT = 8, 6


def photo(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 30)).save(path)
    return path


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def imported(root: Path, **options: Any) -> tuple[Import, dict[str, np.ndarray[Any, Any]], list[str]]:
    """What was found, the masks by "split/name", and the class names that were written."""
    out = root.parent / f"{root.name}-out"
    found = find_annotations(root, **options)
    assert found.errors == []
    write_dataset(found, out)
    masks = {}
    for path in sorted((out / "masks").rglob("*.png")):
        with Image.open(path) as mask:
            masks[path.relative_to(out / "masks").with_suffix("").as_posix()] = np.array(mask)
    images = {path.relative_to(out / "images").with_suffix("").as_posix() for path in (out / "images").rglob("*.*")}
    assert images == set(masks)
    classes = json.loads((out / "classes.json").read_text(encoding="utf-8"))["classes"]
    return found, masks, [each["name"] for each in classes]


def complaint(root: Path, **options: Any) -> str:
    """The errors, one per line."""
    try:
        return "\n".join(map(str, find_annotations(root, **options).errors))
    except ValueError as error:
        return str(error)


def drawn(text: str) -> np.ndarray[Any, Any]:
    """A mask from rows of digits; a dot is 0 and # is 255."""
    rows = text.split()
    return np.array([[{".": 0, "#": 255}.get(each) if each in ".#" else int(each) for each in row] for row in rows])
