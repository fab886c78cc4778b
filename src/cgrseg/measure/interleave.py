"""Comparable timings: all candidates run in turn, round by round, so a busy machine slows all of them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

CALLS = 3  # timed calls of a candidate per round
DRAWS = 2000  # bootstrap samples


@dataclass(frozen=True)
class Ratio:
    """How many times as fast one candidate is as another.

    Args:
        median: of the ratios of all rounds.
        low, high: 95 % bootstrap interval of the median.
    """

    median: float
    low: float
    high: float


def ratio(base: Sequence[float], other: Sequence[float]) -> Ratio:
    """How many times as fast `other` is as `base`, from the seconds of the same rounds.

    Args:
        base, other: seconds, above 0, one value per round.

    Raises:
        ValueError: different numbers of rounds, or none.
    """
    if len(base) != len(other) or not base:
        raise ValueError(f"{len(base)} rounds cannot be compared with {len(other)}: both run in every round")
    ratios = np.divide(base, other)
    return Ratio(float(np.median(ratios)), *interval(ratios.tolist()))


def interval(values: Sequence[float], draws: int = DRAWS) -> tuple[float, float]:
    """95 % bootstrap interval of the median, with a fixed seed."""
    samples = np.random.default_rng(0).choice(values, (draws, len(values)))
    low, high = np.percentile(np.median(samples, axis=1), (2.5, 97.5))
    return float(low), float(high)


def clocked(task: Callable[[], object]) -> float:
    """Seconds of one call. The task waits for its device itself."""
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def take_turns(
    tasks: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    after: Callable[[str], None] = lambda name: None,
) -> dict[str, list[list[float]]]:
    """Run all tasks `rounds` times in turn, in a different order in each round.

    Each turn starts with an untimed call. It warms the caches, and meanwhile the idle threads of another runtime stop
    spinning.

    Args:
        tasks: name -> what to time.
        rounds: at least 1.
        after: called with the name after each turn, untimed.

    Returns:
        name -> for each round the seconds of its `CALLS` calls.

    Raises:
        ValueError: fewer than one round.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}: it must be at least 1")
    seconds: dict[str, list[list[float]]] = {name: [] for name in tasks}
    order, source = list(tasks), random.Random(0)
    for _ in range(rounds):
        for name in order:
            tasks[name]()
            seconds[name].append([clocked(tasks[name]) for _ in range(CALLS)])
            after(name)
        source.shuffle(order)
    return seconds
