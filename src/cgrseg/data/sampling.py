"""The order of samples and their random generators: pure functions of (seed, step, position)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

Order = np.ndarray[Any, np.dtype[np.int64]]


def sample_index(seed: int, number: int, length: int) -> int:
    """The index of sample `number` of the run. Each epoch of `length` samples is shuffled on its own."""
    epoch, place = divmod(number, length)
    return int(epoch_order(seed, epoch, length)[place])


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, length: int) -> Order:
    """int64 [length]: the order of the samples in an epoch."""
    order = np.random.default_rng([seed, 0, epoch]).permutation(length)
    order.setflags(write=False)
    return order


def generator(seed: int, number: int) -> np.random.Generator:
    """The random generator of sample `number`."""
    return np.random.default_rng([seed, 1, number])


class StepSampler:
    """For each step from `first_step` to `steps` (exclusive), the sample numbers of this process.

    Step k of the run uses the numbers k·batch … (k + 1)·batch - 1, split evenly over the processes. Those of a process
    come in one list, or in `parts` lists of nearly equal length.

    Args:
        first_step: the first step, 0 or where a run resumes.
        steps: the number of steps of the whole run.
        batch: samples per step over all processes.
        rank, world: the number of this process, and of processes.
        parts: lists per step; fewer if there are fewer samples.

    Raises:
        ValueError: the batch can't be split evenly, or the rank is out of range.
    """

    def __init__(
        self, *, first_step: int, steps: int, batch: int, rank: int = 0, world: int = 1, parts: int = 1
    ) -> None:
        if batch < 1 or batch % world:
            raise ValueError(f"a batch of {batch} can't be split evenly over {world} processes: use a multiple")
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is not one of {world} processes: ranks are 0 to {world - 1}")
        self.first_step, self.steps, self.batch = first_step, steps, batch
        self.share = batch // world
        self.start = rank * self.share
        self.parts = min(parts, self.share)

    def __len__(self) -> int:
        return max(self.steps - self.first_step, 0) * self.parts

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, self.steps):
            first = step * self.batch + self.start
            ends = [first + self.share * part // self.parts for part in range(self.parts + 1)]
            for start, end in pairwise(ends):
                yield list(range(start, end))
