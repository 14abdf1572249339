"""Slots, locks and callers that redis-py's pools lose, each shown there and absent here."""

from __future__ import annotations

import contextlib
import gc
import queue
import sys
import threading
from collections.abc import Iterator
from types import CodeType
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, MaxConnectionsError
from redis.retry import Retry

from tests.pool.conftest import MakePool
from tests.pool.interrupts import interrupt_at
from tests.pool.scenarios import Lab, Scenario, Scenarios, check_ours, check_theirs
from tests.pool.support import (
    HAS_MAINTENANCE,
    REDIS_VERSION,
    ChildHungError,
    Implementation,
    StubConnection,
    Task,
    run_in_child,
    wait_for,
)

SCENARIOS = Scenarios()
NO_MAINTENANCE = "maintenance notifications came with redis-py 7.0"


def patience_s(impl: Implementation) -> float:
    """How long to wait for what never comes on redis-py's side, and at once on ours."""
    return 15.0 if impl.is_ours else 1.5


# -- Slots ------------------------------------------------------------------------------


@SCENARIOS.add(right="one caller is refused", wrong="both callers hold one connection")
def release_twice_while_another_connection_is_out(impl: Implementation, lab: Lab) -> str:
    pool = lab.pool(impl.BlockingConnectionPool, max_connections=2, timeout=0.01)
    connection, other = pool.get_connection(), pool.get_connection()
    pool.release(connection)
    pool.release(connection)
    first = pool.get_connection()
    try:
        second = pool.get_connection()
    except ConnectionError:
        return "one caller is refused"
    assert other not in (first, second)
    return "both callers hold one connection" if first is second else "unexpected"


class Moody(StubConnection):
    """A class whose constructor fails while `broken` is set."""

    broken = True

    def __init__(self, **kwargs: Any) -> None:
        if self.broken:
            raise ValueError("bad argument")
        super().__init__(**kwargs)


def slots_after_raising_constructors(pool_class: Any) -> str:
    class ThisTime(Moody):
        pass

    pool = pool_class(connection_class=ThisTime, max_connections=2, timeout=0.01)
    for _ in range(2):
        with contextlib.suppress(ValueError):
            pool.get_connection()
    ThisTime.broken = False
    try:
        lent = [pool.get_connection() for _ in range(2)]
    except ConnectionError:
        return "exhausted with no connection made"
    return f"{len(lent)} connections"


@SCENARIOS.add(right="2 connections", wrong="exhausted with no connection made")
def a_constructor_raises(impl: Implementation, lab: Lab) -> str:
    return slots_after_raising_constructors(
        impl.ConnectionPool if impl.is_ours else _without_timeout(impl.ConnectionPool)
    )


def _without_timeout(pool_class: Any) -> Any:
    return lambda timeout, **kwargs: pool_class(**kwargs)


@SCENARIOS.add(right="2 connections", wrong="exhausted with no connection made")
def a_constructor_raises_in_a_blocking_pool(impl: Implementation, lab: Lab) -> str:
    return slots_after_raising_constructors(impl.BlockingConnectionPool)


def borrow(pool: Any) -> None:
    """What every client does."""
    connection = pool.get_connection()
    try:
        connection.send_command("PING")
        connection.read_response()
    finally:
        pool.release(connection)


def _is_checkout(code: CodeType) -> bool:
    return code is borrow.__code__ or code.co_name in ("get_connection", "make_connection")


def lost_slots(pool_class: Any, lab: Lab) -> str:
    """Interrupt a checkout at each place there is, each time on a pool of one slot."""
    lost = places = 0
    interrupted = True
    while interrupted and places < 500:
        pool = lab.pool(pool_class, max_connections=1)
        pool.timeout = 0
        pool.release(pool.get_connection())
        interrupted = interrupt_at(places + 1, lambda pool=pool: borrow(pool), _is_checkout)
        places += 1
        try:
            pool.release(pool.get_connection())
        except ConnectionError:
            lost += 1
    assert 3 < places < 500
    return "slots are lost" if lost else "no slot is lost"


@SCENARIOS.add(right="no slot is lost", wrong="slots are lost")
def an_interrupt_comes_between_checkout_and_try(impl: Implementation, lab: Lab) -> str:
    return lost_slots(impl.ConnectionPool, lab)


@SCENARIOS.add(right="no slot is lost", wrong="slots are lost")
def an_interrupt_comes_in_a_blocking_pool(impl: Implementation, lab: Lab) -> str:
    return lost_slots(impl.BlockingConnectionPool, lab)


@SCENARIOS.add(
    right="the slot is free again",
    wrong="the slot is gone",
    affected=REDIS_VERSION < (8, 1),
    fixed="redis-py 8.1 frees the slot",
)
def a_pool_disowns_a_connection(impl: Implementation, lab: Lab) -> str:
    """As a sentinel's pool does with connections to the old master."""

    class Disowning(impl.ConnectionPool):  # type: ignore[name-defined,misc]
        def owns_connection(self, connection: Any) -> bool:
            return False

    pool = lab.pool(Disowning, max_connections=1)
    pool.release(pool.get_connection())
    try:
        pool.get_connection()
    except MaxConnectionsError:
        return "the slot is gone"
    return "the slot is free again"


# -- The pool's lock --------------------------------------------------------------------


class SpyLock:
    """A pool's lock that tells when somebody comes to it, and who has it."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self.came = 0
        self.got = 0

    def acquire(self, *args: Any, **kwargs: Any) -> bool:
        self.came += 1
        acquired = self._lock.acquire(*args, **kwargs)
        self.got += acquired
        return bool(acquired)

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> Any:
        return self.acquire()

    def __exit__(self, *_: Any) -> None:
        self.release()


@contextlib.contextmanager
def no_other_thread() -> Iterator[None]:
    """Let the calling thread keep the interpreter for as long as it does not block."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(30)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def queued(pool: Any) -> int:
    """How many callers are parked in the pool's queue, whoever made the pool."""
    if hasattr(pool, "stats"):
        return int(pool.stats().waiting)
    return len(pool.pool.not_empty._waiters)


@SCENARIOS.add(
    right="the lock is free",
    wrong="the lock is held by nobody who will free it",
    affected=HAS_MAINTENANCE,
    fixed=NO_MAINTENANCE,
)
def a_caller_waits_while_a_move_is_handled(impl: Implementation, lab: Lab) -> str:
    pool = lab.pool(impl.BlockingConnectionPool, max_connections=1, timeout=30)
    connection = pool.get_connection()
    pool._lock = lock = SpyLock(pool._lock)
    with lock:  # in the order of the handler of MOVING
        pool.set_in_maintenance(True)
        waiter = Task(pool.get_connection)
        wait_for(lambda: lock.came > 1 or queued(pool), "the waiter's arrival")
        pool.set_in_maintenance(False)
    wait_for(lambda: queued(pool), "the waiter in the queue")
    with no_other_thread():
        pool.release(connection)
    assert waiter.result() is connection
    # Not by a new thread: it may have the number of the one that is gone, and so its lock.
    if not lock.acquire(timeout=0.2):
        return "the lock is held by nobody who will free it"
    lock.release()
    return "the lock is free"


@SCENARIOS.add(
    right="the waiter is served",
    wrong="No connection available.",
    affected=HAS_MAINTENANCE,
    fixed=NO_MAINTENANCE,
)
def a_release_comes_while_a_caller_waits_in_maintenance(impl: Implementation, lab: Lab) -> str:
    pool = lab.pool(impl.BlockingConnectionPool, max_connections=1, timeout=patience_s(impl))
    connection = pool.get_connection()
    pool.set_in_maintenance(True)
    waiter = Task(pool.get_connection)
    wait_for(lambda: queued(pool) or waiter.is_over(), "the waiter in the queue")
    release = Task(pool.release, connection)
    try:
        waiter.result(timeout_s=60)
        return "the waiter is served"
    except ConnectionError as error:
        return str(error)
    finally:
        release.result()
        pool.set_in_maintenance(False)


@SCENARIOS.add(right="the child works", wrong="the child hangs")
def a_thread_holds_the_lock_while_the_process_forks(impl: Implementation, lab: Lab) -> str:
    pool = lab.pool(impl.ConnectionPool)
    pool.release(pool.get_connection())
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with pool._lock:
            held.set()
            let_go.wait()

    holder = Task(hold)
    held.wait()
    try:
        run_in_child(redis.Redis(connection_pool=pool).ping, patience_s(impl))
    except ChildHungError:
        return "the child hangs"
    finally:
        let_go.set()
        holder.result()
    return "the child works"


class Forgotten:
    """Gives its connection back when it is collected, as PubSub and pipelines do."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.connection = pool.get_connection()
        self.cycle = self  # only the garbage collector ends it

    def __del__(self) -> None:
        self.pool.release(self.connection)


class Collecting(StubConnection):
    """The garbage collector runs while it is being disconnected."""

    def disconnect(self) -> None:
        gc.collect()
        super().disconnect()


@SCENARIOS.add(right="it is closed", wrong="Set changed size during iteration")
def a_connection_comes_back_by_gc_while_the_pool_is_closed(impl: Implementation, lab: Lab) -> str:
    pool = impl.ConnectionPool(connection_class=Collecting, max_connections=4)
    lent = [pool.get_connection() for _ in range(2)]
    Forgotten(pool)
    try:
        pool.disconnect()
    except RuntimeError as error:
        return str(error)
    assert not any(connection.is_open for connection in lent)
    return "it is closed"


class CollectingQueue(queue.LifoQueue):  # type: ignore[type-arg]
    """The garbage collector runs while something is taken out, in queue.py's own lock."""

    def _get(self) -> Any:
        gc.collect()
        return super()._get()


def _collect_all_the_time(pool: Any) -> str:
    gc.freeze()  # what the test run holds already is not looked through each time
    gc.set_threshold(1)
    for i in range(50):
        if i % 4 == 0:
            gc.collect()  # a large heap puts full collections off, and nobody else frees
        Forgotten(pool)
        pool.release(pool.get_connection())
    return "all went well"


@SCENARIOS.add(right="all went well", wrong="the thread waits for itself")
def a_connection_comes_back_by_gc_in_the_middle_of_a_checkout(
    impl: Implementation, lab: Lab
) -> str:
    pool = impl.BlockingConnectionPool(
        connection_class=StubConnection, max_connections=8, queue_class=CollectingQueue
    )
    try:
        return str(run_in_child(lambda: _collect_all_the_time(pool), patience_s(impl)))
    except ChildHungError:
        return "the thread waits for itself"


# -- What the blocking pool of redis-py has not got ---------------------------------------------


@SCENARIOS.add(right="[7, 7]", wrong="AttributeError")
def a_blocking_pool_gets_another_retry(impl: Implementation, lab: Lab) -> str:
    pool = lab.pool(impl.BlockingConnectionPool)
    idle, lent = pool.get_connection(), pool.get_connection()
    pool.release(idle)
    try:
        pool.set_retry(Retry(NoBackoff(), 7))
    except AttributeError:
        return "AttributeError"
    return str([connection.retry._retries for connection in (idle, lent)])


class Token:
    """New credentials; this server takes any password of the default user."""

    def try_get(self, key: str) -> str:
        return "default"

    def get_value(self) -> str:
        return "new"


@SCENARIOS.add(right="it is remembered for the lent one", wrong="AttributeError")
def a_blocking_pool_gets_new_credentials(impl: Implementation, lab: Lab) -> str:
    pool = lab.pool(impl.BlockingConnectionPool)
    idle, lent = pool.get_connection(), pool.get_connection()
    pool.release(idle)
    token = Token()
    try:
        pool.re_auth_callback(token)
    except AttributeError:
        return "AttributeError"
    assert lent._re_auth_token is token and idle._re_auth_token is None
    return "it is remembered for the lent one"


@SCENARIOS.add(right="it has the new credentials", wrong="it keeps the old credentials")
def a_blocking_pool_takes_a_connection_back_that_needs_new_credentials(
    impl: Implementation, lab: Lab
) -> str:
    pool = lab.pool(impl.BlockingConnectionPool)
    connection = pool.get_connection()
    connection.set_re_auth_token(Token())
    pool.release(connection)
    if connection._re_auth_token is not None:
        return "it keeps the old credentials"
    return "it has the new credentials"


@SCENARIOS.add(right="exhausted", wrong="the node looks dead")
def an_exhausted_blocking_pool_of_a_cluster_node(impl: Implementation, lab: Lab) -> str:
    """A cluster client takes any ConnectionError but this one for the node's failure."""
    pool = lab.pool(impl.BlockingConnectionPool, max_connections=1, timeout=0.01)
    lent = pool.get_connection()
    try:
        pool.get_connection()
    except MaxConnectionsError:
        return "exhausted"
    except ConnectionError:
        return "the node looks dead"
    finally:
        pool.release(lent)
    return "unexpected"


@pytest.fixture
def lab(redis_server: Any, make_pool: MakePool) -> Lab:
    """Give what the scenarios need."""
    return Lab(redis_server, make_pool)


@SCENARIOS.parametrize
def test_redis_py_shows_the_bug(scenario: Scenario, lab: Lab) -> None:
    check_theirs(scenario, lab)


@SCENARIOS.parametrize
def test_ours_is_right(scenario: Scenario, lab: Lab) -> None:
    check_ours(scenario, lab)


def test_no_tracer_is_left_behind() -> None:
    assert sys.gettrace() is None or "interrupts" not in repr(sys.gettrace())
