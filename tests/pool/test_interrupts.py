"""Interrupt everything a pool does at every place where a signal may strike: no slot is lost."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from types import CodeType
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import cpool
from tests.pool.conftest import MakePool
from tests.pool.interrupts import interrupt_at
from tests.pool.support import HAS_MAINTENANCE, all_lent, assert_whole

OURS = os.path.dirname(cpool.__file__)
THEIRS = os.path.dirname(redis.__file__)
MOST_PLACES = 20_000


class Token:
    """New credentials; this server takes any password of the default user."""

    def try_get(self, key: str) -> str:
        return "default"

    def get_value(self) -> str:
        return "new"


def borrow(pool: Any) -> None:
    connection = pool.get_connection()
    try:
        connection.send_command("PING")
        connection.read_response()
    finally:
        pool.release(connection)


def borrow_two(pool: Any) -> None:
    with all_lent(pool, 2):
        pass


def leave_a_reply(pool: Any) -> None:
    connection = pool.get_connection()
    connection.send_command("PING")
    pool.release(connection)


def leave_a_token(pool: Any) -> None:
    connection = pool.get_connection()
    connection.set_re_auth_token(Token())
    pool.release(connection)


def borrow_after_a_drain(pool: Any) -> None:
    pool.drain()
    borrow(pool)


def borrow_after_a_reset(pool: Any) -> None:
    pool.reset()
    borrow(pool)


ACTIONS: list[Callable[[Any], None]] = [
    borrow,
    borrow_two,
    leave_a_reply,
    leave_a_token,
    borrow_after_a_drain,
    borrow_after_a_reset,
    lambda pool: pool.disconnect(),
    lambda pool: pool.disconnect(inuse_connections=False),
    lambda pool: pool.close(),
    lambda pool: pool.set_retry(Retry(NoBackoff(), 3)),
    lambda pool: pool.re_auth_callback(Token()),
    lambda pool: pool.disconnect_free_connections(),
    lambda pool: pool.update_active_connections_for_reconnect(),
    lambda pool: repr(pool.stats()),
]
NAMES = [
    *("borrow", "borrow two", "leave a reply", "leave a token", "drain", "reset"),
    *("disconnect", "disconnect idle", "close", "set retry", "re-authenticate"),
    *("disconnect free", "mark for reconnect", "stats"),
]


def in_pool_code(code: CodeType) -> bool:
    """Whether it is the borrower's code, or that of our pools and what they stand on."""
    name = code.co_filename
    return name == __file__ or name.startswith(OURS) or name.endswith("contextlib.py")


def in_any_code(code: CodeType) -> bool:
    """The same, with redis-py's connections: dialling and handshakes are interrupted too."""
    return in_pool_code(code) or code.co_filename.startswith(THEIRS)


def interrupt_everywhere(
    make: Callable[[], Any], action: Callable[[Any], None], within: Any
) -> int:
    """Interrupt an action on a pool of two slots at each place; return how many there are."""
    for n in range(1, MOST_PLACES):
        pool = make()
        fired = interrupt_at(n, lambda pool=pool: action(pool), within)
        if pool.stats().in_use:
            gc.collect()  # of the traceback; too slow to do it each time
        assert_whole(pool, 2)
        pool.disconnect()
        if not fired:
            return n - 1
    raise AssertionError("the action has no end")


@pytest.mark.parametrize("order", ["lifo", "fifo"])
@pytest.mark.parametrize(("action", "name"), list(zip(ACTIONS, NAMES, strict=True)), ids=NAMES)
def test_an_interrupted_action_costs_no_slot(
    make_pool: MakePool, action: Callable[[Any], None], name: str, order: str
) -> None:
    if name == "mark for reconnect" and not HAS_MAINTENANCE:
        pytest.skip("connections can be marked since redis-py 7.0")

    def make() -> Any:
        pool = make_pool(cpool.ConnectionPool, max_connections=2, protocol=2, order=order)
        borrow_two(pool)
        return pool

    assert interrupt_everywhere(make, action, in_pool_code) > 2


def test_an_interrupted_first_checkout_costs_no_slot(make_pool: MakePool) -> None:
    def make() -> Any:
        return make_pool(cpool.ConnectionPool, max_connections=2, protocol=2)

    assert interrupt_everywhere(make, borrow, in_pool_code) > 20


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # redis-py's, of a socket half made
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("action", [borrow, leave_a_token, borrow_after_a_drain])
def test_an_action_interrupted_anywhere_costs_no_slot(
    make_pool: MakePool, action: Callable[[Any], None], protocol: int
) -> None:
    def make() -> Any:
        return make_pool(cpool.ConnectionPool, max_connections=2, protocol=protocol)

    assert interrupt_everywhere(make, action, in_any_code) > 100
