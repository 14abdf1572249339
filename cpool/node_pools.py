"""The pools of a cluster's nodes, to look at and to use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cpool.stats import PoolStats, combined

if TYPE_CHECKING:
    from cpool.nodes import NodesManager

__all__ = ["ClusterStats", "NodePools"]


@dataclass(frozen=True)
class ClusterStats:
    """One look at the pools of a cluster's nodes."""

    nodes: dict[str, PoolStats]
    """Each node's pool, by the node's name ("host:port")."""
    total: PoolStats
    """All of them together: sums, and the longest of what is longest."""
    refreshes: int
    """Times the cluster was asked who serves what."""


class NodePools(Mapping[str, Any]):
    """The pool of each node of a cluster, by the node's name ("host:port").

    A view: it shows the nodes that are known at the moment. Thread-safe. Pools are
    `cpool.ConnectionPool`s, or of the class that `connection_pool_class` names.
    """

    def __init__(self, manager: NodesManager) -> None:
        self._manager = manager

    def __getitem__(self, name: str) -> Any:
        return self._pools()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._pools())

    def __len__(self) -> int:
        return len(self._pools())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {', '.join(self) or 'no node'}>"

    def roles(self) -> dict[str, str]:
        """Return "primary" or "replica" for each node."""
        return {name: str(node.server_type) for name, node in self._nodes().items()}

    def slots(self) -> dict[str, list[tuple[int, int]]]:
        """Return the slots each primary serves, as ranges: the first and the last slot."""
        found: dict[str, list[tuple[int, int]]] = {}
        for slot, nodes in sorted(self._manager.slots_cache.items()):
            ranges = found.setdefault(nodes[0].name, [])
            if ranges and ranges[-1][1] == slot - 1:
                ranges[-1] = (ranges[-1][0], slot)
            else:
                ranges.append((slot, slot))
        return found

    def stats(self) -> ClusterStats:
        """Return what each pool holds and has done, and all of them together."""
        nodes = {name: pool.stats() for name, pool in self._pools().items()}
        total = combined("all nodes", list(nodes.values()))
        return ClusterStats(nodes, total, self._manager.refreshes)

    def prewarm(self, n: int | None = None) -> int:
        """Dial until `n` connections are idle at each node (default: `min_idle`).

        Returns how many were dialled. Raises what dialling raises."""
        return sum(pool.prewarm(n) for pool in self._pools().values())

    def drain(self, name: str | None = None) -> None:
        """Replace the connections to one node, or to all: idle ones are closed now, those in
        use when they have come back and are asked for again. Raises KeyError for a node that
        is not known."""
        pools = self._pools()
        for pool in pools.values() if name is None else [pools[name]]:
            pool.drain()

    def _nodes(self) -> dict[str, Any]:
        return dict(self._manager.nodes_cache)

    def _pools(self) -> dict[str, Any]:
        return {
            name: node.redis_connection.connection_pool
            for name, node in self._nodes().items()
            if node.redis_connection is not None  # it is made when it is first needed
        }
