"""What the doctor knows of a client or a pool, and how its commands go.

It borrows from the pool only for a few PINGs, and only while a connection is free, so
that neither it nor anybody else waits.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import redis

import cpool
from cpool.tools.doctor.wrappers import Wrapped, is_derived, overridden, patched

__all__ = ["Probe", "Subject", "name_of", "told"]

SECRETS = ("password", "ssl_password")
_SPEAKERS = {"redis", "cpool", "builtins", "socket", "ssl"}
PROBES = 5
MOST_PROBES = 50
PROBE_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Probe:
    """How a few PINGs of the client went."""

    taken: int = 0
    """How many were one compiled call."""
    refused: tuple[str, ...] = ()
    """Why others were not: reasons of cpool.fast_path.FastPathStats."""
    error: str | None = None
    """What they raised: its class, and of redis-py's and the system's errors the text."""


@dataclass(frozen=True)
class Subject:
    """A client or a pool, as the checks see it."""

    client: Any
    """None where a pool was given."""
    pool: Any
    kwargs: dict[str, Any]
    """The pool's arguments for connections. They may hold passwords: not to be shown."""
    stats: cpool.PoolStats | None
    """The counts of a pool of ours, before the examination has touched it."""
    in_use: int | None
    """How many connections are lent; None: it can't be told."""
    probe: Probe | None = None

    @classmethod
    def of(cls, given: Any) -> Subject:
        """Look at a client or a pool. Raises TypeError for anything else."""
        client = given if _is_client(given) else None
        pool = given if client is None else given.connection_pool
        if not hasattr(pool, "get_connection") or _is_async(pool):
            raise TypeError(
                "client_or_pool must be a redis.Redis or cpool.Redis, or a ConnectionPool of"
                f" either, not of redis.asyncio; not {name_of(type(given))}. Of a cluster give"
                " one node's pool or client: cpool.RedisCluster has node_pools."
            )
        stats = pool.stats() if is_derived(type(pool), "pool") else None
        in_use = _lent(pool) if stats is None else stats.in_use + stats.opening
        return cls(client, pool, dict(pool.connection_kwargs), stats, in_use)

    def probed(self) -> Subject:
        """Send a few PINGs as the client does, if a connection is free, and note how they
        went. A pool of ours without a client gets a `cpool.Redis` for it."""
        client = self.client
        if client is None and self.has_our_pool:
            client = cpool.Redis(connection_pool=self.pool)
        if self.is_exhausted or not is_derived(type(client), "client"):
            return self
        probe = _in_time(lambda: _probe(client), PROBE_TIMEOUT_S)
        if probe.error is not None:
            probe = replace(probe, error=self.without_secrets(probe.error))
        return replace(self, probe=probe)

    @property
    def connection_class(self) -> Any:
        """What the pool makes its connections with."""
        return self.pool.connection_class

    @property
    def has_our_client(self) -> bool:
        """Whether the client is cpool's, or derived from it."""
        return is_derived(type(self.client), "client")

    @property
    def has_our_pool(self) -> bool:
        """Whether the pool is cpool's, or derived from it."""
        return self.stats is not None

    @property
    def has_our_connections(self) -> bool:
        """Whether the pool makes cpool's connections, or some derived from them."""
        return is_derived(self.connection_class, "connection")

    @property
    def max_connections(self) -> int:
        """How many connections the pool may hold."""
        return int(self.pool.max_connections)

    @property
    def timeout_s(self) -> float | None:
        """How long the pool lets callers wait for a connection (None: for ever)."""
        found: float | None = getattr(self.pool, "timeout", 0)
        return found

    @property
    def is_exhausted(self) -> bool:
        """Whether all connections are lent."""
        return self.in_use is not None and self.in_use >= self.max_connections

    @property
    def has_cache(self) -> bool:
        """Whether redis-py keeps replies in a client-side cache."""
        return getattr(self.pool, "cache", None) is not None

    @property
    def is_of_cluster(self) -> bool:
        """Whether the client is that of a node of a RedisCluster, which marks its connections."""
        function = self.kwargs.get("redis_connect_func")
        return isinstance(getattr(function, "__self__", None), redis.RedisCluster)

    @property
    def is_single_connection(self) -> bool:
        """Whether the client keeps one connection for itself."""
        return getattr(self.client, "connection", None) is not None

    def without_secrets(self, text: str) -> str:
        """Return a text without the passwords of the pool's arguments."""
        for secret in filter(None, map(self.kwargs.get, SECRETS)):
            text = text.replace(str(secret), "***")
        return text

    def was_refused(self, reason: str) -> bool:
        """Tell whether a PING was not one compiled call for this reason."""
        return self.probe is not None and reason in self.probe.refused

    def replaced(self, kind: str) -> tuple[Wrapped, ...]:
        """Return the methods of the client, pool or connection class that are the user's own
        and keep the compiled call from being taken."""
        if kind == "connection":
            return overridden(self.connection_class, kind) if self.has_our_connections else ()
        instance = self.client if kind == "client" else self.pool
        if not is_derived(type(instance), kind):
            return ()
        return overridden(type(instance), kind) + patched(instance, kind)

    def facts(self) -> dict[str, Any]:
        """Return what to show of it."""
        facts: dict[str, Any] = {
            "client_class": None if self.client is None else name_of(type(self.client)),
            "pool_class": name_of(type(self.pool)),
            "connection_class": name_of(self.connection_class),
            "max_connections": self.max_connections,
            "connections_in_use": self.in_use,
            "client_side_cache": self.has_cache,
            "single_connection": self.is_single_connection,
            "health_check_interval_s": self.kwargs.get("health_check_interval") or 0,
        }
        if self.stats is not None:
            facts["timeout_s"] = "for ever" if self.timeout_s is None else self.timeout_s
            facts["pool_stats"] = asdict(self.stats)
        if self.probe is not None:
            facts["compiled_pings"] = self.probe.taken
            facts["other_pings"] = list(self.probe.refused)
        return facts


def name_of(cls: Any) -> str:
    """Return a class's name as one imports it."""
    module = getattr(cls, "__module__", None)
    name = getattr(cls, "__qualname__", type(cls).__qualname__)
    package = str(module).partition(".")[0]
    return f"{package if package in ('redis', 'cpool') else module}.{name}"


def told(error: Exception) -> list[str]:
    """Return an error's class, and its text where that is redis-py's or the system's: those
    of the user's own code may hold anything."""
    name = type(error).__name__
    author = type(error).__module__.partition(".")[0]
    is_known = isinstance(error, (redis.RedisError, OSError)) and author in _SPEAKERS
    return [name, str(error)] if is_known else [name]


def _is_client(given: Any) -> bool:
    """Whether a PING of it is sent at once: pub/sub objects and pipelines have a pool, too."""
    has_verbs = hasattr(given, "pipeline") and not hasattr(given, "command_stack")
    return has_verbs and hasattr(given, "connection_pool")


def _is_async(pool: Any) -> bool:
    return inspect.iscoroutinefunction(inspect.unwrap(pool.get_connection))


def _lent(pool: Any) -> int | None:
    """Count the lent connections of redis-py's pools, by what they keep for themselves."""
    if hasattr(pool, "pool") and hasattr(pool.pool, "qsize"):
        return int(pool.max_connections - pool.pool.qsize())
    in_use = getattr(pool, "_in_use_connections", None)
    return None if in_use is None else len(in_use)


def _in_time(work: Callable[[], Probe], timeout_s: float) -> Probe:
    """Do some work in a thread, so that it can be given up; TimeoutError is noted then."""
    done: list[Probe] = []
    thread = threading.Thread(target=lambda: done.append(work()), daemon=True)
    thread.start()
    thread.join(timeout_s)
    return done[0] if done else Probe(error="TimeoutError")


def _probe(client: Any) -> Probe:
    """PING until enough were counted alone: others may use the compiled call meanwhile."""
    taken = 0
    refused: list[str] = []
    for _ in range(MOST_PROBES):
        if taken + len(refused) == PROBES:
            break
        before = _counts()
        try:
            client.ping()
        except redis.exceptions.NoPermissionError:
            pass  # it was sent and answered all the same
        except Exception as error:  # client and credential provider may be anybody's
            return Probe(taken, tuple(refused), ": ".join(told(error)))
        passed = [name for name, n in _counts().items() for _ in range(n - before[name])]
        if passed == ["taken"]:
            taken += 1
        elif len(passed) == 1:
            refused += passed
    return Probe(taken, tuple(refused))


def _counts() -> dict[str, int]:
    stats = cpool.fast_path.stats()
    return {"taken": stats.taken, **stats.refused}
