"""Stores the result of a benchmark in benchmarks/claims: the command, the machine and the numbers."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cgrseg._process import cores
from cgrseg.images.files import atomic_write
from cgrseg.measure.environment import processor
from cgrseg.measure.interleave import ratio

FOLDER = Path(__file__).parent / "claims"
LIBRARIES = ("cgrseg", "torch", "openvino")


def medians(seconds: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, list[float]]:
    """Of `take_turns`: for each round the median of its calls."""
    return {name: [statistics.median(turn) for turn in turns] for name, turns in seconds.items()}


def times_as_fast(base: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """How many times as fast `other` is: median over the rounds, and its 95 % interval."""
    found = ratio(base, other)
    return {"median": round(found.median, 3), "low": round(found.low, 3), "high": round(found.high, 3)}


def replace_between(page: Path, begin: str, end: str, text: str) -> None:
    """Write `text` between two comments of a page."""
    content = page.read_text(encoding="utf-8")
    before, after = content.partition(begin)[0], content.partition(end)[2]
    with atomic_write(page) as temporary:
        temporary.write_text(f"{before}{begin}\n\n{text}\n{end}{after}", encoding="utf-8")


def store(name: str, results: Any) -> Path:
    """Write benchmarks/claims/NAME.json; `results` are plain values with units in their names."""
    words = ["/".join(Path(word).parts[-2:]) if Path(word).is_absolute() else word for word in sys.argv[1:]]
    claim = {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words]),
        "date": date.today().isoformat(),
        "machine": {
            "processor": processor(),
            "cores": cores(),
            "python": platform.python_version(),
            **{library: version(library) for library in LIBRARIES},
            "load_at_the_end": round(os.getloadavg()[0], 2),
        },
        "results": results,
    }
    path = FOLDER / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(claim, indent=1) + "\n", encoding="utf-8")
    print(f"-> {path}")
    return path
