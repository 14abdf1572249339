"""What a node answers instead of a reply: redis-py's loop does with it what it does, and the
nodes are asked as often."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis.crc import key_slot
from redis.exceptions import MaxConnectionsError

from cpool.tools.topology import ClusterTopology
from tests.client.support import difference, no_retry
from tests.cluster.fakecluster import FakeCluster, ask, fake_cluster, moved, times
from tests.cluster.support import (
    CLASSES,
    ONE_SLOT,
    OURS,
    assert_nothing_lent,
    both,
    client_of,
    errors_of,
    misplace,
    name_of,
    other_master,
    outcome_of,
    reset_counts,
)
from tests.connection.fakeserver import CLOSE

KEY = "key"
SLOT = key_slot(KEY.encode())
VALUE = b"$5\r\nvalue\r\n"
LOADING = b"-LOADING Redis is loading the dataset in memory\r\n"
DOWN = b"-CLUSTERDOWN The cluster is down\r\n"
TRYAGAIN = b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n"
MASTERDOWN = b"-MASTERDOWN Link with MASTER is down\r\n"

Arrange = Callable[[FakeCluster], None]


@pytest.fixture(autouse=True)
def no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let redis-py's loop not sleep, neither for TRYAGAIN nor for CLUSTERDOWN."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def owner_of(cluster: FakeCluster) -> Any:
    """Return the node that has SLOT."""
    return next(nodes[0] for a, b, nodes in cluster.owners if a <= SLOT <= b)


def strangers(cluster: FakeCluster) -> list[Any]:
    return [node for node in cluster.nodes if node is not owner_of(cluster)]


# What a GET of the key meets, by name.


def moved_to_a_known_node(cluster: FakeCluster) -> None:
    owner, other = owner_of(cluster), strangers(cluster)[0]
    owner.replies["GET"] = moved(SLOT, other)
    other.replies["GET"] = VALUE


def moved_to_an_unknown_node(cluster: FakeCluster) -> None:
    owner, third = owner_of(cluster), strangers(cluster)[1]
    cluster.all_to(owner)
    owner.replies["GET"] = moved(SLOT, third)
    third.replies["GET"] = VALUE


def moved_to_and_fro(cluster: FakeCluster) -> None:
    owner, other = owner_of(cluster), strangers(cluster)[0]
    owner.replies["GET"] = moved(SLOT, other)
    other.replies["GET"] = moved(SLOT, owner)


def moved_to_itself(cluster: FakeCluster) -> None:
    owner_of(cluster).replies["GET"] = times(3, moved(SLOT, owner_of(cluster)), VALUE)


def moved_to_nobody(cluster: FakeCluster) -> None:
    owner_of(cluster).replies["GET"] = moved(SLOT, ("127.0.0.1", 1))


def moved_then_asked(cluster: FakeCluster) -> None:
    owner, other, third = owner_of(cluster), *strangers(cluster)
    owner.replies["GET"] = moved(SLOT, other)
    other.replies["GET"] = ask(SLOT, third)
    third.replies["GET"] = VALUE


def asked_at_a_known_node(cluster: FakeCluster) -> None:
    owner, other = owner_of(cluster), strangers(cluster)[0]
    owner.replies["GET"] = ask(SLOT, other)
    other.replies["GET"] = VALUE


def asked_to_and_fro(cluster: FakeCluster) -> None:
    owner, other = owner_of(cluster), strangers(cluster)[0]
    owner.replies["GET"] = ask(SLOT, other)
    other.replies["GET"] = ask(SLOT, owner)


def asking_refused(cluster: FakeCluster) -> None:
    asked_at_a_known_node(cluster)
    cluster.answer("ASKING", b"-ERR no\r\n")


def again(cluster: FakeCluster) -> None:
    owner_of(cluster).replies["GET"] = times(5, TRYAGAIN, VALUE)


def again_and_again(cluster: FakeCluster) -> None:
    owner_of(cluster).replies["GET"] = TRYAGAIN


def down_for_a_while(cluster: FakeCluster) -> None:
    owner_of(cluster).replies["GET"] = times(2, DOWN, VALUE)


def down(cluster: FakeCluster) -> None:
    owner_of(cluster).replies["GET"] = DOWN


def loading(cluster: FakeCluster) -> None:
    owner_of(cluster).replies["GET"] = LOADING


def loading_for_a_while(cluster: FakeCluster) -> None:
    owner_of(cluster).replies["GET"] = times(1, LOADING, VALUE)


def master_down(cluster: FakeCluster) -> None:
    owner_of(cluster).replies["GET"] = MASTERDOWN


def an_error(cluster: FakeCluster) -> None:
    owner_of(cluster).replies["GET"] = b"-WRONGTYPE no\r\n"


def no_permission(cluster: FakeCluster) -> None:
    owner_of(cluster).replies["GET"] = b"-NOPERM no\r\n"


def no_password(cluster: FakeCluster) -> None:
    owner_of(cluster).replies["GET"] = b"-NOAUTH Authentication required.\r\n"


def closed(cluster: FakeCluster) -> None:
    owner_of(cluster).replies["GET"] = CLOSE


def closed_once(cluster: FakeCluster) -> None:
    owner_of(cluster).replies["GET"] = times(1, CLOSE, VALUE)


def closed_and_taken_over(cluster: FakeCluster) -> None:
    owner, other = owner_of(cluster), strangers(cluster)[0]
    other.replies["GET"] = VALUE

    def fail(words: Any) -> None:
        cluster.all_to(other)
        return CLOSE

    owner.replies["GET"] = fail


def nonsense(cluster: FakeCluster) -> None:
    owner_of(cluster).replies["GET"] = b"?what\r\n"


def read_only(cluster: FakeCluster) -> None:
    owner_of(cluster).replies["GET"] = (
        b"-READONLY You can't write against a read only replica.\r\n"
    )


ARRANGED: list[Arrange] = [
    moved_to_a_known_node,
    moved_to_an_unknown_node,
    moved_to_and_fro,
    moved_to_itself,
    moved_to_nobody,
    moved_then_asked,
    asked_at_a_known_node,
    asked_to_and_fro,
    asking_refused,
    again,
    again_and_again,
    down_for_a_while,
    down,
    loading,
    loading_for_a_while,
    master_down,
    an_error,
    no_permission,
    no_password,
    closed,
    closed_once,
    closed_and_taken_over,
    nonsense,
    read_only,
]


@contextlib.contextmanager
def arranged(arrange: Arrange, cls: Any, **options: Any) -> Iterator[tuple[FakeCluster, Any]]:
    """Give a cluster where that is to be met, and a client of it."""
    with fake_cluster() as cluster:
        arrange(cluster)
        with client_of(cls, cluster, **options) as client:
            yield cluster, client


def played(cls: Any, arrange: Arrange, call: Callable[[Any], Any], **options: Any) -> Any:
    """Return what came of a call, what each node was asked, and what the client knows then."""
    with arranged(arrange, cls, **options) as (cluster, client):
        got = outcome_of(call, client), outcome_of(call, client)
        if cls is OURS:
            assert_nothing_lent(client)
        owners = [node.name for node in client.nodes_manager.slots_cache[SLOT]]
        known = sorted(cluster.numbered(name) for name in client.nodes_manager.nodes_cache)
        return cluster.numbered(repr((got, owners))), known, cluster.asked("GET", "ASKING")


def twins(arrange: Arrange, call: Callable[[Any], Any], **options: Any) -> Any:
    """Play the same on each class of clients; assert that nothing differs."""
    theirs, ours = (played(cls, arrange, call, **options) for cls in CLASSES)
    assert ours == theirs, difference(theirs, ours)
    return ours


each_arrangement = pytest.mark.parametrize("arrange", ARRANGED, ids=lambda one: one.__name__)


# Never, and on each MOVED: in between, redis-py refreshes where ours patches and goes on.
@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("retries", [0, 2])
@each_arrangement
def test_a_command_meets_what_redis_pys_meets(arrange: Arrange, retries: int, steps: int) -> None:
    retry = no_retry(retries)
    twins(arrange, lambda client: client.get(KEY), retry=retry, reinitialize_steps=steps)


@each_arrangement
def test_a_command_with_target_nodes_meets_what_redis_pys_meets(arrange: Arrange) -> None:
    def call(client: Any) -> Any:
        node = client.get_node_from_key(KEY)
        return client.execute_command("GET", KEY, target_nodes=node)

    twins(arrange, call, retry=no_retry(2), reinitialize_steps=0)


@each_arrangement
def test_a_command_redis_py_finds_the_node_of_meets_the_same(arrange: Arrange) -> None:
    twins(
        arrange,
        lambda client: client.execute_command("GET", KEY, conn=1),
        retry=no_retry(1),
        reinitialize_steps=0,
    )


@pytest.mark.parametrize("raise_on_error", [True, False])
@pytest.mark.parametrize(
    "arrange",
    [one for one in ARRANGED if one is not nonsense and not one.__name__.startswith("moved")],
    ids=lambda one: one.__name__,
)
def test_a_pipeline_meets_what_redis_pys_meets(arrange: Arrange, raise_on_error: bool) -> None:
    def call(client: Any) -> Any:
        return client.pipeline().get(KEY).execute(raise_on_error=raise_on_error)

    twins(arrange, call, retry=no_retry(0), reinitialize_steps=0)


@pytest.mark.parametrize(
    ("arrange", "asked"),
    [
        (moved_to_a_known_node, [["GET", "GET"], [], ["GET"]]),
        (moved_to_an_unknown_node, [[], ["GET", "GET"], ["GET"]]),
        (moved_then_asked, [["GET"] * 4, ["ASKING", "GET"] * 2, ["GET"]]),
    ],
)
def test_a_moved_pipeline_asks_the_old_node_once(arrange: Arrange, asked: list[list[str]]) -> None:
    """redis-py's asks it twice: it patches its table only when it does so one by one."""
    results = []
    for cls in CLASSES:
        with arranged(arrange, cls, reinitialize_steps=0) as (cluster, client):
            results.append([client.pipeline().get(KEY).execute() for _ in range(2)])
            counts = cluster.asked("GET", "ASKING")
    assert results == [[[b"value"], [b"value"]]] * 2
    assert counts == asked


@pytest.mark.parametrize("arrange", [moved_to_and_fro, moved_to_nobody])
def test_a_pipeline_that_is_moved_in_vain_ends_as_redis_pys(arrange: Arrange) -> None:
    errors = []
    for cls in CLASSES:
        with arranged(arrange, cls, reinitialize_steps=0) as (_, client):
            errors.append(outcome_of(client.pipeline().get(KEY).execute)[:4])
    assert errors[0] == errors[1] and errors[0][0] == "raised"


def test_a_pipeline_that_is_moved_to_an_exhausted_pool_keeps_its_other_replies() -> None:
    options = {"max_connections": 1, "timeout": 0, "reinitialize_steps": 0}
    with arranged(moved_to_a_known_node, OURS, **options) as (cluster, client):
        owner, other = owner_of(cluster), strangers(cluster)[0]
        owner.replies["INCRBY"] = b":7\r\n"
        pool = client.node_pools[f"{other.host}:{other.port}"]
        held = pool.get_connection()
        pipe = client.pipeline().incr(KEY).get(KEY)
        count, error = pipe.execute(raise_on_error=False)
        pool.release(held)
        assert (count, type(error)) == (7, MaxConnectionsError)
        assert sum(asked.count("INCRBY") for asked in cluster.asked("INCRBY")) == 1


# -- on a real cluster -------------------------------------------------------------------


def test_a_real_moved_is_followed_and_remembered(redis_cluster: ClusterTopology) -> None:
    def scenario(client: Any) -> Any:
        client.set(KEY, "value")
        owner = redis_cluster.owner(SLOT)
        misplace(client, SLOT, name_of(other_master(redis_cluster, owner)))
        reset_counts(redis_cluster)
        got = client.get(KEY), client.get(KEY)
        node = client.get_node_from_key(KEY)
        return got, errors_of(redis_cluster), node.name == name_of(owner)

    found = both(redis_cluster, scenario)
    assert found == ((b"value", b"value"), {"MOVED": 1}, True)


def test_a_real_slot_on_its_way_is_asked_for_on_both_sides(
    redis_cluster: ClusterTopology,
) -> None:
    a, b, _ = ONE_SLOT

    def scenario(client: Any) -> Any:
        client.mset({a: 1, b: 2})
        slot = client.keyslot(a)
        source = redis_cluster.owner(slot)
        target = other_master(redis_cluster, source)
        migration = redis_cluster.begin_migration(slot, target)
        migration.move_keys(a)
        reset_counts(redis_cluster)
        found = [outcome_of(client.get, key) for key in ONE_SLOT]
        found.append(outcome_of(client.mget, a, b))
        found.append(outcome_of(client.pipeline().get(a).get(b).incr(a).execute))
        found.append(outcome_of(client.set, ONE_SLOT[2], 3))
        errors = errors_of(redis_cluster)
        redis_cluster.end_migration(migration)
        redis_cluster.wait_serving()
        found.append(outcome_of(client.mget, *ONE_SLOT))
        redis_cluster.migrate_slots([slot], target, source)
        redis_cluster.wait_serving()
        found.append(outcome_of(client.mget, *ONE_SLOT))
        text = repr(found)
        for node, name in ((source, "<source>"), (target, "<target>")):
            text = text.replace(str(node.port), name)
        return text, errors

    found, errors = both(redis_cluster, scenario, reinitialize_steps=0)
    assert "TTL exhausted" in found and errors["ASK"] > 3 and errors["TRYAGAIN"] > 3


def test_an_unknown_node_named_by_ask_is_asked(redis_cluster: ClusterTopology) -> None:
    """redis-py's own loop fails with an AttributeError of None."""
    with client_of(OURS, redis_cluster) as client:
        client.set(KEY, "value")
        source = redis_cluster.owner(SLOT)
        target = other_master(redis_cluster, source)
        migration = redis_cluster.begin_migration(SLOT, target)
        migration.move_all_keys()
        manager = client.nodes_manager
        manager.nodes_cache.pop(name_of(target))
        assert client.get(KEY) == b"value"
        assert manager.nodes_cache[name_of(target)].server_type == "primary"
        migration.finish()
        assert client.get(KEY) == b"value"
        redis_cluster.migrate_slots([SLOT], target, source)
        assert client.get(KEY) == b"value"


def test_slots_that_are_down_are_an_error_until_they_are_up(
    redis_cluster: ClusterTopology,
) -> None:
    def scenario(client: Any) -> Any:
        client.set(KEY, "value")
        redis_cluster.take_down_slots([SLOT])
        reset_counts(redis_cluster)
        found = [outcome_of(client.get, KEY), outcome_of(client.pipeline().get(KEY).execute)]
        errors = errors_of(redis_cluster)
        redis_cluster.restore_slots()
        return [found, errors, outcome_of(client.get, KEY)]

    for retries in (0, 1):
        both(redis_cluster, scenario, retry=no_retry(retries))
