"""Whether the dataset of a resumed run is still the one that it began with."""

from __future__ import annotations

import hashlib
from typing import Any

from cgrseg.data.dataset import Samples

from .setup import Data


def fingerprint(data: Data) -> dict[str, Any]:
    """Plain values for the state of a run: the class names, and of each split the number of images and a hash of their
    names."""
    splits = {"train": data.train, "val": data.val, "test": data.test}
    return {"classes": list(data.train.labels.names), "splits": {name: _listing(part) for name, part in splits.items()}}


def changes(before: dict[str, Any], data: Data) -> list[str]:
    """What has changed in the dataset since a fingerprint, one line each.

    Raises:
        ValueError: the classes have another order or number, so the labels mean something else.
    """
    now = fingerprint(data)
    found = []
    names, others = before["classes"], now["classes"]
    if names != others:
        change = _first_change(names, others)
        if len(names) != len(others) or sorted(names) == sorted(others):
            raise ValueError(
                f"the classes have changed since the run began ({change}): restore classes.json, or choose another "
                "--out"
            )
        found.append(f"class names have changed since the run began: {change}")
    for split, (count, digest) in now["splits"].items():
        old, old_digest = before["splits"].get(split, (0, ""))
        if digest != old_digest:
            what = f"{count} images, not {old}" if count != old else "other images"
            found.append(f"{split} has {what} since the run began: it no longer continues to the same bits")
    return found


def _first_change(names: list[str], others: list[str]) -> str:
    for number, (old, new) in enumerate(zip(names, others, strict=False)):
        if old != new:
            return f"class {number} is {new!r}, was {old!r}"
    return f"{len(others)} classes, not {len(names)}"


def _listing(samples: Samples) -> list[Any]:
    names = "\n".join(samples.name(index) for index in range(len(samples)))
    return [len(samples), hashlib.sha256(names.encode()).hexdigest()]
