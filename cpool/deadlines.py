"""Deadlines: one clock for all that a block of code does with Redis."""

from __future__ import annotations

from typing import Any

from cpool._deadline import Deadline

__all__ = ["deadline"]


def deadline(seconds: float) -> Deadline:
    """Bound what the block of a `with` statement does with Redis, by one clock.

    seconds: from the beginning of the block, 0 or more; 0 has passed already. ValueError
        for anything else. What the statement gives has `seconds` and `remaining_s`.

    Every wait of cpool's pools and connections in the block ends in time, whatever client
    drives them: for a connection, for dialling, TLS and the handshake, for sending and
    receiving, between retries. Then DeadlineExceededError is raised, which says where the
    time went; a connection on which a reply is still to come is closed. It is looked at when
    a wait begins, so a command after it raises before anything is sent. `socket_timeout`
    and the pool's `timeout` hold besides.

    A deadline inside another one only shortens. It is for the thread, greenlet or task
    that runs the block, and for those begun in a copy of its context, until the block is
    left. It ends waits, and interrupts no work (such as making the context of a TLS
    connection, some 25 ms of a CPU in redis-py). Not bounded is the resolution of host
    names, and what does not go through cpool's connections: the questions of redis-py's own
    Sentinel (`cpool.Sentinel`'s are bounded), the sleeps of redis-py's Lock.
    """
    return Deadline(_checked(seconds))


def _checked(seconds: Any) -> float:
    number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not (number and seconds >= 0):
        raise ValueError('"seconds" of a deadline must be a number of seconds >= 0')
    return seconds  # type: ignore[no-any-return]
