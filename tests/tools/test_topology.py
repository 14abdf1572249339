"""Clusters of our own: what is done to them has happened, as a client and the nodes see it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
import redis
from redis.cluster import RedisCluster

from cpool.tools import topology
from cpool.tools.cluster_node import SLOTS, Node
from cpool.tools.servers import EmbeddedServer, ServerError
from cpool.tools.topology import ClusterTopology, TopologyError
from tests.support.clusters import StartCluster, make_cluster

TAGGED = "{tag}one", "{tag}two"


@pytest.fixture
def client(fresh_cluster: ClusterTopology) -> Iterator[RedisCluster]:
    """Give redis-py's client of the shared cluster."""
    with contextlib.closing(RedisCluster.from_url(fresh_cluster.url)) as client:
        yield client


def refusal(node: Node, *command: str, asking: bool = False) -> str:
    """Return the error a node answers a command with, after ASKING or without it."""
    with contextlib.closing(redis.Redis.from_url(node.server.url)) as direct:
        if asking:
            direct.execute_command("ASKING")
        with pytest.raises(redis.ResponseError) as caught:
            direct.execute_command(*command)
    return type(caught.value).__name__


def other_master(cluster: ClusterTopology, master: Node) -> Node:
    return next(node for node in cluster.masters if node is not master)


# -- a cluster that is whole ------------------------------------------------------------


def test_three_masters_have_all_slots_and_a_replica_each(fresh_cluster: ClusterTopology) -> None:
    masters = fresh_cluster.masters
    followers = [replica for m in masters for replica in fresh_cluster.replicas_of(m)]
    assert len(masters) == len(followers) == 3
    assert set(masters + followers) == set(fresh_cluster.nodes)
    assert [node.role for node in masters + followers] == ["master"] * 3 + ["replica"] * 3
    assert sum(held.last - held.first + 1 for held in fresh_cluster.slots()) == SLOTS
    assert fresh_cluster.startup == [(node.host, node.port) for node in fresh_cluster.nodes]


def test_a_flush_empties_replicas_too(
    fresh_cluster: ClusterTopology, client: RedisCluster
) -> None:
    for number in range(100):
        client.set(f"key:{number}", number)
    assert sum(node.call("DBSIZE") for node in fresh_cluster.masters) == 100
    fresh_cluster.flush()
    assert [node.call("DBSIZE") for node in fresh_cluster.nodes] == [0] * 6


def test_a_promoted_replica_and_its_master_change_places(
    fresh_cluster: ClusterTopology, client: RedisCluster
) -> None:
    client.set("key", "value")
    old = fresh_cluster.owner(client.keyslot("key"))
    new = fresh_cluster.replicas_of(old)[0]
    fresh_cluster.promote(new)
    fresh_cluster.wait_complete()
    assert fresh_cluster.owner(client.keyslot("key")) is new
    assert fresh_cluster.replicas_of(new) == [old]
    assert client.get("key") == b"value"


def test_an_unknown_way_of_promotion_is_refused(fresh_cluster: ClusterTopology) -> None:
    with pytest.raises(ValueError, match="option must be one of .*TAKEOVER.*, not 'NOW'"):
        fresh_cluster.promote(fresh_cluster.nodes[0], "NOW")


# -- slots ------------------------------------------------------------------------------


def test_slots_move_with_their_keys_and_back(
    fresh_cluster: ClusterTopology, client: RedisCluster
) -> None:
    keys = [b"\xff{tag}%d" % number for number in range(250)]
    for key in keys:
        client.set(key, key)
    slot = client.keyslot("{tag}")
    source = fresh_cluster.owner(slot)
    target = other_master(fresh_cluster, source)
    for old, new in ((source, target), (target, source)):
        fresh_cluster.migrate_slots([slot], old, new)
        fresh_cluster.wait_serving()
        assert fresh_cluster.owner(slot) is new
        assert (old.call("DBSIZE"), new.call("DBSIZE")) == (0, 250)
        assert refusal(old, "GET", "{tag}0") == "MovedError"
        assert [client.get(key) for key in keys] == keys


def test_a_slot_with_keys_is_not_given_away_as_an_empty_one(
    fresh_cluster: ClusterTopology, client: RedisCluster
) -> None:
    client.set("{tag}", 1)
    slot = client.keyslot("{tag}")
    target = other_master(fresh_cluster, fresh_cluster.owner(slot))
    migration = fresh_cluster.begin_migration(slot, target)
    with pytest.raises(redis.ResponseError, match="keys"):
        migration.source.call("CLUSTER", "SETSLOT", slot, "NODE", target.id)
    migration.cancel()
    assert client.get("{tag}") == b"1"


def test_an_open_slot_answers_ask_and_tryagain(
    fresh_cluster: ClusterTopology, client: RedisCluster
) -> None:
    client.mset_nonatomic(dict.fromkeys(TAGGED, "value"))
    slot = client.keyslot("{tag}")
    source = fresh_cluster.owner(slot)
    migration = fresh_cluster.begin_migration(slot, other_master(fresh_cluster, source))
    migration.move_keys(TAGGED[0])
    assert refusal(source, "GET", TAGGED[0]) == "AskError"
    assert refusal(migration.target, "MGET", *TAGGED, asking=True) == "TryAgainError"
    assert [client.get(key) for key in TAGGED] == [b"value", b"value"]
    fresh_cluster.end_migration(migration)
    assert refusal(source, "MGET", *TAGGED) == "MovedError"
    assert client.mget(TAGGED) == [b"value", b"value"]
    fresh_cluster.migrate_slots([slot], migration.target, source)


def test_slots_that_are_taken_down_answer_clusterdown_until_they_are_restored(
    fresh_cluster: ClusterTopology, client: RedisCluster
) -> None:
    owner = fresh_cluster.owner(client.keyslot("key"))
    fresh_cluster.take_down_slots([client.keyslot("key"), 0])
    assert {refusal(node, "GET", "key") for node in fresh_cluster.nodes} == {"ClusterDownError"}
    fresh_cluster.restore_slots()
    assert fresh_cluster.owner(client.keyslot("key")) is owner
    assert client.set("key", "value")


# -- nodes that come and go -------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_master_is_replaced_and_comes_back_as_a_replica(
    start_cluster: StartCluster,
) -> None:
    cluster = start_cluster(node_timeout_ms=1000)
    heir = cluster.replicas_of(cluster.masters[1])[0]
    lost = cluster.kill_master(1)
    with pytest.raises(TopologyError, match="belong to a node that is gone"):
        cluster.wait_failover(lost, timeout_s=0)
    cluster.wait_failover(lost)
    assert cluster.masters[1] is heir and heir.role == "master"
    cluster.restart(lost)
    assert lost.role == "replica" and cluster.replicas_of(heir) == [lost]


@pytest.mark.slow
def test_a_cluster_of_which_nothing_is_left_can_be_restarted(start_cluster: StartCluster) -> None:
    cluster = start_cluster(masters=2, replicas=0)
    masters = cluster.masters
    cluster.kill_master(1)
    cluster.kill_master(0)
    with pytest.raises(TopologyError, match="No node .* is running"):
        cluster.wait_serving(timeout_s=0)
    cluster.restart(*masters)
    assert cluster.masters == masters


@pytest.mark.slow
def test_a_node_is_added_gets_a_slot_and_is_forgotten(start_cluster: StartCluster) -> None:
    cluster = start_cluster(masters=2, replicas=0)
    first, second = cluster.masters
    node = cluster.add_node()
    assert node.role == "master" and node not in cluster.masters
    cluster.migrate_slots([0], first, node, keys=False)
    cluster.wait_serving()
    with pytest.raises(ValueError, match="node must have no slots"):
        cluster.forget_node(node)
    cluster.migrate_slots([0], node, first, keys=False)
    cluster.wait_serving()
    cluster.forget_node(node)
    assert not node.is_alive and cluster.nodes == [first, second]
    assert all(node.id not in other.known() for other in cluster.nodes)


def test_a_wait_for_the_failover_of_a_running_node_is_refused(
    fresh_cluster: ClusterTopology,
) -> None:
    with pytest.raises(ValueError, match="lost must have been killed"):
        fresh_cluster.wait_failover(fresh_cluster.nodes[0])


# -- starting ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"masters": 0}, "masters must be 1 or more"),
        ({"replicas": -1}, "replicas 0 or more"),
        ({"ports": [1, 2]}, "ports must be 6"),
    ],
)
def test_senseless_shapes_are_refused(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        make_cluster(**options)  # type: ignore[arg-type]


def test_nodes_listen_on_the_ports_they_are_given() -> None:
    ports = [topology.free_port(topology.BUS_OFFSET)]
    with make_cluster(1, 0, ports=ports) as cluster:
        assert cluster.startup == [("127.0.0.1", ports[0])]
        with contextlib.closing(RedisCluster.from_url(cluster.url)) as client:
            assert client.set("key", "value")


def test_a_taken_port_is_an_error_and_leaves_nothing_behind() -> None:
    free, taken = (topology.free_port(topology.BUS_OFFSET) for _ in range(2))
    with socket.create_server(("127.0.0.1", taken)):
        cluster = make_cluster(2, 0, ports=[free, taken])
        with pytest.raises(ServerError, match="in use"):
            cluster.start()
    assert cluster.nodes == []
    with EmbeddedServer().start(free):
        pass  # its port is free again
