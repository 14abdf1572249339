"""A deadline while a caller waits for a connection, or for a client's lock."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import cpool
from cpool.tools.servers import EmbeddedServer
from tests.deadlines.conftest import MakeClient, Struck
from tests.support.servers import wait_until

LONG_S = 100.0


@pytest.fixture(params=[cpool.ConnectionPool, cpool.BlockingConnectionPool])
def pool(request: pytest.FixtureRequest, redis_server: EmbeddedServer) -> Any:
    """Give a pool of one connection whose callers wait for long."""
    made = request.param.from_url(redis_server.url, max_connections=1, timeout=LONG_S)
    yield made
    made.disconnect()


def test_an_exhausted_pool(pool: Any, make_client: MakeClient, struck: Struck) -> None:
    client = make_client(pool)
    conn = pool.get_connection()
    error = struck(lambda: client.get("key"))
    assert error.phase == "waiting for a connection"
    assert error.waiting_s > 0
    assert error.dialling_s == error.reading_s == error.writing_s == 0
    assert pool.stats().waiting == 0
    pool.release(conn)
    assert client.ping()
    assert pool.stats().open == 1


def test_the_pools_own_timeout_stays_its_own_error(pool: Any) -> None:
    pool.timeout = 0.01
    conn = pool.get_connection()
    with pytest.raises(cpool.ConnectionPoolTimeoutError), cpool.deadline(LONG_S):
        pool.get_connection()
    pool.release(conn)


def test_a_connection_that_comes_in_time_is_taken(pool: Any, make_client: MakeClient) -> None:
    client = make_client(pool)
    conn = pool.get_connection()
    answers: list[Any] = []

    def ask() -> None:
        with cpool.deadline(LONG_S):
            answers.append(client.ping())

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(lambda: pool.stats().waiting == 1, "a caller waits")
    pool.release(conn)
    thread.join()
    assert answers == [True]


def test_a_pool_that_lets_nobody_wait_says_so_at_once(
    redis_server: EmbeddedServer, make_client: MakeClient
) -> None:
    pool = cpool.ConnectionPool.from_url(redis_server.url, max_connections=1)
    client = make_client(pool)
    conn = pool.get_connection()
    with pytest.raises(cpool.pool.MaxConnectionsError), cpool.deadline(LONG_S):
        client.ping()
    pool.release(conn)


def test_the_lock_of_a_client_with_one_connection(
    redis_server: EmbeddedServer, struck: Struck
) -> None:
    client = cpool.Redis.from_url(redis_server.url, single_connection_client=True)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with client.single_connection_lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        error = struck(lambda: client.get("key"))
    finally:
        done.set()
        thread.join()
    assert error.phase == "waiting for a connection"
    assert client.ping()
    assert struck(client.ping, 0).phase == "before it began"
    with cpool.deadline(LONG_S):
        assert client.ping()
    client.close()


def test_the_connection_of_a_client_with_one_is_closed_when_it_strikes(
    redis_server: EmbeddedServer, struck: Struck
) -> None:
    client = cpool.Redis.from_url(redis_server.url, single_connection_client=True)
    assert struck(lambda: client.blpop(["none"], 0)).phase == "reading"
    assert client.connection._sock is None
    assert client.echo("own") == b"own"
    client.close()
