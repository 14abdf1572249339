"""Figures of repeated measurements: medians with their spread, percentiles, paired ratios."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Hold the median and the extremes of one figure over the rounds."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Take the figures of all rounds; raises statistics.StatisticsError without any."""
        return cls(statistics.median(values), min(values), max(values))

    def text(self, digits: int = 2) -> str:
        """Return "median (lowest-highest)"."""
        low, high = f"{self.lowest:,.{digits}f}", f"{self.highest:,.{digits}f}"
        return f"{self.median:,.{digits}f} ({low}-{high})"


def paired_ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Take one ratio in each round, then their median: drift between rounds cancels out."""
    return Spread.of([a / b for a, b in zip(over, under, strict=True)])


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile of values that are already sorted."""
    if not ordered:
        raise ValueError("no values")
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, min(len(ordered), int(rank)) - 1)]
