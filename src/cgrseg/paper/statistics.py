"""Intervals, p-values and Holm's correction for the claims of a study."""

from __future__ import annotations

import math
from statistics import mean, stdev

from scipy.stats import t  # type: ignore[import-untyped]


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval (Student's t; NaN for fewer than two values)."""
    if len(values) < 2:
        return (values[0] if values else math.nan), math.nan
    return mean(values), float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))


def p_value(values: list[float]) -> float:
    """Two-sided p of the hypothesis that the mean is 0 (Student's t); NaN for fewer than two values."""
    middle, half = interval(values)
    if math.isnan(half):
        return math.nan
    if half == 0:
        return 0.0 if middle else 1.0
    error = stdev(values) / math.sqrt(len(values))
    return float(2 * t.sf(abs(middle) / error, len(values) - 1))


def holm(ps: list[float]) -> list[float]:
    """Holm's corrected p-values: the smallest of n counts n times, the next n - 1 times, …, never decreasing."""
    order = sorted((one, index) for index, one in enumerate(ps) if not math.isnan(one))
    corrected, largest = [math.nan] * len(ps), 0.0
    for rank, (one, index) in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * one))
        corrected[index] = largest
    return corrected
