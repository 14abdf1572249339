"""Cluster clients: redis-py's, on one pool of ours per node.

Every method and option is redis-py's. What is ours is what stands below
`execute_command` (see src/cpool/_cluster.pyx), the pools (cpool/nodes.py), and that all
options of the pools reach them.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

import redis.cluster
import redis.connection
from redis.commands.cluster import READ_COMMANDS
from redis.exceptions import MovedError

from cpool import _cluster, options
from cpool._deadline import is_any_in_force, pause
from cpool._pool import PoolBase
from cpool.arguments import UrlArguments
from cpool.cluster_pipeline import PipelineStrategy
from cpool.first_attempt import FirstAttempt
from cpool.node_pools import NodePools
from cpool.nodes import NodesManager
from cpool.originals import original
from cpool.plain_set import set_method
from cpool.rebinding import with_names
from cpool.standin import ClientStandIn

if TYPE_CHECKING:
    from redis.cluster import ClusterNode
    from typing_extensions import Unpack

    from cpool.arguments import ClusterArguments

__all__ = ["ClusterPipeline", "RedisCluster"]

_Cluster = TypeVar("_Cluster", bound="RedisCluster")

_redis_cluster = redis.cluster.RedisCluster  # the original, whoever replaces it
_redis_pipeline = redis.cluster.ClusterPipeline
_redis_manager = redis.cluster.NodesManager
_redis_execute_command = original(_redis_cluster, "_execute_command")

_LOOP = _redis_execute_command.__code__

# Of which the number of keys stands before them: at which place.
_COUNTED = {
    **dict.fromkeys(("EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO"), 2),
    **dict.fromkeys(("BLMPOP", "BZMPOP"), 2),
    **dict.fromkeys(("LMPOP", "ZMPOP", "SINTERCARD", "ZINTERCARD"), 1),
    **dict.fromkeys(("ZDIFF", "ZINTER", "ZUNION"), 1),
}


class _BoundedTime:
    """The module `time`, but that nobody sleeps past his deadline."""

    sleep = staticmethod(pause)

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


_execute_in_time = with_names(_redis_execute_command, {"time": _BoundedTime()})

# What reaches the nodes' pools beside what redis-py lets through, which drops the rest.
_FOR_NODES = frozenset(UrlArguments.__optional_keys__) - {"host", "port", "path", "db", "retry"}


def _kept_for_nodes(**kwargs: Any) -> dict[str, Any]:
    """Return the arguments that nodes' pools are made with; redis-py's `cleanup_kwargs`."""
    kept: dict[str, Any] = redis.cluster.cleanup_kwargs(**kwargs)
    for name in kwargs.keys() - kept.keys() - set(redis.cluster.KWARGS_DISABLED_KEYS):
        if name in _FOR_NODES:
            kept[name] = kwargs[name]
        else:
            warnings.warn(f'RedisCluster takes no "{name}": it has no effect', stacklevel=5)
    return kept


def _parse_url(url: str) -> dict[str, Any]:
    """Return a URL's options, those of cpool's pools as well."""
    return {**redis.connection.parse_url(url), **options.cast_query(url)}


def _make_manager(*args: Any, **kwargs: Any) -> Any:
    """Make a manager of nodes: ours, or what somebody has put in redis-py's place."""
    current = redis.cluster.NodesManager
    chosen = NodesManager if current is _redis_manager else current
    return chosen(*args, **kwargs)


_init = with_names(
    original(_redis_cluster, "__init__"),
    {"NodesManager": _make_manager, "cleanup_kwargs": _kept_for_nodes, "parse_url": _parse_url},
)


_live_clusters: weakref.WeakSet[RedisCluster] = weakref.WeakSet()


def _renew_locks_after_fork() -> None:
    """A lock may have been held when the child was born."""
    for cluster in list(_live_clusters):
        cluster._lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_locks_after_fork)


class RedisCluster(_cluster.ClusterBase, _redis_cluster, metaclass=ClientStandIn):
    """A cluster client: `redis.RedisCluster`, on one pool of ours per node.

    Takes redis-py's arguments, and the options of `cpool.ConnectionPool`, which are for each
    node's pool: `max_connections` is per node. A command whose keys are in one slot is one
    compiled call. Thread-safe as redis-py's.
    """

    if TYPE_CHECKING:
        nodes_manager: NodesManager

        def __init__(
            self,
            host: str | None = None,
            port: int = 6379,
            startup_nodes: list[ClusterNode] | None = None,
            *,
            url: str | None = None,
            **kwargs: Unpack[ClusterArguments],
        ) -> None: ...
        @classmethod
        def from_url(  # type: ignore[override]  # redis-py's takes any keyword
            cls: type[_Cluster], url: str, **kwargs: Unpack[ClusterArguments]
        ) -> _Cluster: ...
        def __enter__(self: _Cluster) -> _Cluster: ...
    else:
        __init__ = _init

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            """Make a client that a fork will find."""
            made = super().__new__(cls)
            _live_clusters.add(made)
            return made

    _internal_execute_command = _cluster.execute_command
    if not TYPE_CHECKING:
        set = set_method(_cluster.ClusterBase, _redis_cluster)
    _redis_internal_execute_command = staticmethod(
        original(_redis_cluster, "_internal_execute_command")
    )

    @staticmethod
    def _redis_execute_command(cluster: Any, node: Any, *args: Any, **kwargs: Any) -> Any:
        """Execute a command on a node by redis-py's loop, in time if there is a deadline."""
        execute = _execute_in_time if is_any_in_force() else _redis_execute_command
        return execute(cluster, node, *args, **kwargs)

    def _execute_command(self, target_node: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_any_in_force() or _redis_cluster._execute_command is not _redis_execute_command:
            return super()._execute_command(target_node, *args, **kwargs)
        return _execute_in_time(self, target_node, *args, **kwargs)

    def get_node(self, host: Any = None, port: Any = None, node_name: Any = None) -> Any:
        """Return the node of that address or name, or None, as redis-py's method does."""
        found = super().get_node(host, port, node_name)
        # redis-py's loop takes for known what an ASK names, which may be new to the cluster.
        if found is None and node_name and sys._getframe(1).f_code is _LOOP:
            return self.nodes_manager.node_named(node_name)
        return found

    @property
    def node_pools(self) -> NodePools:
        """The pools of the nodes, by the nodes' names ("host:port")."""
        return NodePools(self.nodes_manager)

    def pipeline(self, transaction: Any = None, shard_hint: Any = None) -> ClusterPipeline:
        """Return a new pipeline, as redis-py's method does: a `cpool.ClusterPipeline`."""
        made: ClusterPipeline = _make_pipeline(self, transaction, shard_hint)
        made.encoder = self.encoder  # redis-py's is another one, of UTF-8
        return made

    def _execute_pipeline_by_slot(self, command: str, slots_to_args: Any) -> list[Any]:
        """Execute a command once per slot, at all nodes at once."""
        if len(slots_to_args) == 1 and not self._is_measured():  # redis-py counts a pipeline
            return [self.execute_command(command, *args) for args in slots_to_args.values()]
        pipe = self.pipeline()
        for args in slots_to_args.values():
            pipe.execute_command(command, *args)
        return pipe.execute()

    def _is_measured(self) -> bool:
        """Whether anybody collects redis-py's metrics."""
        node = self.get_default_node()
        pool = getattr(getattr(node, "redis_connection", None), "connection_pool", None)
        return not isinstance(pool, PoolBase) or pool._is_measured()

    # From the compiled call

    def _go_on(
        self, node: Any, pool: Any, connection: Any, error: Any, args: Any, kwargs: Any
    ) -> Any:
        try:
            return FirstAttempt.go_on(self, node, (pool, connection, error), (args, kwargs))
        finally:
            del error  # it remembers this frame

    def _policies(self) -> Any:
        """Return what tells this client's resolver of policies from others: redis-py makes
        one for clients and another for pipelines, which are alike."""
        resolver = getattr(self, "_policy_resolver", None)  # since redis-py 7.1
        known = (type(resolver).__module__, type(resolver).__name__)
        is_static = known == ("redis.commands.policies", "StaticPolicyResolver")
        if is_static and getattr(resolver, "_fallback", resolver) is None:
            return type(resolver)
        return resolver

    def _find_route(self, name: str) -> _cluster.Route | None:
        """Find out where a command's keys stand; None: redis-py is to see to it each time."""
        resolver = getattr(self, "_policy_resolver", None)  # since redis-py 7.1
        known = self.commands_parser.commands.get(name.lower())
        upper = name.upper()
        if known is None or upper in self.result_callbacks or self._has_flag(upper):
            return None
        if resolver is not None and resolver.resolve(name.lower()) is not None:
            return None
        return _route_by_table(upper, known)

    def _has_flag(self, upper: str) -> bool:
        """Whether redis-py sends a command elsewhere than to the node of its keys."""
        flags = self.command_flags
        return upper in flags or any(flag.startswith(f"{upper} ") for flag in flags)

    def _should_reinitialized(self) -> bool:
        """Say whether redis-py is to refresh the topology before it goes on.

        Not for a MOVED that tells something new, unless `reinitialize_steps` is 1: the slot is
        known then. A refresh for what else has changed runs beside, after so many of them."""
        error = sys.exc_info()[1]
        if not isinstance(error, MovedError) or self.reinitialize_steps == 1:
            return bool(super()._should_reinitialized())
        if self.nodes_manager.is_news(error):
            self.nodes_manager.count_news(self.reinitialize_steps)
            return False
        # It was sent before the slot was known, or to what was one of its replicas.
        reads_from_replicas = self.read_from_replicas or self.load_balancing_strategy is not None
        return bool(reads_from_replicas and super()._should_reinitialized())


def _route_by_table(upper: str, known: dict[str, Any]) -> _cluster.Route | None:
    """Return the route of a command from its entry in the server's own table."""
    reads = upper in READ_COMMANDS
    if upper in _COUNTED:
        return _cluster.Route(0, _COUNTED[upper], 1, reads)
    movable = {"movablekeys", "pubsub"} & set(known["flags"])
    first, last, step = (known[key] for key in ("first_key_pos", "last_key_pos", "step_count"))
    if movable or first < 1 or step < 1:
        return None
    return _cluster.Route(first, last, step, reads)


class ClusterPipeline(_redis_pipeline, RedisCluster):
    """A cluster pipeline: `redis.cluster.ClusterPipeline`, written to all nodes before any of
    them is read. Not thread-safe, as redis-py's."""

    if TYPE_CHECKING:

        def __enter__(self: _Cluster) -> _Cluster: ...
    else:
        __init__ = with_names(
            original(_redis_pipeline, "__init__"), {"PipelineStrategy": PipelineStrategy}
        )


_make_pipeline = with_names(
    original(_redis_cluster, "pipeline"), {"ClusterPipeline": ClusterPipeline}
)

_cluster.set_originals(
    {
        **{
            name: frozenset({original(_redis_cluster, name)})
            for name in (
                "_internal_execute_command",
                "_determine_nodes",
                "determine_slot",
                "keyslot",
                "get_nodes_from_slot",
                "get_redis_connection",
                "_process_result",
                "_get_command_keys",
            )
        },
        "_execute_command": frozenset(
            {vars(RedisCluster)["_execute_command"], _redis_execute_command}
        ),
    },
    {},
)
