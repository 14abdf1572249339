"""Short rounds of `python -m tests.cluster`; and that its judges find what is wrong."""

from __future__ import annotations

import contextlib
import random
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from redis.exceptions import ConnectionError, RedisClusterException

from cpool.tools.topology import ClusterTopology
from tests.cluster.__main__ import main
from tests.cluster.proof.events import Events, Seen
from tests.cluster.proof.rounds import NAME, Round, Shape, make_client, play
from tests.cluster.proof.watch import Connections, Refreshes, has_proc, sockets_to
from tests.cluster.proof.workload import ClusterWorkload, Counter, Recovery, outcome_of
from tests.cluster.support import OURS, client_of, name_of
from tests.support.servers import chosen_binary, wait_until

# How soon is measured by hand: here others use the machine too.
SHORT = Shape(threads=8, slots=20, node_timeout_ms=1000, is_timed=False)


def test_all_that_happens_to_a_cluster_mixes_up_and_loses_nothing() -> None:
    found = play(chosen_binary(), 1, SHORT)
    assert found.wrong == []
    assert found.most_refreshes == 1 and found.tally.right > 100
    assert all(seen.took_s is not None for seen in found.seen)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize("options", [{"protocol": 3}, {"max_connections": 2}, {"order": "fifo"}])
def test_so_it_is_for_other_clients(seed: int, options: dict[str, Any]) -> None:
    shape = Shape(threads=32, slots=200, node_timeout_ms=1000, is_timed=False)
    assert play(chosen_binary(), seed, shape, **options).wrong == []


def test_the_command_tells_what_does_not_hold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(self: Events) -> list[Any]:
        return [lambda: Seen("a plague", problem="nobody is served")]

    monkeypatch.setattr("tests.cluster.__main__.watchdog", contextlib.nullcontext)
    monkeypatch.setattr("tests.cluster.__main__.play", lambda *args: play(*args, choose=broken))
    assert main(["--threads", "2", "--minutes", "0.001", "--plain"]) == 1
    said = capsys.readouterr().out
    assert "VIOLATION" in said and "nobody is served" in said and "a plague" in said


# -- the judges --------------------------------------------------------------------------


class Planted:
    """A client that counts wrongly."""

    def __init__(self, replies: list[Any]) -> None:
        self.replies = replies

    def keyslot(self, key: str) -> int:
        return 0

    def incr(self, key: str) -> Any:
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply


def counted(replies: list[Any]) -> ClusterWorkload:
    """Let one worker count one counter by these replies."""
    workload = ClusterWorkload(Planted(list(replies)), seed=1)
    workload._counters[0] = [Counter("key", 0)]
    workload.recovery = Recovery(frozenset([0]))
    for _ in replies:
        workload._count_up(random.Random(1), 0)
    return workload


@pytest.mark.parametrize(
    ("replies", "text"),
    [
        ([1, 2, 3], ""),
        ([1, ConnectionError(), 3], ""),
        ([1, ConnectionError(), 2], ""),
        ([1, 2, 2], "key was 2 and is 2: acknowledged writes are lost"),
        ([1, 2, 1], "key was 2 and is 1: acknowledged writes are lost"),
        ([1, 3], "key is 3 after 2 calls: written to twice"),
    ],
)
def test_counters_tell_of_lost_and_doubled_writes(replies: list[Any], text: str) -> None:
    workload = counted(replies)
    assert workload.wrong == ([text] if text else [])
    assert workload.tally.foreign == []


def test_a_reply_to_another_command_is_foreign() -> None:
    assert counted([1, b"OK"]).tally.foreign == [("key", b"OK")]


@pytest.mark.parametrize(("value", "is_right"), [(1, False), (2, True), (3, True), (4, False)])
def test_counters_are_compared_with_the_servers(value: int, is_right: bool) -> None:
    workload = counted([1, 2, ConnectionError()])
    assert (workload.compare(lambda key: value) == []) is is_right


def test_refreshes_at_a_time_are_counted() -> None:
    together = threading.Barrier(2, timeout=10)
    manager = SimpleNamespace(_refresh=together.wait)
    refreshes = Refreshes(manager)
    threads = [threading.Thread(target=manager._refresh) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (refreshes.most, refreshes.count) == (2, 2)


def test_connections_over_the_limit_are_seen(redis_cluster: ClusterTopology) -> None:
    with contextlib.closing(make_client(redis_cluster)) as client:
        connections = Connections(client, redis_cluster, NAME, limit=2)
        pools = [*client.node_pools.values()]
        held = [pools[0].get_connection() for _ in range(2)]
        connections.look()
        assert connections.wrong == [] and connections.most == 2
        held += [pools[0].get_connection() for _ in range(2)]
        connections.look()
        assert len(connections.wrong) == 2  # the pool's count is over it, and the node's
        for connection in held:
            pools[0].release(connection)


@pytest.mark.skipif(not has_proc(), reason="needs /proc/self/net/tcp")
def test_sockets_to_a_node_are_seen_until_they_are_closed(
    redis_cluster: ClusterTopology,
) -> None:
    node = redis_cluster.nodes[0]
    before = sockets_to(node.port)
    with client_of(OURS, redis_cluster) as client:
        client.node_pools[name_of(node)].prewarm(3)
        assert sockets_to(node.port) == before + 3
    wait_until(lambda: sockets_to(node.port) == before, "they are closed")


def test_a_slot_that_is_lost_is_found(redis_cluster: ClusterTopology) -> None:
    with client_of(OURS, redis_cluster, max_connections=2, timeout=1) as client:
        pool = client.node_pools[name_of(redis_cluster.nodes[0])]
        kept = pool.get_connection()
        judge = Round(redis_cluster, client, 1, SHORT)
        judge._check_pools()
        assert len(judge.found.wrong) == 1 and "slots of" in judge.found.wrong[0]
        pool.release(kept)


def test_a_cluster_that_can_not_be_used_is_a_failure_and_no_foreign_reply() -> None:
    def refused(client: Any, nonce: str) -> Any:
        raise RedisClusterException("All slots are not covered")

    assert outcome_of(refused, None, "run:1:1").kind == "failed"
    assert outcome_of(lambda client, nonce: 1 / 0, None, "run:1:1").kind == "foreign"
