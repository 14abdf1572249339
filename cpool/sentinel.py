"""Sentinel-managed connections and their pool: redis-py's, on the compiled core."""

from __future__ import annotations

from typing import Any

import redis.sentinel

from cpool.connection import Connection, SSLConnection
from cpool.pool import ConnectionPool

__all__ = [
    "SentinelConnectionPool",
    "SentinelManagedConnection",
    "SentinelManagedSSLConnection",
]


class SentinelManagedConnection(redis.sentinel.SentinelManagedConnection, Connection):
    """A connection that asks the sentinels where to connect."""


class SentinelManagedSSLConnection(
    redis.sentinel.SentinelManagedSSLConnection, SentinelManagedConnection, SSLConnection
):
    """A TLS connection that asks the sentinels where to connect."""


class SentinelConnectionPool(redis.sentinel.SentinelConnectionPool, ConnectionPool):
    """A pool for the master or the replicas of a service known to sentinels.

    Use it as `Sentinel.master_for(name, connection_pool_class=SentinelConnectionPool)`.
    Same arguments as redis-py's, and the options of `cpool.ConnectionPool`.
    """

    def __init__(self, service_name: str, sentinel_manager: Any, **kwargs: Any) -> None:
        tls = kwargs.pop("ssl", False)
        default = SentinelManagedSSLConnection if tls else SentinelManagedConnection
        kwargs.setdefault("connection_class", default)
        super().__init__(service_name, sentinel_manager, **kwargs)
