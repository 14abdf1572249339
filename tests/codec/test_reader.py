"""The Reader: every type of RESP2 and RESP3, whole, cut at every byte, one after another."""

from __future__ import annotations

import array
import math
from typing import Any

import pytest

from cpool._resp import INCOMPLETE, Reader
from tests.codec.replies import ErrorText, read, reader, same

# name: (bytes, what a reader without an encoding returns)
REPLIES: dict[str, tuple[bytes, Any]] = {
    "simple string": (b"+OK\r\n", b"OK"),
    "simple string like the commonest": (b"+OX\r\n", b"OX"),
    "empty simple string": (b"+\r\n", b""),
    "simple string with CR and LF apart": (b"+a\rb\nc\r\n", b"a\rb\nc"),
    "error": (b"-ERR no such key\r\n", ErrorText("ERR no such key")),
    "empty error": (b"-\r\n", ErrorText("")),
    "error in Latin-1": (b"-ERR \xe4\r\n", ErrorText("ERR \ufffd")),
    "error in UTF-8": ("-ERR \u20ac\r\n".encode(), ErrorText("ERR \u20ac")),
    "integer": (b":1000\r\n", 1000),
    "negative integer": (b":-5\r\n", -5),
    "integer with a plus": (b":+5\r\n", 5),
    "minus nought": (b":-0\r\n", 0),
    "largest integer": (b":9223372036854775807\r\n", 2**63 - 1),
    "smallest integer": (b":-9223372036854775808\r\n", -(2**63)),
    "integer of 18 digits": (b":999999999999999999\r\n", 10**18 - 1),
    "negative integer of 18 digits": (b":-999999999999999999\r\n", 1 - 10**18),
    "bulk string": (b"$5\r\nhello\r\n", b"hello"),
    "empty bulk string": (b"$0\r\n\r\n", b""),
    "bulk string of any bytes": (b"$6\r\n\r\n\0\xff\r\n\r\n", b"\r\n\0\xff\r\n"),
    "bulk string like a reply": (b"$7\r\n$1\r\na\r\n\r\n", b"$1\r\na\r\n"),
    "null bulk string": (b"$-1\r\n", None),
    "array": (b"*3\r\n:1\r\n$1\r\na\r\n+b\r\n", [1, b"a", b"b"]),
    "empty array": (b"*0\r\n", []),
    "null array": (b"*-1\r\n", None),
    "array of nulls": (b"*3\r\n$-1\r\n*-1\r\n_\r\n", [None, None, None]),
    "array of arrays": (b"*2\r\n*1\r\n*1\r\n:1\r\n*0\r\n", [[[1]], []]),
    "array with an error": (b"*2\r\n+a\r\n-ERR x\r\n", [b"a", ErrorText("ERR x")]),
    "null": (b"_\r\n", None),
    "true": (b"#t\r\n", True),
    "false": (b"#f\r\n", False),
    "double": (b",1.25\r\n", 1.25),
    "double without a point": (b",10\r\n", 10.0),
    "negative double": (b",-0.5\r\n", -0.5),
    "double with an exponent": (b",1.5e-10\r\n", 1.5e-10),
    "negative nought": (b",-0\r\n", -0.0),
    "infinity": (b",inf\r\n", math.inf),
    "negative infinity": (b",-inf\r\n", -math.inf),
    "double beyond the largest": (b",1e999\r\n", math.inf),
    "not a number": (b",nan\r\n", math.nan),
    "negative not a number": (b",-nan\r\n", math.nan),
    "big number": (
        b"(3492890328409238509324850943850943825024385\r\n",
        3492890328409238509324850943850943825024385,
    ),
    "negative big number": (
        b"(-34928903284092385093248509438509438250243\r\n",
        -34928903284092385093248509438509438250243,
    ),
    "small big number": (b"(1\r\n", 1),
    "blob error": (b"!21\r\nSYNTAX invalid syntax\r\n", ErrorText("SYNTAX invalid syntax")),
    "blob error of two lines": (b"!6\r\nE a\r\nb\r\n", ErrorText("E a\r\nb")),
    "verbatim string": (b"=15\r\ntxt:Some string\r\n", b"Some string"),
    "empty verbatim string": (b"=4\r\nmkd:\r\n", b""),
    "set": (b"~3\r\n+a\r\n:1\r\n+a\r\n", [b"a", 1, b"a"]),
    "set of unhashable values": (b"~2\r\n*0\r\n%0\r\n", [[], {}]),
    "empty set": (b"~0\r\n", []),
    "map": (b"%2\r\n+a\r\n:1\r\n$1\r\nb\r\n*1\r\n:2\r\n", {b"a": 1, b"b": [2]}),
    "empty map": (b"%0\r\n", {}),
    "map with a key twice": (b"%2\r\n+a\r\n:1\r\n+a\r\n:2\r\n", {b"a": 2}),
    "map with odd keys": (
        b"%3\r\n_\r\n:1\r\n#t\r\n:2\r\n,1.5\r\n:3\r\n",
        {None: 1, True: 2, 1.5: 3},
    ),
    "push": (b">2\r\n+message\r\n*1\r\n$1\r\nk\r\n", [b"message", [b"k"]]),
    "attribute": (b"|1\r\n+ttl\r\n:3600\r\n$1\r\nv\r\n", b"v"),
    "empty attribute": (b"|0\r\n:1\r\n", 1),
    "attribute in an array": (b"*3\r\n:1\r\n|1\r\n+a\r\n*1\r\n:9\r\n:2\r\n:3\r\n", [1, 2, 3]),
    "attribute of an attribute": (b"|1\r\n|1\r\n+a\r\n+b\r\n+c\r\n+d\r\n:1\r\n", 1),
    "attribute after an attribute": (b"|1\r\n+a\r\n+b\r\n|1\r\n+c\r\n+d\r\n:1\r\n", 1),
    "attribute of an array": (b"|1\r\n+a\r\n+b\r\n*2\r\n:1\r\n:2\r\n", [1, 2]),
    "attribute in a map": (
        b"%1\r\n|1\r\n+a\r\n+b\r\n+k\r\n|1\r\n+a\r\n+b\r\n+v\r\n",
        {b"k": b"v"},
    ),
}
every_reply = pytest.mark.parametrize(("data", "expected"), REPLIES.values(), ids=REPLIES)


@every_reply
def test_a_reply_becomes_its_object(data: bytes, expected: Any) -> None:
    assert same(read(data), expected)


@every_reply
def test_a_reply_may_be_cut_at_any_byte(data: bytes, expected: Any) -> None:
    for cut in range(1, len(data)):
        r = reader()
        r.feed(data[:cut])
        assert r.gets() is INCOMPLETE, cut
        assert r.unread_bytes == cut
        r.feed(data[cut:])
        assert same(r.gets(), expected), cut
        assert r.unread_bytes == 0


@every_reply
def test_a_reply_may_come_byte_by_byte(data: bytes, expected: Any) -> None:
    r = reader()
    for at in range(len(data) - 1):
        r.feed(data[at : at + 1])
        assert r.gets() is INCOMPLETE
    r.feed(data[-1:])
    assert same(r.gets(), expected)


@every_reply
def test_a_cut_reply_may_be_asked_for_many_times(data: bytes, expected: Any) -> None:
    r = reader()
    r.feed(data[:-1])
    assert all(r.gets() is INCOMPLETE for _ in range(5))
    r.feed(data[-1:])
    assert same(r.gets(), expected)


@pytest.mark.parametrize("name", [name for name in REPLIES if name != "push"])
def test_a_reply_inside_others_becomes_the_same_object(name: str) -> None:
    data, expected = REPLIES[name]
    assert same(read(b"*3\r\n:1\r\n" + data + b":2\r\n"), [1, expected, 2])
    assert same(read(b"%1\r\n+k\r\n" + data), {b"k": expected})
    assert same(read(b">2\r\n+k\r\n" + data), [b"k", expected])
    assert read(b"|1\r\n+k\r\n" + data + b":7\r\n") == 7


def test_replies_come_out_one_by_one_in_their_order() -> None:
    r = reader()
    r.feed(b"".join(data for data, _ in REPLIES.values()) * 2)
    for _, expected in [*REPLIES.values()] * 2:
        assert same(r.gets(), expected)
    assert r.gets() is INCOMPLETE
    assert r.unread_bytes == 0


def test_the_stream_may_be_cut_anywhere_between_and_inside_replies() -> None:
    stream = b"".join(data for data, _ in REPLIES.values())
    for size in (2, 3, 7, 16, 61):
        r = reader()
        got = []
        for at in range(0, len(stream), size):
            r.feed(stream[at : at + size])
            while (reply := r.gets()) is not INCOMPLETE:
                got.append(reply)
        assert same(got, [expected for _, expected in REPLIES.values()]), size


def test_the_next_reply_stays_unread() -> None:
    r = reader()
    r.feed(b":1\r\n:22\r\n$3\r\nab")
    assert r.gets() == 1
    assert r.unread_bytes == 11
    assert r.gets() == 22
    assert r.unread_bytes == 6
    assert r.gets() is INCOMPLETE
    assert r.unread_bytes == 6


def test_a_push_is_told_from_a_reply() -> None:
    r = reader()
    r.feed(b">1\r\n+a\r\n*1\r\n+a\r\n>1\r\n+b\r\n+a\r\n")
    told = [(r.gets(), r.last_was_push) for _ in range(4)]
    assert told == [([b"a"], True), ([b"a"], False), ([b"b"], True), (b"a", False)]


def test_nothing_was_a_push_before_the_first_reply() -> None:
    assert reader().last_was_push is False


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, lambda b: array.array("b", b)])
def test_anything_with_a_buffer_can_be_fed(make: Any) -> None:
    r = reader()
    r.feed(make(b"$3\r\nabc\r\n"))
    assert r.gets() == b"abc"


def test_what_was_fed_is_copied() -> None:
    data = bytearray(b"$3\r\nabc\r\n")
    r = reader()
    r.feed(data)
    data[:] = b"x" * len(data)
    assert r.gets() == b"abc"
    data.append(1)  # and no longer exported


def test_feeding_nothing_is_nothing() -> None:
    r = reader()
    r.feed(b"")
    assert r.gets() is INCOMPLETE
    r.feed(b":1\r\n")
    r.feed(b"")
    assert r.gets() == 1


@pytest.mark.parametrize("data", ["text", 1, None, [b"a"], memoryview(b"abcd")[::2]])
def test_what_has_no_plain_buffer_cannot_be_fed(data: Any) -> None:
    r = reader()
    with pytest.raises((TypeError, BufferError)):
        r.feed(data)
    r.feed(b":1\r\n")
    assert r.gets() == 1


def test_the_error_maker_gets_the_text_and_its_result_is_the_reply() -> None:
    texts: list[str] = []
    r = Reader(make_error=lambda text: texts.append(text) or len(texts))
    r.feed(b"*2\r\n-ERR a\r\n!5\r\nERR b\r\n")
    assert r.gets() == [1, 2]
    assert texts == ["ERR a", "ERR b"]


def test_a_raising_error_maker_consumes_the_reply() -> None:
    def refuse(text: str) -> object:
        raise KeyError(text)

    r = Reader(make_error=refuse)
    r.feed(b"*2\r\n-ERR a\r\n:1\r\n:2\r\n")
    with pytest.raises(KeyError, match="ERR a"):
        r.gets()
    assert r.gets() == 2


def test_an_unhashable_key_consumes_the_reply() -> None:
    r = reader()
    r.feed(b"*1\r\n%1\r\n*0\r\n:1\r\n:2\r\n")
    with pytest.raises(TypeError, match="unhashable"):
        r.gets()
    assert r.gets() == 2


def test_a_list_is_a_new_one_each_time() -> None:
    r = reader()
    r.feed(b"*0\r\n*0\r\n%0\r\n%0\r\n")
    first, second, third, fourth = (r.gets() for _ in range(4))
    assert first is not second
    assert third is not fourth


def test_incomplete_says_what_it_is() -> None:
    assert "incomplete" in repr(INCOMPLETE)
    assert INCOMPLETE is not None


@pytest.mark.parametrize("count", [1, 1000, 20000])
def test_long_arrays_are_built_whole(count: int) -> None:
    data = b"*%d\r\n" % count + b"".join(b"$%d\r\n%d\r\n" % (len(str(i)), i) for i in range(count))
    assert read(data) == [b"%d" % i for i in range(count)]
    r = reader()
    got = INCOMPLETE
    for at in range(0, len(data), 4099):
        assert got is INCOMPLETE
        r.feed(data[at : at + 4099])
        got = r.gets()
    assert got == [b"%d" % i for i in range(count)]
