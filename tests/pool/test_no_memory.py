"""Allocations that fail: whatever step they hit, no slot is lost.

Each test lets the n-th allocation fail, for one n after the other until the call succeeds.
"""

from __future__ import annotations

import _testcapi
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import cpool
from tests.pool.conftest import MakePool
from tests.pool.support import all_lent

N_CONNECTIONS = 20
MOST_ALLOCATIONS = 400


@contextlib.contextmanager
def failing(n: int) -> Iterator[None]:
    """Let the allocation with that number fail, and none after it."""
    _testcapi.set_nomemory(n, n + 1)
    try:
        yield
    finally:
        _testcapi.remove_mem_hooks()


def fails_at_each(call: Callable[[], Any], check: Callable[[], Any]) -> int:
    """Call with one allocation after the other failing; return how many there were."""
    for n in range(MOST_ALLOCATIONS):
        try:
            with failing(n):
                call()
        except MemoryError:
            check()
        else:
            check()
            return n
    raise AssertionError(f"more than {MOST_ALLOCATIONS} allocations")


class Quiet(cpool.Connection):
    """A connection that is opened without much ado."""

    made: Any = None

    def __init__(self, **kwargs: Any) -> None:
        _testcapi.remove_mem_hooks()
        super().__init__(**kwargs)
        if Quiet.made is not None:
            _testcapi.set_nomemory(Quiet.made, Quiet.made + 1)

    def connect(self) -> None:
        """Do nothing."""
        _testcapi.remove_mem_hooks()

    def can_read(self, timeout: float | None = 0) -> bool:
        """Nothing is there."""
        return False


@pytest.mark.parametrize("n", range(12))
@pytest.mark.parametrize("verb", ["get_connection", "make_connection"])
def test_a_connection_that_could_not_be_taken_in_costs_no_slot(
    verb: str, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = cpool.ConnectionPool(connection_class=Quiet, max_connections=1, protocol=2)
    monkeypatch.setattr(Quiet, "made", n)
    with contextlib.suppress(MemoryError):
        try:
            pool.release(getattr(pool, verb)())
        finally:
            _testcapi.remove_mem_hooks()
    monkeypatch.setattr(Quiet, "made", None)
    pool.release(pool.get_connection())
    stats = pool.stats()
    assert (stats.open, stats.idle, stats.in_use, stats.opening) == (1, 1, 0, 0)


@pytest.mark.parametrize("order", ["lifo", "fifo"])
def test_connections_that_could_not_be_claimed_stay_idle(make_pool: MakePool, order: str) -> None:
    pool = make_pool(cpool.ConnectionPool, max_connections=N_CONNECTIONS, order=order)
    with all_lent(pool, N_CONNECTIONS):
        pass

    def check() -> None:
        assert pool.stats().idle == N_CONNECTIONS
        with all_lent(pool, N_CONNECTIONS):
            pass

    def claim() -> None:
        with pool._claim_idle() as (idle, lent):
            assert (len(idle), lent) == (N_CONNECTIONS, [])

    assert fails_at_each(claim, check) > N_CONNECTIONS / 4


@pytest.mark.parametrize("order", ["lifo", "fifo"])
def test_claimed_connections_come_back_where_there_was_no_memory_to_say_so(
    make_pool: MakePool, order: str
) -> None:
    pool = make_pool(cpool.ConnectionPool, max_connections=N_CONNECTIONS, order=order)
    with all_lent(pool, N_CONNECTIONS):
        pass
    before = pool._idle()
    claim = pool._claim_idle()  # a `with` may fail to call its __exit__
    assert claim.__enter__() == (before[::-1], [])
    assert pool.stats().idle == N_CONNECTIONS
    del claim
    assert pool._idle() == before
    with all_lent(pool, N_CONNECTIONS):
        pass
