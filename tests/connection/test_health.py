"""Health checks: a PING before a command when the connection was quiet for long, as redis-py's."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, DataError
from redis.retry import Retry

import cpool
from tests.connection.fakeserver import CLOSE, FakeServer, Reply
from tests.wire.peer import LIBRARIES, outcome

INTERVAL_S = 1000


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """Give a server that says yes to everything."""
    with FakeServer() as running:
        yield running


def pool_of(library: Any, server: FakeServer, **options: Any) -> Any:
    options = {"health_check_interval": INTERVAL_S, **options}
    return library.ConnectionPool(host=server.host, port=server.port, **options)


def commands(server: FakeServer) -> list[str]:
    return [words[0].decode() for words in server.requests]


def make_due(pool: Any) -> Any:
    """Let the health check of the pool's connection be due; return the connection."""
    conn = pool.get_connection()
    conn.next_health_check = 0
    pool.release(conn)
    return conn


def get(client: redis.Redis) -> Any:
    return client.get("key")


def pipeline(client: redis.Redis) -> Any:
    return client.pipeline(transaction=False).get("key").execute()


def transaction(client: redis.Redis) -> Any:
    return client.pipeline().get("key").execute()


VERBS: list[Callable[[redis.Redis], Any]] = [get, pipeline, transaction]


@pytest.mark.parametrize("verb", VERBS)
def test_a_check_goes_out_before_a_command_when_it_is_due(
    server: FakeServer, verb: Callable[[redis.Redis], Any]
) -> None:
    server.replies["EXEC"] = b"*1\r\n$-1\r\n"
    seen = []
    for library in LIBRARIES:
        pool = pool_of(library, server)
        conn = make_due(pool)
        before = len(commands(server))
        verb(redis.Redis(connection_pool=pool))
        seen.append(commands(server)[before:])
        assert conn.next_health_check > time.monotonic()
        before = len(commands(server))
        verb(redis.Redis(connection_pool=pool))
        assert "PING" not in commands(server)[before:]
        pool.disconnect()
    assert seen[0][0] == "PING"
    assert seen[1] == seen[0]


def test_a_check_waits_for_its_answer_before_the_command(server: FakeServer) -> None:
    pool = pool_of(cpool, server)
    make_due(pool)
    redis.Redis(connection_pool=pool).get("key")
    assert server.batches[-2:] == [["PING"], ["GET"]]
    pool.disconnect()


def test_without_an_interval_there_is_no_check(server: FakeServer) -> None:
    pool = pool_of(cpool, server, health_check_interval=0)
    make_due(pool)
    redis.Redis(connection_pool=pool).get("key")
    assert "PING" not in commands(server)
    pool.disconnect()


def test_a_reply_puts_the_next_check_off(server: FakeServer) -> None:
    conn = pool_of(cpool, server).get_connection()
    for _ in range(3):
        conn.next_health_check = time.monotonic() + 500
        conn.send_command("GET", "key")
        conn.read_response()
        assert conn.next_health_check > time.monotonic() + 900
    conn.disconnect()


@pytest.mark.parametrize("answer", [CLOSE, b"+NO\r\n", b"-LOADING not yet\r\n"])
@pytest.mark.parametrize("retries", [0, 2])
def test_a_failed_check_is_redis_pys_error(answer: Reply, retries: int) -> None:
    results = []
    for library in LIBRARIES:
        with FakeServer() as server:
            pool = pool_of(library, server, retry=Retry(NoBackoff(), retries))
            conn = pool.get_connection()
            server.replies["PING"] = answer
            conn.next_health_check = 0
            result = outcome(conn, lambda conn=conn: conn.send_command("GET", "key"))
            pings = sum(
                words[0] == b"PING" for made in server.connections for b in made for words in b
            )
            results.append((result, pings))
            pool.disconnect()
    assert issubclass(results[0][0].error, ConnectionError)
    assert results[1] == results[0]


def test_a_check_that_finds_the_connection_dead_makes_a_new_one(server: FakeServer) -> None:
    for library in LIBRARIES:
        pool = pool_of(library, server, retry=Retry(NoBackoff(), 1))
        client = redis.Redis(connection_pool=pool)
        client.get("key")
        made = len(server.connections)
        conn = pool.get_connection()
        conn.next_health_check = 0
        server.replies["PING"] = CLOSE
        server.wait_until(lambda: True)
        try:
            conn.send_command("GET", "key")
        except ConnectionError:
            pass
        server.replies["PING"] = b"+PONG\r\n"
        pool.release(conn)
        assert client.get("key") is None
        assert len(server.connections) > made
        pool.disconnect()


def test_a_check_is_seen_by_a_patched_send_command(server: FakeServer) -> None:
    for library in LIBRARIES:
        pool = pool_of(library, server)
        conn = make_due(pool)
        with mock.patch.object(conn, "send_command", wraps=conn.send_command) as seen:
            redis.Redis(connection_pool=pool).get("key")
            seen.assert_any_call("PING", check_health=False)
        pool.disconnect()


def test_a_check_of_a_subclass_is_called_before_each_command(server: FakeServer) -> None:
    class Checked(cpool.Connection):
        checks = 0

        def check_health(self) -> None:
            self.checks += 1
            super().check_health()

    pool = pool_of(cpool, server, connection_class=Checked, health_check_interval=0)
    client = redis.Redis(connection_pool=pool)
    conn = pool.get_connection()
    pool.release(conn)
    before = conn.checks
    client.get("key")
    client.pipeline(transaction=False).get("key").execute()
    assert conn.checks == before + 2
    pool.disconnect()


def test_an_argument_that_cannot_be_encoded_is_met_before_the_check(server: FakeServer) -> None:
    for library in LIBRARIES:
        conn = pool_of(library, server).get_connection()
        conn.next_health_check = 0
        before = len(commands(server))
        with pytest.raises(DataError):
            conn.send_command("SET", "key", None)
        assert commands(server)[before:] == [], library
        conn.disconnect()


def test_a_command_that_wants_no_check_makes_none(server: FakeServer) -> None:
    for library in LIBRARIES:
        conn = pool_of(library, server).get_connection()
        conn.next_health_check = 0
        before = len(commands(server))
        conn.send_command("GET", "key", check_health=False)
        conn.read_response()
        conn.next_health_check = 0
        conn.send_packed_command(conn.pack_command("GET", "key"), check_health=False)
        conn.read_response()
        assert commands(server)[before:] == ["GET", "GET"]
        conn.disconnect()


class Traced(cpool.Connection):
    """A connection whose sends somebody watches."""

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Pass it on."""
        super().send_packed_command(command, check_health)


@pytest.mark.parametrize("connection_class", [cpool.Connection, Traced])
def test_a_command_is_owed_by_the_connection_it_was_sent_on(
    server: FakeServer, connection_class: Any
) -> None:
    """Not by the one before, which the health check has found dead."""
    retry = Retry(NoBackoff(), 2)
    pool = pool_of(cpool, server, connection_class=connection_class, retry=retry)
    conn = make_due(pool)
    conn = pool.get_connection()
    before = conn._session
    conn._sock.shutdown(socket.SHUT_RDWR)
    conn.send_command("ECHO", "nobody reads it")
    assert conn._session is not before
    assert conn._session.owed == 1
    pool.release(conn)
    assert pool.stats().discarded == 1
    pool.disconnect()


class Odd(float):
    """A number that only redis-py's encoder knows."""


def test_a_command_is_encoded_once_while_no_check_is_due(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    original = redis.connection.Encoder.encode

    def counted(self: Any, value: Any) -> Any:
        encoded.append(value)
        return original(self, value)

    monkeypatch.setattr(redis.connection.Encoder, "encode", counted)
    conn = cpool.Connection(host=server.host, port=server.port, health_check_interval=INTERVAL_S)
    conn.connect()
    conn.next_health_check = time.monotonic() + INTERVAL_S
    encoded.clear()
    conn.send_command("ECHO", Odd(1.5))
    assert encoded == [1.5]
    conn.disconnect()
