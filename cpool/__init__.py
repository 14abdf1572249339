"""cpool: redis-py's connection pools and client on a compiled core.

Replace `redis.ConnectionPool` by `cpool.ConnectionPool` (and likewise the blocking
and the sentinel pool), or `redis.Redis` by `cpool.Redis` and `redis.RedisCluster` by
`cpool.RedisCluster`; everything else of a program stays as it is. Where others name redis-py's
classes, `cpool.install()` replaces them.
"""

from typing import TYPE_CHECKING

try:
    from cpool import fast_path
    from cpool.client import Pipeline, Redis, StrictRedis, from_url
except (ImportError, ValueError) as _error:
    from cpool import unusable

    if unusable.is_command_line():
        unusable.leave(_error)
    raise
from cpool.blocking_pool import BlockingConnectionPool
from cpool.cluster import ClusterPipeline, RedisCluster
from cpool.connection import Connection, SSLConnection, UnixDomainSocketConnection
from cpool.deadlines import deadline
from cpool.errors import (
    ConnectionPoolTimeoutError,
    DeadlineExceededError,
    IndeterminateResultError,
    PoolClosedError,
)
from cpool.installation import install, uninstall
from cpool.node_pools import ClusterStats, NodePools
from cpool.pool import ConnectionPool
from cpool.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from cpool.stats import Distribution, PoolStats

__version__: str

if not TYPE_CHECKING:

    def __getattr__(name):
        """Look the version up when it is asked for: it is a third of the import."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import PackageNotFoundError, version

        try:
            found = version("redis-cpool")
        except PackageNotFoundError:  # imported from a tree that was never installed
            found = "0+unknown"
        globals()[name] = found
        return found


__all__ = [
    "BlockingConnectionPool",
    "ClusterPipeline",
    "ClusterStats",
    "Connection",
    "ConnectionPool",
    "ConnectionPoolTimeoutError",
    "DeadlineExceededError",
    "Distribution",
    "IndeterminateResultError",
    "NodePools",
    "Pipeline",
    "PoolClosedError",
    "PoolStats",
    "Redis",
    "RedisCluster",
    "SSLConnection",
    "Sentinel",
    "SentinelConnectionPool",
    "SentinelManagedConnection",
    "SentinelManagedSSLConnection",
    "StrictRedis",
    "UnixDomainSocketConnection",
    "__version__",
    "deadline",
    "fast_path",
    "from_url",
    "install",
    "uninstall",
]
