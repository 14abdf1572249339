"""min_idle, max_idle_time, max_lifetime: what is done while nobody borrows."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from redis.exceptions import ConnectionError

import cpool
from cpool import housekeeping
from cpool.tools.servers import free_port
from tests.pool.conftest import MakePool
from tests.pool.support import (
    StubConnection,
    Task,
    all_lent,
    assert_whole,
    is_answering,
    run_in_child,
    wait_for,
    wait_older_than,
)

each_pool = pytest.mark.parametrize(
    "pool_class", [cpool.ConnectionPool, cpool.BlockingConnectionPool]
)
each_order = pytest.mark.parametrize("order", ["lifo", "fifo"])


@pytest.fixture
def nobody_keeps_house(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let only the test call _keep_house()."""
    monkeypatch.setattr(housekeeping, "watch", lambda pool: None)
    return None


# -- min_idle -----------------------------------------------------------------------------


@each_pool
def test_connections_are_dialled_ahead(make_pool: MakePool, pool_class: Any) -> None:
    pool = make_pool(pool_class, max_connections=5, min_idle=3)
    wait_for(lambda: pool.stats().idle == 3)
    assert pool.stats().checkouts == 0
    assert pool.stats().use.count == 0
    assert pool.stats().dial.count == 3
    assert_whole(pool, 5)


def test_those_that_are_lent_are_replaced_as_far_as_there_is_room(make_pool: MakePool) -> None:
    pool = make_pool(cpool.ConnectionPool, max_connections=4, min_idle=3)
    wait_for(lambda: pool.stats().idle == 3)
    with all_lent(pool, 2):
        wait_for(lambda: pool.stats().open == 4)
        assert pool.stats().idle == 2


@pytest.mark.usefixtures("nobody_keeps_house")
def test_after_a_disconnect_nothing_is_dialled_ahead_until_somebody_asks(
    make_pool: MakePool,
) -> None:
    """redis-py's close() is a disconnect(), and its pool stays usable."""
    pool = make_pool(cpool.ConnectionPool, min_idle=2, max_connections=4)
    pool._keep_house()
    assert pool.stats().open == 2
    pool.close()
    pool._keep_house()
    pool._keep_house()
    assert pool.stats().open == 0
    with all_lent(pool, 1):
        pool._keep_house()
        assert (pool.stats().idle, pool.stats().in_use) == (2, 1)


@pytest.mark.usefixtures("nobody_keeps_house")
def test_a_pool_can_be_warmed_by_hand(make_pool: MakePool) -> None:
    pool = make_pool(cpool.ConnectionPool, max_connections=3, min_idle=1)
    assert pool.prewarm() == 1
    assert pool.prewarm() == 0
    assert pool.prewarm(2) == 1
    assert pool.prewarm(50) == 1  # it is full
    assert pool.stats().idle == 3


def test_warming_by_hand_waits_for_its_turn_to_dial(make_pool: MakePool) -> None:
    pool = make_pool(cpool.ConnectionPool, max_connections=3, max_connecting=1)
    with pool._dials.turn(cpool.Connection()):
        task = Task(lambda: pool.prewarm(2))
        wait_for(lambda: pool._dials.waiting == 1)
    assert task.result() == 2


def test_warming_by_hand_tells_why_it_can_not() -> None:
    pool = cpool.ConnectionPool(port=free_port())
    with pytest.raises(ConnectionError, match="111"):
        pool.prewarm(1)
    with pytest.raises(ValueError, match='"n" must be'):
        pool.prewarm(-1)
    assert pool.stats().opening == 0


def test_a_server_that_is_not_there_yet_is_tried_again(start_server: Any) -> None:
    port = free_port()
    pool = cpool.ConnectionPool(port=port, min_idle=2)
    wait_for(lambda: pool.stats().failed_dials > 0)
    start_server(port=port)
    wait_for(lambda: pool.stats().idle == 2)
    pool.close(timeout=1)


def test_a_server_that_is_down_is_tried_at_times_of_chance_ever_more_rarely() -> None:
    assert housekeeping.refill_after_s(0) == housekeeping.REFILL_EVERY_S
    for failures, most_s in ((1, 0.1), (3, 0.4), (50, 10)):
        waits_s = {housekeeping.refill_after_s(failures) for _ in range(50)}
        assert len(waits_s) > 1
        assert most_s / 2 <= min(waits_s) <= max(waits_s) <= most_s


@pytest.mark.usefixtures("nobody_keeps_house")
def test_idle_connections_that_the_server_has_closed_are_replaced(redis_server: Any) -> None:
    pool = cpool.ConnectionPool(host=redis_server.host, port=redis_server.port, min_idle=2)
    pool.prewarm()
    with cpool.Redis(host=redis_server.host, port=redis_server.port) as admin:
        ids = [int(c["id"]) for c in admin.client_list() if int(c["id"]) != admin.client_id()]
        for number in ids:
            admin.client_kill_filter(_id=number)
    wait_for(lambda: pool._keep_house() and pool.stats().created == 4)
    assert pool.stats().idle == 2
    replaced = pool.stats().replaced
    assert_whole(pool, 2)
    assert pool.stats().replaced == replaced
    pool.close(timeout=1)


@pytest.mark.parametrize("wrong", [-1, 6, "1", 1.0, None, True])
def test_no_more_can_be_kept_idle_than_there_may_be(wrong: Any) -> None:
    with pytest.raises(ValueError, match='"min_idle" must be an integer from 0 to .*5'):
        cpool.ConnectionPool(max_connections=5, min_idle=wrong)


# -- Ages ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("nobody_keeps_house")
@each_order
def test_what_is_idle_for_too_long_is_closed(make_pool: MakePool, order: str) -> None:
    pool = make_pool(cpool.ConnectionPool, max_idle_time=0.05, order=order)
    with all_lent(pool, 3) as lent:
        pass
    wait_older_than(0.05)
    pool._keep_house()
    assert all(connection._sock is None for connection in lent)
    stats = pool.stats()
    assert (stats.open, stats.closed_idle, stats.closed_old) == (0, 3, 0)
    assert_whole(pool, 3)


@pytest.mark.usefixtures("nobody_keeps_house")
@each_order
def test_what_is_used_stays(make_pool: MakePool, order: str) -> None:
    pool = make_pool(cpool.ConnectionPool, max_idle_time=60, max_lifetime=600, order=order)
    with all_lent(pool, 3) as lent:
        pass
    assert 0 < pool._keep_house() <= 30
    with all_lent(pool, 3) as again:
        assert again == (lent if order == "fifo" else lent[::-1])
    assert pool.stats().created == 3


@pytest.mark.usefixtures("nobody_keeps_house")
@pytest.mark.parametrize("option", ["max_idle_time", "max_lifetime"])
def test_what_has_grown_stale_is_not_lent(make_pool: MakePool, option: str) -> None:
    pool = make_pool(cpool.ConnectionPool, max_connections=1, **{option: 0.02})
    first = pool.get_connection()
    before = first._sock.getsockname()
    pool.release(first)
    wait_older_than(0.02)
    again = pool.get_connection()
    assert again._sock.getsockname() != before
    assert is_answering(again)


@pytest.mark.usefixtures("nobody_keeps_house")
def test_what_has_lived_its_life_is_closed_when_it_is_idle(make_pool: MakePool) -> None:
    pool = make_pool(cpool.ConnectionPool, max_lifetime=0.05)
    with all_lent(pool, 2) as lent:
        wait_older_than(0.05)
        pool._keep_house()
        assert all(is_answering(connection) for connection in lent)
    pool._keep_house()
    assert (pool.stats().open, pool.stats().closed_old) == (0, 2)


@pytest.mark.usefixtures("nobody_keeps_house")
def test_lives_do_not_all_end_together(monkeypatch: pytest.MonkeyPatch, make_pool: Any) -> None:
    shares = iter([0.95, 1.0])
    monkeypatch.setattr("random.uniform", lambda low, high: next(shares))
    pool = make_pool(cpool.ConnectionPool, max_connections=1, max_lifetime=1000)
    pool.release(pool.get_connection())  # one at its adoption, one when it was dialled
    assert next(shares, None) is None


@pytest.mark.parametrize("option", ["max_idle_time", "max_lifetime"])
def test_the_thread_closes_what_has_grown_stale(make_pool: MakePool, option: str) -> None:
    pool = make_pool(cpool.ConnectionPool, **{option: 0.05})
    with all_lent(pool, 2):
        pass
    wait_for(lambda: pool.stats().open == 0)


@pytest.mark.usefixtures("nobody_keeps_house")
def test_evicted_connections_are_closed_as_well(make_pool: MakePool) -> None:
    pool = make_pool(cpool.ConnectionPool, max_idle_time=60)
    with all_lent(pool, 2):
        pass
    pool._next_generation()
    pool._keep_house()
    assert pool.stats().open == 0


@pytest.mark.parametrize("option", ["max_idle_time", "max_lifetime"])
@pytest.mark.parametrize("wrong", [0, -1, "1", True])
def test_an_age_is_more_than_nothing(option: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=f'"{option}" must be a number of seconds > 0'):
        cpool.ConnectionPool(**{option: wrong})


@pytest.mark.parametrize("wrong", [0, -1, "1", True, 1.5])
def test_one_at_least_must_be_able_to_dial(wrong: Any) -> None:
    with pytest.raises(ValueError, match='"max_connecting" must be an integer from 1 '):
        cpool.ConnectionPool(max_connecting=wrong)


def test_all_of_them_may_stand_in_a_url() -> None:
    url = "redis://h/?min_idle=0&max_idle_time=1.5&max_lifetime=none&max_connecting=2&name=x"
    for pool in (cpool.ConnectionPool.from_url(url), cpool.Redis.from_url(url).connection_pool):
        found = (pool.min_idle, pool.max_idle_time, pool.max_lifetime, pool.max_connecting)
        assert found == (0, 1.5, None, 2)
    with pytest.raises(ValueError, match="'max_idle_time' in connection URL"):
        cpool.ConnectionPool.from_url("redis://h/?max_idle_time=soon")


# -- The thread ---------------------------------------------------------------------------


def keeper() -> threading.Thread | None:
    found = [t for t in threading.enumerate() if t.name == "cpool-housekeeping"]
    assert len(found) <= 1
    return found[0] if found else None


def without_an_option() -> bool:
    pool = cpool.ConnectionPool(StubConnection, max_connecting=2, name="x")
    with all_lent(pool, 2):
        pool.drain()
    return keeper() is None


def test_no_thread_without_an_option_that_needs_it() -> None:
    assert run_in_child(without_an_option)


def until_the_last() -> int:
    pools = [cpool.ConnectionPool(StubConnection, min_idle=1) for _ in range(3)]
    for pool in pools:
        wait_for(lambda pool=pool: pool.stats().idle == 1)
    assert keeper() is not None
    for pool in pools:
        pool.close(timeout=1)
    wait_for(lambda: keeper() is None)
    another = cpool.ConnectionPool(StubConnection, min_idle=1)
    wait_for(lambda: another.stats().idle == 1)
    return len(pools)


def test_one_thread_for_all_pools_and_none_after_the_last() -> None:
    assert run_in_child(until_the_last) == 3


def test_a_pool_that_is_dropped_is_not_kept_alive() -> None:
    pool = cpool.ConnectionPool(StubConnection, min_idle=1)
    alive = weakref.ref(pool)
    wait_for(lambda: alive().stats().idle == 1)  # type: ignore[union-attr]
    del pool
    wait_for(lambda: gc.collect() >= 0 and alive() is None)


def test_a_child_has_a_thread_of_its_own(make_pool: MakePool) -> None:
    pool = make_pool(cpool.ConnectionPool, min_idle=2, max_connections=8)
    wait_for(lambda: pool.stats().idle == 2)

    def child() -> int:
        assert keeper() is None
        assert pool.stats().open == 0
        with all_lent(pool, 1):
            pass
        wait_for(lambda: pool.stats().idle == 2)
        return 2

    assert run_in_child(child) == 2


def test_what_goes_wrong_in_one_pool_is_told_and_does_not_stop_it(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(StubConnection):
        def connect(self) -> None:
            raise RuntimeError("secret")

    with caplog.at_level(logging.WARNING, "cpool.pool"):
        broken = cpool.ConnectionPool(Broken, min_idle=1, name="broken")
        pool = make_pool(cpool.ConnectionPool, min_idle=1)
        wait_for(lambda: pool.stats().idle == 1)
        wait_for(lambda: "housekeeping of pool broken failed: RuntimeError" in caplog.text)
    assert "secret" not in caplog.text
    broken.close(timeout=0)
