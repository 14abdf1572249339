"""Failovers of real servers under the identity workload: every thread is served by the new
master, no reply is somebody else's, and no slot is lost."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import redis

import cpool
from cpool.tools.sentinels import Node, SentinelTopology
from tests.identity.workload import check_slots, echo, spawn_thread
from tests.pool.support import wait_for
from tests.sentinel import __main__ as command
from tests.sentinel.workload import VERBS, FailoverWorkload, make_client
from tests.support.tls import Certificates

pytest_plugins = ["tests.support.sentinels"]

THREADS = 16
PATIENCE_S = 30.0
CHECK_INTERVAL_S = 0.1
POOLS: dict[str, dict[str, Any]] = {
    "one connection per thread": {"max_connections": THREADS},
    "threads wait for connections": {"max_connections": 6, "timeout": PATIENCE_S},
}


def survive(
    topology: SentinelTopology, kind: str, client: redis.Redis, others: Any = VERBS
) -> None:
    """Let threads work through one failover, and judge what came of it."""
    running = FailoverWorkload(client, THREADS, others=others)
    running.start(spawn_thread, THREADS)
    try:
        wait_for(lambda: all(running.served), "a first write of each thread")
        promotion = topology.wait_promoted(getattr(topology, kind)())
        new_port = promotion.node.server.port
        wait_for(lambda: running.all_served_by(new_port), "the new master", PATIENCE_S)
    finally:
        running.stop()
    assert not running.tally.foreign
    gc.collect()
    check_slots(client.connection_pool)
    client.close()


@pytest.mark.parametrize("options", POOLS.values(), ids=POOLS)
def test_threads_go_on_after_the_master_was_killed(
    topology: SentinelTopology, options: dict[str, Any]
) -> None:
    survive(topology, "kill_master", make_client("cpool", topology.addresses, **options))


@pytest.mark.slow
@pytest.mark.parametrize("options", POOLS.values(), ids=POOLS)
def test_threads_go_on_after_the_master_was_paused(
    topology: SentinelTopology, options: dict[str, Any]
) -> None:
    survive(topology, "pause_master", make_client("cpool", topology.addresses, **options))


@pytest.mark.slow
@pytest.mark.parametrize("options", POOLS.values(), ids=POOLS)
def test_threads_go_on_after_a_failover_that_was_asked_for(
    topology: SentinelTopology, options: dict[str, Any]
) -> None:
    options = {**options, "master_check_interval": CHECK_INTERVAL_S}
    survive(topology, "failover", make_client("cpool", topology.addresses, **options))


@pytest.mark.slow
def test_threads_of_redis_pys_sentinel_go_on_as_well(topology: SentinelTopology) -> None:
    client = make_client(
        "redis-py",
        topology.addresses,
        connection_pool_class=cpool.SentinelConnectionPool,
        redis_class=cpool.Redis,
        max_connections=THREADS,
    )
    survive(topology, "kill_master", client)


@pytest.mark.slow
def test_threads_go_on_by_tls(tls_topology: SentinelTopology, certificates: Certificates) -> None:
    tls: dict[str, Any] = {"ssl": True, "ssl_ca_certs": certificates.ca}
    sentinel = {**tls, "socket_timeout": 2.0}
    options = {**tls, "max_connections": THREADS, "socket_timeout": 2.0}
    client = make_client("cpool", tls_topology.addresses, sentinel, **options)
    pool: Any = client.connection_pool
    assert pool.connection_class is cpool.SentinelManagedSSLConnection
    survive(tls_topology, "kill_master", client, others=[echo])


def test_clients_by_tls_ask_and_write_by_tls(
    tls_topology: SentinelTopology, certificates: Certificates
) -> None:
    tls: dict[str, Any] = {"ssl": True, "ssl_ca_certs": certificates.ca}
    sentinel = cpool.Sentinel(tls_topology.addresses, sentinel_kwargs=tls, **tls)
    with sentinel, sentinel.master_for(tls_topology.name) as master:
        assert master.set("key", "value") and master.get("key") == b"value"
        with sentinel.slave_for(tls_topology.name) as replica:
            assert replica.role()[0] == b"slave"
    with cpool.Sentinel(tls_topology.addresses) as plain:
        with pytest.raises(redis.sentinel.MasterNotFoundError):
            plain.discover_master(tls_topology.name)


# -- Replicas -----------------------------------------------------------------------------------


def ports_of(client: redis.Redis, n: int) -> list[int]:
    """Open so many connections at a time; return the ports of the servers they lead to."""
    pool: Any = client.connection_pool
    lent = [pool.get_connection() for _ in range(n)]
    ports = [connection.port for connection in lent]
    for connection in lent:
        pool.release(connection)
    pool.drain()
    return ports


def other_than(nodes: list[Node], node: Node) -> set[int]:
    return {each.port for each in nodes if each is not node}


def test_reads_take_turns_on_the_replicas_and_leave_one_that_is_gone(
    topology: SentinelTopology,
) -> None:
    replicas, master = topology.replicas, topology.master
    with cpool.Sentinel(topology.addresses) as sentinel:
        reader = sentinel.replica_for(topology.name)
        assert set(ports_of(reader, 4)) == {replica.port for replica in replicas}
        assert set(sentinel.discover_slaves(topology.name)) == {r.address for r in replicas}
        topology.kill(replicas[0])
        assert set(ports_of(reader, 4)) == other_than(replicas, replicas[0])
        topology.kill(replicas[1])
        wait_for(lambda: sentinel.discover_slaves(topology.name) == [], "the sentinels to see it")
        assert set(ports_of(reader, 4)) == {master.port}


def test_a_master_that_has_come_back_is_read_from_as_a_replica(
    topology: SentinelTopology,
) -> None:
    with cpool.Sentinel(topology.addresses) as sentinel:
        master = sentinel.master_for(topology.name)
        master.set("key", "value")
        assert master.wait(2, 5000) == 2
        old = topology.kill_master()
        topology.wait_promoted(old)
        topology.restart()
        reader = sentinel.slave_for(topology.name)
        assert old.port in ports_of(reader, 4)
        assert reader.get("key") == b"value"
        assert master.get("key") == b"value"
        assert old.role() == "slave"


# -- The command --------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_measures_one_failover(
    topology: SentinelTopology, capsys: pytest.CaptureFixture[str]
) -> None:
    result = command.play(topology, "kill_master", "cpool", threads=4)
    assert len(result.waits_s) == 4 and not result.foreign and result.slots_are_whole
    cells = command.row("kill_master", "cpool", 4, result)
    assert len(cells) == len(command.COLUMNS) and cells[:3] == ["killed", "cpool", "4/4"]


@pytest.mark.parametrize("wrong", [["--threads", "0"], ["--kind", "sold"], ["--rounds", "-1"]])
def test_the_command_refuses_options_that_make_no_sense(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        command.parse_arguments(wrong)
    assert caught.value.code == 2 and wrong[0] in capsys.readouterr().err
