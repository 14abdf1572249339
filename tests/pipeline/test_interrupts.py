"""Signals amid a pipeline: handlers run, the exchange goes on, a handler's error ends it."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from redis.backoff import NoBackoff
from redis.exceptions import TimeoutError
from redis.retry import Retry

from tests.pipeline.support import open_link
from tests.wire.peer import Task, Wire, bulk, is_connected
from tests.wire.test_interrupts import RAISE_AT, SHORT_S, Interrupt, Storm, storm

LARGE_BYTES = 12 * 1024 * 1024  # more than two socket buffers hold


def test_handlers_run_while_a_pipeline_is_under_way(unix_wire: Wire) -> None:
    link, pipe = open_link(unix_wire)
    value = bytes(range(256)) * (LARGE_BYTES // 256)
    asked = len(b"*2\r\n$4\r\nECHO\r\n" + bulk(value))

    def serve(blowing: Storm) -> None:
        blowing.wait_enough()
        link.receive(asked // 2)
        blowing.wait_enough()
        link.receive(asked - asked // 2)
        link.send(bulk(value)[:100_000])
        blowing.wait_enough()
        link.send(bulk(value)[100_000:] + b"$1\r\n")
        blowing.wait_enough()
        link.send(b"a\r\n")

    with storm() as blowing:
        serving = Task(serve, blowing)
        assert pipe.echo(value).get("a").execute() == [value, b"a"]
        serving.result()
    assert link.conn._session.clean


@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize(
    "said", [b"", b"+OK\r\n+QUE", b"$3\r\nabc\r\n$1000000\r\n" + b"x" * 100_000], ids=len
)
def test_a_handlers_error_ends_the_pipeline_and_the_connection(
    unix_wire: Wire, said: bytes, transaction: bool
) -> None:
    link, pipe = open_link(unix_wire)
    pipe.transaction = transaction
    sending = Task(link.send, said)
    with pytest.raises(Interrupt), storm(raise_at=RAISE_AT):
        pipe.get("a").get("b").execute()
    sending.result()
    assert not is_connected(link.conn)
    assert pipe.connection is None and len(pipe) == 0


def test_a_handlers_error_amid_sending_ends_the_connection(unix_wire: Wire) -> None:
    link, pipe = open_link(unix_wire)
    value = bytearray(LARGE_BYTES)
    for _ in range(100):
        pipe.set("a", memoryview(value))
    with pytest.raises(Interrupt), storm(raise_at=RAISE_AT):
        pipe.execute()
    assert not is_connected(link.conn)
    del pipe
    value.clear()  # nobody holds its memory any more


@pytest.mark.parametrize("what", ["reading", "writing"])
def test_a_pipeline_times_out_in_a_storm(unix_wire: Wire, what: str) -> None:
    link, pipe = open_link(unix_wire, socket_timeout=SHORT_S)
    pipe.set("a", b"x" * LARGE_BYTES if what == "writing" else b"x")
    text = {"reading": "Timeout reading from socket", "writing": "Timeout writing to socket"}
    with storm() as blowing, pytest.raises(TimeoutError, match=text[what]):
        pipe.execute()
    assert blowing.handled > 2
    assert not is_connected(link.conn)


class SoftLimit(Exception):
    """What a task queue's handler raises: an ordinary exception."""


class Limiting(Storm):
    """Signals of which one raises SoftLimit."""

    def handle(self, *_: Any) -> None:
        """Count, and raise once."""
        self.handled += 1
        if self.handled == RAISE_AT:
            self.end()
            raise SoftLimit("too long")


@pytest.mark.parametrize("transaction", [False, True])
def test_an_ordinary_exception_of_a_handler_is_raised_as_it_is(
    unix_wire: Wire, transaction: bool
) -> None:
    link, pipe = open_link(unix_wire, retry=Retry(NoBackoff(), 3))
    pipe.transaction = transaction
    blowing = Limiting()
    before = signal.signal(signal.SIGUSR1, blowing.handle)
    link.send(b"+OK\r\n+QUE")
    pipe.get("a").get("b")
    sending = Task(blowing.send)
    try:
        with pytest.raises(SoftLimit, match="^too long$"):
            pipe.execute()
    finally:
        blowing.end()
        sending.result()
        signal.signal(signal.SIGUSR1, before)
    assert not is_connected(link.conn)
    assert pipe.connection is None
