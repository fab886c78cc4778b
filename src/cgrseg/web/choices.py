"""The weights that a page offers, each loaded once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Condition, Lock
from time import perf_counter
from typing import Any

import numpy as np

from cgrseg.inference.result import Segmentation
from cgrseg.inference.runtimes import SUFFIXES, Runtime, installed
from cgrseg.inference.segmenter import Segmenter
from cgrseg.weights.load import find_weights


class Choices:
    """Segmenters by name, for a few weights.

    Args:
        weights: weights files, bundled names, "hf:USER/NAME", or folders of `cgrseg export`. All must exist; the first
            is loaded now.
        device: as for `cgrseg.load`.
        short_side: of the network's input, if the visitor chooses none; None for that of the weights.

    Raises:
        ValueError, OSError: weights do not exist or can't be loaded, or two have the same name.
    """

    def __init__(self, weights: Sequence[str], *, device: str = "auto", short_side: int | None = None) -> None:
        self._weights = {Path(name).stem if Path(name).is_file() else name: name for name in weights}
        if len(self._weights) < len(weights):
            raise ValueError(f"two of the weights {', '.join(weights)} have the same name: rename a file")
        for name in weights:
            if not find_weights(name).exists():
                raise FileNotFoundError(f"{name} does not exist: check the path")
        self.names = list(self._weights)
        exported = any(map(_is_folder, self._weights.values()))
        self.runtimes: list[Runtime] = ["auto", *(name for name in SUFFIXES if exported and installed(name))]
        self._device, self._short_side = device, short_side
        self._loaded: dict[tuple[str, str, int], Segmenter] = {}
        self._models: dict[str, Any] = {}
        self._lock = Lock()
        self._photos, self._photo_done = 0, Condition()
        self.segmenter(self.names[0], 0, "auto")(np.zeros((64, 64, 3), np.uint8))  # the first pass is slow

    def segmenter(self, name: str, short_side: float, runtime: Runtime) -> Segmenter:
        """The segmenter of a name.

        Args:
            name: one of `names`.
            short_side: of the network's input; 0 for the default.
            runtime: one of `runtimes`.

        Raises:
            ValueError, OSError: it can't be loaded, or there is no such choice.
        """
        if name not in self._weights:
            raise ValueError(f"no weights are called {name!r}: choose from {', '.join(self.names)}")
        if runtime not in self.runtimes:
            raise ValueError(f"runtime {runtime!r} is not available: choose from {', '.join(self.runtimes)}")
        side = int(short_side) or self._short_side
        if side is not None and side != 0 and not 32 <= side <= 4096:
            raise ValueError(f"short side is {side}: choose from 32 to 4096")
        key = name, runtime, -1 if side is None else side
        with self._lock:
            if key not in self._loaded:
                if not _is_folder(self._weights[name]) and runtime == "auto":
                    if name not in self._models:
                        self._models[name] = Segmenter(self._weights[name], device=self._device).model
                    self._loaded[key] = Segmenter(self._models[name], short_side=side)
                else:
                    self._loaded[key] = Segmenter(
                        self._weights[name], runtime=runtime, device=self._device, short_side=side
                    )
            return self._loaded[key]

    def label(
        self, photo: np.ndarray[Any, np.dtype[np.uint8]], name: str, short_side: float, runtime: Runtime
    ) -> tuple[Segmentation, str, dict[str, Any]]:
        """Label a photo: the result, a line about it, and the same values for a JSON file.

        Raises:
            ValueError, OSError, MemoryError: the photo or the choice is at fault.
        """
        segmenter = self.segmenter(name, short_side, runtime)
        with self._photo_done:
            self._photos += 1
        try:
            start = perf_counter()
            result = segmenter(photo)
            seconds = perf_counter() - start
        finally:
            with self._photo_done:
                self._photos -= 1
                self._photo_done.notify_all()
        height, width = result.labels.shape
        note = f"{width} x {height} pixels, network input {result.valid[1]} x {result.valid[0]}, {seconds:.2f} s"
        facts = {
            "weights": name,
            "runtime": segmenter.runtime,
            "network_input": [result.valid[1], result.valid[0]],
            "seconds": round(seconds, 3),
        }
        return result, note, facts

    def wait_for_photos(self, seconds: float) -> None:
        """Wait until no photo is being labelled: photos have priority over the frames of a video."""
        with self._photo_done:
            self._photo_done.wait_for(lambda: self._photos == 0, seconds)


def _is_folder(weights: str) -> bool:
    """Whether it is a folder of exported files, which several runtimes may open."""
    return Path(weights).is_dir()
