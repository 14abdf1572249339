"""The Reader under fire: limits, claims that are not kept, garbage, and its memory."""

from __future__ import annotations

import gc
import random
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from redis.exceptions import InvalidResponse

from cpool._resp import DEFAULT_MAX_BULK_BYTES, DEFAULT_MAX_DEPTH, INCOMPLETE, Reader
from tests.codec.replies import read, reader
from tests.codec.test_reader import REPLIES

MIB = 1024 * 1024


def refused(data: bytes, **options: Any) -> str:
    """Feed at once and byte by byte; both must be refused, with the same text."""
    texts = []
    for size in (len(data), 1):
        r = reader(**options)
        with pytest.raises(InvalidResponse) as caught:
            for at in range(0, len(data), size):
                r.feed(data[at : at + size])
                assert r.gets() is INCOMPLETE
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
    return texts[0]


@contextmanager
def allocating_less_than(limit_bytes: int) -> Iterator[None]:
    """Python's allocator: what objects the Reader makes. Its buffer is asked for itself."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit_bytes


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"x\r\n", "Protocol Error: b'x'"),
        (b"\xff", "Protocol Error: b'\\xff'"),
        (b"*1\r\n\0", "Protocol Error: b'\\x00'"),
        (b"$x\r\n", "Protocol Error: b'$' (a number or length is malformed)"),
        (b"*1\r\n:x\r\n", "Protocol Error: b':' (a number or length is malformed)"),
        (b",x\r\n", "Protocol Error: b',' (a number or length is malformed)"),
        (b"$1\r\nab\r\n", "Protocol Error: b'$' (a string does not end where it should)"),
        (b">0\r\n", "Protocol Error: b'>' (a push frame inside a reply, or an empty one)"),
    ],
)
def test_a_malformed_reply_says_what_is_wrong(data: bytes, text: str) -> None:
    assert refused(data) == text


def test_the_error_shows_no_value_of_the_reply() -> None:
    assert "secret" not in refused(b"*2\r\n$6\r\nsecret\r\n$6\r\nsecretX\r\n")


def test_a_refused_reader_keeps_refusing() -> None:
    r = reader()
    r.feed(b"x\r\n")
    for _ in range(3):
        with pytest.raises(InvalidResponse):
            r.gets()
    r.feed(b"+OK\r\n")
    with pytest.raises(InvalidResponse):
        r.gets()


def test_replies_before_the_malformed_one_are_returned() -> None:
    r = reader()
    r.feed(b":1\r\n:2\r\nx")
    assert [r.gets(), r.gets()] == [1, 2]
    with pytest.raises(InvalidResponse):
        r.gets()


@pytest.mark.parametrize("type", [b"*", b"~", b"%", b"|"])
def test_depth_is_limited(type: bytes) -> None:
    step = {b"%": b"%1\r\n+k\r\n", b"|": b"|0\r\n"}.get(type, type + b"1\r\n")
    read(step * 8 + b":1\r\n", max_depth=8)
    text = refused(step * 9 + b":1\r\n", max_depth=8)
    assert text == f"Protocol Error: {type!r} (replies are nested deeper than allowed)"


def test_the_default_depth_is_read_and_not_one_more() -> None:
    reply = read(b"*1\r\n" * DEFAULT_MAX_DEPTH + b":1\r\n")
    for _ in range(DEFAULT_MAX_DEPTH):
        (reply,) = reply
    assert reply == 1
    refused(b"*1\r\n" * (DEFAULT_MAX_DEPTH + 1))


def test_a_million_open_brackets_are_refused_early() -> None:
    r = reader()
    r.feed(b"*1\r\n" * 1_000_000)
    with pytest.raises(InvalidResponse, match="deeper"):
        r.gets()


@pytest.mark.parametrize("type", [b"$", b"=", b"!"])
def test_the_length_of_a_string_is_limited(type: bytes) -> None:
    body = b"txt:" + b"x" * 96
    read(type + b"100\r\n" + body + b"\r\n", max_bulk_bytes=100)
    assert "longer than allowed" in refused(type + b"101\r\n", max_bulk_bytes=100)
    assert "longer than allowed" in refused(b"*1\r\n" + type + b"101\r\n", max_bulk_bytes=100)


@pytest.mark.parametrize("type", [b"+", b"-", b"(", b",", b":"])
def test_the_length_of_a_line_is_limited_however_it_comes(type: bytes) -> None:
    assert "longer than allowed" in refused(type + b"1" * 200, max_bulk_bytes=100)
    assert "longer than allowed" in refused(type + b"1" * 200 + b"\r\n", max_bulk_bytes=100)


def test_the_default_limit_is_what_servers_allow() -> None:
    assert DEFAULT_MAX_BULK_BYTES == 512 * MIB
    r = reader()
    r.feed(b"$%d\r\n" % DEFAULT_MAX_BULK_BYTES)
    assert r.gets() is INCOMPLETE
    refused(b"$%d\r\n" % (DEFAULT_MAX_BULK_BYTES + 1))


@pytest.mark.parametrize("number", [-2, -3, -(10**17), 10**18, 2**63, 2**64 + 5, 10**30])
@pytest.mark.parametrize("type", [b"$", b"=", b"!", b"*", b"~", b"%", b">", b"|"])
def test_lengths_out_of_range_are_refused(type: bytes, number: int) -> None:
    refused(type + b"%d\r\n" % number)
    if type != b">":
        refused(b"*1\r\n" + type + b"%d\r\n" % number)


@pytest.mark.parametrize(
    "data",
    [
        b"$536870912\r\nabc",
        b"*999999999999999999\r\n:1\r\n",
        b"~999999999999999999\r\n:1\r\n",
        b"%999999999999999999\r\n:1\r\n",
        b">999999999999999999\r\n:1\r\n",
        b"|999999999999999999\r\n:1\r\n",
        b"*1\r\n$536870912\r\n",
        b"*999999999\r\n" * 500,
    ],
)
def test_a_claim_allocates_nothing(data: bytes) -> None:
    r = reader()
    with allocating_less_than(64 * 1024):
        r.feed(data)
        assert r.gets() is INCOMPLETE
    assert r.buffer_bytes <= max(4 * len(data), 4096)


def test_the_buffer_grows_with_what_arrives_and_not_with_what_is_announced() -> None:
    r = reader()
    r.feed(b"$%d\r\n" % (512 * MIB))
    for _ in range(64):
        r.feed(b"x" * 1024)
        assert r.gets() is INCOMPLETE
    assert r.buffer_bytes <= 4 * r.unread_bytes


def test_the_buffer_shrinks_after_a_large_reply() -> None:
    r = reader()
    r.feed(b"*2\r\n$%d\r\n%s\r\n:1\r\n" % (4 * MIB, b"x" * (4 * MIB)))
    assert r.buffer_bytes >= 4 * MIB
    assert len(r.gets()[0]) == 4 * MIB
    assert r.buffer_bytes <= 64 * 1024


def test_the_buffer_shrinks_when_a_large_reply_could_not_be_built() -> None:
    r = reader(encoding="utf-8")
    r.feed(b"*1\r\n$%d\r\n%s\r\n" % (4 * MIB, b"\xff" * (4 * MIB)))
    with pytest.raises(UnicodeDecodeError):
        r.gets()
    assert r.buffer_bytes <= 64 * 1024


def test_a_shrunken_buffer_keeps_what_is_unread() -> None:
    r = reader()
    r.feed(b"*1\r\n$%d\r\n%s\r\n:77\r\n$3\r\nab" % (MIB, b"x" * MIB))
    assert r.gets() == [b"x" * MIB]
    assert r.gets() == 77
    assert r.gets() is INCOMPLETE
    r.feed(b"c\r\n")
    assert r.gets() == b"abc"
    assert r.buffer_bytes <= 64 * 1024


def test_a_steady_stream_keeps_the_buffer_small() -> None:
    r = reader()
    piece = b"$5\r\nhello\r\n" * 100
    for _ in range(200):
        r.feed(piece + b"$5\r\nhe")
        while r.gets() is not INCOMPLETE:
            pass
        r.feed(b"llo\r\n")
        assert r.gets() == b"hello"
    assert r.buffer_bytes <= 8192


GOOD = b"*2\r\n%1\r\n$1\r\na\r\n*2\r\n,1.5\r\n-ERR x\r\n$100\r\n" + b"x" * 100 + b"\r\n"
UNHASHABLE = b"*2\r\n:1\r\n%1\r\n*1\r\n$20\r\n" + b"x" * 20 + b"\r\n:1\r\n"
UNDECODABLE = b"*2\r\n%1\r\n$1\r\na\r\n$1\r\n\xff\r\n:1\r\n"


@pytest.mark.parametrize("data", [GOOD, UNHASHABLE, UNDECODABLE])
def test_objects_are_freed_with_their_reply(data: bytes) -> None:
    r = reader(encoding="utf-8")

    def read_many(times: int) -> None:
        for _ in range(times):
            r.feed(data)
            try:
                r.gets()
            except (TypeError, UnicodeDecodeError):
                continue

    read_many(50)
    gc.collect()
    before = sys.getallocatedblocks()
    read_many(3000)
    gc.collect()
    assert sys.getallocatedblocks() - before < 300


def consume(data: bytes, rng: random.Random) -> int:
    """Feed in random pieces until refused; returns how many replies came out."""
    r = reader(max_bulk_bytes=MIB, max_depth=64)
    replies = at = 0
    while at < len(data):
        size = rng.choice((1, 2, 7, 64, 1000))
        r.feed(data[at : at + size])
        at += size
        try:
            while r.gets() is not INCOMPLETE:
                replies += 1
        except (InvalidResponse, TypeError):
            return replies
        assert r.buffer_bytes <= 4 * len(data) + 4096
    return replies


def test_garbage_is_refused_or_waited_out() -> None:
    rng = random.Random(1)
    alphabet = b"$*+-:_#,(!=~%>|0123456789\r\n\r\n\r\ntfax"
    for _ in range(1500):
        consume(rng.randbytes(rng.randrange(200)), rng)
        consume(bytes(rng.choices(alphabet, k=rng.randrange(200))), rng)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A valid stream with one to four bytes changed, dropped or doubled."""
    text = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(text))
        match rng.randrange(4):
            case 0:
                text[at] = rng.randrange(256)
            case 1:
                del text[at]
            case 2:
                text.insert(at, rng.choice(b"0123456789-+\r\n$*%~|>"))
            case 3:
                text[at:at] = text[at : at + rng.randrange(40)]
    return bytes(text)


def test_mutated_replies_are_refused_or_read() -> None:
    rng = random.Random(2)
    stream = b"".join(data for data, _ in REPLIES.values())
    whole = sum(consume(stream, rng) == len(REPLIES) for _ in range(5))
    assert whole == 5
    cut_short = sum(consume(mutated(stream, rng), rng) < len(REPLIES) for _ in range(1500))
    assert cut_short > 500


def test_a_reader_may_be_dropped_in_any_state() -> None:
    for data in (b"", b"$100\r\nabc", b"*9\r\n" * 20, b"x", b"$%d\r\n" % MIB + b"x" * MIB):
        r = reader()
        r.feed(data)
        try:
            r.gets()
        except InvalidResponse:
            pass
        del r
    Reader()
