"""What goes wrong on the wire comes to what redis-py makes of it: type, text, connected or not.

Each situation is made twice, for redis-py's connection and for ours, and compared.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import redis
from redis._parsers import _RESP3Parser
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,
    DataError,
    InvalidResponse,
    NoPermissionError,
    ResponseError,
    TimeoutError,
)

import cpool
from tests.wire.peer import LIBRARIES, Link, Outcome, Task, Wire, bulk, outcome, request

PROTOCOLS = (2, 3)
LARGE_BYTES = 12 * 1024 * 1024  # more than two socket buffers hold
Situation = Callable[[Link], Outcome]


def closed_before_the_reply(link: Link) -> Outcome:
    link.close()
    return outcome(link.conn, link.conn.read_response)


def closed_within_a_reply(link: Link) -> Outcome:
    link.send(b"$5\r\nab")
    link.close()
    return outcome(link.conn, link.conn.read_response)


def closed_within_a_large_reply(link: Link) -> Outcome:
    link.send(b"$%d\r\n" % LARGE_BYTES + b"x" * 100_000)
    link.close()
    return outcome(link.conn, link.conn.read_response)


def reset_before_the_reply(link: Link) -> Outcome:
    link.reset()
    link.wait_broken()
    return outcome(link.conn, link.conn.read_response)


def reset_with_unread_requests(link: Link) -> Outcome:
    link.conn.send_command("PING")
    link.reset()
    link.wait_broken()
    return outcome(link.conn, link.conn.read_response)


def closed_before_the_request(link: Link) -> Outcome:
    link.close()
    result = outcome(link.conn, lambda: link.conn.send_command("PING"))
    if result.error is not None:  # a unix socket knows at once
        return result
    link.wait_broken()
    return outcome(link.conn, lambda: link.conn.send_command("PING"))


def reset_before_the_request(link: Link) -> Outcome:
    link.reset()
    link.wait_broken()
    return outcome(link.conn, lambda: link.conn.send_command("PING"))


def read_after_a_disconnect(link: Link) -> Outcome:
    link.conn.disconnect()
    return outcome(link.conn, link.conn.read_response)


def error_reply(link: Link) -> Outcome:
    link.send(b"-WRONGTYPE no list\r\n")
    return outcome(link.conn, link.conn.read_response)


def permission_reply(link: Link) -> Outcome:
    link.send(b"-NOPERM no\r\n")
    return outcome(link.conn, link.conn.read_response)


def loading_reply(link: Link) -> Outcome:
    link.send(b"-LOADING not yet\r\n")
    return outcome(link.conn, link.conn.read_response)


def authentication_reply(link: Link) -> Outcome:
    link.send(b"-NOAUTH Authentication required.\r\n")
    return outcome(link.conn, link.conn.read_response)


def too_many_clients_reply(link: Link) -> Outcome:
    link.send(b"-ERR max number of clients reached\r\n")
    return outcome(link.conn, link.conn.read_response)


def loading_reply_kept_open(link: Link) -> Outcome:
    link.send(b"-LOADING not yet\r\n")
    return outcome(link.conn, lambda: link.conn.read_response(disconnect_on_error=False))


# The situation, and the exception redis-py raises for it on a TCP connection.
SITUATIONS: dict[Situation, type[Exception]] = {
    closed_before_the_reply: ConnectionError,
    closed_within_a_reply: ConnectionError,
    closed_within_a_large_reply: ConnectionError,
    reset_before_the_reply: ConnectionError,
    reset_with_unread_requests: ConnectionError,
    closed_before_the_request: ConnectionError,
    reset_before_the_request: ConnectionError,
    read_after_a_disconnect: ConnectionError,
    error_reply: ResponseError,
    permission_reply: NoPermissionError,
    loading_reply: BusyLoadingError,
    authentication_reply: AuthenticationError,
    too_many_clients_reply: ConnectionError,
    loading_reply_kept_open: BusyLoadingError,
}


def both(wire: Wire, situation: Situation, **options: Any) -> tuple[Outcome, Outcome]:
    """Tell what a situation comes to with redis-py, and with cpool."""
    # OpenSSL keeps errors by thread, and Python 3.14 may take one for the next connection's.
    theirs, ours = (
        Task(situation, wire.connect(library, **options)).result() for library in LIBRARIES
    )
    return theirs, ours


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.__name__)
def test_an_error_is_redis_pys_in_type_text_and_consequence(
    wire: Wire, situation: Situation, protocol: int
) -> None:
    theirs, ours = both(wire, situation, protocol=protocol)
    assert theirs.error is SITUATIONS[situation]
    assert ours == theirs


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("size", [2, 100_000])
def test_a_reply_that_is_not_in_the_encoding_closes_the_connection(
    wire: Wire, protocol: int, size: int
) -> None:
    def situation(link: Link) -> Outcome:
        link.send(bulk(b"\xff" * size))
        return outcome(link.conn, link.conn.read_response)

    theirs, ours = both(wire, situation, protocol=protocol, decode_responses=True)
    assert theirs.error is UnicodeDecodeError
    assert ours == theirs


# The end of the connection while a thread waits


def reset_while_reading(link: Link) -> Outcome:
    waiting = Task(outcome, link.conn, link.conn.read_response)
    waiting.wait_blocked()
    link.reset()
    return waiting.result()


def reset_while_sending(link: Link) -> Outcome:
    call = link.conn.send_command
    waiting = Task(outcome, link.conn, lambda: call("SET", "key", b"x" * LARGE_BYTES))
    waiting.wait_blocked()
    link.reset()
    return waiting.result()


@pytest.mark.parametrize("situation", [reset_while_reading, reset_while_sending])
def test_the_end_of_the_connection_is_redis_pys_error_to_who_waits(
    wire: Wire, situation: Situation
) -> None:
    theirs, ours = both(wire, situation)
    assert theirs.error is ConnectionError
    assert ours == theirs


# Timeouts: a few milliseconds, since they are met in any case


def nothing_to_read(link: Link) -> Outcome:
    return outcome(link.conn, link.conn.read_response)


def half_a_reply(link: Link) -> Outcome:
    link.send(b"$5\r\nab")
    return outcome(link.conn, link.conn.read_response)


def nothing_to_read_and_kept_open(link: Link) -> Outcome:
    return outcome(link.conn, lambda: link.conn.read_response(disconnect_on_error=False))


def a_request_nobody_takes(link: Link) -> Outcome:
    value = b"x" * LARGE_BYTES
    return outcome(link.conn, lambda: link.conn.send_command("SET", "key", value))


def packed_requests_nobody_takes(link: Link) -> Outcome:
    packed = link.conn.pack_commands([("SET", "key", b"x" * LARGE_BYTES), ("PING",)])
    return outcome(link.conn, lambda: link.conn.send_packed_command(packed))


TIMEOUTS: dict[Situation, str] = {
    nothing_to_read: "Timeout reading from socket",
    half_a_reply: "Timeout reading from socket",
    nothing_to_read_and_kept_open: "Timeout reading from socket",
    a_request_nobody_takes: "Timeout writing to socket",
    packed_requests_nobody_takes: "Timeout writing to socket",
}


@pytest.mark.parametrize("situation", TIMEOUTS, ids=lambda situation: situation.__name__)
def test_a_timeout_is_redis_pys_in_type_text_and_consequence(
    wire: Wire, situation: Situation
) -> None:
    """Before redis-py 8, the text of its parser on hiredis is another than its own's."""

    def connect_then_hurry(link: Link) -> Outcome:
        link.sock.settimeout(0.03)
        return situation(link)

    theirs, ours = both(wire, connect_then_hurry, protocol=3, parser_class=_RESP3Parser)
    assert (theirs.error, theirs.text) == (TimeoutError, TIMEOUTS[situation])
    assert ours == theirs


# Where redis-py's two parsers or packers differ in the text, ours has one of its own


def test_bytes_that_are_no_reply_are_an_invalid_response(wire: Wire) -> None:
    def situation(link: Link) -> Outcome:
        link.send(b"hello\r\n")
        return outcome(link.conn, link.conn.read_response)

    theirs, ours = both(wire, situation)
    assert (ours.error, ours.connected) == (theirs.error, theirs.connected)
    assert ours == Outcome(None, InvalidResponse, "Protocol Error: b'h'", False)


def test_an_argument_that_cannot_be_encoded_leaves_the_connection_open(wire: Wire) -> None:
    def situation(link: Link) -> Outcome:
        return outcome(link.conn, lambda: link.conn.send_command("SET", "key", True))

    theirs, ours = both(wire, situation)
    text = "Invalid input of type: 'bool'. Convert to a bytes, string, int or float first."
    assert (ours.error, ours.connected) == (theirs.error, theirs.connected)
    assert ours == Outcome(None, DataError, text, True)


def test_an_argument_is_encoded_before_anything_is_dialled(fd_wire: Wire) -> None:
    for library in LIBRARIES:
        conn = fd_wire.connection(library)
        result = outcome(conn, lambda conn=conn: conn.send_command("SET", "key", True))
        assert (result.error, result.connected) == (DataError, False), library


def test_a_connection_error_deep_in_an_array_closes_the_connection(wire: Wire) -> None:
    link = wire.connect()
    link.send(b"*2\r\n:1\r\n*1\r\n-LOADING not yet\r\n")
    result = outcome(link.conn, link.conn.read_response)
    assert result == Outcome(None, BusyLoadingError, "not yet", False)


def test_an_error_within_an_array_is_a_value(wire: Wire) -> None:
    link = wire.connect()
    link.send(b"*2\r\n:1\r\n-WRONGTYPE no list\r\n")
    first, second = link.conn.read_response()
    assert (first, type(second), str(second)) == (1, ResponseError, "WRONGTYPE no list")


# Connecting


def test_a_refused_connection_is_redis_pys_error(fd_wire: Wire) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    theirs, ours = (
        outcome(conn, conn.connect)
        for conn in (library.Connection(host="127.0.0.1", port=port) for library in LIBRARIES)
    )
    text = f"Error 111 connecting to 127.0.0.1:{port}. Connection refused."
    assert theirs == Outcome(None, ConnectionError, text, False)
    assert ours == theirs


def test_a_missing_unix_socket_is_redis_pys_error(tmp_path: Any) -> None:
    path = str(tmp_path / "nobody")
    theirs, ours = (
        outcome(conn, conn.connect)
        for conn in (
            redis.UnixDomainSocketConnection(path=path),
            cpool.UnixDomainSocketConnection(path=path),
        )
    )
    assert theirs.error is ConnectionError
    assert ours == theirs


@contextmanager
def full_listener() -> Iterator[int]:
    """Listen on a port where nobody accepts and the queue is full: connecting hangs."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_a_connect_that_takes_too_long_is_redis_pys_error() -> None:
    with full_listener() as port:
        theirs, ours = (
            outcome(conn, conn.connect)
            for conn in (
                library.Connection(host="127.0.0.1", port=port, socket_connect_timeout=0.05)
                for library in LIBRARIES
            )
        )
    assert theirs == Outcome(None, TimeoutError, "Timeout connecting to server", False)
    assert ours == theirs


def test_pipelined_requests_are_readable_by_the_server_as_they_were_packed(wire: Wire) -> None:
    link = wire.connect()
    link.conn.send_packed_command(link.conn.pack_commands([("PING",), ("GET", "key")]))
    wanted = request(b"PING") + request(b"GET", b"key")
    assert link.receive(len(wanted)) == wanted
