"""Fork: the child begins with no connections and fresh locks, the parent notices nothing."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

import cpool
from tests.pool.conftest import MakePool
from tests.pool.support import (
    PATIENCE_S,
    REDIS_PY,
    Implementation,
    StubConnection,
    Task,
    all_lent,
    assert_whole,
    is_answering,
    run_in_child,
    wait_for,
)
from tests.support.faultproxy import FaultProxy

POOLS = [cpool.ConnectionPool, cpool.BlockingConnectionPool]
ORDERS = ["lifo", "fifo"]


@pytest.fixture(params=POOLS, ids=lambda cls: cls.__name__)
def our_pool(request: pytest.FixtureRequest, make_pool: MakePool) -> Callable[..., Any]:
    """Give a function that makes a pool of each of our classes."""
    return lambda **kwargs: make_pool(request.param, **{"timeout": PATIENCE_S, **kwargs})


def ping(pool: Any) -> bool:
    """Send a command through a client of its own."""
    return bool(redis.Redis(connection_pool=pool).ping())


# -- On both implementations -----------------------------------------------------------------


def test_a_child_uses_connections_of_its_own(pool_class: Any, make_pool: MakePool) -> None:
    pool = make_pool(pool_class)
    connection = pool.get_connection()
    address = connection._sock.getsockname()
    pool.release(connection)

    def in_child() -> Any:
        fresh = pool.get_connection()
        assert is_answering(fresh)
        return fresh is connection, fresh._sock.getsockname(), pool.pid == os.getpid()

    same, child_address, knows_its_process = run_in_child(in_child)
    assert not same and knows_its_process
    assert child_address != address
    assert pool.get_connection() is connection
    assert connection._sock.getsockname() == address
    assert is_answering(connection)


def test_a_child_that_closes_everything_spares_the_parents_sockets(
    pool_class: Any, make_pool: MakePool
) -> None:
    pool = make_pool(pool_class)
    idle, lent = pool.get_connection(), pool.get_connection()
    pool.release(idle)
    addresses = [c._sock.getsockname() for c in (idle, lent)]

    def in_child() -> None:
        lent.disconnect()
        idle.disconnect()
        pool.disconnect()
        pool.close()

    run_in_child(in_child)
    assert [c._sock.getsockname() for c in (idle, lent)] == addresses
    assert is_answering(idle) and is_answering(lent)


def test_a_child_may_return_what_the_parent_has_lent(
    impl: Implementation, make_pool: MakePool
) -> None:
    pool = make_pool(impl.ConnectionPool, max_connections=1)
    connection = pool.get_connection()

    def in_child() -> bool:
        pool.release(connection)
        return pool.get_connection() is not connection and ping(make_pool(impl.ConnectionPool))

    assert run_in_child(in_child)
    assert is_answering(connection)
    pool.release(connection)
    assert pool.get_connection() is connection


def test_a_process_of_multiprocessing_works(pool_class: Any, make_pool: MakePool) -> None:
    pool = make_pool(pool_class)
    connection = pool.get_connection()
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)

    def work() -> None:
        writer.send([ping(pool) for _ in range(3)])

    process = context.Process(target=work)
    process.start()
    assert reader.poll(PATIENCE_S)
    assert reader.recv() == [True, True, True]
    process.join(PATIENCE_S)
    assert process.exitcode == 0
    assert is_answering(connection)


def test_a_child_of_a_child_works(pool_class: Any, make_pool: MakePool) -> None:
    pool = make_pool(pool_class)
    assert ping(pool)

    def in_child() -> bool:
        assert ping(pool)
        return bool(run_in_child(lambda: ping(pool)))

    assert run_in_child(in_child)
    assert ping(pool)


# -- On ours ------------------------------------------------------------------------------


def test_a_child_begins_with_no_connections_and_no_history(our_pool: Any) -> None:
    pool = our_pool(max_connections=3)
    with all_lent(pool, 2):
        ping(pool)
        stats = run_in_child(pool.stats)
        before = pool.stats()
    assert (stats.open, stats.idle, stats.in_use, stats.opening, stats.waiting) == (0,) * 5
    assert (stats.checkouts, stats.created) == (0, 0)
    assert stats.max_connections == 3
    assert (before.idle, before.in_use, before.created) == (1, 2, 3)


@pytest.mark.parametrize("order", ORDERS)
def test_a_child_can_lend_as_many_as_the_parent(our_pool: Any, order: str) -> None:
    pool = our_pool(max_connections=3, order=order)
    with all_lent(pool, 3):
        run_in_child(lambda: assert_whole(pool, 3))
    assert_whole(pool, 3)


def test_connections_collected_in_a_child_spare_the_parents_sockets(our_pool: Any) -> None:
    pool = our_pool(max_connections=2)
    idle, lent = pool.get_connection(), pool.get_connection()
    pool.release(idle)
    pools = [pool]
    connections = [idle, lent]
    del idle, lent

    def in_child() -> None:
        connections.clear()
        pools.clear()
        gc.collect()

    run_in_child(in_child)
    assert all(is_answering(connection) for connection in connections)


def test_a_child_that_ends_normally_spares_the_parents_sockets(redis_server: Any) -> None:
    """It runs every finaliser of the interpreter on its way out."""
    script = f"""
        import os, sys, cpool
        pool = cpool.ConnectionPool(port={redis_server.port}, protocol=2)
        idle, lent = pool.get_connection(), pool.get_connection()
        pool.release(idle)
        if os.fork() == 0:
            sys.exit(0)
        os.wait()
        for connection in (idle, lent):
            connection.send_command("PING")
            print(connection.read_response().decode())
        print(pool.stats().replaced)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    root = Path(cpool.__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=root)
    assert (done.stdout.split(), done.stderr) == (["PONG", "PONG", "0"], "")


def test_a_fork_by_another_thread_is_noticed(our_pool: Any) -> None:
    pool = our_pool()
    connection = pool.get_connection()
    assert Task(run_in_child, lambda: ping(pool)).result()
    assert is_answering(connection)


def test_a_fork_that_python_does_not_see_is_noticed(our_pool: Any) -> None:
    """C code may call fork() itself; no handler of os.register_at_fork() runs then."""
    pool = our_pool(max_connections=2)
    idle, lent = pool.get_connection(), pool.get_connection()
    pool.release(idle)
    addresses = [connection._sock.getsockname() for connection in (idle, lent)]

    def in_child() -> bool:
        fresh = pool.get_connection()
        assert fresh._sock.getsockname() not in addresses
        return is_answering(fresh)

    assert run_in_child(in_child, make_child=ctypes.PyDLL(None).fork)
    assert is_answering(lent)
    assert pool.get_connection() is idle
    assert is_answering(idle)


@pytest.mark.parametrize("lock", ["_lock", "_fork_lock"])
def test_a_lock_somebody_holds_does_not_stop_the_child(our_pool: Any, lock: str) -> None:
    pool = our_pool()
    ping(pool)
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with getattr(pool, lock):
            held.set()
            assert let_go.wait(PATIENCE_S)

    holder = Task(hold)
    assert held.wait(PATIENCE_S)

    def in_child() -> bool:
        pool.disconnect()
        pool.disconnect(inuse_connections=False)
        with pool._lock, pool._fork_lock:
            return ping(pool)

    assert run_in_child(in_child)
    let_go.set()
    holder.result()
    assert ping(pool)


@pytest.mark.parametrize("order", ORDERS)
def test_a_waiting_thread_is_left_behind_in_the_parent(our_pool: Any, order: str) -> None:
    pool = our_pool(max_connections=1, order=order)
    connection = pool.get_connection()
    waiter = Task(pool.get_connection)
    wait_for(lambda: pool.stats().waiting, "the waiter")

    def in_child() -> int:
        assert ping(pool)
        assert_whole(pool, 1)
        return int(pool.stats().waiting)

    assert run_in_child(in_child) == 0
    assert pool.stats().waiting == 1
    pool.release(connection)
    assert waiter.result() is connection


def test_a_dialling_thread_is_left_behind_in_the_parent(
    make_pool: MakePool, redis_server: Any
) -> None:
    with FaultProxy((redis_server.host, redis_server.port)) as proxy:
        pool = make_pool(cpool.ConnectionPool, port=proxy.port, max_connections=1)
        proxy.replies.stall()
        dialling = Task(pool.get_connection)
        proxy.replies.wait_held()
        assert pool.stats().opening == 1

        def in_child() -> bool:
            assert pool.stats().opening == 0
            pool.connection_kwargs["port"] = redis_server.port
            return ping(pool)

        assert run_in_child(in_child)
        proxy.replies.release()
        assert is_answering(dialling.result())


def test_a_thread_in_the_middle_of_a_command_is_left_behind_in_the_parent(
    our_pool: Any, fresh_db: Any
) -> None:
    pool = our_pool(max_connections=2)
    client = redis.Redis(connection_pool=pool)
    blocked = Task(client.blpop, ["queue"], PATIENCE_S)
    with redis.Redis(port=fresh_db.port) as other:
        wait_for(lambda: other.info("clients")["blocked_clients"], "the blocking command")

        def in_child() -> bool:
            pool.disconnect()
            return ping(pool)

        assert run_in_child(in_child)
        other.rpush("queue", "value")
    assert blocked.result() == (b"queue", b"value")


class SlowDisconnect(StubConnection):
    """Stays in disconnect() until told otherwise."""

    entered = threading.Event()
    go_on = threading.Event()

    def disconnect(self) -> None:
        self.entered.set()
        assert self.go_on.wait(PATIENCE_S)
        super().disconnect()


@pytest.fixture
def slow_disconnect() -> Iterator[Any]:
    """Give the class, afresh."""
    SlowDisconnect.entered.clear()
    SlowDisconnect.go_on.clear()
    yield SlowDisconnect
    SlowDisconnect.go_on.set()


def test_a_thread_that_closes_idle_connections_is_left_behind_in_the_parent(
    slow_disconnect: Any,
) -> None:
    pool = cpool.ConnectionPool(slow_disconnect, max_connections=1)
    connection = pool.get_connection()
    pool.release(connection)
    closing = Task(pool.disconnect)
    assert slow_disconnect.entered.wait(PATIENCE_S)
    run_in_child(lambda: assert_whole(pool, 1))
    slow_disconnect.go_on.set()
    closing.result()
    assert pool.get_connection() is connection


def test_forks_in_the_middle_of_traffic_mix_no_replies(our_pool: Any) -> None:
    pool = our_pool(max_connections=3)
    stop = threading.Event()

    def work() -> int:
        client = redis.Redis(connection_pool=pool)
        n = 0
        while not stop.is_set():
            n += 1
            word = f"{threading.get_ident()}-{n}".encode()
            assert client.echo(word) == word
        return n

    workers = [Task(work) for _ in range(4)]
    try:
        for _ in range(12):
            run_in_child(lambda: [ping(pool) for _ in range(3)])
    finally:
        stop.set()
        lengths = [worker.result() for worker in workers]
    assert all(lengths)
    assert pool.stats().replaced == 0
    assert pool.stats().in_use == 0


def test_a_pool_is_noticed_after_a_fork_even_if_nobody_calls_it_in_the_child(
    our_pool: Any,
) -> None:
    """The locks are renewed as the child is born, before other threads can exist in it."""
    pool = our_pool()
    ping(pool)
    before = id(pool._lock)
    assert run_in_child(lambda: (id(pool._lock) != before, pool.pid == os.getpid())) == (
        True,
        True,
    )
    assert id(pool._lock) == before


def test_many_pools_and_dead_ones_survive_a_fork() -> None:
    alive = [cpool.ConnectionPool(StubConnection) for _ in range(30)]
    for _ in range(30):
        cpool.ConnectionPool(StubConnection)
    assert run_in_child(lambda: sum(pool.pid == os.getpid() for pool in alive)) == 30


def test_redis_pys_pools_are_left_alone(make_pool: MakePool) -> None:
    pool = make_pool(REDIS_PY.ConnectionPool)
    before = pool._lock
    assert run_in_child(lambda: pool._lock is before)
