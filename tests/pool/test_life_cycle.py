"""The life of a pool: resize, drain, close with patience, the end of a process."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import warnings
from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError, MaxConnectionsError

import cpool
from tests.pool.conftest import MakePool
from tests.pool.support import (
    PATIENCE_S,
    StubConnection,
    Task,
    all_lent,
    assert_whole,
    is_answering,
    run_in_child,
    wait_for,
)

each_pool = pytest.mark.parametrize(
    "pool_class", [cpool.ConnectionPool, cpool.BlockingConnectionPool]
)


def waits_in(pool: Any, n: int = 1) -> list[Task]:
    """Let callers wait for a connection."""
    before = pool.stats().waiting
    tasks = [Task(pool.get_connection) for _ in range(n)]
    wait_for(lambda: pool.stats().waiting == before + n)
    return tasks


# -- resize -------------------------------------------------------------------------------


@each_pool
def test_who_waits_may_dial_at_once_when_the_limit_is_raised(
    make_pool: MakePool, pool_class: Any
) -> None:
    pool = make_pool(pool_class, max_connections=1, timeout=PATIENCE_S)
    held = pool.get_connection()
    tasks = waits_in(pool, 2)
    pool.resize(3)
    lent = [held, *(task.result() for task in tasks)]
    assert pool.stats().in_use == 3
    for connection in lent:
        pool.release(connection)
    assert_whole(pool, 3)


@each_pool
def test_idle_connections_beyond_a_lower_limit_are_closed_at_once(
    make_pool: MakePool, pool_class: Any
) -> None:
    pool = make_pool(pool_class, max_connections=5)
    with all_lent(pool, 5) as lent:
        pass
    pool.resize(2)
    assert pool.stats().open == 2
    assert sum(connection._sock is not None for connection in lent) == 2
    assert lent[-1]._sock is not None  # those used last stay
    assert_whole(pool, 2)
    with all_lent(pool, 2):
        pool.timeout = 0
        with pytest.raises(MaxConnectionsError):
            pool.get_connection()


@each_pool
def test_connections_in_use_beyond_a_lower_limit_are_closed_when_they_come_back(
    make_pool: MakePool, pool_class: Any
) -> None:
    pool = make_pool(pool_class, max_connections=4)
    with all_lent(pool, 4) as lent:
        pool.resize(1)
        assert all(is_answering(connection) for connection in lent)
    assert pool.stats().open == 1
    assert [connection._sock is None for connection in lent] == [True, True, True, False]
    assert_whole(pool, 1)
    pool.resize(4)
    assert_whole(pool, 4)


def test_a_client_may_go_on_while_its_pool_shrinks(make_pool: MakePool) -> None:
    pool = make_pool(cpool.ConnectionPool, max_connections=8, timeout=PATIENCE_S)
    client = cpool.Redis(connection_pool=pool)
    over = threading.Event()

    def work() -> int:
        n = 0
        while not over.is_set():
            n += client.echo(f"{n}") == b"%d" % n
        return n

    tasks = [Task(work) for _ in range(8)]
    for limit in (1, 6, 2, 8, 1, 3):
        pool.resize(limit)
        checkouts = pool.stats().checkouts
        wait_for(lambda checkouts=checkouts: pool.stats().checkouts > checkouts + 50)
        assert pool.stats().max_connections == limit
    wait_for(lambda: pool.stats().open <= 3)
    over.set()
    assert all(task.result() > 0 for task in tasks)
    assert_whole(pool, 3)


@pytest.mark.parametrize("limit", [0, -1, "2", 1.5, 2])
def test_a_limit_that_is_not_allowed_is_refused(limit: Any) -> None:
    pool = cpool.ConnectionPool(max_connections=5, min_idle=3)
    try:
        with pytest.raises(ValueError, match="max_connections"):
            pool.resize(limit)
        assert pool.max_connections == 5
    finally:
        pool.close(timeout=0)


# -- close --------------------------------------------------------------------------------


@each_pool
def test_without_a_timeout_the_pool_stays_usable(make_pool: MakePool, pool_class: Any) -> None:
    pool = make_pool(pool_class, max_connections=2)
    with all_lent(pool, 1) as (lent,):
        assert not pool.close()
        assert lent._sock is None
    assert pool.close()
    assert is_answering(pool.get_connection())


@each_pool
def test_with_a_timeout_borrowers_are_waited_for(make_pool: MakePool, pool_class: Any) -> None:
    pool = make_pool(pool_class, max_connections=3)
    held = pool.get_connection()
    idle = pool.get_connection()
    pool.release(idle)
    closer = Task(pool.close, PATIENCE_S)
    wait_for(lambda: pool.is_closed and idle._sock is None)
    assert is_answering(held)
    assert not closer.is_over()
    pool.release(held)
    assert closer.result() is True
    assert held._sock is None
    assert pool.stats().open == 0


def test_one_that_is_waited_for_may_vanish(make_pool: MakePool) -> None:
    pool = make_pool(cpool.ConnectionPool)
    held = [pool.get_connection()]
    closer = Task(pool.close, PATIENCE_S)
    wait_for(lambda: pool.is_closed)
    held.clear()
    gc.collect()
    assert closer.result() is True


@each_pool
@pytest.mark.parametrize("timeout", [0, 0.01])
def test_who_is_not_back_in_time_is_cut(
    make_pool: MakePool, pool_class: Any, timeout: float
) -> None:
    pool = make_pool(pool_class)
    held = pool.get_connection()
    assert pool.close(timeout=timeout) is False
    assert held._sock is None
    pool.release(held)
    assert pool.stats().open == 0


def test_who_is_cut_can_not_dial_again(make_pool: MakePool) -> None:
    pool = make_pool(cpool.ConnectionPool, name="orders")
    held = pool.get_connection()
    assert not pool.close(timeout=0)
    with pytest.raises(cpool.PoolClosedError, match="orders"):
        held.send_command("PING")
    pool.release(held)


@each_pool
def test_a_closed_pool_lends_nothing_any_more(make_pool: MakePool, pool_class: Any) -> None:
    pool = make_pool(pool_class, name="orders")
    assert pool.close(timeout=1)
    for call in (pool.get_connection, pool.make_connection):
        with pytest.raises(cpool.PoolClosedError, match="^Pool orders is closed$"):
            call()
    for client_class in (cpool.Redis, redis.Redis):
        with pytest.raises(ConnectionError, match="is closed"):
            client_class(connection_pool=pool).ping()
    assert pool.stats().open == 0
    pool.reset()
    with pytest.raises(cpool.PoolClosedError):
        pool.get_connection()
    assert pool.close(timeout=None)  # again


@each_pool
def test_who_waits_is_told_that_the_pool_is_closed(make_pool: MakePool, pool_class: Any) -> None:
    pool = make_pool(pool_class, max_connections=1, timeout=PATIENCE_S)
    held = pool.get_connection()
    tasks = waits_in(pool, 3)
    closer = Task(pool.close, PATIENCE_S)
    for task in tasks:
        with pytest.raises(cpool.PoolClosedError):
            task.result()
    pool.release(held)
    assert closer.result() is True


def test_a_closed_pool_is_closed_in_a_child(make_pool: MakePool) -> None:
    pool = make_pool(cpool.ConnectionPool)
    pool.close(timeout=1)

    def child() -> str:
        try:
            pool.get_connection()
        except cpool.PoolClosedError as error:
            return type(error).__name__
        return "lent"

    assert run_in_child(child) == "PoolClosedError"


@pytest.mark.parametrize("timeout", [-1, "1", True])
def test_a_timeout_that_is_not_allowed_closes_nothing(make_pool: MakePool, timeout: Any) -> None:
    pool = make_pool(cpool.ConnectionPool)
    with pytest.raises(ValueError, match='"timeout" must be'):
        pool.close(timeout=timeout)
    assert is_answering(pool.get_connection())


def test_an_interrupted_close_leaves_the_pool_closed(make_pool: MakePool) -> None:
    pool = make_pool(cpool.ConnectionPool)
    held = pool.get_connection()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "_wait_empty", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pool.close(timeout=1)
    assert pool.is_closed
    pool.release(held)
    assert held._sock is None
    assert pool.stats().open == 0


def test_a_reset_ends_a_close_that_waits(make_pool: MakePool) -> None:
    pool = make_pool(cpool.ConnectionPool)
    held = pool.get_connection()
    closer = Task(pool.close, None)
    wait_for(lambda: pool.is_closed)
    pool.reset()
    assert closer.result() is True  # what was forgotten is nobody's
    pool.release(held)
    assert pool.stats().open == 0
    held.disconnect()


def test_a_close_waits_no_longer_than_a_deadline(make_pool: MakePool) -> None:
    pool = make_pool(cpool.ConnectionPool)
    held = pool.get_connection()
    with cpool.deadline(0.02):
        assert pool.close(timeout=None) is False
    assert held._sock is None
    pool.release(held)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_no_slot_is_lost_where_a_class_of_somebodys_own_can_not_be_closed(error: Any) -> None:
    class Stubborn(StubConnection):
        def disconnect(self) -> None:
            raise error

    pool = cpool.ConnectionPool(Stubborn, max_connections=3)
    with all_lent(pool, 3):
        pass
    with pytest.raises(error):
        pool.drain()
    assert (pool.stats().in_use, pool.stats().open) == (0, 0)
    with all_lent(pool, 3):
        pass


# -- The end ------------------------------------------------------------------------------

AT_EXIT = """
import sys, threading
import cpool
pool = cpool.ConnectionPool(port={port}, min_idle=2, max_idle_time=30, max_lifetime=60)
client = cpool.Redis(connection_pool=pool)
assert client.ping()
held = pool.get_connection()
pipe = client.pipeline().get("a")
pubsub = client.pubsub()
pubsub.subscribe("news")
{besides}
print("end", flush=True)
"""
BESIDES = {
    "nothing": "",
    "threads that work": (
        "[threading.Thread(target=lambda: [client.ping() for _ in iter(int, 1)],"
        " daemon=True).start() for _ in range(4)]"
    ),
    "a thread that waits": "threading.Thread(target=pubsub.get_message, args=(True, None),"
    " daemon=True).start()",
    "cycles": "client.self, pool.client, pipe.self = client, client, pipe; del client, pipe",
    "an exit": "sys.exit(0)",
}


@pytest.mark.parametrize("besides", BESIDES)
def test_an_interpreter_ends_in_peace(redis_server: Any, besides: str) -> None:
    program = AT_EXIT.format(port=redis_server.port, besides=BESIDES[besides])
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S * 2,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_dropped_anywhere_is_collected_in_any_thread(make_pool: MakePool) -> None:
    """Clients, pipelines, pub/sub and borrowed connections, in cycles, collected by whichever
    thread allocates next."""
    pool = make_pool(cpool.ConnectionPool, max_connections=16, timeout=PATIENCE_S)
    over = threading.Event()

    def litter() -> int:
        n = 0
        while not over.is_set():
            client: Any = cpool.Redis(connection_pool=pool)
            pipe: Any = client.pipeline().get("k")
            pubsub: Any = client.pubsub()
            pubsub.subscribe("news")
            lent: Any = pool.get_connection()
            for thing in (client, pipe, pubsub, lent):
                thing.cycle = [client, pipe, pubsub, lent]
            n += client.ping()
            del client, pipe, pubsub, lent, thing
        return n

    def collect() -> int:
        n = 1
        while not over.is_set():
            n += gc.collect()
        return n

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        tasks = [Task(collect), *(Task(litter) for _ in range(4))]
        wait_for(lambda: pool.stats().reclaimed > 60)
        over.set()
        assert all(task.result() for task in tasks)
        gc.collect()
    wait_for(lambda: pool.stats().in_use == 0)
    assert_whole(pool, 16)
