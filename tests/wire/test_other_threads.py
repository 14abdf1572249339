"""Other threads' hands on a connection whose reply is waited for: disconnect, look, send."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis.connection import AbstractConnection
from redis.exceptions import ConnectionError

from tests.wire.conftest import make_wire
from tests.wire.peer import Link, Task, Wire, bulk, is_connected, request

ROUNDS = 40
LARGE_BYTES = 1024 * 1024


def joined(link: Link, *args: Any) -> Any:
    """Send a command and read its reply in one go."""

    def do() -> Any:
        link.conn.send_command(*args)
        return link.conn.read_response()

    return link.conn.retry.call_with_retry(do, lambda _: None)


def read_only(link: Link) -> Any:
    return link.conn.read_response()


def can_read(link: Link) -> Any:
    return link.conn.can_read(timeout=None)


def ping_joined(link: Link) -> Any:
    return joined(link, "PING")


def half_a_reply(link: Link) -> Any:
    link.send(b"*2\r\n:1\r\n$5\r\nab")
    return link.conn.read_response()


def half_a_large_reply(link: Link) -> Any:
    link.send(b"$%d\r\n" % LARGE_BYTES + b"x" * 100_000)
    return link.conn.read_response()


def send_blocked(link: Link) -> Any:
    return link.conn.send_command("SET", "key", b"x" * (12 * LARGE_BYTES))


BLOCKED: list[Callable[[Link], Any]] = [
    read_only,
    can_read,
    ping_joined,
    half_a_reply,
    half_a_large_reply,
    send_blocked,
]


@pytest.mark.parametrize("blocked", BLOCKED)
def test_a_disconnect_ends_what_another_thread_waits_for(
    wire: Wire, blocked: Callable[[Link], Any]
) -> None:
    link = wire.connect()
    waiting = Task(blocked, link)
    waiting.wait_blocked()
    link.conn.disconnect()
    with pytest.raises(ConnectionError):
        waiting.result()
    assert not is_connected(link.conn)


def test_a_disconnected_connection_can_be_used_again(wire: Wire) -> None:
    link = wire.connect()
    waiting = Task(read_only, link)
    waiting.wait_blocked()
    link.conn.disconnect()
    with pytest.raises(ConnectionError):
        waiting.result()
    accepted = Task(wire.accept)
    link.conn.connect()
    again = Link(link.conn, accepted.result())
    again.send(b"+again\r\n")
    assert link.conn.read_response() == b"again"


# The number of a descriptor that is being read from must not become another file's


@contextlib.contextmanager
def many_open_files() -> Iterator[set[int]]:
    """Open files until every number that is free has been taken."""
    fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(64)]
    try:
        yield set(fds)
    finally:
        for fd in fds:
            os.close(fd)


@pytest.mark.parametrize(
    "blocked", [read_only, can_read, ping_joined, half_a_large_reply, send_blocked]
)
def test_a_descriptor_is_not_reused_while_a_thread_waits_on_it(
    kernel_wire: Wire, blocked: Callable[[Link], Any]
) -> None:
    """A connection of another process is closed but not shut down, so its reader stays."""
    link = kernel_wire.connect()
    fd = link.sock.fileno()
    waiting = Task(blocked, link)
    waiting.wait_blocked()
    link.conn.pid = -1
    link.conn.disconnect()
    with many_open_files() as numbers:
        assert fd not in numbers
        waiting.wait_blocked()
    link.close()
    with pytest.raises(ConnectionError):
        waiting.result()


def test_a_descriptor_is_closed_once_its_reader_has_left(kernel_wire: Wire) -> None:
    link = kernel_wire.connect()
    waiting = Task(read_only, link)
    waiting.wait_blocked()
    fd = link.sock.fileno()
    link.conn.disconnect()
    with pytest.raises(ConnectionError):
        waiting.result()
    del waiting

    with many_open_files() as numbers:
        assert fd in numbers


def test_a_disconnect_at_any_moment_gives_the_reply_or_a_connection_error(wire: Wire) -> None:
    """No hang, no crash, no other exception, whoever comes first."""
    for i in range(ROUNDS):
        link = wire.connect()
        waiting = Task(joined, link, "PING")
        link.receive(1)
        link.send(b":%d\r\n" % i)
        link.conn.disconnect()
        try:
            assert waiting.result() == i
        except ConnectionError:
            pass
        link.close()


# Looking at a connection says nothing to the server


def look_at_the_socket(link: Link) -> None:
    assert link.conn._sock is link.sock


def look_at_the_details(link: Link) -> None:
    if hasattr(link.conn, "extract_connection_details"):
        link.conn.extract_connection_details()


def look_at_the_peer(link: Link) -> None:
    if hasattr(link.conn, "getpeername"):
        link.conn.getpeername()


def relax_the_timeout(link: Link) -> None:
    if hasattr(link.conn, "update_current_socket_timeout"):
        link.conn.update_current_socket_timeout(19.0)


LOOKS = [look_at_the_socket, look_at_the_details, look_at_the_peer, relax_the_timeout]


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_during_a_joined_command_sends_nothing_twice(
    wire: Wire, look: Callable[[Link], None]
) -> None:
    link = wire.connect()
    waiting = Task(joined, link, "INCR", "n")
    wanted = request(b"INCR", b"n")
    assert link.receive(len(wanted)) == wanted
    waiting.wait_blocked()
    look(link)
    link.send(b":1\r\n")
    assert waiting.result() == 1
    link.conn.send_command("PING")
    link.conn.disconnect()
    assert link.receive(1000) == request(b"PING")


def test_a_disconnect_during_a_joined_command_sends_nothing_twice(wire: Wire) -> None:
    link = wire.connect()
    waiting = Task(joined, link, "INCR", "n")
    wanted = request(b"INCR", b"n")
    assert link.receive(len(wanted)) == wanted
    waiting.wait_blocked()
    link.conn.disconnect()
    with pytest.raises(ConnectionError):
        waiting.result()
    assert link.receive(1000) == b""


# Pub/sub is read by one thread while others subscribe. Not by TLS: OpenSSL's sessions are for
# one thread at a time, in redis-py as here.


@pytest.fixture(params=["fd", "unix", "methods"])
def plain_wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    """Give a listening socket of each kind that two threads may use at once."""
    made = make_wire(request.param, request)
    yield made
    made.close()


@pytest.mark.parametrize("blocked", [read_only, ping_joined])
def test_what_another_thread_sends_during_a_read_goes_out_at_once(
    plain_wire: Wire, blocked: Callable[[Link], Any]
) -> None:
    link = plain_wire.connect()
    waiting = Task(blocked, link)
    waiting.wait_blocked()
    before = request(b"PING") if blocked is ping_joined else b""
    wanted = before + request(b"ECHO", b"x" * LARGE_BYTES) + request(b"PING")
    sending = Task(link.conn.send_command, "ECHO", b"x" * LARGE_BYTES)
    received = link.receive(len(wanted) - len(request(b"PING")))
    sending.result()
    link.conn.send_packed_command(link.conn.pack_command("PING"))
    assert received + link.receive(len(request(b"PING"))) == wanted
    link.send(b"+first\r\n")
    assert waiting.result() == b"first"


def test_what_another_thread_sends_within_its_own_retry_goes_out_at_once(
    plain_wire: Wire,
) -> None:
    """redis-py's PubSub wraps the reading as well as the sending in the retry."""
    link = plain_wire.connect()
    reading = Task(link.conn.retry.call_with_retry, link.conn.read_response, lambda _: None)
    reading.wait_blocked()
    link.conn.retry.call_with_retry(
        lambda: link.conn.send_command("SUBSCRIBE", "channel"), lambda _: None
    )
    wanted = request(b"SUBSCRIBE", b"channel")
    assert link.receive(len(wanted)) == wanted
    link.send(b"+subscribed\r\n")
    assert reading.result() == b"subscribed"


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Let threads take the GIL from each other as often as can be."""
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before_s)


@pytest.mark.usefixtures("eager_switching")
def test_a_reader_and_a_sender_do_not_disturb_each_other(plain_wire: Wire) -> None:
    n_requests = 1500
    link = plain_wire.connect()
    one = request(b"SUBSCRIBE", b"channel")

    def serve() -> int:
        for i in range(n_requests):
            assert link.receive(len(one)) == one
            link.send(b":%d\r\n" % i)
        return n_requests

    def read() -> list[int]:
        call = link.conn.retry.call_with_retry
        return [call(link.conn.read_response, lambda _: None) for _ in range(n_requests)]

    serving, reading = Task(serve), Task(read)
    for _ in range(n_requests):
        link.conn.retry.call_with_retry(
            lambda: link.conn.send_command("SUBSCRIBE", "channel"), lambda _: None
        )
    assert reading.result() == list(range(n_requests))
    assert serving.result() == n_requests


def test_two_threads_that_read_from_one_connection_get_no_garbage(wire: Wire) -> None:
    link = wire.connect()
    reading = Task(read_only, link)
    reading.wait_blocked()
    second = Task(lambda: link.conn.read_response(disconnect_on_error=False))
    second.wait_blocked_or_ended()
    link.send(bulk(b"x" * 1000) + bulk(b"y" * 1000))
    replies = []
    for task in (reading, second):
        try:
            replies.append(task.result())
        except ConnectionError:
            pass
    assert replies
    assert set(replies) <= {b"x" * 1000, b"y" * 1000}
    assert len(set(replies)) == len(replies)


# Two threads on one connection: redis-py's PubSub pings beside a subscribe()


class Odd(float):
    """A number that only redis-py's encoder knows."""


def test_a_command_whose_encoding_lets_another_thread_send_is_not_lost(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoding, may_go_on = threading.Event(), threading.Event()
    original = redis.connection.Encoder.encode

    def slow(self: Any, value: Any) -> Any:
        if isinstance(value, Odd):
            encoding.set()
            may_go_on.wait()
        return original(self, value)

    monkeypatch.setattr(redis.connection.Encoder, "encode", slow)
    link = wire.connect()
    echo = Task(link.conn.send_command, "ECHO", Odd(1.5))
    encoding.wait()
    link.conn.send_command("PING")
    may_go_on.set()
    echo.result()
    wanted = request(b"PING") + request(b"ECHO", b"1.5")
    assert link.receive(len(wanted)) == wanted
    assert link.conn._session.owed == 2


def test_a_connection_that_is_asked_by_reading_has_one_reader(wire: Wire) -> None:
    """Some sockets can't be asked whether something can be read without reading it."""
    link = wire.connect()
    asking = Task(link.conn.can_read, None)
    asking.wait_blocked()
    if link.conn._session.uses_fd:
        link.send(b"+OK\r\n")
        assert link.conn.read_response() == b"OK"
        link.send(b"+OK\r\n")
    else:
        with pytest.raises(ConnectionError, match="Another thread"):
            link.conn.read_response(disconnect_on_error=False)
        link.send(b"+OK\r\n")
    assert asking.result() is True
    assert link.conn.read_response() == b"OK"


def test_a_disconnect_amid_what_redis_py_sends_is_a_connection_error(
    fd_wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own method finds no socket any more where it goes on sending."""
    original, sendall = AbstractConnection.send_packed_command, socket.socket.sendall

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, *args, **kwargs)

    def disconnected_after(self: socket.socket, data: bytes) -> None:
        sendall(self, data)
        if self is link.sock:
            link.conn.disconnect()

    monkeypatch.setattr(AbstractConnection, "send_packed_command", watched)
    link = fd_wire.connect()
    monkeypatch.setattr(socket.socket, "sendall", disconnected_after)
    with pytest.raises(ConnectionError):
        link.conn.send_packed_command([b"*1\r\n", b"$4\r\nPING\r\n"])
    assert not is_connected(link.conn)


def test_a_disconnect_between_dialling_and_the_handshake_is_a_connection_error(
    wire: Wire,
) -> None:
    conn = wire.connection()
    shake_hands = conn.on_connect_check_health

    def disconnected_before(*args: Any, **kwargs: Any) -> None:
        conn.disconnect()
        shake_hands(*args, **kwargs)

    conn.on_connect_check_health = disconnected_before
    accepted = Task(wire.accept)
    with pytest.raises(ConnectionError):
        conn.connect()
    with contextlib.suppress(OSError):  # under TLS the client may have gone
        accepted.result()
    assert not is_connected(conn)
