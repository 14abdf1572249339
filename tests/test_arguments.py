"""The types of `**kwargs` name what redis-py's constructors take, and cpool's options."""

from __future__ import annotations

import pytest
import redis

import cpool
from cpool import arguments
from cpool.cluster import _FOR_NODES
from tests.support.signatures import keywords_of, redis_py_is_the_newest

LIMITS = {"max_bulk_bytes", "max_nesting_depth"}
OPTIONS = {
    *("timeout", "max_waiting", "order", "retry_policy", "name"),
    *("min_idle", "max_idle_time", "max_lifetime", "max_connecting"),
}
# What redis-py's pools take out of their keywords before they hand them on.
OF_POOLS = {"cache", "cache_config", "ssl"}
BY_POSITION = {
    cpool.Redis: {"host", "port", "db", "password", "socket_timeout", "socket_connect_timeout"},
    cpool.Connection: {"host", "port"},
    cpool.SSLConnection: {"host", "port"},
    cpool.UnixDomainSocketConnection: {"path"},
}
CASES = [
    (cpool.Redis, redis.Redis, arguments.ClientArguments, OPTIONS | LIMITS),
    (cpool.Connection, redis.Connection, arguments.TCPConnectionArguments, LIMITS),
    (cpool.SSLConnection, redis.SSLConnection, arguments.TLSConnectionArguments, LIMITS),
    (
        cpool.UnixDomainSocketConnection,
        redis.UnixDomainSocketConnection,
        arguments.UnixConnectionArguments,
        LIMITS,
    ),
]


@pytest.mark.parametrize(("ours", "theirs", "typed", "own"), CASES)
def test_the_types_name_every_argument_of_redis_py_and_ours(
    ours: type, theirs: type, typed: type, own: set[str]
) -> None:
    names = set(typed.__annotations__) | BY_POSITION[ours]
    expected = set(keywords_of(theirs)) | own
    assert expected <= names
    if redis_py_is_the_newest():
        assert names == expected


def test_a_subclass_can_hand_on_every_argument_of_a_client() -> None:
    besides = arguments.ClientArguments.__annotations__.keys()
    assert arguments.RedisArguments.__annotations__.keys() - besides == BY_POSITION[cpool.Redis]


def test_a_pool_takes_what_its_connections_take() -> None:
    of_connections = {
        name for cls in BY_POSITION if cls is not cpool.Redis for name in keywords_of(cls)
    }
    names = set(arguments.PoolArguments.__annotations__)
    # The pool's own parameter; it hands it on.
    assert of_connections - {"maint_notifications_config"} <= names
    if redis_py_is_the_newest():
        of_connections -= {"maint_notifications_config"}
        assert names == of_connections | OF_POOLS | OPTIONS - {"timeout"}


@pytest.mark.parametrize("cls", [cpool.ConnectionPool, cpool.BlockingConnectionPool])
def test_from_url_takes_what_a_pool_takes(cls: type) -> None:
    taken = set(keywords_of(cls)) - {"connection_class", "args", "kwargs"}
    assert taken <= set(arguments.UrlArguments.__annotations__)
    assert (
        arguments.PoolArguments.__annotations__.keys()
        < arguments.UrlArguments.__annotations__.keys()
    )


# What pools set themselves for their connections.
OF_NO_CALLER = {
    *("maint_notifications_pool_handler", "maintenance_state", "maintenance_notification_hash"),
    *("orig_host_address", "orig_socket_timeout", "orig_socket_connect_timeout"),
    "himport_registry",
}


def test_a_cluster_takes_what_redis_pys_takes_and_what_reaches_its_nodes() -> None:
    names = set(arguments.RedisClusterArguments.__annotations__)
    expected = set(keywords_of(redis.RedisCluster)) | _FOR_NODES - OF_NO_CALLER
    assert expected <= names
    if redis_py_is_the_newest():
        assert names == expected | {"connection_class", "connection_pool_class"}


def test_a_subclass_can_hand_on_every_argument_of_a_cluster() -> None:
    besides = arguments.ClusterArguments.__annotations__.keys()
    all_of_them = arguments.RedisClusterArguments.__annotations__.keys()
    assert all_of_them - besides == {"host", "port", "startup_nodes", "url"}
