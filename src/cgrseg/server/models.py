"""The weights that a server offers: one queue for each of them and each runtime."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from cgrseg.inference.network import Runtime
from cgrseg.inference.predictor import Prepared
from cgrseg.inference.segmenter import Segmenter

from .batching import Batcher
from .observability import LOGGER
from .uploads import Limits, RefusedError

Opener = Callable[[Runtime], Segmenter]
TIMED_SIDE = 512  # of the input whose pass is timed
MAX_NETWORK_PIXELS = 2**22


class Models:
    """Queues by the names of weights, each made at its first use.

    Args:
        openers: name -> function that loads the weights. The first name is the default.
        runtimes: that requests may choose from; the first is the default.
        limits: of each queue; `network_pixels` 0 is measured for each.
        note_batch: see `Batcher`.
    """

    def __init__(
        self,
        openers: Mapping[str, Opener],
        runtimes: Sequence[Runtime],
        limits: Limits,
        *,
        note_batch: Callable[[int], None],
    ) -> None:
        self._openers, self.names, self.runtimes = openers, list(openers), list(runtimes)
        self._limits, self._note_batch = limits, note_batch
        self._batchers: dict[tuple[str, Runtime], Batcher] = {}
        self._loading = asyncio.Lock()
        self.default = self._start(self.names[0], self.runtimes[0])

    async def batcher(self, weights: str | None, runtime: Runtime | None) -> Batcher:
        """The queue of a request.

        Raises:
            RefusedError: 422 for weights or a runtime that are not offered, 500 if they can't be loaded.
        """
        name, runtime = weights or self.names[0], runtime or self.runtimes[0]
        for option, value, offered in (("weights", name, self.names), ("runtime", runtime, self.runtimes)):
            if value not in offered:
                raise RefusedError(422, f"{option}: {value[:100]!r} is not offered: choose from {', '.join(offered)}")
        async with self._loading:
            if (name, runtime) not in self._batchers:
                try:
                    segmenter = await asyncio.to_thread(self._openers[name], runtime)
                    limits = await asyncio.to_thread(self._limits_of, segmenter)
                except (OSError, ValueError) as error:  # its text may name folders of this machine
                    LOGGER.exception("weights can't be loaded", extra={"fields": {"weights": name, "runtime": runtime}})
                    raise RefusedError(500, f"{name} can't be loaded: the server's log says why") from error
                self._batchers[name, runtime] = Batcher(segmenter, limits, note_batch=self._note_batch)
            return self._batchers[name, runtime]

    def all(self) -> list[Batcher]:
        """The queues that were made."""
        return list(self._batchers.values())

    def _start(self, name: str, runtime: Runtime) -> Batcher:
        segmenter = self._openers[name](runtime)
        batcher = Batcher(segmenter, self._limits_of(segmenter), note_batch=self._note_batch)
        self._batchers[name, runtime] = batcher
        return batcher

    def _limits_of(self, segmenter: Segmenter) -> Limits:
        if self._limits.network_pixels:
            return self._limits
        return replace(self._limits, network_pixels=affordable_pixels(segmenter, self._limits.seconds))


def rgb_segmenter(weights: str | os.PathLike[str], runtime: Runtime = "auto", **options: Any) -> Segmenter:
    """A `Segmenter`, or a ValueError if the model does not take RGB."""
    segmenter = Segmenter(weights, runtime, **options)
    if (channels := segmenter.preprocessing.channels) != 3:
        raise ValueError(f"{weights} takes images of {channels} channels; this is for RGB: use cgrseg predict")
    return segmenter


def affordable_pixels(segmenter: Segmenter, seconds: float) -> int:
    """Pixels of the largest input that the network labels in about a quarter of `seconds` here.

    The time of a pass grows at most with the square of its pixels (attention), so one small pass gives a safe estimate.
    Photos with sides up to 2:1 at the size that the weights ask for are always within the result.
    """
    if segmenter.predictor.network.size is not None:  # an exported file of a fixed size
        return MAX_NETWORK_PIXELS
    side = TIMED_SIDE
    item = Prepared(np.zeros((side, side, 3), np.uint8), torch.zeros(3, side, side), (side, side))
    segmenter.run([item])  # the first pass is slower
    start = time.perf_counter()
    segmenter.run([item])
    took = time.perf_counter() - start
    estimate = side * side * math.sqrt(seconds / (4 * took))
    preprocessing = segmenter.preprocessing
    short = preprocessing.short_side
    own = (0, 0) if short is None else preprocessing.padded_size(preprocessing.resized_size((short, 2 * short)))
    return min(max(int(estimate), own[0] * own[1]), MAX_NETWORK_PIXELS)
