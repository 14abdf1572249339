"""redis-py's clients on our connections: commands, pipelines, transactions, locks, monitors.

Every test runs with redis-py's pool as well, under both protocols, with replies decoded and
not, so that what is expected here is what redis-py gives.
"""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import redis
from redis.exceptions import (
    ConnectionError,
    ExecAbortError,
    LockError,
    ResponseError,
    WatchError,
)

import cpool
from cpool.tools.servers import EmbeddedServer
from tests.connection.conftest import N_THREADS
from tests.support.servers import flush
from tests.wire.peer import Task


def check_returned(client: redis.Redis) -> None:
    """Nothing is lent, and what is idle is usable."""
    pool = client.connection_pool
    assert len(pool._in_use_connections) == 0
    assert client.ping()


# Commands


def replies_of_all_types(client: redis.Redis) -> list[Any]:
    """Ask for integers, strings, lists, maps, sets, doubles, nulls, nested ones, statuses."""
    return [
        client.set("key", "value"),
        client.get("key"),
        client.get("none"),
        client.incr("n"),
        client.incrbyfloat("f", 1.5),
        client.rpush("list", 1, 2),
        client.lrange("list", 0, -1),
        client.lpos("list", 2, count=0),
        client.hset("hash", mapping={"a": 1}),
        client.hgetall("hash"),
        client.sadd("set", "a"),
        client.smembers("set"),
        client.zadd("zset", {"a": 1.5, "b": float("inf")}),
        client.zrange("zset", 0, -1, withscores=True),
        client.zscore("zset", "b"),
        client.exists("key"),
        client.expire("key", 100),
        client.type("key"),
        client.config_get("port"),
        client.xadd("stream", {"field": "value"}, id="1-1"),
        client.xrange("stream"),
        client.xread({"stream": "0"}),
        client.geoadd("geo", (1.0, 2.0, "place")),
        client.geopos("geo", "place"),
        client.eval("return {1, 'a', {2, {3}}, redis.status_reply('fine')}", 0),
        client.command_getkeys("MSET", "a", 1, "b", 2),
        client.info("server")["tcp_port"],
        client.time()[0] > 0,
    ]


def test_replies_of_all_types_are_redis_pys(
    client: redis.Redis, redis_server: EmbeddedServer
) -> None:
    """Which differ between the protocols, and between versions of redis-py."""
    ours = replies_of_all_types(client)
    flush(redis_server)
    options = client.connection_pool.connection_kwargs
    names = ("host", "port", "protocol", "decode_responses")
    with redis.Redis(**{name: options[name] for name in names}) as other:
        assert ours == replies_of_all_types(other)
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        client.lpop("key")
    check_returned(client)


def test_dump_is_never_decoded(client: redis.Redis) -> None:
    client.set("key", "value")
    dumped = client.dump("key")
    assert isinstance(dumped, bytes)
    client.restore("copy", 0, dumped)
    assert client.get("copy") == client.get("key")


def test_scans_and_scripts_work(client: redis.Redis, text: Any) -> None:
    client.mset({f"key:{i}": i for i in range(50)})
    assert sorted(client.scan_iter("key:*")) == sorted(text(f"key:{i}") for i in range(50))
    double = client.register_script("return 2 * redis.call('GET', KEYS[1])")
    assert double(keys=["key:21"]) == 42
    client.script_flush()
    assert double(keys=["key:4"]) == 8


# Pipelines and transactions


@pytest.mark.parametrize("transaction", [False, True])
def test_a_pipeline_gives_its_replies_in_order(
    client: redis.Redis, text: Any, transaction: bool
) -> None:
    with client.pipeline(transaction=transaction) as pipeline:
        for i in range(200):
            pipeline.set(f"key:{i}", i).get(f"key:{i}").incr("n")
        replies = pipeline.execute()
    assert replies == [r for i in range(200) for r in (True, text(str(i)), i + 1)]
    check_returned(client)


@pytest.mark.parametrize("transaction", [False, True])
def test_an_error_in_a_pipeline_names_its_command(
    client: redis.Redis, text: Any, transaction: bool
) -> None:
    client.set("key", "value")
    pipeline = client.pipeline(transaction=transaction)
    pipeline.get("key").lpop("key").get("key")
    with pytest.raises(ResponseError, match=r"Command # 2 \(LPOP key\) of pipeline"):
        pipeline.execute()
    pipeline.get("key").lpop("key").get("key")
    first, second, third = pipeline.execute(raise_on_error=False)
    assert (first, third) == (text("value"), text("value"))
    assert isinstance(second, ResponseError)
    check_returned(client)


def test_a_transaction_with_a_bad_command_is_aborted(client: redis.Redis) -> None:
    pipeline = client.pipeline()
    pipeline.set("key", 1).execute_command("NO-SUCH-COMMAND")
    with pytest.raises((ExecAbortError, ResponseError), match="unknown command"):
        pipeline.execute()
    assert client.get("key") is None
    check_returned(client)


def test_a_watched_key_that_changed_aborts_the_transaction(client: redis.Redis, text: Any) -> None:
    client.set("key", 1)
    with client.pipeline() as pipeline:
        pipeline.watch("key")
        assert pipeline.get("key") == text("1")
        client.set("key", 2)
        pipeline.multi()
        pipeline.set("key", 3)
        with pytest.raises(WatchError):
            pipeline.execute()
    assert client.get("key") == text("2")
    check_returned(client)


def test_a_watch_that_is_left_does_not_abort_the_next_borrower(client: redis.Redis) -> None:
    with client.pipeline() as pipeline:
        pipeline.watch("key")
    client.set("key", 1)
    assert client.pipeline().set("key", 2).get("key").execute()[0] is True
    check_returned(client)


def test_a_transaction_function_is_repeated_until_it_holds(client: redis.Redis) -> None:
    client.set("n", 0)

    def add_one(pipeline: Any) -> None:
        value = int(pipeline.get("n"))
        pipeline.multi()
        pipeline.set("n", value + 1)

    def work() -> None:
        for _ in range(10):
            client.transaction(add_one, "n")

    for task in [Task(work) for _ in range(N_THREADS)]:
        task.result()
    assert int(client.get("n")) == 10 * N_THREADS
    check_returned(client)


def test_a_pipeline_in_which_the_connection_ends_is_tried_again(client: redis.Redis) -> None:
    client.set_retry(redis.retry.Retry(redis.backoff.NoBackoff(), 1))
    conn = client.connection_pool.get_connection()
    client.connection_pool.release(conn)
    conn._sock.shutdown(2)
    assert client.pipeline(transaction=False).set("key", 1).execute() == [True]
    check_returned(client)


# One connection


def test_a_single_connection_client_keeps_its_connection(client: redis.Redis, text: Any) -> None:
    with client.client() as single:
        name = single.client_id()
        assert single.client_id() == name
        single.set("key", "value")
        assert single.pipeline().get("key").execute() == [text("value")]
        assert single.client_id() == name
    check_returned(client)


def test_a_single_connection_client_may_be_shared_by_threads(
    client: redis.Redis, text: Any
) -> None:
    with client.client() as single:

        def work(number: int) -> bool:
            return all(single.echo(f"{number}:{i}") == text(f"{number}:{i}") for i in range(100))

        tasks = [Task(work, number) for number in range(N_THREADS)]
        assert all(task.result() for task in tasks)


def test_a_single_connection_client_connects_again(client: redis.Redis) -> None:
    with client.client() as single:
        single.set_retry(redis.retry.Retry(redis.backoff.NoBackoff(), 1))
        before = single.client_id()
        client.client_kill_filter(_id=str(before), skipme=False)
        assert single.client_id() != before


# Monitors and locks


def test_a_monitor_sees_what_others_do(client: redis.Redis) -> None:
    with client.monitor() as monitor:
        client.set("key", "a b")
        seen = monitor.next_command()
        while seen["command"] != "SET key a b":
            seen = monitor.next_command()
        assert seen["client_type"] == "tcp"
    check_returned(client)


def test_a_lock_is_held_by_one(client: redis.Redis) -> None:
    inside, most = 0, 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most
        for _ in range(5):
            with client.lock("lock", timeout=20, sleep=0.001):
                with guard:
                    inside += 1
                    most = max(most, inside)
                with guard:
                    inside -= 1

    for task in [Task(work) for _ in range(N_THREADS // 2)]:
        task.result()
    assert most == 1
    check_returned(client)


def test_a_lock_knows_its_owner(client: redis.Redis) -> None:
    lock = client.lock("lock", timeout=20)
    assert lock.acquire(blocking=False)
    assert lock.owned()
    assert not client.lock("lock").acquire(blocking=False)
    assert lock.extend(10)
    lock.release()
    with pytest.raises(LockError):
        lock.release()


# Many threads, one client


def test_threads_that_share_a_client_get_their_own_replies(client: redis.Redis, text: Any) -> None:
    def work(number: int) -> int:
        right = 0
        for i in range(60):
            value = f"{number}:{i}" * (1 + 3000 * (i % 9 == 0))
            client.set(f"key:{number}", value)
            right += client.get(f"key:{number}") == text(value)
        return right

    tasks = [Task(work, number) for number in range(N_THREADS)]
    assert sum(task.result() for task in tasks) == 60 * N_THREADS
    check_returned(client)


@pytest.mark.parametrize("library", [cpool], indirect=True, ids=["cpool"])
def test_a_pool_that_is_disconnected_meanwhile_breaks_no_reply(
    client: redis.Redis, text: Any
) -> None:
    """redis-py may then wait for a reply on a connection that somebody has closed."""
    client.set_retry(redis.retry.Retry(redis.backoff.NoBackoff(), 0))
    over = threading.Event()

    def work(number: int) -> tuple[int, int]:
        right = failed = i = 0
        while not over.is_set() or i < 20:
            i += 1
            try:
                assert client.echo(f"{number}:{i}") == text(f"{number}:{i}")
                right += 1
            except ConnectionError:
                failed += 1
        return right, failed

    tasks = [Task(work, number) for number in range(4)]
    for _ in range(30):
        client.connection_pool.disconnect()
    over.set()
    assert all(task.result()[0] > 0 for task in tasks)
    check_returned(client)


def test_a_client_can_be_copied(client: redis.Redis, text: Any) -> None:
    ours = cpool.Redis(connection_pool=client.connection_pool)
    ours.set("key", "value")
    assert copy.copy(ours).get("key") == text("value")
