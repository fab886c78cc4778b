"""Progress of a run, its speed, and requests to stop."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cgrseg._process import busy

NON_FINITE_LIMIT = 10  # skipped steps in a row that end a run


def is_false(answer: object) -> bool:
    """Whether a callback answered False; NumPy has its own."""
    return isinstance(answer, bool | np.bool_) and not answer


class Stopped(Exception):
    """The run was stopped by signal `number` and has saved its state."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class RunFailed(ValueError):
    """A failure that all processes of a run have together; the first one reports it."""


@dataclass
class Progress:
    """Progress of a run; saved with every state.

    Args:
        step: steps done.
        loss: running mean.
        best: highest mIoU on the val split, or on its images that are scored during the run.
        skipped, skipped_in_a_row: steps without a finite gradient, which are not applied.
        unreadable: messages about pairs that could not be read.
        val_images: number of val images that are scored during the run; None for all, or if it is not known yet.
        without_gain: evaluations since the highest mIoU.
    """

    step: int = 0
    loss: float = math.nan
    best: float = -1.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    unreadable: list[str] = field(default_factory=list)
    val_images: int | None = None
    without_gain: int = 0

    def note_step(self, loss: float, finite: bool) -> None:
        """Count a step.

        Raises:
            RunFailed: the tenth in a row without a finite gradient.
        """
        self.step += 1
        if finite:
            self.skipped_in_a_row = 0
            self.loss = loss if math.isnan(self.loss) else 0.98 * self.loss + 0.02 * loss
            return
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row == NON_FINITE_LIMIT:
            raise RunFailed(
                f"{NON_FINITE_LIMIT} steps in a row gave no finite loss and gradient, from step "
                f"{self.step - NON_FINITE_LIMIT + 1} on (train.jsonl has the losses before): lower --optim.lr, set "
                "--optim.clip 1, or use --precision fp32"
            )

    def note_problems(self, problems: list[str], limit: int) -> list[str]:
        """Record messages about pairs that were replaced; returns the new ones.

        Raises:
            RunFailed: there are more than `limit`.
        """
        new = [problem for problem in dict.fromkeys(problems) if problem not in self.unreadable]
        self.unreadable += new
        if len(self.unreadable) > limit:
            raise RunFailed(
                f"{len(self.unreadable)} pairs cannot be read, the last one: {self.unreadable[-1]}; "
                "`cgrseg check-data` lists them all, --skip-limit allows more"
            )
        return new


class Clock:
    """Images per second and the share of time spent waiting for data, since this process started."""

    def __init__(self, *, first_step: int, batch: int) -> None:
        self.first_step, self.batch = first_step, batch
        self.began, self.waited = time.monotonic(), 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time in this block counts as waiting for data."""
        start = time.monotonic()
        yield
        self.waited += time.monotonic() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time in this block is not counted."""
        start = time.monotonic()
        yield
        self.began += time.monotonic() - start

    def seconds(self) -> float:
        """Seconds of training."""
        return max(time.monotonic() - self.began, 1e-9)

    def row(self, step: int) -> dict[str, float]:
        """The timing fields of a log line."""
        seconds = self.seconds()
        return {
            "seconds": round(seconds, 2),
            "images_per_second": round((step - self.first_step) * self.batch / seconds, 2),
            "waiting_share": round(self.waited / seconds, 4),
        }

    def postfix(self, step: int) -> dict[str, str]:
        """The same for the progress bar."""
        row = self.row(step)
        shown = {"images/s": f"{row['images_per_second']:.1f}", "wait": f"{row['waiting_share']:.0%}"}
        return shown | ({"note": note} if (note := busy()) else {})


@dataclass(frozen=True)
class Step:
    """What `on_step` is given.

    Args:
        number: steps done, 1 after the first one.
        loss: running mean; NaN until a step had a finite loss.
        lr: learning rate of the encoder in this step.
    """

    number: int
    loss: float
    lr: float


@dataclass(frozen=True)
class Callbacks:
    """Functions that are called in the first process, and end the run by returning False; see `cgrseg.train`."""

    on_step: Callable[[Step], object] | None = None
    on_score: Callable[[dict[str, Any]], object] | None = None


@dataclass
class StopRequest:
    """The number of the signal received, 0 if none; and whether a callback wants no further step."""

    number: int = 0
    early: bool = False


@contextmanager
def asked_to_stop() -> Iterator[StopRequest]:
    """Within the block, Ctrl-C and SIGTERM only set the number; a second signal ends the process.

    Signals can only be handled in the main thread; in another one, the block does not change what they do.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _frame: object) -> None:
        request.number = number
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
