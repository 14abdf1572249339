"""What the demo compares: the clients of one server, or those of a cluster, and their pools."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import redis
import redis.cluster
from redis.crc import key_slot

from cpool.tools.demo.crash import PREFIX
from cpool.tools.demo.outages import Failover, Outage, Restart
from cpool.tools.demo.workload import shared_key
from cpool.tools.servers import EmbeddedServer, ServerError
from cpool.tools.sides import CPOOL, NO_POOL, REDIS_PY, SIDES, client_class
from cpool.tools.topology import ClusterTopology

SOCKET_TIMEOUT_S = 5.0
# Short for a demo; a server of some load may be silent for that long.
NODE_TIMEOUT_MS = 1000

CLUSTER_CLIENT = "cpool.RedisCluster"
CLUSTER_SIDES = {
    REDIS_PY: "redis.RedisCluster on redis.ConnectionPool, one for each node",
    CPOOL: "redis.RedisCluster on cpool.ConnectionPool, one for each node",
    CLUSTER_CLIENT: "cpool.RedisCluster on cpool.ConnectionPool, one for each node",
}


class NoPool(redis.ConnectionPool):
    """Open a connection for each command and close it afterwards."""

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        """Return a new, connected connection."""
        connection = self.connection_class(**self.connection_kwargs)
        connection.connect()
        return connection

    def release(self, connection: Any) -> None:
        """Close the connection."""
        connection.disconnect()


class Setup(Protocol):
    """The sides by name, a client of each, and how to interrupt what they talk to."""

    sides: Mapping[str, str]
    clients: dict[str, Any]

    def pools(self, side: str) -> list[Any]:
        """Return the pools of a side's client."""
        ...

    def outage(self) -> Outage | None:
        """Return what to do to the servers under load; None if they aren't ours."""
        ...

    def close(self) -> None:
        """Close all connections."""
        ...


class Standalone:
    """The clients of one server."""

    sides: Mapping[str, str] = SIDES

    def __init__(self, url: str, threads: int, server: EmbeddedServer | None) -> None:
        """Make a client of each side; `server` may be killed. Raises ServerError."""
        self._server = server
        self._pools = _checked(lambda: {s: make_pool(s, url, threads) for s in self.sides})
        self.clients = {
            side: client_class(side)(connection_pool=pool) for side, pool in self._pools.items()
        }

    def pools(self, side: str) -> list[Any]:
        """Return the pool of a side's client."""
        return [self._pools[side]]

    def outage(self) -> Outage | None:
        """Return the kill and restart of the server."""
        return Restart(self._server) if self._server else None

    def close(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            pool.disconnect()


class Cluster:
    """The clients of a cluster."""

    def __init__(self, url: str, threads: int, topology: ClusterTopology | None) -> None:
        """Make a client of each side; `topology` may lose masters. Raises ServerError."""
        self._topology = topology
        self.sides: Mapping[str, str] = dict(CLUSTER_SIDES)
        if own_cluster_class() is None:
            self.sides = {s: CLUSTER_SIDES[s] for s in (REDIS_PY, CPOOL)}
        self.clients = _checked(lambda: {s: make_cluster(s, url, threads) for s in self.sides})

    def pools(self, side: str) -> list[Any]:
        """Return the pools of the nodes that a side's client knows."""
        client = self.clients[side]
        return [client.get_redis_connection(n).connection_pool for n in client.get_nodes()]

    def outage(self) -> Outage | None:
        """Return the loss of the master that every thread needs."""
        if self._topology is None:
            return None
        return Failover(self._topology, key_slot(shared_key(PREFIX).encode()))

    def close(self) -> None:
        """Close all connections."""
        for client in self.clients.values():
            client.close()


def _checked(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return make()
    except ValueError as error:
        raise ServerError(f"not a usable URL: {error}") from error
    except redis.exceptions.RedisClusterException as error:
        raise ServerError(str(error)) from error


def make_pool(side: str, url: str, max_connections: int) -> Any:
    """Make the pool of one side; only its class differs, and the client's."""
    import cpool

    theirs = {NO_POOL: NoPool, REDIS_PY: redis.ConnectionPool}
    return theirs.get(side, cpool.ConnectionPool).from_url(url, **_options(max_connections))


def own_cluster_class() -> Any:
    """Return cpool's cluster client; None in a version without one."""
    import cpool

    return getattr(cpool, "RedisCluster", None)


def make_cluster(side: str, url: str, max_connections: int) -> Any:
    """Make the cluster client of one side; `max_connections` holds for each node."""
    import cpool

    options = _options(max_connections)
    if side == CLUSTER_CLIENT:
        return own_cluster_class().from_url(url, **options)
    pool_class = redis.ConnectionPool if side == REDIS_PY else cpool.ConnectionPool
    return redis.cluster.RedisCluster.from_url(url, connection_pool_class=pool_class, **options)


def _options(max_connections: int) -> dict[str, Any]:
    return {
        "max_connections": max_connections,
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": SOCKET_TIMEOUT_S,
    }
