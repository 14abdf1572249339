"""What is found on an idle connection when a command is about to be sent on it.

The look at the socket is made in the same call as the exchange; nothing was sent when it
finds something, so there is nothing to retry: all clients here have no retries.
"""

from __future__ import annotations

import select
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError, DataError

import cpool
from tests.client.support import client_of, counted
from tests.connection.fakeserver import FakeServer
from tests.pool.support import assert_whole

PUSH = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nkey\r\n"
WAIT_S = 20


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """Give a server that answers GET with "value"."""
    with FakeServer({"GET": b"$5\r\nvalue\r\n"}) as server:
        yield server


def idle(client: Any) -> Any:
    """Return the one idle connection."""
    (connection,) = client.connection_pool._available_connections
    return connection


def until_readable(client: Any) -> None:
    """Wait until something, or the end, has come in on the idle connection."""
    assert select.select([idle(client)._sock], [], [], WAIT_S)[0]


def commands(server: FakeServer) -> list[list[bytes]]:
    """The names of the commands each connection was asked for, the handshake left out."""
    return [
        [words[0] for batch in batches for words in batch if words[0] in {b"GET", b"SET"}]
        for batches in server.connections
    ]


@pytest.mark.parametrize("found", [b"", b"$4\r\nlate\r\n", b"$4\r\nla", b"!nonsense"])
def test_a_closed_or_dirty_connection_is_replaced_before_anything_is_sent(
    server: FakeServer, found: bytes
) -> None:
    """By the end of the stream, a late reply, a part of one, or no reply at all."""
    with client_of(cpool, server) as client, counted() as counts:
        assert client.get("key") == b"value"
        if found:
            server.say(found)
        else:
            server.hang_up()
        until_readable(client)
        assert client.get("key") == b"value"
        assert commands(server) == [[b"GET"], [b"GET"]]
        assert counts() == {"taken": 2}
        stats = client.connection_pool.stats()
        assert (stats.checkouts, stats.replaced) == (2, 1)
        assert_whole(client.connection_pool, 1)


def test_a_push_that_has_come_in_is_handled_and_the_connection_kept(server: FakeServer) -> None:
    with client_of(cpool, server, protocol=3) as client, counted() as counts:
        assert client.get("key") == b"value"
        seen: list[Any] = []
        idle(client)._parser.set_invalidation_push_handler(seen.append)
        server.say(PUSH)
        until_readable(client)
        assert client.get("key") == b"value"
        assert seen == [[b"invalidate", [b"key"]]]
        assert commands(server) == [[b"GET", b"GET"]]
        assert counts() == {"taken": 2}
        assert client.connection_pool.stats().replaced == 0


def test_a_command_that_could_not_be_encoded_leaves_no_look_to_others(server: FakeServer) -> None:
    """The next borrower is redis-py's client, which reads a push as one."""
    with client_of(cpool, server, protocol=3) as client:
        assert client.get("key") == b"value"
        with pytest.raises(DataError):
            client.set("key", object())
        seen: list[Any] = []
        idle(client)._parser.set_invalidation_push_handler(seen.append)
        server.say(PUSH)
        until_readable(client)
        theirs = redis.Redis(connection_pool=client.connection_pool)
        assert theirs.get("key") == b"value"
        assert len(seen) == 1
        assert commands(server) == [[b"GET", b"GET"]]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_server_that_is_gone_is_the_error_of_dialling_and_costs_no_slot(wrapped: bool) -> None:
    """Also where redis-py's code is to drive the command: its connection is looked at too."""
    with FakeServer({"GET": b"$5\r\nvalue\r\n"}) as server:
        with client_of(cpool, server, max_connections=1) as client:
            assert client.get("key") == b"value"
            if wrapped:
                connection = idle(client)
                connection.send_command = connection.send_command
            server.__exit__(None, None, None)
            until_readable(client)
            with pytest.raises(ConnectionError, match="connecting to") as raised:
                client.get("key")
            assert_no_internal_error(raised.value)
            stats = client.connection_pool.stats()
            assert (stats.in_use, stats.idle) == (0, 1)


def assert_no_internal_error(error: BaseException | None) -> None:
    while error is not None:
        assert type(error).__module__.partition(".")[0] != "cpool"
        error = error.__cause__ or error.__context__


def test_where_redis_py_drives_the_command_its_connection_is_looked_at_too(
    server: FakeServer,
) -> None:
    with client_of(cpool, server) as client, counted() as counts:
        assert client.get("key") == b"value"
        connection = idle(client)
        connection.send_command = connection.send_command
        server.say(b"$4\r\nlate\r\n")
        until_readable(client)
        assert client.get("key") == b"value"
        assert counts() == {"taken": 1, "connection overridden": 1}


def test_a_pool_that_begins_anew_while_a_connection_is_mended_is_whole(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection belongs to none of the pool's slots any more."""
    with client_of(cpool, server) as client:
        pool = client.connection_pool
        assert client.get("key") == b"value"
        connection = idle(client)

        def connect() -> None:
            monkeypatch.undo()
            pool.reset()
            connection.connect()

        monkeypatch.setattr(connection, "connect", connect)
        server.hang_up()
        until_readable(client)
        assert client.get("key") == b"value"
        assert_whole(pool, 0)


def test_a_pool_that_begins_anew_between_lending_and_looking_is_whole(
    server: FakeServer,
) -> None:
    """An argument's own code may do it: it runs when the command is encoded."""

    class Resetting(float):
        def __repr__(self) -> str:
            client.connection_pool.reset()
            return "1.5"

    with client_of(cpool, server) as client:
        assert client.get("key") == b"value"
        server.hang_up()
        until_readable(client)
        assert client.set("key", Resetting(1.5)) is True
        assert_whole(client.connection_pool, 1)
