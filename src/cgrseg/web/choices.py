"""The weights that a page offers, each loaded once."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Condition, Lock
from time import perf_counter
from typing import Any

import numpy as np

from cgrseg.inference.network import SUFFIXES, Runtime, installed
from cgrseg.inference.predictor import Predictor, Prepared
from cgrseg.inference.result import Segmentation
from cgrseg.inference.segmenter import Segmenter
from cgrseg.preprocessing import Pixels
from cgrseg.weights.load import find_weights


@dataclass(frozen=True, eq=False)
class LabelledPhoto:
    """A result and how it was made.

    Args:
        result, prepared: of the photo.
        weights, runtime: their names.
        seconds: that it took.
    """

    result: Segmentation
    prepared: Prepared
    weights: str
    runtime: str
    seconds: float

    def facts(self) -> dict[str, Any]:
        """The values for a JSON file."""
        height, width = self.prepared.size
        return {
            "width": width,
            "height": height,
            "weights": self.weights,
            "runtime": self.runtime,
            "network_input": [self.prepared.valid[1], self.prepared.valid[0]],
            "seconds": round(self.seconds, 3),
        }

    def note(self) -> str:
        """One line for the page."""
        facts = self.facts()
        inside = "{} x {}".format(*facts["network_input"])
        return f"{facts['width']} x {facts['height']} pixels, network input {inside}, {self.seconds:.2f} s"


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
        self.runtimes = ["auto", *(name for name in SUFFIXES if exported and installed(name))]
        self._device, self._short_side = device, short_side
        self._loaded: dict[tuple[str, str], Segmenter] = {}
        self._lock = Lock()
        self._photos, self._photo_done = 0, Condition()
        self.label(np.zeros((64, 64, 3), np.uint8), self.names[0], 0, "auto")  # the first pass is slow

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
        side = int(short_side)
        if side != 0 and not 32 <= side <= 4096:
            raise ValueError(f"short side is {side}: choose from 32 to 4096")
        with self._lock:
            if (name, runtime) not in self._loaded:
                self._loaded[name, runtime] = Segmenter(
                    self._weights[name], runtime, self._device, short_side=self._short_side
                )
            segmenter = self._loaded[name, runtime]
        if side == 0:
            return segmenter
        segmenter = copy(segmenter)  # the same network
        preprocessing = replace(segmenter.preprocessing, short_side=side)
        segmenter.predictor = Predictor(segmenter.predictor.network, preprocessing=preprocessing)
        return segmenter

    def label(self, photo: Pixels, name: str, short_side: float, runtime: Runtime) -> LabelledPhoto:
        """Label a photo.

        Raises:
            ValueError, OSError, MemoryError: the photo or the choice is at fault.
        """
        segmenter = self.segmenter(name, short_side, runtime)
        with self._photo_done:
            self._photos += 1
        try:
            start = perf_counter()
            prepared = segmenter.prepare(photo)
            (result,) = segmenter.run([prepared])
            return LabelledPhoto(result, prepared, name, segmenter.runtime, perf_counter() - start)
        finally:
            with self._photo_done:
                self._photos -= 1
                self._photo_done.notify_all()

    def wait_for_photos(self, seconds: float) -> None:
        """Wait until no photo is being labelled: photos have priority over the frames of a video."""
        with self._photo_done:
            self._photo_done.wait_for(lambda: self._photos == 0, seconds)


def _is_folder(weights: str) -> bool:
    """Whether it is a folder of exported files, which several runtimes may open."""
    return Path(weights).is_dir()
