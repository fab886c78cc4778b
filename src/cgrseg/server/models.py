"""The weights that a server offers: one queue for each of them and each runtime."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from cgrseg.inference.network import Runtime
from cgrseg.inference.segmenter import Segmenter

from .batching import Batcher, affordable_pixels
from .observability import LOGGER
from .uploads import Limits, RefusedError

Opener = Callable[[Runtime], Segmenter]


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
