"""Pool statistics: what a person watches to size a pool."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PoolStats"]


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
    opening: int
    """Connections that are being made and dialled."""
    waiting: int
    """Callers that wait for a connection."""
    checkouts: int
    """Connections lent so far; callers who got none are not counted."""
    created: int
    """Connections made so far."""
    replaced: int
    """Idle connections that were found dead or dirty and reconnected before use."""
    discarded: int
    """Connections closed at their return: owed a reply, or left in a session state."""
    reclaimed: int
    """Slots got back from borrowers that vanished without a release."""
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
