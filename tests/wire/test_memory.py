"""Memory: no copy of what is large, nothing taken on a sender's word, and given back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from redis.exceptions import InvalidResponse, TimeoutError

from cpool.tools.servers import EmbeddedServer
from tests.wire.peer import Task, Wire, bulk, is_connected
from tests.wire.scripts import run_module

KIB, MIB = 1024, 1024 * 1024
KEPT_BYTES = 64 * KIB
LARGE_BYTES = 64 * MIB
SLACK_BYTES = 8 * MIB  # the allocator's and the interpreter's own
SHORT_S = 0.05


def resident_bytes() -> int:
    """Return the memory this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def array(values: list[bytes]) -> bytes:
    return b"*%d\r\n" % len(values) + b"".join(map(bulk, values))


@pytest.mark.parametrize(
    "value",
    [[b"x" * 1000] * 3000, [b"x" * (3 * MIB)], [b"x" * 100_000] * 20],
    ids=["many-small", "one-large", "some-large"],
)
def test_a_buffer_shrinks_after_a_large_reply(wire: Wire, value: list[bytes]) -> None:
    link = wire.connect()
    for data, wanted in ((array(value), value), (bulk(value[0] * 2), value[0] * 2)):
        feeding = Task(link.send, data)
        assert link.conn.read_response() == wanted
        feeding.result()
        assert link.conn._session.buffer_bytes <= KEPT_BYTES


def test_a_buffer_shrinks_after_many_replies_that_came_together(wire: Wire) -> None:
    link = wire.connect()
    feeding = Task(link.send, bulk(b"x" * 500) * 2000)
    for _ in range(2000):
        assert link.conn.read_response() == b"x" * 500
    feeding.result()
    assert link.conn._session.buffer_bytes <= KEPT_BYTES


@pytest.mark.parametrize(
    "header",
    [b"$500000000\r\n", b"*1000000000\r\n", b"*1\r\n$500000000\r\n", b"%1000000000\r\n"],
)
def test_a_header_that_promises_much_takes_no_memory(wire: Wire, header: bytes) -> None:
    link = wire.connect()
    before = resident_bytes()
    link.send(header + b"x" * 10 if b"$" in header else header)
    with pytest.raises(TimeoutError):
        link.conn.read_response(timeout=SHORT_S, disconnect_on_error=False)
    assert resident_bytes() - before < SLACK_BYTES


@pytest.mark.parametrize("header", [b"$536870913\r\n", b"*1\r\n$9223372036854775807\r\n"])
def test_a_string_above_the_limit_is_refused_at_its_header(wire: Wire, header: bytes) -> None:
    link = wire.connect()
    link.send(header)
    with pytest.raises(InvalidResponse):
        link.conn.read_response()
    assert not is_connected(link.conn)


def test_the_limits_are_options_of_the_connection(wire: Wire) -> None:
    link = wire.connect(max_bulk_bytes=10, max_nesting_depth=2)
    link.send(bulk(b"x" * 10) + b"*1\r\n*1\r\n:1\r\n" + bulk(b"x" * 11))
    assert link.conn.read_response() == b"x" * 10
    assert link.conn.read_response() == [[1]]
    with pytest.raises(InvalidResponse):
        link.conn.read_response()


def test_nesting_beyond_the_limit_is_refused(wire: Wire) -> None:
    link = wire.connect()
    link.send(b"*1\r\n" * 5000 + b":1\r\n")
    with pytest.raises(InvalidResponse):
        link.conn.read_response()


# In a process of its own, where the peak can be measured


def grown(verb: str, server: EmbeddedServer) -> int:
    """Return by how many bytes the peak grew for one large transfer."""
    answer = run_module("tests.wire.memory_script", verb, server.url, LARGE_BYTES)
    assert answer["ok"]
    return int(answer["grown_bytes"])


@pytest.mark.parametrize("where", ["redis_server", "unix_server"])
def test_a_large_reply_takes_hardly_more_memory_than_its_value(
    request: pytest.FixtureRequest, where: str
) -> None:
    size = grown("get", request.getfixturevalue(where))
    assert 0.9 * LARGE_BYTES <= size <= 1.2 * LARGE_BYTES


@pytest.mark.parametrize("verb", ["set", "set_view", "pipeline"])
def test_a_large_argument_is_not_copied(redis_server: EmbeddedServer, verb: str) -> None:
    assert grown(verb, redis_server) <= SLACK_BYTES
