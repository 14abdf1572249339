"""Options that are changed while the pool is used: what is set holds from then on."""

from __future__ import annotations

from typing import Any

import pytest

import cpool
from cpool import housekeeping
from tests.pool.conftest import MakePool
from tests.pool.support import (
    StubConnection,
    Task,
    all_lent,
    is_answering,
    wait_for,
    wait_older_than,
)


@pytest.fixture
def nobody_keeps_house(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let only the test call _keep_house()."""
    monkeypatch.setattr(housekeeping, "watch", lambda pool: None)


REFUSED: list[tuple[str, Any]] = [
    ("timeout", -1),
    ("max_waiting", -1),
    ("max_connections", None),
    ("max_connecting", 0),
    ("min_idle", 9),
    ("max_idle_time", 0),
    ("max_lifetime", "60"),
]


@pytest.mark.parametrize(("option", "wrong"), REFUSED)
def test_what_is_not_allowed_changes_nothing(option: str, wrong: Any) -> None:
    pool = cpool.ConnectionPool(StubConnection, max_connections=8)
    before = getattr(pool, option)
    with pytest.raises(ValueError, match=f'"{option}"'):
        setattr(pool, option, wrong)
    assert getattr(pool, option) == before


def test_more_are_kept_idle_from_now_on(make_pool: MakePool) -> None:
    pool = make_pool(cpool.ConnectionPool, max_connections=5)
    with all_lent(pool, 1):
        pool.min_idle = 3
        wait_for(lambda: pool.stats().idle == 3)
    assert pool.min_idle == 3


@pytest.mark.parametrize("option", ["max_idle_time", "max_lifetime"])
def test_a_new_limit_of_age_is_kept_by_the_housekeeper(make_pool: MakePool, option: str) -> None:
    pool = make_pool(cpool.ConnectionPool, max_connections=2)
    with all_lent(pool, 2):
        pass
    setattr(pool, option, 0.01)
    wait_for(lambda: pool.stats().open == 0)


@pytest.mark.usefixtures("nobody_keeps_house")
@pytest.mark.parametrize("when", ["idle", "lent"])
@pytest.mark.parametrize("option", ["max_idle_time", "max_lifetime"])
def test_an_age_is_no_reason_any_more(make_pool: MakePool, option: str, when: str) -> None:
    pool = make_pool(cpool.ConnectionPool, max_connections=1, **{option: 0.02})
    connection = pool.get_connection()
    before = connection._sock.getsockname()
    if when == "lent":
        setattr(pool, option, None)
    pool.release(connection)
    setattr(pool, option, None)
    wait_older_than(0.02)
    again = pool.get_connection()
    assert again._sock.getsockname() == before
    assert is_answering(again)
    pool.release(again)


@pytest.mark.usefixtures("nobody_keeps_house")
def test_those_that_are_idle_already_grow_stale_as_well(make_pool: MakePool) -> None:
    pool = make_pool(cpool.ConnectionPool, max_connections=3)
    with all_lent(pool, 3):
        pass
    wait_older_than(0.02)
    pool.max_idle_time = 0.02
    pool._keep_house()
    assert (pool.stats().open, pool.stats().closed_idle) == (0, 3)


def test_more_may_dial_at_once_when_the_limit_is_raised(make_pool: MakePool) -> None:
    pool = make_pool(cpool.ConnectionPool, max_connections=4, max_connecting=1)
    tasks = []
    with pool._dials.turn(cpool.Connection()):
        tasks.append(Task(pool.get_connection))
        wait_for(lambda: pool.stats().waiting + pool._dials.waiting == 1)
        pool.max_connecting = 2
        pool.release(tasks[0].result())
    assert pool.max_connecting == 2
