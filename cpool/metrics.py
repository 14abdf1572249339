"""redis-py's own metrics, recorded by our pools as redis-py's pools record them.

redis-py 7.2 and later can export OpenTelemetry metrics; its pools call a recorder at
each event. Ours do too, behind one test of "is it on?": the two module dictionaries
of `SWITCHES`, which compiled code looks at without a Python frame.
"""

from __future__ import annotations

import time
from typing import Any

try:
    from redis.observability import providers, recorder
    from redis.observability.attributes import ConnectionState, get_pool_name
except ImportError:  # redis-py before 7.2 has no metrics
    SWITCHES: tuple[dict[str, Any] | None, dict[str, Any] | None] = (None, None)
else:
    SWITCHES = (vars(recorder), vars(providers))

__all__ = ["SWITCHES", "count", "created", "timed_out", "waited"]


def count(pool: Any, *, idle: int = 0, used: int = 0, pool_name: str | None = None) -> None:
    """Record that the pool has so many more (or fewer) idle and used connections."""
    if not pool._is_measured():
        return
    name = pool_name or get_pool_name(pool)
    for state, change in ((ConnectionState.IDLE, idle), (ConnectionState.USED, used)):
        if change:
            recorder.record_connection_count(
                pool_name=name, connection_state=state, counter=change
            )


def created(pool: Any, started_s: float) -> None:
    """Record how long it took to make and dial a connection."""
    if pool._is_measured():
        recorder.record_connection_create_time(
            connection_pool=pool, duration_seconds=time.monotonic() - started_s
        )


def waited(pool: Any, started_s: float) -> None:
    """Record how long a checkout took, with what it waited for."""
    recorder.record_connection_wait_time(
        pool_name=get_pool_name(pool), duration_seconds=time.monotonic() - started_s
    )


def timed_out(pool: Any) -> None:
    """Record that a caller has waited in vain."""
    if pool._is_measured():
        recorder.record_connection_timeout(pool_name=get_pool_name(pool))
