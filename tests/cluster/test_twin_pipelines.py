"""Cluster pipelines: what redis-py's return, raise and leave behind, ours do."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from redis.exceptions import RedisClusterException, RedisError, WatchError

import cpool
from cpool.tools.topology import ClusterTopology
from tests.client.support import counted
from tests.cluster.support import (
    MANY_SLOTS,
    ONE_SLOT,
    OURS,
    assert_nothing_lent,
    both,
    calls_of,
    client_of,
    name_of,
    outcome_of,
    reset_counts,
)
from tests.pool.support import REDIS_VERSION

Fill = Callable[[Any], Any]
A, B, C = ONE_SLOT


def nothing(pipe: Any) -> None:
    pass


def at_one_node(pipe: Any) -> None:
    pipe.set(A, 1).incr(A).get(A).mget(ONE_SLOT).hset("{tag}h", "f", "v").hgetall("{tag}h")


def at_all_nodes(pipe: Any) -> None:
    for i in range(60):
        pipe.set(f"key:{i}", i)
        pipe.get(f"key:{i}")


def with_errors_inside(pipe: Any) -> None:
    pipe.set("a", "text").incr("a").set("b", 1).lpush("b", 1).get("a").incr("c")
    pipe.execute_command("NOSUCHCOMMAND", "a")


def with_several_slots(pipe: Any) -> None:
    pipe.set("a", 1)
    pipe.execute_command("MGET", *MANY_SLOTS)


def without_a_key(pipe: Any) -> None:
    pipe.set("a", 1).get("a")
    pipe.execute_command("GET")


def with_what_goes_elsewhere(pipe: Any) -> None:
    pipe.set("a", 1).publish("channel", "x").get("a")


def with_all_nodes_as_target(pipe: Any) -> None:
    pipe.set("a", 1)
    pipe.execute_command("FLUSHALL", target_nodes="all")


def with_a_named_target(pipe: Any) -> None:
    node = pipe.get_node_from_key("a")
    pipe.set("a", 1).get("a")
    pipe.execute_command("DBSIZE", target_nodes=node)


def with_unencodable_arguments(pipe: Any) -> None:
    pipe.set("a", 1).set("b", object()).get("a")


def with_unencodable_keys(pipe: Any) -> None:
    pipe.set("a", 1).get(None).get("a")


def with_options(pipe: Any) -> None:
    pipe.set("a", 1)
    pipe.zadd("z", {"m": 1})
    pipe.zrange("z", 0, -1, withscores=True)
    pipe.execute_command("GET", "a", NEVER_DECODE=True)
    pipe.delete("a").unlink("z").exists("a")
    pipe.blpop("none", 0.01)


def with_lower_case_names(pipe: Any) -> None:
    pipe.execute_command("set", "a", 1)
    pipe.execute_command("get", "a")
    pipe.execute_command("hgetall", "none")


def with_streams_and_keys_that_move(pipe: Any) -> None:
    pipe.xadd("x", {"a": "b"}, id="1-1").xread({"x": "0"}).sort("none")
    pipe.eval("return KEYS[1]", 1, "a")


def with_large_values(pipe: Any) -> None:
    for key in MANY_SLOTS:
        pipe.set(key, key * 300_000).get(key)


FILLS: list[Fill] = [
    nothing,
    at_one_node,
    at_all_nodes,
    with_errors_inside,
    with_several_slots,
    without_a_key,
    with_what_goes_elsewhere,
    with_all_nodes_as_target,
    with_a_named_target,
    with_unencodable_arguments,
    with_unencodable_keys,
    with_options,
    with_lower_case_names,
    with_streams_and_keys_that_move,
    with_large_values,
]
if REDIS_VERSION < (7, 0):  # its next pipeline reads the replies of what was sent before
    FILLS.remove(with_unencodable_arguments)
each_fill = pytest.mark.parametrize("fill", FILLS, ids=lambda fill: fill.__name__)


def played(client: Any, fill: Fill, transaction: bool | None, **options: Any) -> list[Any]:
    """Fill and execute a pipeline, then use it once more."""
    random.seed(1)
    pipe = client.pipeline(transaction=transaction)
    found = [outcome_of(lambda: fill(pipe) and None), len(pipe), bool(pipe)]
    found += [outcome_of(pipe.execute, **options), len(pipe)]
    found.append(outcome_of(lambda: pipe.set("a", 2).get("a").execute()))
    pipe.reset()
    return [*found, [outcome_of(client.get, key) for key in ("a", "b", "key:7")]]


@each_fill
@pytest.mark.parametrize("transaction", [None, False, True])
def test_a_pipeline_does_what_redis_pys_does(
    redis_cluster: ClusterTopology, fill: Fill, transaction: bool | None
) -> None:
    both(redis_cluster, lambda client: played(client, fill, transaction))


@each_fill
@pytest.mark.parametrize("protocol", [2, 3])
def test_errors_are_results_if_they_are_not_to_be_raised(
    redis_cluster: ClusterTopology, fill: Fill, protocol: int
) -> None:
    both(
        redis_cluster,
        lambda client: played(client, fill, None, raise_on_error=False),
        protocol=protocol,
        decode_responses=True,
    )


@each_fill
def test_no_connection_is_lost(fresh_cluster: ClusterTopology, fill: Fill) -> None:
    with client_of(OURS, fresh_cluster) as client:
        for transaction in (None, True):
            played(client, fill, transaction)
            assert_nothing_lent(client)


BLOCKED = ["keys", "ping", "config_get", "scan", "eval", "watch", "multi", "exists", "msetex"]


def test_what_a_cluster_pipeline_can_not_do_is_refused_as_by_redis_pys(
    redis_cluster: ClusterTopology,
) -> None:
    def scenario(client: Any) -> list[Any]:
        pipe = client.pipeline()
        found: list[Any] = []
        for name in BLOCKED:
            if hasattr(pipe, name):
                found.append((name, outcome_of(lambda n=name: getattr(pipe, n)("a") and None)))
        for call in (pipe.discard, pipe.unwatch, pipe.load_scripts):
            found.append(outcome_of(call))
        found.append(outcome_of(pipe.mget_nonatomic, "a", "b"))
        found.append(outcome_of(lambda: pipe.delete("a", "b") and None))
        return found

    both(redis_cluster, scenario)


def test_a_pipeline_at_several_nodes_is_one_compiled_exchange(
    fresh_cluster: ClusterTopology,
) -> None:
    with client_of(OURS, fresh_cluster) as client:
        pipe = client.pipeline()
        at_all_nodes(pipe)
        reset_counts(fresh_cluster)
        with counted() as counts:
            pipe.execute()
        assert counts() == {"taken": 1}
        calls = calls_of(fresh_cluster, "set")
        assert sum(calls[name_of(node)][0] for node in fresh_cluster.masters) == 60


def test_a_pipeline_is_a_context_and_keeps_its_class(redis_cluster: ClusterTopology) -> None:
    with client_of(OURS, redis_cluster) as client, client.pipeline() as pipe:
        assert type(pipe) is cpool.cluster.ClusterPipeline
        assert isinstance(pipe, cpool.RedisCluster)
        assert pipe.set("a", 1) is pipe
        assert pipe.execute() == [True]


def test_commands_keep_their_order_per_key(redis_cluster: ClusterTopology) -> None:
    def scenario(client: Any) -> Any:
        pipe = client.pipeline()
        for i in range(50):
            for key in MANY_SLOTS:
                pipe.rpush(key, i)
        pipe.execute()
        return [client.lrange(key, 0, -1) for key in MANY_SLOTS]

    assert both(redis_cluster, scenario) == [[b"%d" % i for i in range(50)]] * len(MANY_SLOTS)


def test_callbacks_of_the_cluster_get_the_results(redis_cluster: ClusterTopology) -> None:
    def scenario(client: Any) -> list[Any]:
        client.set_response_callback("GET", lambda reply, **options: ("mine", reply, options))
        pipe = client.pipeline()
        pipe.set("a", 1).get("a").get("none")
        pipe.execute_command("GET", "a", option=1)
        return [outcome_of(pipe.execute), outcome_of(pipe.execute)]

    both(redis_cluster, scenario)


# -- transactions ------------------------------------------------------------------------


def test_watched_transactions_do_what_redis_pys_do(redis_cluster: ClusterTopology) -> None:
    def undisturbed(pipe: Any, client: Any) -> Any:
        pipe.watch(A)
        value = pipe.get(A)
        pipe.multi()
        pipe.set(A, 2).get(A)
        return value, pipe.execute()

    def disturbed(pipe: Any, client: Any) -> Any:
        pipe.watch(A)
        client.set(A, "other")
        pipe.multi()
        pipe.set(A, 2)
        return pipe.execute()

    def over_slots(pipe: Any, client: Any) -> Any:
        pipe.watch(A)
        pipe.multi()
        pipe.set("elsewhere", 1)
        return pipe.execute()

    def given_up(pipe: Any, client: Any) -> Any:
        pipe.watch(A)
        client.set(A, "other")
        pipe.unwatch()
        pipe.multi()
        pipe.get(A)
        return pipe.execute()

    def watched_over_slots(pipe: Any, client: Any) -> Any:
        pipe.watch("a", "b")

    def scenario(client: Any) -> list[Any]:
        client.set(A, 1)
        found: list[Any] = []
        for play in (undisturbed, disturbed, over_slots, given_up, watched_over_slots):
            with client.pipeline(transaction=True) as pipe:
                found.append(outcome_of(play, pipe, client))
        found.append(outcome_of(client.transaction, lambda pipe: pipe.get(A), A))
        return [*found, outcome_of(client.get, A)]

    assert any(WatchError in one for one in both(redis_cluster, scenario))


def test_a_command_that_is_refused_aborts_the_transaction(
    redis_cluster: ClusterTopology,
) -> None:
    def scenario(client: Any) -> list[Any]:
        pipe = client.pipeline(transaction=True)
        pipe.set(A, 1)
        pipe.execute_command("GET", A, "too", "many")
        found = [outcome_of(pipe.execute), outcome_of(client.get, A)]
        pipe.set(A, "text").incr(A).get(A)
        return [*found, outcome_of(pipe.execute, raise_on_error=False)]

    both(redis_cluster, scenario)


# -- at random ---------------------------------------------------------------------------


def random_command(chance: random.Random) -> tuple[Any, ...]:
    key = f"{chance.choice('abcdefgh')}{chance.randrange(3)}"
    tagged = f"{{{key}}}"
    return chance.choice(
        [
            ("SET", key, chance.randrange(100)),
            ("GET", key),
            ("INCR", key),
            ("LPUSH", tagged, 1),
            ("MGET", tagged, tagged + "x"),
            ("APPEND", key, "x" * chance.randrange(3000)),
            ("EVAL", "return ARGV[1]", 1, key, "v"),
            ("HGETALL", key),
            ("TYPE", key),
        ]
    )


@pytest.mark.parametrize("seed", range(5))
def test_random_pipelines_do_what_redis_pys_do(redis_cluster: ClusterTopology, seed: int) -> None:
    def scenario(client: Any) -> list[Any]:
        chance, found = random.Random(seed), []
        for _ in range(10):
            pipe = client.pipeline()
            for _ in range(chance.randrange(40)):
                pipe.execute_command(*random_command(chance))
            found.append(outcome_of(pipe.execute, raise_on_error=chance.random() < 0.5))
        return found

    both(redis_cluster, scenario)


# -- what is given back ------------------------------------------------------------------


def test_a_pipeline_for_which_a_pool_is_too_small_costs_no_connection(
    fresh_cluster: ClusterTopology,
) -> None:
    with client_of(OURS, fresh_cluster, max_connections=1, timeout=0) as client:
        pool = client.node_pools[client.get_node_from_key("a").name]
        held = pool.get_connection()
        with pytest.raises(RedisError, match="connections"):
            client.pipeline().set("a", 1).set("b", 1).execute()
        pool.release(held)
        assert client.pipeline().set("a", 1).set("b", 1).execute() == [True, True]
        assert_nothing_lent(client)


def test_too_many_targets_leave_nothing_sent(fresh_cluster: ClusterTopology) -> None:
    with client_of(OURS, fresh_cluster) as client:
        pipe = client.pipeline().set("a", 1)
        pipe.execute_command("FLUSHALL", target_nodes=client.get_primaries())
        with pytest.raises(RedisClusterException, match="Too many targets"):
            pipe.execute()
        assert client.get("a") is None
        assert_nothing_lent(client)
