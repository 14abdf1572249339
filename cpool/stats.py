"""Pool statistics: what a person watches to size a pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from cpool._slots import BUCKET_ENDS_S

__all__ = ["Distribution", "PoolStats", "combined"]


@dataclass(frozen=True, repr=False)
class Distribution:
    """How long something took, each time: counts by length, at most 25 % apart."""

    counts: tuple[int, ...]
    """How many were shorter than the bound of the same place in `bounds_s`, and not counted
    before. The last bound is no bound: what was longer is counted there."""
    sum_s: float
    """Seconds all of them took together."""
    max_s: float
    """Seconds the longest took."""

    bounds_s: ClassVar[tuple[float, ...]] = BUCKET_ENDS_S
    """Where the lengths are parted, in seconds."""

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)

    @property
    def mean_s(self) -> float:
        """Seconds one took on average; 0 if there was none."""
        return self.sum_s / self.count if self.count else 0.0

    def quantile(self, q: float) -> float:
        """Return within how many seconds the share `q` (0 to 1) of them was over; 0 if there
        was none. Rounded up to the next bound, at most to the longest."""
        if not 0 <= q <= 1:
            raise ValueError(f"a quantile is from 0 to 1; not {q!r}")
        left = q * self.count
        for n, bound_s in zip(self.counts, self.bounds_s, strict=True):
            left -= n
            if left <= 0 and n:
                return min(bound_s, self.max_s)
        return self.max_s

    def __repr__(self) -> str:
        """Show what people look for: a hundred counts are none of it."""
        p99_s, max_s = self.quantile(0.99), self.max_s
        return (
            f"Distribution(count={self.count}, mean_s={self.mean_s:.3g}, p99_s={p99_s:.3g},"
            f" max_s={max_s:.3g})"
        )

    def summary(self) -> str:
        """Return mean and tail in words, for people."""
        return (
            f"{self.mean_s * 1e3:.3g} ms on average,"
            f" {self.quantile(0.99) * 1e3:.3g} ms at most in 99 %"
        )


@dataclass(frozen=True)
class PoolStats:
    """One look at a pool. The states are read off its slots, the totals count since
    the pool was made, reset or forked."""

    name: str
    """The pool's name: the `name` option, else its metrics id or class."""
    max_connections: int
    """How many connections the pool may hold."""
    open: int
    """Connections the pool holds: idle and in use."""
    idle: int
    """Connections that wait for a borrower."""
    in_use: int
    """Connections that are lent."""
    oldest_use_s: float
    """Seconds since the one was lent that was lent first; 0 if none is."""
    opening: int
    """Connections that are being made and dialled."""
    dialling: int
    """Dials under way: of those, and of connections that are dialled again."""
    waiting: int
    """Callers that wait for a connection."""
    checkouts: int
    """Connections lent so far; callers who got none are not counted."""
    created: int
    """Connections made so far."""
    failed_dials: int
    """Dials that failed because the server could not be reached."""
    replaced: int
    """Idle connections that were found dead or dirty and reconnected before use."""
    discarded: int
    """Connections closed at their return: owed a reply, or left in a session state."""
    reclaimed: int
    """Slots got back from borrowers that vanished without a release."""
    closed_idle: int
    """Connections closed after `max_idle_time`."""
    closed_old: int
    """Connections closed after `max_lifetime`."""
    evictions: int
    """Times all connections were given up at once: a restart or failover was noticed, or
    drain() was called."""
    waits: int
    """Times a caller had to wait because the pool was exhausted, in vain or not."""
    wait_time_s: float
    """Seconds all of them waited together."""
    longest_wait_s: float
    """Seconds the longest of them waited."""
    timeouts: int
    """Waits that ended in ConnectionPoolTimeoutError."""
    refused: int
    """Checkouts that were refused at once: exhausted, or too many waiting already."""
    wait: Distribution
    """How long callers waited who had to wait."""
    use: Distribution
    """How long connections were lent, from checkout to return."""
    dial: Distribution
    """How long good dials took: connecting, TLS and the handshake."""


def combined(name: str, parts: Sequence[PoolStats]) -> PoolStats:
    """Return several pools' figures as those of one: sums, and the longest of the longest."""
    merged = {
        field.name: _merged(field.name, [getattr(part, field.name) for part in parts])
        for field in fields(PoolStats)
        if field.name != "name"
    }
    return PoolStats(name=name, **merged)


def _merged(name: str, values: list[Any]) -> Any:
    if name in {"wait", "use", "dial"}:
        return Distribution(
            tuple(map(sum, zip(*(value.counts for value in values), strict=True)))
            or (0,) * len(BUCKET_ENDS_S),
            sum(value.sum_s for value in values),
            max((value.max_s for value in values), default=0.0),
        )
    if name in {"oldest_use_s", "longest_wait_s"}:
        return max(values, default=0.0)
    return sum(values)
