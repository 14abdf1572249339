"""Signals: handlers run while the core waits, the wait goes on, a handler's error ends it.

The signals come from another thread (pthread_kill), so that the runner's own alarm is left
alone. All waits are made by the main thread, where Python runs its handlers.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
from redis.exceptions import ConnectionError, TimeoutError

from tests.wire.peer import Link, Task, Wire, bulk, is_connected, request, wait_for

SIGNAL_EVERY_S = 0.002
ENOUGH_SIGNALS = 8
SHORT_S = 0.1
LARGE_BYTES = 12 * 1024 * 1024  # more than two socket buffers hold
Handler = Callable[[int, FrameType | None], None]


class Interrupt(BaseException):
    """What a signal's handler of a test raises."""


class Storm:
    """Signals for the main thread, one after the other, and how many were handled."""

    def __init__(self) -> None:
        self.handled = 0
        self.raise_at: int | None = None
        self._over = threading.Event()

    def handle(self, *_: Any) -> None:
        """Count, and raise if the test wants that."""
        self.handled += 1
        if self.raise_at is not None and self.handled >= self.raise_at:
            self._over.set()
            raise Interrupt

    def send(self) -> None:
        """Send signals until it is over."""
        main = threading.main_thread().ident
        assert main is not None
        while not self._over.wait(SIGNAL_EVERY_S):
            signal.pthread_kill(main, signal.SIGUSR1)

    def end(self) -> None:
        """Send no more."""
        self._over.set()

    def wait_enough(self) -> None:
        """Wait until many were handled from here on."""
        goal = self.handled + ENOUGH_SIGNALS
        wait_for(lambda: self.handled >= goal, "signals are handled")


@contextmanager
def storm(raise_at: int | None = None) -> Iterator[Storm]:
    """Send signals to the main thread while the block runs."""
    made = Storm()
    made.raise_at = raise_at
    before = signal.signal(signal.SIGUSR1, made.handle)
    sending = Task(made.send)
    try:
        yield made
    finally:
        made.end()
        sending.result()
        signal.signal(signal.SIGUSR1, before)


def joined(link: Link, *args: Any) -> Any:
    """Send a command and read its reply in one go."""

    def do() -> Any:
        link.conn.send_command(*args)
        return link.conn.read_response()

    return link.conn.retry.call_with_retry(do, lambda _: None)


def test_handlers_run_while_a_reply_is_waited_for(wire: Wire) -> None:
    link = wire.connect()

    def answer(blowing: Storm) -> None:
        blowing.wait_enough()
        link.send(b"$5\r\nab")
        blowing.wait_enough()
        link.send(b"cde\r\n")

    with storm() as blowing:
        answering = Task(answer, blowing)
        assert link.conn.read_response() == b"abcde"
        answering.result()
    assert is_connected(link.conn)


def test_handlers_run_while_a_joined_command_is_under_way(wire: Wire) -> None:
    link = wire.connect()
    value = b"x" * LARGE_BYTES
    wanted = request(b"SET", b"key", value)

    def serve(blowing: Storm) -> bytes:
        blowing.wait_enough()
        received = link.receive(len(wanted))
        blowing.wait_enough()
        link.send(b"+OK\r\n")
        return received

    with storm() as blowing:
        serving = Task(serve, blowing)
        assert joined(link, "SET", "key", value) == b"OK"
        assert serving.result() == wanted


def test_handlers_run_while_a_large_string_comes_in(wire: Wire) -> None:
    link = wire.connect()
    value = bytes(range(256)) * 4096

    def answer(blowing: Storm) -> None:
        data = bulk(value)
        for at in range(0, len(data), 150_000):
            blowing.wait_enough()
            link.send(data[at : at + 150_000])

    with storm() as blowing:
        answering = Task(answer, blowing)
        assert link.conn.read_response() == value
        answering.result()


def test_handlers_run_while_can_read_waits(wire: Wire) -> None:
    link = wire.connect()

    def answer(blowing: Storm) -> None:
        blowing.wait_enough()
        link.send(b"+late\r\n")

    with storm() as blowing:
        answering = Task(answer, blowing)
        assert link.conn.can_read(timeout=None)
        answering.result()
    assert link.conn.read_response() == b"late"


# A storm must not make a timeout begin anew


def test_a_read_times_out_in_a_storm(wire: Wire) -> None:
    link = wire.connect(socket_timeout=SHORT_S)
    with storm() as blowing, pytest.raises(TimeoutError):
        link.conn.read_response()
    assert blowing.handled > 2


def test_can_read_times_out_in_a_storm(wire: Wire) -> None:
    link = wire.connect()
    with storm() as blowing:
        assert not link.conn.can_read(timeout=SHORT_S)
    assert blowing.handled > 2


@pytest.mark.parametrize("kind", ["separate", "joined"])
def test_a_send_times_out_in_a_storm(wire: Wire, kind: str) -> None:
    link = wire.connect(socket_timeout=SHORT_S)
    value = b"x" * LARGE_BYTES
    with storm() as blowing, pytest.raises(TimeoutError, match="Timeout writing to socket"):
        if kind == "joined":
            joined(link, "SET", "key", value)
        else:
            link.conn.send_command("SET", "key", value)
    assert blowing.handled > 2
    assert not is_connected(link.conn)


# A handler that raises. By the tenth signal the main thread has long entered the wait.

RAISE_AT = 10


def test_a_handlers_error_ends_a_read_and_the_connection(wire: Wire) -> None:
    link = wire.connect()
    with pytest.raises(Interrupt), storm(raise_at=RAISE_AT):
        link.conn.read_response()
    assert not is_connected(link.conn)


def test_a_handlers_error_ends_a_joined_command_and_the_connection(wire: Wire) -> None:
    link = wire.connect()
    with pytest.raises(Interrupt), storm(raise_at=RAISE_AT):
        joined(link, "PING")
    assert not is_connected(link.conn)
    assert link.receive(1000) == request(b"PING")


def test_a_handlers_error_ends_a_large_reply_and_the_connection(wire: Wire) -> None:
    link = wire.connect()
    link.send(b"$1000000\r\n" + b"x" * 100_000)
    with pytest.raises(Interrupt), storm(raise_at=RAISE_AT):
        link.conn.read_response()
    assert not is_connected(link.conn)


@pytest.mark.parametrize("kind", ["separate", "joined"])
def test_a_handlers_error_ends_a_send_and_the_connection(wire: Wire, kind: str) -> None:
    link = wire.connect()
    value = bytearray(LARGE_BYTES)
    with pytest.raises(Interrupt), storm(raise_at=RAISE_AT):
        if kind == "joined":
            joined(link, "SET", "key", value)
        else:
            link.conn.send_command("SET", "key", value)
    assert not is_connected(link.conn)
    value.clear()  # nobody holds its memory any more


def test_a_handlers_error_may_leave_the_connection_open_if_asked(wire: Wire) -> None:
    link = wire.connect()
    link.send(b"$5\r\nab")
    with pytest.raises(Interrupt), storm(raise_at=RAISE_AT):
        link.conn.read_response(disconnect_on_error=False)
    link.send(b"cde\r\n")
    assert link.conn.read_response() == b"abcde"


def test_a_handler_may_disconnect_the_connection_that_is_read(wire: Wire) -> None:
    link = wire.connect()
    handled = threading.Event()

    def disconnect(*_: Any) -> None:
        handled.set()
        link.conn.disconnect()

    def interrupt(reader: int) -> None:
        wait_for(lambda: link.peer.recv(1), "the request has come")
        while not handled.wait(0.02):  # one that comes just before the poll wakes nobody
            signal.pthread_kill(reader, signal.SIGUSR1)

    main = threading.main_thread().ident
    before = signal.signal(signal.SIGUSR1, disconnect)
    try:
        link.conn.send_command("PING")
        interrupting = Task(interrupt, main)
        with pytest.raises(ConnectionError):
            link.conn.read_response()
        interrupting.result()
    finally:
        signal.signal(signal.SIGUSR1, before)
