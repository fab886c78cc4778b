"""Which sample comes when, with which randomness: pure functions of (seed, step, position), so nothing else counts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from torch.utils.data import Sampler

Order = np.ndarray[Any, np.dtype[np.int64]]


def sample_index(seed: int, number: int, length: int) -> int:
    """The index of sample `number` of the run: epochs of `length` samples, each in a shuffled order of its own."""
    epoch, place = divmod(number, length)
    return int(epoch_order(seed, epoch, length)[place])


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, length: int) -> Order:
    """int64 [length]: the order in which an epoch goes through the samples, a function of (seed, epoch)."""
    order = np.random.default_rng([seed, 0, epoch]).permutation(length)
    order.setflags(write=False)
    return order


def generator(seed: int, number: int) -> np.random.Generator:
    """The source of all randomness of sample `number`."""
    return np.random.default_rng([seed, 1, number])


class StepSampler(Sampler[list[int]]):
    """For each step from `first_step` up to `steps` (exclusive), the sample numbers of this process.

    Step k of the run takes the numbers k·batch … (k + 1)·batch - 1, whoever computes them.

    Args:
        first_step: the step to begin with, 0 or where a run resumes.
        steps: the number of steps of the whole run.
        batch: samples a step over all processes.
        rank, world: this process and how many there are; each takes an equal run of the numbers.

    Raises:
        ValueError: the batch can't be split evenly, or the rank is not one of the processes.
    """

    def __init__(self, *, first_step: int, steps: int, batch: int, rank: int = 0, world: int = 1) -> None:
        if batch < 1 or batch % world:
            raise ValueError(f"a batch of {batch} can't be split evenly over {world} processes: use a multiple")
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is not one of {world} processes: ranks are 0 to {world - 1}")
        self.first_step, self.steps, self.batch = first_step, steps, batch
        self.share = batch // world
        self.start = rank * self.share

    def __len__(self) -> int:
        return max(self.steps - self.first_step, 0)

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, self.steps):
            first = step * self.batch + self.start
            yield list(range(first, first + self.share))
