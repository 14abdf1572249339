"""The sides that the tools compare: which classes each one is, and what it is called."""

from __future__ import annotations

import redis

NO_POOL, REDIS_PY, CPOOL, CLIENT = "no pool", "redis-py", "cpool pool", "cpool.Redis"
SIDES = {
    NO_POOL: "redis.Redis, a new connection for each command",
    REDIS_PY: "redis.Redis on redis.ConnectionPool",
    CPOOL: "redis.Redis on cpool.ConnectionPool",
    CLIENT: "cpool.Redis on cpool.ConnectionPool",
}


def client_class(side: str) -> type[redis.Redis]:
    """Return the class of one side's client."""
    import cpool

    return cpool.Redis if side == CLIENT else redis.Redis


def threads_text(n: int) -> str:
    """Return e.g. "1 thread"."""
    return f"{n} thread" if n == 1 else f"{n} threads"
