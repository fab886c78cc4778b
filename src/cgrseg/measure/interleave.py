"""Times that can be compared: all sides run in turn, round by round, so that a busy machine slows all of them."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

CALLS = 3  # timed calls of a side in one round
DRAWS = 2000  # samples that an interval rests on


@dataclass(frozen=True)
class Ratio:
    """How many times as fast one side is as another.

    Args:
        median: of the rounds' ratios.
        low, high: 95 % interval of that median.
    """

    median: float
    low: float
    high: float


def ratio(base: Sequence[float], other: Sequence[float]) -> Ratio:
    """How many times as fast `other` is as `base`, from the seconds of the same rounds.

    Args:
        base, other: seconds, above 0, one number a round.

    Raises:
        ValueError: different numbers of rounds, or none.
    """
    if len(base) != len(other) or not base:
        raise ValueError(f"{len(base)} rounds can't be compared with {len(other)}: both sides run in every round")
    ratios = [slow / fast for slow, fast in zip(base, other, strict=True)]
    return Ratio(statistics.median(ratios), *interval(ratios))


def interval(values: Sequence[float], draws: int = DRAWS) -> tuple[float, float]:
    """The middle 95 % of the medians of samples drawn from `values` with replacement (bootstrap, fixed seed)."""
    source = random.Random(0)
    medians = sorted(statistics.median(source.choices(values, k=len(values))) for _ in range(draws))
    return medians[int(0.025 * draws)], medians[int(0.975 * draws)]


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` (0 … 100) of the values do not exceed, between two values by straight line.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("a percentile of no values: measure at least one")
    ordered = sorted(values)
    place = percent / 100 * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def clocked(task: Callable[[], object]) -> float:
    """Seconds that one call takes. The task waits for its device itself."""
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def take_turns(
    sides: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    after: Callable[[str], None] = lambda name: None,
) -> dict[str, list[list[float]]]:
    """Run all sides `rounds` times in turn; the order is another one in each round.

    In each turn one call goes untimed: it warms the caches, and meanwhile the idle threads of another side's
    runtime, which wait busily for a while, come to rest.

    Args:
        sides: name -> what to time.
        rounds: at least 1.
        after: called with the side's name after each of its turns, outside the clock.

    Returns:
        name -> for each round the seconds of its `CALLS` calls.

    Raises:
        ValueError: fewer than one round.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}: it must be at least 1")
    seconds: dict[str, list[list[float]]] = {name: [] for name in sides}
    order, source = list(sides), random.Random(0)
    for _ in range(rounds):
        for name in order:
            sides[name]()
            seconds[name].append([clocked(sides[name]) for _ in range(CALLS)])
            after(name)
        source.shuffle(order)
    return seconds
