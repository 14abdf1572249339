"""Timeouts: reading has one for inactivity, sending one in total; each read may have its own.

No test asserts how long something took. Where a timeout must not strike, it is long enough
for a loaded machine, and the test makes sure that it would have struck in total.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from redis.connection import AbstractConnection
from redis.exceptions import ConnectionError, TimeoutError

from tests.wire.peer import HAS_MAINTENANCE, Link, Task, Wire, bulk, is_connected, wait_for

IDLE_TIMEOUT_S = 1.2
PIECE_EVERY_S = 0.2
SHORT_S = 0.03
LARGE_BYTES = 12 * 1024 * 1024  # more than two socket buffers hold
BIG_STRING = bytes(range(256)) * 512  # received where it will live, see the core's BIG_BYTES


def trickle(link: Link, data: bytes) -> float:
    """Send `data` in pieces, never idle for long; return how long it took."""
    started_s = time.monotonic()
    pieces = int(IDLE_TIMEOUT_S / PIECE_EVERY_S) + 2
    size = len(data) // pieces + 1
    for at in range(0, len(data), size):
        link.send(data[at : at + size])
        time.sleep(PIECE_EVERY_S)
    return time.monotonic() - started_s


def test_a_reply_may_take_longer_than_the_timeout_while_bytes_arrive(
    all_wires: list[Wire],
) -> None:
    array = b"*60\r\n" + b"".join(bulk(b"%d" % i) for i in range(60))
    values = [b"%d" % i for i in range(60)]
    running = []
    for wire in all_wires:
        for data, value in ((array, values), (bulk(BIG_STRING), BIG_STRING)):
            link = wire.connect(socket_timeout=IDLE_TIMEOUT_S)
            running.append((Task(link.conn.read_response), Task(trickle, link, data), value))
    for reading, feeding, value in running:
        assert reading.result() == value
        assert feeding.result() > IDLE_TIMEOUT_S


def test_a_reply_that_stops_coming_times_out(wire: Wire) -> None:
    link = wire.connect(socket_timeout=SHORT_S)
    link.send(bulk(BIG_STRING)[:-1])
    with pytest.raises(TimeoutError, match="Timeout reading from socket"):
        link.conn.read_response()
    assert not is_connected(link.conn)


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("kind", ["fd", "unix", "methods"])
def test_a_send_has_its_timeout_in_total_while_bytes_are_taken(
    kind: str, joined: bool, all_wires: list[Wire]
) -> None:
    """redis-py's TLS sockets start anew with each record; so do ours."""
    link = next(wire for wire in all_wires if wire.kind == kind).connect(socket_timeout=0.3)
    over = threading.Event()

    def take_slowly() -> None:
        while not over.wait(PIECE_EVERY_S / 20):
            link.peer.recv(4096)

    taking = Task(take_slowly)
    try:
        with pytest.raises(TimeoutError, match="Timeout writing to socket"):
            exchange(link.conn, joined, "SET", "key", b"x" * LARGE_BYTES)
    finally:
        over.set()
        taking.result()
    assert not is_connected(link.conn)


def exchange(conn: Any, joined: bool, *args: Any) -> Any:
    """Send a command and read its reply, as redis-py's client does or in two calls."""

    def do() -> Any:
        conn.send_command(*args)
        return conn.read_response()

    return conn.retry.call_with_retry(do, lambda _: None) if joined else do()


# The timeout of one read


def test_a_read_without_timeout_outlives_the_sockets(wire: Wire) -> None:
    link = wire.connect(socket_timeout=SHORT_S)
    reading = Task(lambda: link.conn.read_response(timeout=None))
    reading.wait_blocked()
    time.sleep(3 * SHORT_S)
    link.send(b"+late\r\n")
    assert reading.result() == b"late"
    assert link.sock.gettimeout() == SHORT_S


def test_a_read_with_a_timeout_of_its_own_leaves_the_sockets_alone(wire: Wire) -> None:
    link = wire.connect()
    before = link.sock.gettimeout()
    with pytest.raises(TimeoutError):
        link.conn.read_response(timeout=SHORT_S, disconnect_on_error=False)
    link.send(b"+late\r\n")
    assert link.conn.read_response() == b"late"
    assert link.sock.gettimeout() == before


@pytest.mark.parametrize("timeout_s", [0, 0.0])
def test_a_read_that_may_not_wait_returns_what_is_there(wire: Wire, timeout_s: float) -> None:
    link = wire.connect()
    with pytest.raises(TimeoutError):
        link.conn.read_response(timeout=timeout_s, disconnect_on_error=False)
    link.send(b"+there\r\n")
    wait_for(lambda: link.unread_bytes, "the reply arrives")
    assert link.conn.read_response(timeout=timeout_s) == b"there"


def test_can_read_waits_as_long_as_it_is_told(wire: Wire) -> None:
    link = wire.connect()
    assert not link.conn.can_read(timeout=0)
    assert not link.conn.can_read(timeout=SHORT_S)
    asking = Task(lambda: link.conn.can_read(timeout=None))
    asking.wait_blocked()
    link.send(b"+there\r\n")
    assert asking.result()
    assert link.conn.can_read(timeout=0)
    assert link.conn.read_response() == b"there"
    assert not link.conn.can_read(timeout=0)


def test_can_read_raises_when_the_server_has_closed(wire: Wire) -> None:
    """redis-py's does so since 8.1."""
    link = wire.connect()
    link.close()
    link.wait_closed()
    with pytest.raises(ConnectionError, match="Connection closed by server."):
        link.conn.can_read(timeout=0)


def test_can_read_raises_once_the_server_closes(wire: Wire) -> None:
    link = wire.connect()
    asking = Task(lambda: link.conn.can_read(timeout=None))
    asking.wait_blocked()
    link.close()
    with pytest.raises(ConnectionError, match="Connection closed by server."):
        asking.result()


def test_can_read_sees_a_reply_that_came_together_with_another(wire: Wire) -> None:
    link = wire.connect()
    link.send(b"+one\r\n+two\r\n")
    assert link.conn.read_response() == b"one"
    assert link.conn.can_read(timeout=0)
    assert link.conn.read_response() == b"two"


# Timeouts changed by another thread


def change_on_the_socket(link: Link, timeout_s: float | None) -> None:
    link.sock.settimeout(timeout_s)


def change_as_maintenance_does(link: Link, timeout_s: float | None) -> None:
    link.conn.socket_timeout = timeout_s
    link.conn.update_current_socket_timeout(timeout_s)


CHANGES = [change_on_the_socket, *([change_as_maintenance_does] if HAS_MAINTENANCE else [])]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("timeout_s", [SHORT_S, 30.0, None])
def test_a_timeout_changed_during_a_read_does_not_break_it(
    wire: Wire, change: Callable[[Link, float | None], None], timeout_s: float | None
) -> None:
    link = wire.connect()
    reading = Task(link.conn.read_response)
    reading.wait_blocked()
    change(link, timeout_s)
    time.sleep(2 * SHORT_S)
    link.send(b"+late\r\n")
    assert reading.result() == b"late"


@pytest.mark.parametrize("change", CHANGES)
def test_a_timeout_changed_during_a_read_holds_for_the_next(
    wire: Wire, change: Callable[[Link, float | None], None]
) -> None:
    link = wire.connect()
    reading = Task(link.conn.read_response)
    reading.wait_blocked()
    change(link, SHORT_S)
    link.send(b"+one\r\n")
    assert reading.result() == b"one"
    with pytest.raises(TimeoutError):
        link.conn.read_response()


@pytest.mark.parametrize("timeout_s", [SHORT_S, 30.0, None])
def test_many_reads_after_a_change_of_the_timeout_get_their_replies(
    wire: Wire, timeout_s: float | None
) -> None:
    """Changing it makes the descriptor non-blocking behind the core's back."""
    link = wire.connect()
    for i in range(50):
        link.sock.settimeout(timeout_s if i % 2 else 20.0)
        link.send(b":%d\r\n" % i)
        wait_for(lambda: link.unread_bytes, "the reply arrives")
        assert link.conn.read_response() == i


def test_a_relaxed_timeout_outlives_the_one_that_was_asked_for(wire: Wire) -> None:
    link = wire.connect(socket_timeout=5 * SHORT_S)
    link.sock.settimeout(None)
    reading = Task(link.conn.read_response)
    reading.wait_blocked()
    time.sleep(8 * SHORT_S)
    link.send(b"+late\r\n")
    assert reading.result() == b"late"


def test_sends_by_pythons_socket_end_with_the_timeout_too(
    fd_wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody watches the sends, so redis-py's own method makes them, on a descriptor that
    Python's socket takes for non-blocking."""
    original = AbstractConnection.send_packed_command

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, *args, **kwargs)

    monkeypatch.setattr(AbstractConnection, "send_packed_command", watched)
    link = fd_wire.connect(socket_timeout=SHORT_S)
    assert link.conn._session.uses_fd
    sending = Task(link.conn.send_command, "SET", "key", bytes(LARGE_BYTES))
    with pytest.raises(TimeoutError, match="^Timeout writing to socket$"):
        sending.result()
    assert not is_connected(link.conn)
