"""A cluster command's first attempt as redis-py's loop sees it: made already, and failed.

What a node answers to a command (MOVED, ASK, CLUSTERDOWN), and what becomes of a node
that is lost, is redis-py's `RedisCluster._execute_command`: its redirections, its counts, its
refreshes of the topology, its errors. The compiled call enters it with what it has met.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cpool.cluster import RedisCluster

__all__ = ["FirstAttempt"]


class _Sent:
    """A connection on which the command was sent; what came back is raised by `_Node`."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)

    def send_command(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: it was sent."""


class _Node:
    """The client of a node, and its pool, for the first attempt only."""

    def __init__(self, client: Any, pool: Any, connection: Any, error: Any) -> None:
        self._client = client
        self._pool = pool
        self._lent = connection
        self._error = error
        # redis-py asks for the client's own connection, and only then for one of the pool.
        self.connection = connection if error is None or connection is None else _Sent(connection)
        self.connection_pool: Any = self

    def get_connection(self) -> Any:
        """Raise what the checkout has raised."""
        raise self._error

    def parse_response(self, connection: Any, name: str, **options: Any) -> Any:
        """Raise what the exchange has raised; or read, if there has been none."""
        if self._error is None:
            return self._client.parse_response(connection, name, **options)
        raise self._error

    def release(self, connection: Any = None) -> None:
        """Give the connection back, the first time it is asked for."""
        lent, self._lent = self._lent, None
        if lent is not None:
            self._pool.release(lent)

    def end(self) -> None:
        """Give it back if nobody has, and forget the error, which remembers who has called."""
        self._error = None
        self.release()
        self.connection_pool = None


class FirstAttempt:
    """The cluster client, while redis-py's loop goes on from an attempt that was made."""

    def __init__(self, cluster: RedisCluster, node: Any, first: Any) -> None:
        self.__dict__.update(_cluster=cluster, _first=node, _first_node=first)

    @classmethod
    def go_on(
        cls,
        cluster: RedisCluster,
        node: Any,
        lent: tuple[Any, Any, Any],
        call: tuple[tuple[Any, ...], dict[str, Any]],
    ) -> Any:
        """Run the loop. lent: pool, connection or None, error or None; call: what is called.

        The connection is given back, whatever happens."""
        first = _Node(node.redis_connection, *lent)
        args, options = call
        try:
            return cluster._redis_internal_execute_command(
                cls(cluster, node, first), *args, **options
            )
        except Exception as error:
            shown = getattr(error, "connection", None)
            if isinstance(shown, _Sent):
                error.connection = shown.connection  # type: ignore[attr-defined]
            raise
        finally:
            del lent
            first.end()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cluster, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._cluster, name, value)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # redis-py looks its class up for what may be tried again
        return type(self.__dict__["_cluster"])

    def _take(self, name: str) -> Any:
        """Give what is for the first attempt, once."""
        return self.__dict__.pop(name, None)

    def _determine_nodes(self, *args: Any, **kwargs: Any) -> Any:
        node = self._take("_first")
        if node is None:
            return self._cluster._determine_nodes(*args, **kwargs)
        return [node]

    def _execute_command(self, node: Any, *args: Any, **kwargs: Any) -> Any:
        if "_first_node" not in self.__dict__:
            return self._cluster._execute_command(node, *args, **kwargs)
        return self._cluster._redis_execute_command(self, node, *args, **kwargs)

    def get_redis_connection(self, node: Any) -> Any:
        """Give the node's client; for the first attempt, one that has failed already."""
        first = self._take("_first_node")
        return first if first is not None else self._cluster.get_redis_connection(node)

    def get_node(self, host: Any = None, port: Any = None, node_name: Any = None) -> Any:
        """Give a known node, or a new one that the cluster has just named in an ASK."""
        found = self._cluster.get_node(host, port, node_name)
        if found is not None or node_name is None:
            return found
        return self._cluster.nodes_manager.node_named(node_name)
