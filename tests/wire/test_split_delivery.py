"""A reply is the same however it is cut on its way, and however often its reader gave up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from redis.exceptions import ConnectionError, InvalidResponse, TimeoutError

from tests.wire.peer import Link, Task, Wire, bulk, is_connected

BUFFER_BYTES = 16 * 1024  # what one receive gets room for
BIG_BYTES = 64 * 1024  # above it, a string is received where it will live
FIRST_BIG_BYTES = 256 * 1024  # and grown from there
SIZES = [BUFFER_BYTES - 20, BIG_BYTES - 1, BIG_BYTES, BIG_BYTES + 1, FIRST_BIG_BYTES + 1]
SHORT_S = 0.01
LAST = b"+last\r\n"


def pattern(size: int) -> bytes:
    """Return bytes in which every shift by less than 251 shows."""
    unit = bytes(range(251))
    return (unit * (size // len(unit) + 1))[:size]


def cuts_of(data: bytes) -> list[int]:
    """Where it is interesting to cut a string: header, buffer's end, body's end, CR LF."""
    header = data.index(b"\n") + 1
    end = len(data)
    around = (1, header, BUFFER_BYTES, header + BIG_BYTES, header + FIRST_BIG_BYTES, end)
    cuts = {at + by for at in around for by in (-3, -2, -1, 0, 1)}
    return sorted(cut for cut in cuts if 0 < cut < end)


def in_pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = [0, *cuts, len(data)]
    return [data[edges[i] : edges[i + 1]] for i in range(len(edges) - 1)]


@pytest.mark.parametrize("size", SIZES)
def test_a_string_cut_anywhere_is_whole(wire: Wire, size: int) -> None:
    """The reply behind it comes with its last piece, and must not be lost or mixed up."""
    link = wire.connect()
    value = pattern(size)
    data = bulk(value)
    for cut in cuts_of(data):
        feeding = Task(link.feed, [data[:cut], data[cut:] + LAST])
        assert link.conn.read_response() == value, cut
        assert link.conn.read_response() == b"last", cut
        feeding.result()


def test_a_string_cut_everywhere_is_whole(wire: Wire) -> None:
    link = wire.connect()
    value = pattern(FIRST_BIG_BYTES + 1)
    data = bulk(value)
    feeding = Task(link.feed, in_pieces(data + LAST, cuts_of(data)))
    assert link.conn.read_response() == value
    assert link.conn.read_response() == b"last"
    feeding.result()


def nested() -> tuple[bytes, Any]:
    """A reply with most types in it, as bytes and as values."""
    big = pattern(BIG_BYTES + 1)
    data = b"*5\r\n:-42\r\n$-1\r\n*2\r\n" + bulk(b"a\r\nb") + b"+ok\r\n" + bulk(big) + b"*0\r\n"
    return data, [-42, None, [b"a\r\nb", b"ok"], big, []]


def test_an_array_cut_at_each_of_its_first_bytes_is_whole(wire: Wire) -> None:
    link = wire.connect()
    data, value = nested()
    step = 1 if wire.by_fd else 4  # TLS takes its time
    for cut in [*range(1, 60, step), *(len(data) - by for by in range(1, 9))]:
        feeding = Task(link.feed, [data[:cut], data[cut:] + LAST])
        assert link.conn.read_response() == value, cut
        assert link.conn.read_response() == b"last", cut
        feeding.result()


def test_a_reply_in_single_bytes_is_whole(wire: Wire) -> None:
    link = wire.connect()
    data = b"*3\r\n:-42\r\n*1\r\n" + bulk(b"a\r\nb") + b"+ok\r\n"
    feeding = Task(link.feed, [data[i : i + 1] for i in range(len(data))])
    assert link.conn.read_response() == [-42, [b"a\r\nb"], b"ok"]
    feeding.result()


# Giving up and coming back


def read_with_interruptions(link: Link, pieces: Iterable[bytes]) -> tuple[Any, int]:
    """Send piece after piece, and let a read give up before each of them but the first."""
    given_up = 0
    for piece in pieces:
        link.send(piece)
        try:
            return link.conn.read_response(timeout=SHORT_S, disconnect_on_error=False), given_up
        except TimeoutError:
            given_up += 1
    return link.conn.read_response(), given_up


def replies() -> Iterator[tuple[bytes, Any]]:
    """Replies, and values, of all the ways in which one is received."""
    for size in (BUFFER_BYTES, BIG_BYTES, BIG_BYTES + 1, FIRST_BIG_BYTES + 1):
        yield bulk(pattern(size)), pattern(size)
    yield nested()


@pytest.mark.parametrize("joined", [False, True])
def test_a_read_that_timed_out_can_be_resumed(wire: Wire, joined: bool) -> None:
    link = wire.connect()
    for data, value in replies():
        pieces = in_pieces(data, [1, 3, 9, len(data) // 2, len(data) - 2, len(data) - 1])

        def read(pieces: list[bytes] = pieces) -> tuple[Any, int]:
            return read_with_interruptions(link, pieces)

        call = link.conn.retry.call_with_retry
        got, given_up = call(read, lambda _: None) if joined else read()
        assert got == value
        assert given_up >= len(pieces) - 1
        assert is_connected(link.conn)


def test_a_read_that_timed_out_within_a_large_string_can_be_asked_if_readable(
    wire: Wire,
) -> None:
    link = wire.connect()
    data = bulk(pattern(FIRST_BIG_BYTES))
    for piece in in_pieces(data, [50_000, 100_000, len(data) - 1])[:-1]:
        link.send(piece)
        with pytest.raises(TimeoutError):
            link.conn.read_response(timeout=SHORT_S, disconnect_on_error=False)
        assert link.conn.can_read(timeout=0)  # some of the reply is here
    link.send(data[-1:])
    assert link.conn.read_response() == pattern(FIRST_BIG_BYTES)


def test_a_reply_begun_by_can_read_is_whole(wire: Wire) -> None:
    link = wire.connect()
    for data, value in replies():
        for cut in (1, 5, len(data) // 2, len(data)):
            begun = Task(link.peer.sendall, data[:cut])
            assert link.conn.can_read(timeout=20)
            assert link.conn.can_read(timeout=0)
            ended = Task(lambda begun=begun, rest=data[cut:]: (begun.result(), link.send(rest)))
            assert link.conn.read_response() == value
            ended.result()
        assert not link.conn.can_read(timeout=0)


def test_can_read_loses_nothing_of_many_replies(wire: Wire) -> None:
    """What came in together is handed out one by one, asked about before each."""
    link = wire.connect()
    for count in (1, 2, 3, 50):
        link.send(b"".join(b":%d\r\n" % i for i in range(count)))
        got = []
        for _ in range(count):
            assert link.conn.can_read(timeout=20)
            got.append(link.conn.read_response())
        assert got == list(range(count))
        assert not link.conn.can_read(timeout=0)


# Malformed, whatever the cut


@pytest.mark.parametrize("size", [5, BIG_BYTES + 1])
def test_a_string_that_does_not_end_where_it_should_is_invalid(wire: Wire, size: int) -> None:
    link = wire.connect()
    data = bulk(pattern(size))[:-2] + b"??"
    feeding = Task(link.peer.sendall, data + LAST)
    with pytest.raises(InvalidResponse):
        link.conn.read_response()
    assert not is_connected(link.conn)
    feeding.join()


@pytest.mark.parametrize("size", [5, BIG_BYTES + 1])
def test_a_reply_that_breaks_off_is_a_closed_connection(wire: Wire, size: int) -> None:
    data = bulk(pattern(size))
    for cut in (1, 4, len(data) // 2, len(data) - 2, len(data) - 1):
        link = wire.connect()
        feeding = Task(link.feed, [data[:cut]])
        closing = Task(lambda task=feeding, link=link: (task.result(), link.close()))
        with pytest.raises(ConnectionError, match="Connection closed by server."):
            link.conn.read_response()
        closing.result()
