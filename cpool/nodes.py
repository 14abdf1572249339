"""The nodes of a cluster: which serves what, one pool for each, and refreshes of the topology.

redis-py's manager of nodes, with pools of ours that live as long as their node is in the
cluster. A refresh is redis-py's own `initialize`, on connections of its own: it neither waits
for a connection of the nodes' pools nor closes any.
"""

from __future__ import annotations

import inspect
import os
import threading
import weakref
from typing import Any

import redis.cluster
from redis.exceptions import AskError, MovedError, RedisClusterException

from cpool import _cluster
from cpool._deadline import pause
from cpool._pool import PoolBase
from cpool.client import Redis
from cpool.originals import original
from cpool.pool import ConnectionPool
from cpool.rebinding import with_names
from cpool.single_flight import SingleFlight
from cpool.standin import StandIn

__all__ = ["NodesManager"]

PAUSE_S = 0.1  # between refreshes that somebody waits for
BACKGROUND_PAUSE_S = 1.0  # and those that nobody does
# A refresh asks one question of a node.
_ASKING = {"max_connections": 1, "min_idle": 0, "max_connecting": None}

_redis_manager = redis.cluster.NodesManager  # the original, whoever replaces it
_CLIENT_TAKES = frozenset(inspect.signature(Redis.__init__).parameters)
_redis_initialize = original(_redis_manager, "initialize")
_create_node = with_names(original(_redis_manager, "create_redis_node"), {"Redis": Redis})

_cluster.set_originals(
    {}, {"get_node_from_slot": frozenset({original(_redis_manager, "get_node_from_slot")})}
)


class NodesManager(_cluster.ManagerBase, _redis_manager, metaclass=StandIn):
    """The nodes of a cluster: `redis.cluster.NodesManager` on pools of ours."""

    def __init__(self, startup_nodes: list[Any], from_url: bool = False, **kwargs: Any) -> None:
        self._clients: dict[str, Any] = {}  # by the node's name: of all that have a pool
        self._flights = SingleFlight(PAUSE_S, BACKGROUND_PAUSE_S)
        self._was_found = False  # the cluster has answered once
        self._news = 0  # redirections that said what was not known
        # As they were given: names, perhaps, that lead elsewhere by now.
        self._given_nodes = [(node.host, node.port) for node in startup_nodes]
        pool_class = kwargs.setdefault("connection_pool_class", ConnectionPool)
        # Without a URL redis-py makes a client, which makes its own class of pool.
        from_url = from_url or pool_class is not ConnectionPool
        _live_managers.add(self)
        super().__init__(startup_nodes, from_url, **kwargs)

    @property
    def makes_our_pools(self) -> bool:
        """Whether pools are cpool's, and take its options."""
        made = getattr(self.connection_pool_class, "func", self.connection_pool_class)
        return PoolBase in getattr(made, "__mro__", ())

    def create_redis_node(self, host: Any, port: Any, **kwargs: Any) -> Any:
        """Make the client of a node, and its pool, as redis-py's method does."""
        # Options that a client does not take are its pool's: redis-py makes that first only
        # for a URL.
        self.from_url: bool = self.from_url or not kwargs.keys() <= _CLIENT_TAKES
        return _create_node(self, host, port, **kwargs)

    def create_redis_connections(self, nodes: list[Any]) -> None:
        """Give each of these nodes its client: the one it had if it was known before."""
        with self._lock:
            for node in nodes:
                if node.redis_connection is None:
                    node.redis_connection = self._clients.get(node.name)
            super().create_redis_connections(nodes)
            self._clients.update({node.name: node.redis_connection for node in nodes})

    def move_node_to_end_of_cached_nodes(self, node_name: str) -> None:
        """Let a node that has failed be asked last, as redis-py's method does; never is it
        missing meanwhile."""
        with self._lock:
            super().move_node_to_end_of_cached_nodes(node_name)

    def update_moved_exception(self, exception: Any) -> None:
        """Keep a redirection until the next command looks, as redis-py's method does (before
        7.0). It is told of lost connections too, which no command would get past."""
        if isinstance(exception, AskError):  # a MovedError is one
            super().update_moved_exception(exception)  # type: ignore[misc]

    # Refreshes

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        """Ask the cluster who serves what. One thread does, whoever asks meanwhile waits."""
        epoch = self._get_epoch() if hasattr(self, "_get_epoch") else None  # since redis-py 7
        self._flights.run(lambda: self._refresh_unless_done(epoch, args, kwargs))

    def _refresh_unless_done(self, epoch: Any, args: Any, kwargs: Any) -> None:
        """Refresh, unless somebody has between the question and its turn."""
        if epoch is None or epoch == self._epoch:
            self._refresh(*args, **kwargs)

    def refresh_soon(self, *args: Any, **kwargs: Any) -> None:
        """Let a thread of its own do it, unless it was done just now; nobody waits."""
        ours = weakref.proxy(self)
        self._flights.start(lambda: ours._refresh(*args, **kwargs))

    def _refresh(self, *args: Any, **kwargs: Any) -> None:
        """Ask the nodes that are known; if none can be reached, those that were given at the
        beginning, whose names may lead elsewhere by now."""
        try:
            self._ask(list(self.startup_nodes.values()), args, kwargs)
        except RedisClusterException:
            pause(0.0)  # it may be the deadline that nobody was reached by
            given = [redis.cluster.ClusterNode(*address) for address in self._given_nodes]
            if not self._was_found or {node.name for node in given} <= {*self.startup_nodes}:
                raise
            self._ask(given, (), {})
        self._was_found = True
        self._retire_those_that_left()

    def _ask(self, nodes: list[Any], args: Any, kwargs: Any) -> None:
        refresh = _Refresh(self, nodes)
        try:
            _redis_initialize(refresh, *args, **kwargs)
        except RedisClusterException:
            if refresh.bad_option is not None:  # redis-py takes it for a node that is down
                raise refresh.bad_option from None
            raise
        finally:
            refresh.end()

    def _retire_those_that_left(self) -> None:
        with self._lock:
            left = [self._clients.pop(name) for name in [*self._clients.keys() - self.nodes_cache]]
        for client in left:
            if isinstance(client.connection_pool, ConnectionPool):
                client.connection_pool._wind_down()
            else:
                client.connection_pool.disconnect(inuse_connections=False)

    def node_named(self, name: str) -> Any:
        """Return the node of that name, a new one if it is not known yet."""
        host, _, port = name.rpartition(":")
        with self._lock:
            return self.nodes_cache.setdefault(
                name, redis.cluster.ClusterNode(host, int(port), redis.cluster.PRIMARY)
            )

    @property
    def refreshes(self) -> int:
        """How often the cluster was asked."""
        return self._flights.count

    def is_news(self, moved: MovedError) -> bool:
        """Tell whether a redirection says what the table of slots does not."""
        nodes = self.slots_cache.get(moved.slot_id)
        return not nodes or nodes[0].name != f"{moved.host}:{moved.port}"

    def move(self, moved: MovedError) -> None:
        """Note who serves a slot, as redis-py does for a MOVED."""
        if hasattr(self, "move_slot"):
            self.move_slot(moved)
        else:  # before redis-py 7
            self.update_moved_exception(moved)
            self.get_node_from_slot(moved.slot_id)

    def count_news(self, steps: int) -> None:
        """Refresh the topology beside, after so many of them."""
        self._news += 1
        if steps and self._news % steps == 0:
            self.refresh_soon()

    def close(self) -> None:
        """Close the pools of all nodes, as redis-py's method does."""
        super().close()
        for client in list(self._clients.values()):
            client.close()

    def _after_fork(self) -> None:
        """Begin anew in a child: locks may have been held when it was born."""
        self._lock = threading.RLock()
        self._initialization_lock = threading.RLock()
        self._flights = SingleFlight(PAUSE_S, BACKGROUND_PAUSE_S)
        self.read_load_balancer: Any = redis.cluster.LoadBalancer()


_shown: Any = NodesManager.__init__
_shown.__signature__ = inspect.signature(_redis_manager.__init__)  # redis-py's is looked at


class _Refresh:
    """The manager as redis-py's `initialize` sees it: it asks through clients of its own, and
    what it finds is the manager's."""

    def __init__(self, manager: NodesManager, nodes: list[Any]) -> None:
        shadows = {node.name: self._shadow(node) for node in nodes}
        self.__dict__.update(_manager=manager, _made=[], _startup_nodes=shadows, bad_option=None)

    @staticmethod
    def _shadow(node: Any) -> Any:
        """Give the same node without its client, unless that is somebody's own."""
        client = node.redis_connection
        own = client is not None and not isinstance(client.connection_pool, ConnectionPool)
        shadow = redis.cluster.ClusterNode(node.host, node.port, node.server_type)
        shadow.redis_connection = client if own else None
        return shadow

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._manager, name, value)

    @property
    def startup_nodes(self) -> dict[str, Any]:
        """The nodes to ask; what is found goes to the manager."""
        return self.__dict__["_startup_nodes"]  # type: ignore[no-any-return]

    @startup_nodes.setter
    def startup_nodes(self, value: dict[str, Any]) -> None:
        self._manager.startup_nodes = value

    def _get_epoch(self) -> int:
        """Give the epoch as it is: whether it is still the caller's was asked already."""
        return self._manager._epoch  # type: ignore[no-any-return]

    def create_redis_node(self, host: Any, port: Any, **kwargs: Any) -> Any:
        """Make a client for this refresh only."""
        if self._manager.makes_our_pools:
            kwargs = {**kwargs, **_ASKING}
        try:
            client = self._manager.create_redis_node(host, port, **kwargs)
        except (TypeError, ValueError) as error:
            self.__dict__["bad_option"] = error
            raise
        self._made.append(client)
        return client

    def end(self) -> None:
        """Close what was made."""
        for client in self._made:
            client.connection_pool.disconnect()


_live_managers: weakref.WeakSet[NodesManager] = weakref.WeakSet()


def _renew_locks_after_fork() -> None:
    for manager in list(_live_managers):
        manager._after_fork()


os.register_at_fork(after_in_child=_renew_locks_after_fork)
