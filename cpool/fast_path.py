"""The switch and the counters of the compiled call of `cpool.Redis`, `cpool.RedisCluster` and
their pipelines.

They are the process's, for all clients. Off, every command takes redis-py's own path,
with the same results; `CPOOL_FAST_PATH=0` in the environment begins that way.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from cpool import _client

__all__ = ["FastPathStats", "disable", "enable", "is_enabled", "reset_stats", "stats"]


@dataclass(frozen=True)
class FastPathStats:
    """How often commands (a pipeline counts as one) were one compiled call, and why not."""

    taken: int
    """Commands that were one compiled call."""
    refused: dict[str, int]
    """Commands that took redis-py's own path, one entry per reason:

    - "switched off";
    - "client overridden": a subclass or a patch has its own parse_response or the like;
    - "pool overridden": no pool of cpool's, or one with its own get_connection or release;
    - "metrics on": redis-py's are collected;
    - "command": HIMPORT, or a name that is no str; in a cluster also a command with
      target_nodes, without keys, or with keys that are not in one slot;
    - "connection pinned": a single-connection client whose connection is not open and clean;
    - "connection overridden": a foreign class, a wrapped or replaced method, a cache;
    - "health check due";
    - "retry overridden".
    """


def stats() -> FastPathStats:
    """Return the counts since the start of the process, or since reset_stats()."""
    counts = dict(zip(_client.REASONS, _client.counted(), strict=True))
    return FastPathStats(counts.pop("taken"), counts)


def reset_stats() -> None:
    """Begin to count anew."""
    _client.forget_counts()


def enable() -> None:
    """Let commands be one compiled call where nobody can tell (the default)."""
    _client.set_enabled(True)


def disable() -> None:
    """Leave every command to redis-py's own code, from the next one on."""
    _client.set_enabled(False)


def is_enabled() -> bool:
    """Tell whether the compiled call is switched on."""
    return _client.is_enabled()


def _by_environment(value: str) -> bool:
    if value not in {"", "0", "1"}:
        raise ValueError(f"CPOOL_FAST_PATH must be 0 or 1; not {value!r}")
    return value != "0"


_client.set_enabled(_by_environment(os.environ.get("CPOOL_FAST_PATH", "")))
