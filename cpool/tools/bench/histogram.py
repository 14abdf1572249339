"""A histogram of times in logarithmic buckets: its memory does not grow with the run."""

from __future__ import annotations

import bisect
import itertools
import math
from array import array
from collections.abc import Iterable

# Each bucket is 2 % wider than the one before, and stands for its geometric middle.
RELATIVE_ERROR = 0.01
_SCALE = 1 / math.log1p(2 * RELATIVE_ERROR)
_BUCKETS = int(math.log(2**63) * _SCALE) + 1


class Histogram:
    """Count times from 1 ns up; a percentile is off by 1 % at most. Not thread-safe."""

    def __init__(self) -> None:
        self.buckets = array("Q", bytes(8 * _BUCKETS))

    @classmethod
    def merged(cls, histograms: Iterable[Histogram]) -> Histogram:
        """Return the sum of some histograms."""
        total = cls()
        for other in histograms:
            for i, count in enumerate(other.buckets):
                total.buckets[i] += count
        return total

    def record(self, time_ns: int) -> None:
        """Count one time; 0 counts as 1 ns."""
        self.buckets[int(math.log(time_ns or 1) * _SCALE)] += 1

    @property
    def count(self) -> int:
        """How many times were recorded."""
        return sum(self.buckets)

    def percentile_ns(self, percent: float) -> float:
        """Return the nearest-rank percentile; raises ValueError if nothing was recorded."""
        up_to = list(itertools.accumulate(self.buckets))
        if not up_to[-1]:
            raise ValueError("no times were recorded")
        rank = min(up_to[-1], max(1, math.ceil(up_to[-1] * percent / 100)))
        return math.exp((bisect.bisect_left(up_to, rank) + 0.5) / _SCALE)
