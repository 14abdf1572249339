"""Waiting for a connection: who is served, when, and what an interrupted wait leaves behind."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
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
    wait_for,
    wait_older_than,
)

POOLS = [cpool.ConnectionPool, cpool.BlockingConnectionPool]
ORDERS = ["lifo", "fifo"]
NEWCOMERS_PASS_FOR_S = 0.005
MakeWaitingPool = Callable[..., Any]


@pytest.fixture(params=POOLS, ids=lambda cls: cls.__name__)
def waiting_pool(request: pytest.FixtureRequest, make_pool: MakePool) -> MakeWaitingPool:
    """Give a function that makes a pool whose callers wait, of each class."""

    def make(max_connections: int = 1, timeout: float | None = PATIENCE_S, **kwargs: Any) -> Any:
        kwargs.setdefault("protocol", 2)  # no reference cycles: what vanishes does so at once
        return make_pool(request.param, max_connections=max_connections, timeout=timeout, **kwargs)

    return make


def start_waiting(pool: Any, n: int = 1) -> list[Task]:
    """Start callers one after another, each of them surely in the queue before the next."""
    tasks = []
    for _ in range(n):
        before = pool.stats().waiting
        tasks.append(Task(pool.get_connection))
        wait_for(lambda before=before: pool.stats().waiting == before + 1, "a waiter")
    return tasks


@contextlib.contextmanager
def often_switched() -> Iterator[None]:
    """Let threads take turns many times more often than usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


# -- The time is over -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pool_class", "begins"),
    [
        (cpool.ConnectionPool, "Too many connections"),
        (cpool.BlockingConnectionPool, "No connection available."),
    ],
)
def test_past_the_timeout_the_error_says_what_the_pool_is_doing(
    pool_class: Any, begins: str, make_pool: MakePool
) -> None:
    pool = make_pool(pool_class, max_connections=2, timeout=0.01)
    with all_lent(pool, 2), pytest.raises(MaxConnectionsError) as caught:
        pool.get_connection()
    assert type(caught.value) is cpool.ConnectionPoolTimeoutError
    assert str(caught.value).startswith(begins)
    assert "0.01 s" in str(caught.value)
    assert "2 of 2 connections in use" in str(caught.value)


def test_the_timeout_error_is_what_callers_of_redis_py_catch() -> None:
    assert issubclass(cpool.ConnectionPoolTimeoutError, MaxConnectionsError)
    assert issubclass(cpool.ConnectionPoolTimeoutError, ConnectionError)


@pytest.mark.parametrize("pool_class", POOLS)
def test_without_a_timeout_nobody_waits(pool_class: Any, make_pool: MakePool) -> None:
    pool = make_pool(pool_class, max_connections=1, timeout=0)
    with all_lent(pool, 1), pytest.raises(MaxConnectionsError) as caught:
        pool.get_connection()
    assert type(caught.value) is MaxConnectionsError
    assert pool.stats().waits == 0


def test_a_wait_in_vain_changes_nothing(waiting_pool: MakeWaitingPool) -> None:
    pool = waiting_pool(timeout=0.01)
    with all_lent(pool, 1):
        for _ in range(3):
            with pytest.raises(cpool.ConnectionPoolTimeoutError):
                pool.get_connection()
    assert pool.stats().timeouts == 3
    assert_whole(pool, 1)


def test_a_caller_too_many_is_refused_at_once(waiting_pool: MakeWaitingPool) -> None:
    pool = waiting_pool(max_waiting=2)
    with all_lent(pool, 1) as (connection,):
        waiters = start_waiting(pool, 2)
        with pytest.raises(MaxConnectionsError, match="2 callers wait already") as caught:
            pool.get_connection()
        assert not isinstance(caught.value, cpool.ConnectionPoolTimeoutError)
        assert (pool.stats().refused, pool.stats().waiting) == (1, 2)
        pool.release(connection)
        for waiter in waiters:
            pool.release(waiter.result())
    assert_whole(pool, 1)


def test_with_no_waiting_allowed_nobody_waits(waiting_pool: MakeWaitingPool) -> None:
    pool = waiting_pool(max_waiting=0)
    with all_lent(pool, 1), pytest.raises(MaxConnectionsError):
        pool.get_connection()


# -- A waiter is served ----------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [None, PATIENCE_S])
@pytest.mark.parametrize("order", ORDERS)
def test_a_release_by_another_thread_wakes_a_waiter(
    waiting_pool: MakeWaitingPool, order: str, timeout: float | None
) -> None:
    pool = waiting_pool(order=order, timeout=timeout)
    connection = pool.get_connection()
    (waiter,) = start_waiting(pool)
    pool.release(connection)
    assert waiter.result() is connection
    assert is_answering(connection)


@pytest.mark.parametrize("order", ORDERS)
def test_waiters_are_served_in_the_order_they_came(
    waiting_pool: MakeWaitingPool, order: str
) -> None:
    pool = waiting_pool(order=order)
    connection = pool.get_connection()
    waiters = start_waiting(pool, 6)
    wait_older_than(NEWCOMERS_PASS_FOR_S)
    for waiter in waiters:
        pool.release(connection)
        assert waiter.result() is connection
        assert sum(other.is_alive() for other in waiters) == pool.stats().waiting


def test_a_newcomer_does_not_pass_who_has_waited_for_long(waiting_pool: MakeWaitingPool) -> None:
    pool = waiting_pool()
    connection = pool.get_connection()
    (waiter,) = start_waiting(pool)
    wait_older_than(NEWCOMERS_PASS_FOR_S)
    pool.release(connection)
    assert pool.stats().idle == 0  # it was handed over, not laid down
    (newcomer,) = start_waiting(pool)
    assert waiter.result() is connection
    assert newcomer.is_alive()
    pool.release(connection)
    assert newcomer.result() is connection


def test_each_of_many_releases_wakes_one_waiter(waiting_pool: MakeWaitingPool) -> None:
    pool = waiting_pool(max_connections=3)
    with all_lent(pool, 3):
        waiters = start_waiting(pool, 3)
    connections = [waiter.result() for waiter in waiters]
    assert len({id(connection) for connection in connections}) == 3
    for connection in connections:
        pool.release(connection)
    assert_whole(pool, 3)


@pytest.mark.parametrize("order", ORDERS)
def test_no_wake_up_is_lost(waiting_pool: MakeWaitingPool, order: str) -> None:
    """A lost one would leave a thread in its wait until the time is over."""
    pool = waiting_pool(max_connections=3, timeout=PATIENCE_S, order=order)

    def work() -> int:
        for _ in range(60):
            connection = pool.get_connection()
            assert is_answering(connection)
            pool.release(connection)
        return 60

    with often_switched(), all_lent(pool, 3):
        tasks = [Task(work) for _ in range(12)]
        wait_for(lambda: pool.stats().waiting == 12, "all of them in the queue")
    with often_switched():
        assert sum(task.result(3 * PATIENCE_S) for task in tasks) == 720
    assert pool.stats().timeouts == 0
    assert pool.stats().waits > 12
    assert_whole(pool, 3)


def test_a_borrower_that_vanishes_wakes_a_waiter_which_dials(
    waiting_pool: MakeWaitingPool,
) -> None:
    pool = waiting_pool()
    connection = pool.get_connection()
    (waiter,) = start_waiting(pool)
    del connection
    fresh = waiter.result()
    assert is_answering(fresh)
    assert (pool.stats().reclaimed, pool.stats().created) == (1, 2)


def test_a_connection_that_is_not_kept_wakes_a_waiter_which_dials(make_pool: MakePool) -> None:
    class Disowning(cpool.ConnectionPool):
        def owns_connection(self, connection: Any) -> bool:
            return False

    pool = make_pool(Disowning, max_connections=1, timeout=PATIENCE_S)
    connection = pool.get_connection()
    (waiter,) = start_waiting(pool)
    pool.release(connection)
    assert waiter.result() is not connection


def test_a_constructor_that_fails_wakes_a_waiter_which_tries_its_own() -> None:
    entered, go_on = threading.Event(), threading.Event()

    class FailsFirst(StubConnection):
        calls = 0

        def __init__(self, **kwargs: Any) -> None:
            type(self).calls += 1
            if type(self).calls == 1:
                entered.set()
                assert go_on.wait(PATIENCE_S)
                raise ValueError("the first one fails")
            super().__init__(**kwargs)

    pool = cpool.ConnectionPool(FailsFirst, max_connections=1, timeout=PATIENCE_S)
    first = Task(pool.get_connection)
    assert entered.wait(PATIENCE_S)
    assert pool.stats().opening == 1
    (waiter,) = start_waiting(pool)
    go_on.set()
    with pytest.raises(ValueError, match="the first one fails"):
        first.result()
    assert waiter.result().is_open


def test_a_connect_that_fails_wakes_a_waiter_which_connects_again() -> None:
    entered, go_on = threading.Event(), threading.Event()

    class RefusedFirst(StubConnection):
        def connect(self) -> None:
            if self.disconnects == 0 and not go_on.is_set():
                entered.set()
                assert go_on.wait(PATIENCE_S)
                raise ConnectionError("refused")
            super().connect()

    pool = cpool.BlockingConnectionPool(1, PATIENCE_S, RefusedFirst)
    first = Task(pool.get_connection)
    assert entered.wait(PATIENCE_S)
    (waiter,) = start_waiting(pool)
    go_on.set()
    with pytest.raises(ConnectionError, match="refused"):
        first.result()
    assert waiter.result().is_open
    assert pool.stats().created == 1


class SlowToClose(StubConnection):
    """Stays in disconnect() until told otherwise."""

    entered = threading.Event()
    go_on = threading.Event()

    def disconnect(self) -> None:
        self.entered.set()
        assert self.go_on.wait(PATIENCE_S)
        super().disconnect()


@pytest.fixture
def slow_to_close() -> Iterator[Any]:
    """Give the class, afresh."""
    SlowToClose.entered.clear()
    SlowToClose.go_on.clear()
    yield SlowToClose
    SlowToClose.go_on.set()


@pytest.mark.parametrize("timeout", [0, PATIENCE_S])
@pytest.mark.parametrize("action", ["disconnect", "disconnect_free_connections"])
def test_an_idle_connection_that_is_being_closed_is_waited_for(
    slow_to_close: Any, timeout: float, action: str
) -> None:
    pool = cpool.ConnectionPool(slow_to_close, max_connections=1, timeout=timeout)
    connection = pool.get_connection()
    pool.release(connection)
    closing = Task(getattr(pool, action))
    assert slow_to_close.entered.wait(PATIENCE_S)
    borrower = Task(pool.get_connection)
    assert not borrower.is_over(0.05)
    slow_to_close.go_on.set()
    closing.result()
    assert borrower.result() is connection
    assert connection.is_open


@pytest.mark.parametrize("timeout", [None, PATIENCE_S])
def test_a_waiter_of_a_pool_that_is_reset_gets_a_new_connection(
    waiting_pool: MakeWaitingPool, timeout: float | None
) -> None:
    pool = waiting_pool(timeout=timeout)
    connection = pool.get_connection()
    (waiter,) = start_waiting(pool)
    pool.reset()
    fresh = waiter.result()
    assert fresh is not connection
    assert is_answering(fresh)


def test_a_reset_just_before_a_wait_leaves_nobody_behind(
    waiting_pool: MakeWaitingPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the decision to wait and the wait itself another thread may have its turn."""
    pool = waiting_pool()
    connection = pool.get_connection()
    make_lock = threading.Lock
    calls: list[Any] = []

    def make_lock_late() -> Any:
        if not calls:
            calls.append(pool.reset())
        return make_lock()

    monkeypatch.setattr(threading, "Lock", make_lock_late)
    fresh = pool.get_connection()
    assert calls, "waiting makes its lock elsewhere: this test is to be written anew"
    assert fresh is not connection


def test_a_raised_limit_serves_who_waits(waiting_pool: MakeWaitingPool) -> None:
    pool = waiting_pool()
    with all_lent(pool, 1) as (connection,):
        (waiter,) = start_waiting(pool)
        pool.max_connections = 2
        assert waiter.result() is not connection


# -- A wait is interrupted ------------------------------------------------------------------


class Bell:
    """A signal for the main thread, rung by another one."""

    def __init__(self) -> None:
        self.answer: Callable[[], None] = lambda: None
        self.rings = 0

    def handle(self, *_: Any) -> None:
        self.rings += 1
        self.answer()

    def ring_when(self, ready: Callable[[], object]) -> Task:
        """Ring as soon as `ready()` is true."""

        def ring() -> None:
            wait_for(ready, "the moment to ring")
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

        return Task(ring)


@pytest.fixture
def bell() -> Iterator[Bell]:
    """Give a signal whose handler the test chooses."""
    bell = Bell()
    before = signal.signal(signal.SIGUSR1, bell.handle)
    yield bell
    signal.signal(signal.SIGUSR1, before)


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("timeout", [None, PATIENCE_S])
def test_a_signal_ends_a_wait_and_nothing_is_lost(
    waiting_pool: MakeWaitingPool, bell: Bell, timeout: float | None
) -> None:
    pool = waiting_pool(timeout=timeout)
    bell.answer = interrupt
    with all_lent(pool, 1):
        ringer = bell.ring_when(lambda: pool.stats().waiting)
        with pytest.raises(KeyboardInterrupt):
            pool.get_connection()
        ringer.result()
        assert pool.stats().waiting == 0
    assert_whole(pool, 1)


def test_no_signal_is_missed_however_soon_it_comes(
    waiting_pool: MakeWaitingPool, bell: Bell
) -> None:
    """The thread may be anywhere on its way into the wait, and must not sleep over it."""
    pool = waiting_pool(timeout=PATIENCE_S)
    bell.answer = interrupt

    def ring_and_look() -> None:
        before = bell.rings
        while not pool.stats().waiting:  # no pause: as soon as it can be
            pass
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
        wait_for(lambda: bell.rings > before, "the handler", timeout_s=PATIENCE_S / 3)

    with all_lent(pool, 1):
        for _ in range(100):
            ringer = Task(ring_and_look)
            with pytest.raises(KeyboardInterrupt):
                pool.get_connection()
            ringer.result()


def test_a_signal_whose_handler_returns_does_not_end_a_wait(
    waiting_pool: MakeWaitingPool, bell: Bell
) -> None:
    pool = waiting_pool()
    connection = pool.get_connection()

    def ring_and_release() -> None:
        bell.ring_when(lambda: pool.stats().waiting).result()
        wait_for(lambda: bell.rings, "the handler")
        assert pool.stats().waiting == 1
        pool.release(connection)

    releaser = Task(ring_and_release)
    assert pool.get_connection() is connection
    releaser.result()


@pytest.mark.parametrize("order", ORDERS)
def test_what_an_interrupted_waiter_was_given_is_not_lost(
    waiting_pool: MakeWaitingPool, bell: Bell, order: str
) -> None:
    """The connection arrives while the handler runs: handed over, and then nobody's."""
    pool = waiting_pool(order=order)
    connection = pool.get_connection()

    def give_and_interrupt() -> None:
        wait_older_than(NEWCOMERS_PASS_FOR_S)
        pool.release(connection)
        assert pool.stats().waiting == 0
        raise KeyboardInterrupt

    bell.answer = give_and_interrupt
    ringer = bell.ring_when(lambda: pool.stats().waiting)
    with pytest.raises(KeyboardInterrupt):
        pool.get_connection()
    ringer.result()
    assert_whole(pool, 1)


def test_what_an_interrupted_waiter_was_given_goes_to_the_next(
    waiting_pool: MakeWaitingPool, bell: Bell
) -> None:
    pool = waiting_pool()
    connection = pool.get_connection()
    others: list[Task] = []

    def give_and_interrupt() -> None:
        others.extend(start_waiting(pool))
        wait_older_than(NEWCOMERS_PASS_FOR_S)
        pool.release(connection)
        raise KeyboardInterrupt

    bell.answer = give_and_interrupt
    ringer = bell.ring_when(lambda: pool.stats().waiting)
    with pytest.raises(KeyboardInterrupt):
        pool.get_connection()
    ringer.result()
    assert others[0].result() is connection


def test_an_empty_slot_an_interrupted_waiter_was_given_is_not_lost(
    waiting_pool: MakeWaitingPool, bell: Bell
) -> None:
    pool = waiting_pool()
    lent = [pool.get_connection()]

    def vanish_and_interrupt() -> None:
        lent.clear()
        assert pool.stats().waiting == 0
        raise KeyboardInterrupt

    bell.answer = vanish_and_interrupt
    ringer = bell.ring_when(lambda: pool.stats().waiting)
    with pytest.raises(KeyboardInterrupt):
        pool.get_connection()
    ringer.result()
    assert pool.stats().opening == 0
    assert_whole(pool, 1)


class Stopped(BaseException):  # noqa: N818
    """What one thread makes another one raise."""


def stop(thread: threading.Thread) -> None:
    """Raise Stopped in a thread as soon as it runs Python code."""
    ident = ctypes.c_ulong(thread.ident or 0)
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(Stopped)) == 1


def test_a_waiter_stopped_by_another_thread_keeps_no_connection(
    waiting_pool: MakeWaitingPool,
) -> None:
    """It is served, and raises before it can do anything with what it got."""
    pool = waiting_pool()
    connection = pool.get_connection()
    (waiter,) = start_waiting(pool)
    stop(waiter)
    pool.release(connection)
    with pytest.raises(Stopped):
        waiter.result()
    del connection
    gc.collect()  # of the traceback
    assert_whole(pool, 1)


def test_a_waiter_whose_time_is_over_swallows_no_connection(
    waiting_pool: MakeWaitingPool,
) -> None:
    """Releases come just when waits end; whoever loses that race must pass it on."""
    pool = waiting_pool(timeout=0.002)
    choose = random.Random(7)
    ends = []
    for _ in range(150):
        connection = pool.get_connection()
        waiter = Task(pool.get_connection)
        wait_older_than(choose.uniform(0.001, 0.003))
        pool.release(connection)
        del connection
        try:
            pool.release(waiter.result())
            ends.append("served")
        except cpool.ConnectionPoolTimeoutError:
            ends.append("timed out")
        assert pool.stats().in_use == 0
    assert set(ends) == {"served", "timed out"}
    assert_whole(pool, 1)


EXIT_WHILE_OTHERS_WAIT = """
import logging, threading, time, cpool

logging.disable()
pool = cpool.BlockingConnectionPool(1, None, host="{host}", port={port}, protocol={protocol})
lent = pool.get_connection()
cycle = [lent]
cycle.append(cycle)
for _ in range(3):
    threading.Thread(target=pool.get_connection, daemon=True).start()
while pool.stats().waiting < 3:
    time.sleep(0.001)
"""


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_program_may_end_while_threads_wait_and_connections_are_lent(
    redis_server: Any, protocol: int
) -> None:
    script = EXIT_WHILE_OTHERS_WAIT.format(
        host=redis_server.host, port=redis_server.port, protocol=protocol
    )
    command = [sys.executable, "-X", "faulthandler", "-c", script]
    root = Path(cpool.__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, cwd=root)
    assert (done.returncode, done.stderr) == (0, "")


# -- Order ------------------------------------------------------------------------------


def uses(pool: Any, n_connections: int, n_checkouts: int) -> list[int]:
    """How often each connection is lent, one at a time, the least used first."""
    with all_lent(pool, n_connections) as lent:
        counts = {id(connection): 0 for connection in lent}
    for _ in range(n_checkouts):
        connection = pool.get_connection()
        counts[id(connection)] += 1
        pool.release(connection)
    return sorted(counts.values())


@pytest.mark.parametrize("pool_class", POOLS)
def test_fifo_uses_all_connections_evenly(pool_class: Any, make_pool: MakePool) -> None:
    pool = make_pool(pool_class, max_connections=4, order="fifo")
    assert uses(pool, 4, 12) == [3, 3, 3, 3]


@pytest.mark.parametrize("pool_class", POOLS)
def test_lifo_uses_the_newest_connection_only(pool_class: Any, make_pool: MakePool) -> None:
    pool = make_pool(pool_class, max_connections=4, order="lifo")
    assert uses(pool, 4, 12) == [0, 0, 0, 12]


@pytest.mark.parametrize("order", ORDERS)
def test_closing_idle_connections_keeps_their_order(make_pool: MakePool, order: str) -> None:
    pool = make_pool(cpool.ConnectionPool, max_connections=4, order=order)
    with all_lent(pool, 4) as lent:
        connections = list(lent)
    pool.disconnect()
    next_ones = [pool.get_connection() for _ in range(4)]
    assert next_ones == (connections if order == "fifo" else connections[::-1])
