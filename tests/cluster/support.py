"""What the cluster tests share: one scenario, asked of redis-py's client and of ours."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any

import redis.cluster
from redis.exceptions import InvalidResponse

import cpool
from cpool.tools.cluster_node import SLOTS, Node
from cpool.tools.topology import ClusterTopology
from tests.client.support import counted, difference, no_retry, typed

THEIRS, OURS = redis.cluster.RedisCluster, cpool.RedisCluster
CLASSES = (THEIRS, OURS)
ONE_SLOT = "{tag}a", "{tag}b", "{tag}c"
MANY_SLOTS = "a", "b", "c", "d", "e"  # at all three masters of `redis_cluster`


def where(shown: Any) -> Any:
    """Tell which node a connection, or a node, belongs to: what an error shows."""
    if isinstance(shown, redis.cluster.ClusterNode):
        return "node", shown.name
    return "connection", getattr(shown, "host", None), getattr(shown, "port", None)


def outcome_of(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call, and return what was returned or raised: type, text, cause and connection."""
    try:
        return "returned", typed(call(*args, **kwargs))
    except Exception as error:
        shown = where(error.connection) if hasattr(error, "connection") else None
        # Of what is no reply at all, hiredis speaks in words of its own.
        text = "" if isinstance(error, InvalidResponse) else str(error)
        return "raised", type(error), text, type(error.__cause__), shown


@contextlib.contextmanager
def client_of(cls: Any, cluster: Any, **options: Any) -> Iterator[Any]:
    """Give a client of a cluster that tries nothing again unless told; closed at the end."""
    (host, port), *_ = cluster.startup
    client = cls(**{"host": host, "port": port, "retry": no_retry(), **options})
    try:
        yield client
    finally:
        client.close()
        client.disconnect_connection_pools()


def both(cluster: Any, scenario: Callable[[Any], Any], **options: Any) -> Any:
    """Run `scenario(client)` on each class of clients; assert that it returns the same, and
    return that. A real cluster is emptied before."""
    results = []
    for cls in CLASSES:
        if isinstance(cluster, ClusterTopology):
            cluster.flush()
        with client_of(cls, cluster, **options) as client:
            results.append(scenario(client))
    theirs, ours = results
    assert ours == theirs, difference(theirs, ours)
    return ours


def taken_by(call: Callable[[], Any]) -> int:
    """Return how many commands of a call were compiled calls."""
    with counted() as counts:
        call()
    return counts().get("taken", 0)


def misplace(client: Any, slot: int, name: str) -> None:
    """Let a client think that another node has a slot."""
    manager = client.nodes_manager
    manager.slots_cache[slot] = [manager.nodes_cache[name]]


def name_of(node: Node) -> str:
    """Return what clients call a node."""
    return f"{node.host}:{node.port}"


def other_master(cluster: ClusterTopology, master: Node) -> Node:
    """Return a master that is not this one."""
    return next(node for node in cluster.masters if node is not master)


def key_at(client: Any, name: str, prefix: str = "key") -> str:
    """Return a key whose slot a node has."""
    slots = client.nodes_manager.slots_cache
    keys = (f"{prefix}:{i}" for i in range(SLOTS))
    return next(key for key in keys if slots[client.keyslot(key)][0].name == name)


def errors_of(cluster: ClusterTopology) -> dict[str, int]:
    """Return how many errors of which kind all nodes have answered since reset_counts()."""
    found: dict[str, int] = {}
    for node in cluster.living:
        for name, values in node.call("INFO", "errorstats").items():
            kind = name.removeprefix("errorstat_")
            if kind != "ERR":  # handshakes try what older servers do not know
                found[kind] = found.get(kind, 0) + values["count"]
    return found


def calls_of(cluster: ClusterTopology, command: str) -> dict[str, tuple[int, int]]:
    """Return how often each node, by its name, has executed and refused a command."""
    stats = {name_of(node): node.call("INFO", "commandstats") for node in cluster.living}
    own = {name: stat.get(f"cmdstat_{command}") for name, stat in stats.items()}
    return {name: (one["calls"], one["rejected_calls"]) for name, one in own.items() if one}


def reset_counts(cluster: ClusterTopology) -> None:
    """Let the nodes count from zero."""
    for node in cluster.living:
        node.call("CONFIG", "RESETSTAT")


def pools_of(client: Any) -> list[Any]:
    """Return the pools of all nodes."""
    nodes = client.get_nodes()
    return [n.redis_connection.connection_pool for n in nodes if n.redis_connection is not None]


def assert_nothing_lent(client: Any) -> None:
    """Check that every connection came back. Raises AssertionError."""
    if any(pool.stats().in_use for pool in pools_of(client)):
        gc.collect()  # a traceback's frames may have held one
    lent = {pool.stats().name: pool.stats().in_use for pool in pools_of(client)}
    assert not any(lent.values()), lent
