"""stats(): each number means what its description says, at every moment."""

from __future__ import annotations

import dataclasses
import gc
from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError, MaxConnectionsError

import cpool
from tests.pool.conftest import MakePool
from tests.pool.support import (
    PATIENCE_S,
    REDIS_VERSION,
    StubConnection,
    Task,
    all_lent,
    wait_for,
    wait_older_than,
)
from tests.support.faultproxy import FaultProxy

STATES = ("open", "idle", "in_use", "opening", "waiting")
TOTALS = (
    "checkouts",
    "created",
    "replaced",
    "discarded",
    "reclaimed",
    "closed_idle",
    "closed_old",
    "evictions",
)
DIALS = ("dialling", "failed_dials")
WAITING = ("waits", "timeouts", "refused")
TIMES = ("wait_time_s", "longest_wait_s", "oldest_use_s")
DISTRIBUTIONS = ("wait", "use", "dial")


def some(stats: cpool.PoolStats, *names: str) -> tuple[Any, ...]:
    """Return some of the numbers."""
    return tuple(getattr(stats, name) for name in names)


# -- The object -------------------------------------------------------------------------


def test_a_look_at_a_pool_cannot_be_changed() -> None:
    stats = cpool.ConnectionPool(StubConnection).stats()
    assert isinstance(stats, cpool.PoolStats)
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.idle = 1  # type: ignore[misc]


def test_it_has_these_numbers_and_no_others() -> None:
    names = {field.name for field in dataclasses.fields(cpool.PoolStats)}
    assert names == {
        *("name", "max_connections"),
        *(*STATES, *TOTALS, *DIALS, *WAITING, *TIMES, *DISTRIBUTIONS),
    }


@pytest.mark.parametrize("pool_class", [cpool.ConnectionPool, cpool.BlockingConnectionPool])
def test_a_new_pool_has_done_nothing(pool_class: Any) -> None:
    stats = pool_class(connection_class=StubConnection, max_connections=7).stats()
    assert stats.max_connections == 7
    assert set(some(stats, *STATES, *TOTALS, *DIALS, *WAITING, *TIMES)) == {0}
    assert {type(n) for n in some(stats, *STATES, *TOTALS, *DIALS, *WAITING)} == {int}
    assert {type(n) for n in some(stats, *TIMES)} == {float}


def test_it_is_a_look_and_does_not_follow_the_pool() -> None:
    pool = cpool.ConnectionPool(StubConnection)
    before = pool.stats()
    with all_lent(pool, 1):
        assert some(before, "in_use", "created") == (0, 0)
        assert pool.stats() != before


def test_the_name_is_the_one_that_was_given() -> None:
    assert cpool.ConnectionPool(StubConnection, name="sessions").stats().name == "sessions"


def test_without_a_name_it_is_redis_pys_or_the_class() -> None:
    pool = cpool.ConnectionPool(StubConnection)
    expected = pool._pool_id if REDIS_VERSION >= (7, 2) else "ConnectionPool"
    assert pool.stats().name == expected


# -- States -----------------------------------------------------------------------------


def test_states_follow_a_connection_through_its_life() -> None:
    pool = cpool.ConnectionPool(StubConnection, max_connections=3)
    states = ("open", "idle", "in_use", "opening")
    first, second = pool.get_connection(), pool.get_connection()
    assert some(pool.stats(), *states) == (2, 0, 2, 0)
    pool.release(first)
    assert some(pool.stats(), *states) == (2, 1, 1, 0)
    pool.release(second)
    assert some(pool.stats(), *states) == (2, 2, 0, 0)
    pool.get_connection()
    assert some(pool.stats(), *states) == (2, 1, 1, 0)
    pool.reset()
    assert some(pool.stats(), *states) == (0, 0, 0, 0)


def test_a_connection_is_opening_until_it_can_be_lent(
    make_pool: MakePool, redis_server: Any
) -> None:
    with FaultProxy((redis_server.host, redis_server.port)) as proxy:
        pool = make_pool(cpool.ConnectionPool, port=proxy.port)
        proxy.replies.stall()
        dialling = Task(pool.get_connection)
        proxy.replies.wait_held()
        assert some(pool.stats(), "open", "opening", "in_use") == (0, 1, 0)
        proxy.replies.release()
        assert dialling.result() is not None
        assert some(pool.stats(), "opening", "created") == (0, 1)


def test_callers_that_wait_are_counted_while_they_do() -> None:
    pool = cpool.BlockingConnectionPool(1, PATIENCE_S, StubConnection)
    with all_lent(pool, 1):
        waiters = [Task(pool.get_connection) for _ in range(3)]
        wait_for(lambda: pool.stats().waiting == 3, "three waiters")
    for left in (2, 1, 0):
        wait_for(lambda left=left: pool.stats().waiting == left, "one waiter less")
        served = next(waiter for waiter in waiters if waiter.is_over(0) or waiter.is_over(1))
        waiters.remove(served)
        pool.release(served.result())


# -- Totals -----------------------------------------------------------------------------


def test_checkouts_and_connections_made_are_counted(make_pool: MakePool) -> None:
    pool = make_pool(cpool.ConnectionPool, max_connections=3)
    for _ in range(4):
        with all_lent(pool, 2):
            pass
    assert some(pool.stats(), "checkouts", "created") == (8, 2)


@pytest.mark.parametrize("timeout", [0, 0.001])
def test_a_checkout_that_fails_is_no_checkout(make_pool: MakePool, timeout: float) -> None:
    pool = make_pool(cpool.ConnectionPool, port=1, max_connections=1, timeout=timeout)
    for _ in range(3):
        with pytest.raises(ConnectionError):
            pool.get_connection()
    assert some(pool.stats(), "checkouts", "created") == (0, 1)


def test_a_constructor_that_raises_has_made_no_connection() -> None:
    pool = cpool.ConnectionPool(no_such_option=1)
    with pytest.raises(TypeError):
        pool.get_connection()
    assert some(pool.stats(), "checkouts", "created") == (0, 0)


def test_connections_found_dead_or_dirty_are_counted_as_replaced(
    make_pool: MakePool, redis_server: Any
) -> None:
    with FaultProxy((redis_server.host, redis_server.port)) as proxy:
        pool = make_pool(cpool.ConnectionPool, port=proxy.port)
        pool.release(pool.get_connection())
        assert pool.stats().replaced == 0
        proxy.close_connections()
        pool.release(pool.get_connection())
        assert pool.stats().replaced == 1
        proxy.replies.inject(b"+nobody asked\r\n")
        wait_for(lambda: pool._available_connections[0].can_read(), "the stray reply")
        pool.release(pool.get_connection())
    assert some(pool.stats(), "replaced", "created", "checkouts") == (2, 1, 3)


def test_connections_closed_at_their_return_are_counted_as_discarded(
    make_pool: MakePool,
) -> None:
    pool = make_pool(cpool.ConnectionPool)
    for n in (1, 2):
        connection = pool.get_connection()
        connection.send_command("PING")
        pool.release(connection)
        assert pool.stats().discarded == n
    pool.release(pool.get_connection())
    assert pool.stats().discarded == 2


def test_borrowers_that_vanish_are_counted_as_reclaimed(make_pool: MakePool) -> None:
    pool = make_pool(cpool.ConnectionPool, protocol=2)
    for n in (1, 2, 3):
        pool.get_connection()
        gc.collect()
        assert some(pool.stats(), "reclaimed", "created", "in_use") == (n, n, 0)


def test_waits_and_how_they_end_are_counted() -> None:
    pool = cpool.ConnectionPool(StubConnection, max_connections=1, timeout=0.01, max_waiting=1)
    with all_lent(pool, 1):
        with pytest.raises(cpool.ConnectionPoolTimeoutError):
            pool.get_connection()
        assert some(pool.stats(), *WAITING) == (1, 1, 0)
        pool.timeout = PATIENCE_S
        waiter = Task(pool.get_connection)
        wait_for(lambda: pool.stats().waiting, "the waiter")
        with pytest.raises(MaxConnectionsError):
            pool.get_connection()
    pool.release(waiter.result())
    assert some(pool.stats(), *WAITING) == (2, 1, 1)


def test_a_pool_where_nobody_may_wait_counts_refusals() -> None:
    pool = cpool.ConnectionPool(StubConnection, max_connections=1)
    with all_lent(pool, 1):
        for _ in range(3):
            with pytest.raises(MaxConnectionsError):
                pool.get_connection()
    assert some(pool.stats(), *WAITING, "checkouts") == (0, 0, 3, 1)


def test_the_time_waited_is_summed_up_and_its_longest_part_known() -> None:
    pool = cpool.BlockingConnectionPool(1, PATIENCE_S, StubConnection)
    for _ in range(3):
        connection = pool.get_connection()
        waiter = Task(pool.get_connection)
        wait_for(lambda: pool.stats().waiting, "the waiter")
        wait_older_than(0.01)
        pool.release(connection)
        pool.release(waiter.result())
    stats = pool.stats()
    assert stats.longest_wait_s >= 0.01
    assert stats.wait_time_s >= 0.03
    assert stats.longest_wait_s <= stats.wait_time_s <= 3 * stats.longest_wait_s


def test_a_checkout_that_need_not_wait_adds_no_wait() -> None:
    pool = cpool.BlockingConnectionPool(2, PATIENCE_S, StubConnection)
    for _ in range(5):
        with all_lent(pool, 2):
            pass
    assert set(some(pool.stats(), *WAITING, *TIMES)) == {0}


def test_totals_begin_anew_with_a_reset(make_pool: MakePool) -> None:
    pool = make_pool(cpool.ConnectionPool, max_connections=2)
    with all_lent(pool, 2), pytest.raises(MaxConnectionsError):
        pool.get_connection()
    pool.reset()
    assert set(some(pool.stats(), *STATES, *TOTALS, *WAITING, *TIMES)) == {0}
    assert pool.stats().max_connections == 2


def test_what_a_client_does_shows(make_pool: MakePool) -> None:
    pool = make_pool(cpool.ConnectionPool)
    with redis.Redis(connection_pool=pool) as client:
        for _ in range(5):
            client.ping()
        assert some(pool.stats(), "checkouts", "created", "idle") == (5, 1, 1)


# -- Distributions ----------------------------------------------------------------------


def distribution(*lengths_s: float) -> cpool.Distribution:
    """Return one with these lengths, each counted below the next bound."""
    counts = [0] * len(cpool.Distribution.bounds_s)
    for length_s in lengths_s:
        counts[next(i for i, b in enumerate(cpool.Distribution.bounds_s) if length_s < b)] += 1
    return cpool.Distribution(tuple(counts), sum(lengths_s), max(lengths_s, default=0.0))


def test_a_quantile_is_the_bound_that_so_many_stay_below() -> None:
    one = distribution(*[0.001] * 98, 0.5, 2.0)
    assert (one.count, one.max_s) == (100, 2.0)
    assert 0.001 <= one.quantile(0.5) == one.quantile(0.98) <= 0.001 * 1.26
    assert 0.5 <= one.quantile(0.99) <= 0.5 * 1.26
    assert one.quantile(1) == 2.0
    assert one.mean_s == pytest.approx((0.098 + 2.5) / 100)


def test_of_nothing_all_is_nothing() -> None:
    none = distribution()
    assert (none.count, none.mean_s, none.quantile(0.99), none.max_s) == (0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("q", [-0.1, 1.1])
def test_a_quantile_is_a_share(q: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        distribution(1.0).quantile(q)


def test_a_distribution_shows_what_people_look_for() -> None:
    assert repr(distribution(0.25, 0.25)) == (
        "Distribution(count=2, mean_s=0.25, p99_s=0.25, max_s=0.25)"
    )


def test_waits_uses_and_dials_are_counted_each(make_pool: MakePool) -> None:
    pool = make_pool(cpool.ConnectionPool, max_connections=1, timeout=PATIENCE_S)
    client = cpool.Redis(connection_pool=pool)
    held = pool.get_connection()
    task = Task(client.ping)
    wait_for(lambda: pool.stats().waiting == 1)
    wait_older_than(0.01)
    assert pool.stats().oldest_use_s >= 0.01
    pool.release(held)
    assert task.result()
    stats = pool.stats()
    assert (stats.wait.count, stats.use.count, stats.dial.count) == (1, 2, 1)
    assert stats.wait.max_s == stats.longest_wait_s >= 0.01
    assert stats.use.max_s >= 0.01
    assert stats.use.sum_s >= stats.use.max_s > 0
    assert 0 < stats.dial.sum_s == stats.dial.max_s
    with client.pipeline() as pipe:
        pipe.ping().execute()
    assert pool.stats().use.count == 3
