"""The weights that a page offers, loaded once each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any

import numpy as np

from cgrseg.images.photos import Photo
from cgrseg.inference.result import Segmentation
from cgrseg.inference.runtimes import SUFFIXES, Runtime, installed
from cgrseg.inference.segmenter import Segmenter


class Choices:
    """Segmenters by name, for a few weights.

    Args:
        weights: weights files, bundled names, "hf:USER/NAME", or folders of `cgrseg export`; the first is loaded
            now, which finds mistakes.
        device: as for `cgrseg.load`.
        short_side: of the network's input, where the visitor leaves it open; None is what the weights say.

    Raises:
        ValueError, OSError: the first weights can't be loaded, or two have the same name.
    """

    def __init__(self, weights: Sequence[str], *, device: str = "auto", short_side: int | None = None) -> None:
        self._weights = {Path(name).stem if Path(name).is_file() else name: name for name in weights}
        if len(self._weights) < len(weights):
            raise ValueError(f"two of the weights {', '.join(weights)} have the same name: rename a file")
        self.names = list(self._weights)
        exported = any(map(_is_folder, self._weights.values()))
        self.runtimes: list[Runtime] = ["auto", *(name for name in SUFFIXES if exported and installed(name))]
        self._device, self._short_side = device, short_side
        self._loaded: dict[tuple[str, str, int], Segmenter] = {}
        self._models: dict[str, Any] = {}
        self._lock = Lock()
        self.segmenter(self.names[0], 0, "auto")(np.zeros((64, 64, 3), np.uint8))  # so the first visitor needn't wait

    def segmenter(self, name: str, short_side: float, runtime: Runtime) -> Segmenter:
        """The segmenter for one of the names; a short side of 0 leaves it as it is.

        Raises:
            ValueError, OSError: it can't be loaded, or the short side is too small.
        """
        if name not in self._weights:
            raise ValueError(f"no weights are called {name!r} here: choose from {', '.join(self.names)}")
        side = int(short_side) or self._short_side
        if side is not None and 0 < side < 32:
            raise ValueError(f"short side {side} is too small for the network: choose 32 or more")
        key = name, runtime, -1 if side is None else side
        with self._lock:
            if key not in self._loaded:
                if not _is_folder(self._weights[name]) and runtime == "auto":
                    if name not in self._models:
                        self._models[name] = Segmenter(self._weights[name], device=self._device).model
                    self._loaded[key] = Segmenter(self._models[name], short_side=side)
                else:
                    self._loaded[key] = Segmenter(
                        self._weights[name],
                        runtime=runtime,
                        device=self._device,
                        short_side=side,
                    )
            return self._loaded[key]

    def label(
        self, photo: Photo, name: str, short_side: float, runtime: Runtime
    ) -> tuple[Segmentation, str, dict[str, Any]]:
        """Label a photo: the result, a line about it, and the same as facts for a file.

        Raises:
            ValueError, OSError, MemoryError: the photo or the choice is at fault.
        """
        segmenter = self.segmenter(name, short_side, runtime)
        start = perf_counter()
        result = segmenter(photo)
        seconds = perf_counter() - start
        height, width = result.labels.shape
        note = f"{width} x {height} pixels, seen at {result.valid[1]} x {result.valid[0]}, {seconds:.2f} s"
        facts = {
            "weights": name,
            "runtime": segmenter.runtime,
            "network_input": [result.valid[1], result.valid[0]],
            "seconds": round(seconds, 3),
        }
        return result, note, facts


def _is_folder(weights: str) -> bool:
    """Of exported files, which several runtimes may open."""
    return Path(weights).is_dir()
