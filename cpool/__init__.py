"""cpool: redis-py's connection pools on a compiled core.

Replace `redis.ConnectionPool` by `cpool.ConnectionPool` (and likewise the blocking
and the sentinel pool); everything else of a program stays as it is.
"""

from importlib.metadata import PackageNotFoundError, version

from cpool.connection import Connection, SSLConnection, UnixDomainSocketConnection
from cpool.errors import ConnectionPoolTimeoutError
from cpool.pool import BlockingConnectionPool, ConnectionPool
from cpool.sentinel import (
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from cpool.stats import PoolStats

try:
    __version__ = version("redis-cpool")
except PackageNotFoundError:  # imported from a tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "BlockingConnectionPool",
    "Connection",
    "ConnectionPool",
    "ConnectionPoolTimeoutError",
    "PoolStats",
    "SSLConnection",
    "SentinelConnectionPool",
    "SentinelManagedConnection",
    "SentinelManagedSSLConnection",
    "UnixDomainSocketConnection",
    "__version__",
]
