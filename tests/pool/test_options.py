"""cpool's own options: bad values are refused by name, and all of them work in a URL."""

from __future__ import annotations

import queue
from typing import Any

import pytest
import redis
from redis.exceptions import InvalidResponse, MaxConnectionsError

import cpool
from tests.pool.conftest import MakePool
from tests.pool.support import StubConnection

POOLS = [cpool.ConnectionPool, cpool.BlockingConnectionPool]

BAD_VALUES: list[tuple[str, list[Any], str]] = [
    ("order", ["random", None, 1, "LIFO", ["lifo"]], "lifo, fifo"),
    ("retry_policy", ["unsafe", None, True, "SAFE", ["safe"]], "redis-py, safe"),
    ("timeout", [-1, -0.001, "5", True, float("nan"), [1]], "seconds"),
    ("max_waiting", [-1, 1.5, "2", True, 2**32], "integer"),
    ("name", [5, b"bytes", ["x"]], "string"),
    ("max_connections", [-1, "10", 1.5, [1]], "positive integer"),
]
BAD = [(option, value, allowed) for option, values, allowed in BAD_VALUES for value in values]


@pytest.mark.parametrize(("option", "value", "allowed"), BAD)
@pytest.mark.parametrize("pool_class", POOLS)
def test_a_bad_value_is_refused_by_the_name_of_its_option(
    pool_class: Any, option: str, value: Any, allowed: str
) -> None:
    with pytest.raises(ValueError) as caught:
        pool_class(connection_class=StubConnection, **{option: value})
    assert f'"{option}"' in str(caught.value)
    assert allowed in str(caught.value)


@pytest.mark.parametrize("given", [queue.SimpleQueue, queue.PriorityQueue, list, None, "lifo"])
def test_a_queue_class_nobody_knows_the_order_of_is_refused(given: Any) -> None:
    with pytest.raises(ValueError) as caught:
        cpool.BlockingConnectionPool(queue_class=given)
    assert '"queue_class"' in str(caught.value)
    assert "LifoQueue" in str(caught.value) and "Queue" in str(caught.value)


@pytest.mark.parametrize("value", [0, -1, 1.5, "big", True, None, 2**63])
@pytest.mark.parametrize("option", ["max_bulk_bytes", "max_nesting_depth"])
def test_a_bad_limit_of_replies_is_refused(option: str, value: Any) -> None:
    pool = cpool.ConnectionPool(max_connections=1, **{option: value})
    for make in (lambda: cpool.Connection(**{option: value}), pool.get_connection):
        with pytest.raises(ValueError) as caught:
            make()
        assert f'"{option}"' in str(caught.value)
        assert "integer from 1 to" in str(caught.value)
    assert pool.stats().open == pool.stats().opening == 0


@pytest.mark.parametrize("value", [-1, "5", True])
def test_a_bad_value_is_refused_later_too(value: Any) -> None:
    pool = cpool.ConnectionPool(StubConnection, timeout=3)
    with pytest.raises(ValueError, match='"timeout"'):
        pool.timeout = value
    assert pool.timeout == 3


GOOD: list[tuple[str, list[Any]]] = [
    ("order", ["lifo", "fifo"]),
    ("timeout", [None, 0, 0.5, 30, float("inf")]),
    ("max_waiting", [None, 0, 7, 2**32 - 1]),
    ("name", [None, "", "sessions"]),
]


@pytest.mark.parametrize(("option", "value"), [(o, v) for o, values in GOOD for v in values])
@pytest.mark.parametrize("pool_class", POOLS)
def test_a_good_value_is_taken_and_goes_to_no_connection(
    pool_class: Any, option: str, value: Any
) -> None:
    pool = pool_class(connection_class=StubConnection, max_connections=1, **{option: value})
    connection = pool.get_connection()
    assert option not in connection.kwargs
    assert option not in pool.connection_kwargs
    if option != "order":
        assert getattr(pool, option) == value


@pytest.mark.parametrize(
    ("pool_class", "timeout"), [(cpool.ConnectionPool, 0), (cpool.BlockingConnectionPool, 20)]
)
def test_the_defaults_are_redis_pys_behaviour(pool_class: Any, timeout: float) -> None:
    pool = pool_class(connection_class=StubConnection)
    assert (pool.timeout, pool.max_waiting, pool.name) == (timeout, None, None)
    first, second = pool.get_connection(), pool.get_connection()
    pool.release(first)
    pool.release(second)
    assert pool.get_connection() is second


# -- In a URL ---------------------------------------------------------------------------


@pytest.mark.parametrize("pool_class", POOLS)
def test_every_option_may_stand_in_a_url(pool_class: Any) -> None:
    pool = pool_class.from_url(
        "redis://localhost?timeout=1.5&max_waiting=3&order=fifo&name=a%20name"
        "&max_connections=2&max_bulk_bytes=1000&max_nesting_depth=9&client_name=c"
    )
    assert (pool.timeout, pool.max_waiting, pool.name) == (1.5, 3, "a name")
    assert pool.max_connections == 2
    connection = pool.make_connection()
    assert (connection.max_bulk_bytes, connection.max_nesting_depth) == (1000, 9)
    assert connection.client_name == "c"


def test_the_order_in_a_url_has_its_effect() -> None:
    pool = cpool.ConnectionPool.from_url(
        "redis://localhost?order=fifo", connection_class=StubConnection
    )
    first, second = pool.get_connection(), pool.get_connection()
    pool.release(first)
    pool.release(second)
    assert pool.get_connection() is first


def test_a_url_wins_over_a_keyword() -> None:
    pool = cpool.ConnectionPool.from_url("redis://localhost?timeout=1", timeout=9, max_waiting=4)
    assert (pool.timeout, pool.max_waiting) == (1, 4)


@pytest.mark.parametrize("text", ["none", "None"])
def test_no_limit_of_waiters_can_be_said_in_a_url(text: str) -> None:
    pool = cpool.ConnectionPool.from_url(f"redis://localhost?max_waiting={text}")
    assert pool.max_waiting is None


@pytest.mark.parametrize(
    "option",
    ["timeout", "max_waiting", "max_connections", "max_bulk_bytes", "max_nesting_depth"],
)
def test_a_word_where_a_number_belongs_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match=f"Invalid value for '{option}' in connection URL."):
        cpool.ConnectionPool.from_url(f"redis://localhost?{option}=many")


@pytest.mark.parametrize(
    ("query", "option"),
    [("order=random", "order"), ("timeout=-1", "timeout"), ("max_waiting=-1", "max_waiting")],
)
def test_a_value_in_a_url_is_checked_like_any_other(query: str, option: str) -> None:
    with pytest.raises(ValueError, match=f'"{option}"'):
        cpool.ConnectionPool.from_url(f"redis://localhost?{query}")


def test_a_url_without_query_has_no_options() -> None:
    pool = cpool.ConnectionPool.from_url("redis://localhost/1")
    assert (pool.timeout, pool.max_waiting, pool.name) == (0, None, None)


# -- Their effect on connections ------------------------------------------------------------


def test_a_reply_beyond_the_limit_is_refused_and_costs_no_slot(
    make_pool: MakePool, fresh_db: Any
) -> None:
    pool = make_pool(cpool.ConnectionPool, max_connections=1, max_bulk_bytes=100)
    client = redis.Redis(connection_pool=pool)
    client.set("long", "x" * 101)
    client.set("fits", "x" * 100)
    for _ in range(2):
        with pytest.raises(InvalidResponse, match="longer than allowed"):
            client.get("long")
        assert len(client.get("fits")) == 100
    assert pool.stats().in_use == 0


@pytest.mark.parametrize("value", [-1, "10", 1.5, None])
def test_a_live_pool_refuses_a_limit_that_is_none(value: Any) -> None:
    pool = cpool.ConnectionPool(connection_class=StubConnection, max_connections=2)
    with pytest.raises(ValueError, match="max_connections"):
        pool.max_connections = value
    assert pool.max_connections == pool.stats().max_connections == 2


def test_a_live_limit_of_0_makes_no_connection() -> None:
    pool = cpool.ConnectionPool(connection_class=StubConnection, max_connections=2)
    pool.max_connections = 0
    with pytest.raises(MaxConnectionsError):
        pool.get_connection()


def test_a_pool_with_a_cache_can_not_be_safe() -> None:
    """redis-py's proxy of a cached connection says not what was sent."""
    cache = pytest.importorskip("redis.cache")
    with pytest.raises(
        ValueError, match='"retry_policy" can\'t be "safe" for a pool with a cache'
    ):
        cpool.ConnectionPool(protocol=3, cache_config=cache.CacheConfig(), retry_policy="safe")
