"""What a specification runs on: pool classes, their errors and numbers by the format's names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis
import redis.connection
from redis.exceptions import (
    ConnectionError,
    MaxConnectionsError,
    ReadOnlyError,
    TimeoutError,
)

import cpool
from tests.spec.server import ConstructorFailed


class Interrupted(BaseException):
    """What the signal handler of a run raises."""


@dataclass(frozen=True)
class Implementation:
    """A pool class, and how its library says what the format has names for."""

    name: str
    pool_class: Any
    connection_class: Any
    errors: dict[str, tuple[type[BaseException], str]]
    """By kind: the exact class, and how the text begins."""
    stats: Callable[[Any], Any]
    """What a pool holds at this moment, by name."""
    counts: bool
    """Whether `stats` has the totals too."""
    close_for_good: Callable[[Any], Any]
    """Close a pool so that nothing of it is left."""


_DIAL_ERRORS: dict[str, tuple[type[BaseException], str]] = {
    "refused": (ConnectionError, "Error "),
    "dial_timed_out": (TimeoutError, "Timeout connecting to server"),
    "constructor_failed": (ConstructorFailed, ""),
    "read_only": (ReadOnlyError, ""),
    "interrupted": (Interrupted, ""),
}


def _ours(pool_class: Any, exhausted: str) -> Implementation:
    errors = {
        **_DIAL_ERRORS,
        "exhausted": (MaxConnectionsError, exhausted),
        "too_many_waiting": (MaxConnectionsError, "Too many connections: "),
        "waited_in_vain": (cpool.ConnectionPoolTimeoutError, exhausted),
        "no_turn_to_dial": (TimeoutError, "Timeout connecting to server (waited "),
        "closed": (cpool.PoolClosedError, "Pool "),
        "bad_option": (ValueError, '"'),
    }
    return Implementation(
        f"cpool.{pool_class.__name__}",
        pool_class,
        cpool.Connection,
        errors,
        _our_stats,
        True,
        lambda pool: pool.close(timeout=0),
    )


def _our_stats(pool: Any) -> dict[str, Any]:
    numbers = {"waiting_to_dial": pool._dials.waiting, **vars(pool.stats())}
    del numbers["name"]
    return {name: getattr(number, "count", number) for name, number in numbers.items()}


def _theirs(pool_class: Any, errors: Any, stats: Callable[[Any], Any]) -> Implementation:
    return Implementation(
        f"redis-py.{pool_class.__name__}",
        pool_class,
        redis.connection.Connection,
        {**_DIAL_ERRORS, **errors},
        stats,
        False,
        lambda pool: pool.disconnect(),
    )


def _raising_stats(pool: Any) -> dict[str, int]:
    idle, in_use = len(pool._available_connections), len(pool._in_use_connections)
    return {"open": idle + in_use, "idle": idle, "in_use": in_use, "waiting": 0}


def _blocking_stats(pool: Any) -> dict[str, int]:
    idle = sum(connection is not None for connection in pool.pool.queue)
    made, waiting = len(pool._connections), len(pool.pool.not_empty._waiters)
    return {"open": made, "idle": idle, "in_use": made - idle, "waiting": waiting}


CPOOL = (
    _ours(cpool.ConnectionPool, "Too many connections"),
    _ours(cpool.BlockingConnectionPool, "No connection available."),
)
REDIS_PY = (
    _theirs(
        redis.ConnectionPool,
        {"exhausted": (MaxConnectionsError, "Too many connections")},
        _raising_stats,
    ),
    _theirs(
        redis.BlockingConnectionPool,
        {"waited_in_vain": (ConnectionError, "No connection available.")},
        _blocking_stats,
    ),
)
ALL = {implementation.name: implementation for implementation in (*CPOOL, *REDIS_PY)}
