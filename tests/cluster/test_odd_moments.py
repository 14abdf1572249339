"""Interrupts, forks, collections and deadlines: no slot is lost, no lock stays locked."""

from __future__ import annotations

import gc
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

import pytest
import redis
from redis.crc import key_slot
from redis.exceptions import ConnectionError, RedisError

import cpool
from cpool import nodes, single_flight
from cpool.tools.topology import ClusterTopology
from tests.client.support import no_retry
from tests.cluster.fakecluster import FakeCluster, ask, fake_cluster, moved, times
from tests.cluster.support import OURS, assert_nothing_lent, client_of, misplace, pools_of
from tests.identity.children import exit_status, fork
from tests.identity.rounds import unraisable_errors
from tests.pool.interrupts import interrupt_at

KEY = "key"
SLOT = key_slot(KEY.encode())
VALUE = b"$5\r\nvalue\r\n"
DOWN = b"-CLUSTERDOWN The cluster is down\r\n"
TRYAGAIN = b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n"
MOST_PLACES = 5000
OUR_FILES = os.path.dirname(cpool.__file__)


@pytest.fixture(autouse=True)
def collect_what_was_broken_off() -> Iterator[None]:
    """Collect at once what an interrupt has kept from being closed: later it would fail
    another test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


REFRESHES = {"initialize", "check_slots_coverage"}  # of redis-py: loops over all slots


def in_our_code(code: CodeType) -> bool:
    """Whether it is code of cpool."""
    return code.co_filename.startswith(OUR_FILES)


def in_the_flight(code: CodeType) -> bool:
    """Whether it is code of the refreshes themselves."""
    return code.co_filename in (nodes.__file__, single_flight.__file__)


def in_the_loop(code: CodeType) -> bool:
    """Whether it is code of cpool, or of redis-py's loop."""
    if code.co_filename == redis.cluster.__file__:
        return code.co_name not in REFRESHES
    return in_our_code(code)


# -- interrupts --------------------------------------------------------------------------

Arrange = Callable[[FakeCluster], None]


def in_peace(cluster: FakeCluster) -> None:
    cluster.answer("GET", VALUE)


def moved_once(cluster: FakeCluster) -> None:
    first, second = cluster.nodes
    cluster.all_to(first)
    first.replies["GET"] = moved(SLOT, second)
    second.replies["GET"] = VALUE


def asked_once(cluster: FakeCluster) -> None:
    first, second = cluster.nodes
    cluster.all_to(first)
    first.replies["GET"] = ask(SLOT, second)
    second.replies["GET"] = VALUE


def tried_again(cluster: FakeCluster) -> None:
    cluster.answer("GET", times(1, TRYAGAIN, VALUE))


def with_an_error(cluster: FakeCluster) -> None:
    cluster.answer("GET", b"-ERR no\r\n")


def single(client: Any) -> Any:
    return client.get(KEY)


def pipelined(client: Any) -> Any:
    return client.pipeline().get(KEY).get("other").execute(raise_on_error=False)


@pytest.mark.parametrize("call", [single, pipelined], ids=lambda call: call.__name__)
@pytest.mark.parametrize(
    "arrange",
    [in_peace, moved_once, asked_once, tried_again, with_an_error],
    ids=lambda arrange: arrange.__name__,
)
def test_an_interrupt_at_any_place_costs_no_slot(arrange: Arrange, call: Any) -> None:
    options = {"max_connections": 2, "reinitialize_steps": 0}
    with (
        unraisable_errors(),  # pytest's own hook would keep what they hold
        fake_cluster(2) as cluster,
        client_of(OURS, cluster, **options) as client,
    ):
        client.nodes_manager._flights.pause_s = 0
        arrange(cluster)
        first = "{}:{}".format(*cluster.startup[0])
        for n in range(1, MOST_PLACES):
            misplace(client, SLOT, first)
            fired = interrupt_at(n, lambda: quietly(call, client), in_the_loop)
            assert_nothing_lent(client)
            if not fired:
                break
        else:
            raise AssertionError("it has no end")
        cluster.answer("GET", VALUE)
        together = [pool.get_connection() for pool in pools_of(client) for _ in range(2)]
        assert len(set(map(id, together))) == 2 * len(pools_of(client))


def quietly(call: Any, client: Any) -> None:
    try:
        call(client)
    except RedisError:
        pass


def test_what_interrupts_a_refresh_leaves_the_next_one_free() -> None:
    with fake_cluster(2) as cluster, client_of(OURS, cluster) as client:
        manager = client.nodes_manager
        manager._flights.pause_s = 0
        for n in range(1, MOST_PLACES):
            fired = interrupt_at(n, manager.initialize, in_the_flight)
            other = threading.Thread(target=manager.initialize, daemon=True)
            other.start()
            other.join(20)
            assert not other.is_alive(), f"place {n}"
            if not fired:
                return
        raise AssertionError("it has no end")


# -- collections -------------------------------------------------------------------------


def test_clients_and_pipelines_are_collected(redis_cluster: ClusterTopology) -> None:
    client = OURS(*redis_cluster.startup[0])
    pipe = client.pipeline()
    pipe.set("a", 1).execute()
    client.get("a")
    gone = [weakref.ref(one) for one in (client, pipe, client.nodes_manager, *pools_of(client))]
    client.close()
    del client, pipe
    gc.collect()
    assert [one() for one in gone] == [None] * len(gone)


def test_errors_keep_no_connection(redis_cluster: ClusterTopology) -> None:
    with client_of(OURS, redis_cluster, max_connections=2) as client:
        client.set("text", "x")
        kept = []
        for _ in range(10):
            with pytest.raises(RedisError) as caught:
                client.incr("text")
            kept.append(caught.value)
        assert not any(pool.stats().in_use for pool in pools_of(client))


# -- forks -------------------------------------------------------------------------------


def test_a_child_goes_on_with_its_parents_client(redis_cluster: ClusterTopology) -> None:
    with client_of(OURS, redis_cluster) as client:
        client.set("mine", "parent")

        def in_child() -> int:
            if client.get("mine") != b"parent":
                return 1
            client.nodes_manager.initialize()
            values = client.pipeline().set("its", 1).get("its").get("mine").execute()
            return 0 if values == [True, b"1", b"parent"] else 2

        assert exit_status(fork(in_child)) == 0
        assert client.get("mine") == b"parent"
        assert_nothing_lent(client)


def test_a_child_that_is_born_while_locks_are_held_does_not_hang(
    redis_cluster: ClusterTopology,
) -> None:
    with client_of(OURS, redis_cluster) as client:
        manager = client.nodes_manager
        held, done = threading.Event(), threading.Event()

        def hold() -> None:
            with client._lock, manager._lock:
                manager._flights.run(lambda: held.set() or done.wait(30) and None)

        holder = threading.Thread(target=hold)
        holder.start()
        assert held.wait(30)

        def in_child() -> int:
            client.nodes_manager.initialize()
            return 0 if client.set("key", 1) else 1

        assert exit_status(fork(in_child)) == 0
        done.set()
        holder.join()


# -- deadlines ---------------------------------------------------------------------------


def endless(kind: str, cluster: FakeCluster) -> None:
    first, second = cluster.nodes
    cluster.all_to(first)
    first.replies["GET"] = {
        "moved": moved(SLOT, second),
        "ask": ask(SLOT, second),
        "tryagain": TRYAGAIN,
        "down": DOWN,
    }[kind]
    second.replies["GET"] = {"moved": moved(SLOT, first), "ask": ask(SLOT, first)}.get(kind)


@pytest.mark.parametrize("kind", ["tryagain", "down"])
def test_a_deadline_ends_the_sleeps_of_redis_pys_loop(kind: str) -> None:
    with fake_cluster(2) as cluster, client_of(OURS, cluster, retry=no_retry(1000)) as client:
        endless(kind, cluster)
        with pytest.raises(cpool.DeadlineExceededError) as caught, cpool.deadline(0.1):
            while True:
                quietly_but_late(client)
        assert caught.value.sleeping_s > 0
        assert_nothing_lent(client)


def quietly_but_late(client: Any) -> None:
    try:
        client.get(KEY)
    except cpool.DeadlineExceededError:
        raise
    except (RedisError, redis.exceptions.RedisClusterException):
        pass


@pytest.mark.parametrize("kind", ["moved", "ask"])
def test_a_deadline_ends_redirections(kind: str) -> None:
    with fake_cluster(2) as cluster, client_of(OURS, cluster, retry=no_retry(1000)) as client:
        endless(kind, cluster)
        with pytest.raises(cpool.DeadlineExceededError), cpool.deadline(0.05):
            while True:
                quietly_but_late(client)
        assert_nothing_lent(client)


# -- the safe policy ---------------------------------------------------------------------


def test_under_the_safe_policy_nothing_is_executed_twice() -> None:
    with fake_cluster(2) as cluster:
        options = {"retry_policy": "safe", "retry": no_retry(3)}
        with client_of(OURS, cluster, **options) as client:
            cluster.answer("INCRBY", None)
            with pytest.raises(cpool.IndeterminateResultError):
                client.incr(KEY)
            assert sum(names.count("INCRBY") for names in cluster.asked("INCRBY")) == 1
            cluster.answer("GET", times(1, None, VALUE))
            assert client.get(KEY) == b"value"
            with pytest.raises(cpool.IndeterminateResultError):
                client.pipeline().incr(KEY).execute()
            assert sum(names.count("INCRBY") for names in cluster.asked("INCRBY")) == 2
            assert_nothing_lent(client)


def test_without_it_redis_pys_loop_tries_again() -> None:
    with fake_cluster(2) as cluster, client_of(OURS, cluster, retry=no_retry(3)) as client:
        cluster.answer("INCRBY", None)
        with pytest.raises(ConnectionError):
            client.incr(KEY)
        assert sum(names.count("INCRBY") for names in cluster.asked("INCRBY")) == 4
