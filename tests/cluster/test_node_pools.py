"""The pools of the nodes: one each, with all options, while the node is in the cluster."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import redis

import cpool
from cpool.tools.topology import ClusterTopology
from tests.client.support import no_retry
from tests.cluster.fakecluster import FakeCluster, fake_cluster
from tests.cluster.support import OURS, assert_nothing_lent, client_of, key_at, name_of, pools_of
from tests.pool.support import REDIS_VERSION


@pytest.fixture
def client(fresh_cluster: ClusterTopology) -> Iterator[cpool.RedisCluster]:
    """Give a client of the shared cluster."""
    with client_of(OURS, fresh_cluster, max_connections=4) as client:
        yield client


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    """Give a cluster of three fake nodes."""
    with fake_cluster() as cluster:
        yield cluster


# -- what there is to see ----------------------------------------------------------------


def test_there_is_one_pool_per_node(
    client: cpool.RedisCluster, fresh_cluster: ClusterTopology
) -> None:
    pools = client.node_pools
    assert set(pools) == {name_of(node) for node in fresh_cluster.nodes}
    assert len(pools) == 6 and len({id(pool) for pool in pools.values()}) == 6
    assert all(type(pool) is cpool.ConnectionPool for pool in pools.values())
    assert "127.0.0.1:1" not in pools
    with pytest.raises(KeyError):
        pools["127.0.0.1:1"]
    assert all(name in repr(pools) for name in pools)


def test_roles_and_slots_are_those_of_the_nodes(
    client: cpool.RedisCluster, fresh_cluster: ClusterTopology
) -> None:
    masters = {name_of(node) for node in fresh_cluster.masters}
    roles = client.node_pools.roles()
    assert {name for name, role in roles.items() if role == "primary"} == masters
    slots = client.node_pools.slots()
    for held in fresh_cluster.slots():
        name = name_of(next(node for node in fresh_cluster.nodes if node.id == held.master))
        assert (held.first, held.last) in slots[name]
    assert sum(b - a + 1 for ranges in slots.values() for a, b in ranges) == 16384


def test_stats_are_of_each_node_and_of_all(client: cpool.RedisCluster) -> None:
    before = client.node_pools.stats().total.checkouts
    for i in range(50):
        client.set(f"key:{i}", i)
    stats = client.node_pools.stats()
    assert stats.total.checkouts == sum(one.checkouts for one in stats.nodes.values())
    assert stats.total.checkouts == before + 50
    assert stats.total.open == sum(one.open for one in stats.nodes.values()) >= 3
    assert stats.refreshes == 1


def test_pools_are_warmed_and_drained(client: cpool.RedisCluster) -> None:
    pools = client.node_pools
    assert pools.prewarm(2) in (11, 12)  # one was there; newer redis-py's have closed it
    assert {one.idle for one in pools.stats().nodes.values()} == {2}
    name = next(iter(pools))
    pools.drain(name)
    assert (pools[name].stats().open, pools.stats().total.open) == (0, 10)
    held = pools[name].get_connection()
    socket = held._sock
    pools.drain()
    assert pools.stats().total.open == 1
    pools[name].release(held)
    again = pools[name].get_connection()
    assert again._sock is not socket
    pools[name].release(again)
    with pytest.raises(KeyError):
        pools.drain("nobody:1")


def test_the_view_follows_the_topology(cluster: FakeCluster) -> None:
    cluster.all_to(cluster.nodes[0])
    with client_of(OURS, cluster) as client:
        pools = client.node_pools
        assert len(pools) == 1
        cluster.all_to(*cluster.nodes)
        client.nodes_manager.initialize()
        assert len(pools) == 3


# -- options -----------------------------------------------------------------------------

OPTIONS: dict[str, Any] = {
    "max_connections": 3,
    "timeout": 1.5,
    "max_waiting": 7,
    "order": "fifo",
    "max_idle_time": 100.0,
    "max_lifetime": 200.0,
    "max_connecting": 2,
    "retry_policy": "safe",
}


def assert_options(pool: Any) -> None:
    for name, value in OPTIONS.items():
        if hasattr(pool, name):
            assert getattr(pool, name) == value, name
    stats = pool.stats()
    assert stats.max_connections == 3


def test_all_options_reach_the_pools_by_keyword(cluster: FakeCluster) -> None:
    with client_of(OURS, cluster, **OPTIONS) as client:
        pools = pools_of(client)
        assert len(pools) == 3
        for pool in pools:
            assert_options(pool)


def test_all_options_reach_the_pools_by_url(cluster: FakeCluster) -> None:
    (host, port), *_ = cluster.startup
    query = "&".join(f"{name}={value}" for name, value in OPTIONS.items())
    url = f"redis://{host}:{port}/0?{query}&client_name=me&socket_timeout=3"
    with contextlib.closing(OURS.from_url(url)) as client:
        for pool in pools_of(client):
            assert_options(pool)
            assert pool.connection_kwargs["client_name"] == "me"
            assert pool.connection_kwargs["socket_timeout"] == 3.0


def test_a_url_and_keywords_make_the_same_pools(cluster: FakeCluster) -> None:
    (host, port), *_ = cluster.startup
    first = OURS(host=host, port=port, max_connections=3, protocol=3)
    second = OURS.from_url(f"redis://{host}:{port}", max_connections=3, protocol=3)
    for one, other in zip(pools_of(first), pools_of(second), strict=True):
        assert type(one) is type(other) is cpool.ConnectionPool
        assert one.max_connections == other.max_connections == 3
    first.close()
    second.close()


def test_startup_nodes_and_a_pool_class_of_ones_own_are_taken(cluster: FakeCluster) -> None:
    nodes = [redis.cluster.ClusterNode(*one) for one in cluster.startup]
    client = OURS(startup_nodes=nodes, connection_pool_class=cpool.BlockingConnectionPool)
    assert {type(pool) for pool in pools_of(client)} == {cpool.BlockingConnectionPool}
    assert client.set("key", 1)
    client.close()


def test_an_unknown_option_warns_and_names_itself(cluster: FakeCluster) -> None:
    (host, port), *_ = cluster.startup
    with pytest.warns(UserWarning, match='RedisCluster takes no "max_conections"') as seen:
        OURS(host=host, port=port, max_conections=3).close()
    assert seen[0].filename == __file__


def test_what_redis_py_takes_does_not_warn(cluster: FakeCluster) -> None:
    (host, port), *_ = cluster.startup
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OURS(
            host=host,
            port=port,
            decode_responses=True,
            socket_keepalive=True,
            require_full_coverage=False,
            reinitialize_steps=3,
            dynamic_startup_nodes=False,
            address_remap=lambda address: address,
            retry=no_retry(),
        ).close()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"order": "random"}, "order"),
        ({"max_connections": -1}, "max_connections"),
        ({"timeout": -1}, "timeout"),
        ({"retry_policy": "maybe"}, "retry_policy"),
    ],
)
def test_a_bad_option_names_itself(
    cluster: FakeCluster, options: dict[str, Any], text: str
) -> None:
    (host, port), *_ = cluster.startup
    with pytest.raises(Exception, match=text):
        OURS(host=host, port=port, **options)


def test_a_password_of_a_url_is_never_shown(cluster: FakeCluster) -> None:
    (host, port), *_ = cluster.startup
    with contextlib.closing(OURS.from_url(f"redis://me:s3cret@{host}:{port}")) as client:
        shown = [repr(client), repr(client.node_pools), repr(client.node_pools.stats())]
        shown += [repr(pool) for pool in pools_of(client)]
        cluster.answer("GET", None)
        with pytest.raises(redis.RedisError) as caught:
            client.get("key")
        assert "s3cret" not in " ".join([*shown, str(caught.value), repr(caught.value)])


# -- nodes that come and go --------------------------------------------------------------


def test_a_pool_lives_on_through_a_refresh(cluster: FakeCluster) -> None:
    with client_of(OURS, cluster) as client:
        before = dict(client.node_pools)
        client.node_pools.prewarm(1)
        client.nodes_manager.initialize()
        assert dict(client.node_pools) == before
        assert client.node_pools.stats().total.open == 3


def test_the_pool_of_a_node_that_left_is_wound_down(cluster: FakeCluster) -> None:
    staying, leaving, _ = cluster.nodes
    with client_of(OURS, cluster) as client:
        pool = client.node_pools[f"{leaving.host}:{leaving.port}"]
        pool.prewarm(3)
        held = pool.get_connection()
        cluster.all_to(staying)
        client.nodes_manager.initialize()
        assert len(client.node_pools) == 1
        assert pool.stats().open == 1  # in use, so it may be used to the end
        held.send_command("PING")
        assert held.read_response() in (b"PONG", "PONG")
        pool.release(held)
        assert pool.stats().open == 0


def test_a_node_that_comes_back_has_a_pool_again(cluster: FakeCluster) -> None:
    staying, leaving, _ = cluster.nodes
    cluster.answer("SET", b"+OK\r\n")
    with client_of(OURS, cluster) as client:
        cluster.all_to(staying)
        client.nodes_manager.initialize()
        cluster.all_to(leaving)
        client.nodes_manager.initialize()
        assert list(client.node_pools) == [f"{leaving.host}:{leaving.port}"]
        assert client.set("key", 1)
        assert_nothing_lent(client)


def test_a_refresh_leaves_no_connection_and_takes_none(cluster: FakeCluster) -> None:
    with client_of(OURS, cluster, max_connections=1, timeout=0) as client:
        held = [pool.get_connection() for pool in client.node_pools.values()]
        before = [len(node.connections) for node in cluster.nodes]
        client.nodes_manager.initialize()
        assert sum(len(node.connections) for node in cluster.nodes) == sum(before) + 1
        assert all(connection._sock is not None for connection in held)
        for pool, connection in zip(client.node_pools.values(), held, strict=True):
            pool.release(connection)
        assert client.node_pools.stats().total.open == 3


def test_an_exhausted_pool_is_no_dead_node(fresh_cluster: ClusterTopology) -> None:
    with client_of(OURS, fresh_cluster, max_connections=1, timeout=0) as client:
        name = name_of(fresh_cluster.masters[0])
        key = key_at(client, name)
        held = client.node_pools[name].get_connection()
        with pytest.raises(redis.exceptions.MaxConnectionsError) as caught:
            client.get(key)
        if REDIS_VERSION >= (8, 0):  # older ones don't say
            assert caught.value.connection.name == name
        assert client.node_pools.stats().refreshes == 1
        client.node_pools[name].release(held)
        assert client.get(key) is None


def test_close_closes_all_pools(fresh_cluster: ClusterTopology) -> None:
    with client_of(OURS, fresh_cluster) as client:
        client.node_pools.prewarm(1)
        idle = [one for pool in pools_of(client) for one in pool._available_connections]
        assert len(idle) == 6 and all(connection._sock for connection in idle)
        client.close()
        assert not any(connection._sock for connection in idle)
