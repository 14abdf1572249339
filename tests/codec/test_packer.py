"""The Packer: redis-py's rules for arguments, its errors, and how it cuts large commands."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from redis._parsers.encoders import Encoder
from redis.connection import PythonRespSerializer
from redis.exceptions import DataError

from cpool._resp import Packer, pack_command
from cpool._session import packer_of
from tests.codec.oracles import BYTEARRAY, needs_bytearrays

CUTOFF = 6000


def ours(encoding: str = "utf-8", errors: str = "strict") -> Packer:
    return packer_of(Encoder(encoding, errors, False))


def theirs(encoding: str = "utf-8", errors: str = "strict") -> Any:
    return PythonRespSerializer(CUTOFF, Encoder(encoding, errors, False).encode)


def both(*args: Any, encoding: str = "utf-8", errors: str = "strict") -> bytes:
    """What both make of a command, which must be the same bytes."""
    mine = b"".join(ours(encoding, errors).pack(*args))
    assert mine == b"".join(theirs(encoding, errors).pack(*args))
    return mine


class Text(str):
    """A subclass, as ORMs and enums like to use."""


class Number(int):
    def __repr__(self) -> str:
        return f"Number({int(self)})"


class Blob(bytes):
    pass


class Colour(str, enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("PING",), b"*1\r\n$4\r\nPING\r\n"),
        (("GET", "key"), b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n"),
        (("SET", "key", b"\0\r\n\xff"), b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$4\r\n\0\r\n\xff\r\n"),
        (("X", ""), b"*2\r\n$1\r\nX\r\n$0\r\n\r\n"),
        (("X", b""), b"*2\r\n$1\r\nX\r\n$0\r\n\r\n"),
        (("X", "\u20ac"), b"*2\r\n$1\r\nX\r\n$3\r\n\xe2\x82\xac\r\n"),
        (("X", 0), b"*2\r\n$1\r\nX\r\n$1\r\n0\r\n"),
        (("X", -1), b"*2\r\n$1\r\nX\r\n$2\r\n-1\r\n"),
        (("X", 2**63 - 1), b"*2\r\n$1\r\nX\r\n$19\r\n9223372036854775807\r\n"),
        (("X", -(2**63)), b"*2\r\n$1\r\nX\r\n$20\r\n-9223372036854775808\r\n"),
        (("X", 2**63), b"*2\r\n$1\r\nX\r\n$19\r\n9223372036854775808\r\n"),
        (("X", -(10**30)), b"*2\r\n$1\r\nX\r\n$32\r\n-1" + b"0" * 30 + b"\r\n"),
        (("X", 1.5), b"*2\r\n$1\r\nX\r\n$3\r\n1.5\r\n"),
        (("X", 1e100), b"*2\r\n$1\r\nX\r\n$6\r\n1e+100\r\n"),
        (("X", float("inf")), b"*2\r\n$1\r\nX\r\n$3\r\ninf\r\n"),
        (("X", float("nan")), b"*2\r\n$1\r\nX\r\n$3\r\nnan\r\n"),
        (("X", -0.0), b"*2\r\n$1\r\nX\r\n$4\r\n-0.0\r\n"),
        pytest.param(
            ("X", bytearray(b"ab")), b"*2\r\n$1\r\nX\r\n$2\r\nab\r\n", marks=needs_bytearrays
        ),
        (("X", memoryview(b"ab")), b"*2\r\n$1\r\nX\r\n$2\r\nab\r\n"),
        (("X", memoryview(b"")), b"*2\r\n$1\r\nX\r\n$0\r\n\r\n"),
        (("X", Text("ab")), b"*2\r\n$1\r\nX\r\n$2\r\nab\r\n"),
        (("X", Blob(b"ab")), b"*2\r\n$1\r\nX\r\n$2\r\nab\r\n"),
        (("X", Number(5)), b"*2\r\n$1\r\nX\r\n$9\r\nNumber(5)\r\n"),
        (("X", Colour.RED), b"*2\r\n$1\r\nX\r\n$3\r\nred\r\n"),
        (("X", Level.HIGH), b"*2\r\n$1\r\nX\r\n$15\r\n<Level.HIGH: 3>\r\n"),
    ],
)  # fmt: skip
def test_an_argument_is_encoded_as_redis_py_does(args: tuple[Any, ...], expected: bytes) -> None:
    assert both(*args) == expected


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("CONFIG GET", [b"CONFIG", b"GET"]),
        (b"CONFIG GET", [b"CONFIG", b"GET"]),
        pytest.param(bytearray(b"CONFIG GET"), [b"CONFIG", b"GET"], marks=needs_bytearrays),
        (Text("CONFIG GET"), [b"CONFIG", b"GET"]),
        (Blob(b"CONFIG GET"), [b"CONFIG", b"GET"]),
        ("  CLIENT   NO-EVICT  on ", [b"CLIENT", b"NO-EVICT", b"on"]),
        ("a\tb\nc\rd\x0be\x0cf", [b"a", b"b", b"c", b"d", b"e", b"f"]),
        (b"a b\tc", [b"a", b"b", b"c"]),
        (b"a\tb", [b"a\tb"]),  # redis-py looks for a space in bytes before it splits
        ("a\x1cb\x1fc", [b"a\x1cb\x1fc"]),
        ("a\xa0b\u2003c", ["a\xa0b\u2003c".encode()]),
        ("", []),
        ("   ", []),
        (b"", [b""]),
        (b" ", []),
        ("\u20ac x", ["\u20ac".encode(), b"x"]),
    ],
)
def test_the_first_argument_is_split_at_spaces(name: Any, words: list[bytes]) -> None:
    expected = b"*%d\r\n" % (len(words) + 1)
    expected += b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in [*words, b"a b"])
    assert both(name, "a b") == expected


@pytest.mark.parametrize(
    "encoding", ["latin-1", "utf-16", "utf-16-le", "utf-32", "cp1252", "utf-7"]
)
def test_arguments_follow_the_encoding_and_the_name_does_not(encoding: str) -> None:
    args = ("GET\xe4", "\xe4\xf6", 5, 1.5, b"\xe4")
    packed = both(*args, encoding=encoding)
    assert "GET\xe4".encode() in packed
    assert "\xe4\xf6".encode(encoding) in packed
    both("CONFIG GET\xe4", "\xe4", encoding=encoding)


@pytest.mark.parametrize("errors", ["replace", "ignore", "backslashreplace", "xmlcharrefreplace"])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_arguments_follow_the_error_handler(encoding: str, errors: str) -> None:
    both("X", "a\u20ac\ud800b", encoding=encoding, errors=errors)


def test_lone_surrogates_may_be_escaped() -> None:
    assert both("X", "a\udcffb", errors="surrogateescape").endswith(b"$3\r\na\xffb\r\n")
    assert both("X", "\ud800", errors="surrogatepass").endswith(b"$3\r\n\xed\xa0\x80\r\n")


def raised_by(pack: Any, args: tuple[Any, ...]) -> tuple[type, str]:
    with pytest.raises(Exception) as caught:  # noqa: B017 (which one is what is compared)
        pack(*args)
    return caught.type, str(caught.value)


@pytest.mark.parametrize(
    "value",
    [True, False, None, [], {}, (), {1}, object, Decimal("1.5"), 1j, range(3), Ellipsis],
    ids=lambda value: type(value).__name__ + str(value)[:5],
)
def test_what_is_no_argument_is_a_data_error_with_redis_pys_text(value: Any) -> None:
    kind, text = raised_by(ours().pack, ("SET", "key", value))
    assert kind is DataError
    assert (kind, text) == raised_by(theirs().pack, ("SET", "key", value))
    assert "Convert to a bytes, string, int or float first." in text


@pytest.mark.parametrize(
    "args",
    [
        (),
        (5,),
        (None,),
        (1.5,),
        (["GET"], "a"),
        ("X", "\ud800"),
        ("\ud800", "a"),
        ("\ud800 x", "a"),
        ("X", "a" * 5000 + "\udfff"),
    ],
)
def test_other_mistakes_raise_what_redis_py_raises(args: tuple[Any, ...]) -> None:
    assert raised_by(ours().pack, args) == raised_by(theirs().pack, args)


def test_text_that_the_encoding_has_not_raises_what_redis_py_raises() -> None:
    for encoding in ("ascii", "latin-1"):
        args = ("X", "\u20ac")
        mine = raised_by(ours(encoding).pack, args)
        assert mine[0] is UnicodeEncodeError
        assert mine == raised_by(theirs(encoding).pack, args)


def test_a_packer_goes_on_after_an_error() -> None:
    packer = ours()
    with pytest.raises(DataError):
        packer.pack("SET", "key", None)
    assert packer.pack("PING") == [b"*1\r\n$4\r\nPING\r\n"]


@pytest.mark.parametrize("size", [CUTOFF - 1, CUTOFF, CUTOFF + 1, 3 * CUTOFF, 100_000])
@pytest.mark.parametrize("make", [bytes, BYTEARRAY, bytes.decode])
def test_large_arguments_stand_alone(size: int, make: Any) -> None:
    value = make(b"x" * size)
    chunks = ours().pack("SET", "key", value, "EX", 10)
    assert b"".join(chunks) == b"".join(theirs().pack("SET", "key", value, "EX", 10))
    alone = [chunk for chunk in chunks if len(chunk) == size]
    assert len(alone) == (size > CUTOFF)
    if size > CUTOFF and not isinstance(value, str):
        assert alone[0] is value


@pytest.mark.parametrize("size", [0, 1, 100, 100_000])
def test_memoryviews_stand_alone_as_they_were_given(size: int) -> None:
    view = memoryview(b"x" * size)
    chunks = ours().pack("SET", "key", view, "EX", 10)
    assert any(chunk is view for chunk in chunks)
    assert b"".join(chunks) == b"".join(theirs().pack("SET", "key", view, "EX", 10))


def test_a_memoryview_of_wide_items_is_as_long_as_its_bytes() -> None:
    """redis-py counts items there, which makes a command no server can read."""
    view = memoryview(bytearray(range(16))).cast("I")
    assert b"".join(ours().pack("X", view)) == b"*2\r\n$1\r\nX\r\n$16\r\n" + bytes(view) + b"\r\n"


@pytest.mark.parametrize("length", [1499, 1500, 1501, 2001, 6001])
@pytest.mark.parametrize("letter", ["a", "\xe4", "\u20ac", "\U0001f600"])
def test_the_size_of_text_is_counted_in_bytes(length: int, letter: str) -> None:
    text = letter * length
    chunks = ours().pack("SET", "key", text)
    assert b"".join(chunks) == b"".join(theirs().pack("SET", "key", text))
    assert (text.encode() in chunks) == (len(text.encode()) > CUTOFF)


def test_many_small_arguments_are_one_piece_or_few() -> None:
    args = ("MSET", *(str(i) for i in range(20000)))
    chunks = ours().pack(*args)
    assert b"".join(chunks) == b"".join(theirs().pack(*args))
    assert len(chunks) <= 2


def commands() -> Iterator[tuple[Any, ...]]:
    yield ("PING",)
    yield ("SET", "key", "x" * 10_000)
    yield ("CONFIG GET", "maxmemory")
    yield ("SET", b"key", memoryview(b"abc"))
    yield ("INCRBY", "n", 5)


def test_many_commands_are_packed_one_after_another() -> None:
    chunks, count = ours().pack_many(commands())
    assert count == 5
    assert b"".join(chunks) == b"".join(b"".join(theirs().pack(*c)) for c in commands())


def test_many_small_commands_are_one_chunk() -> None:
    chunks, count = ours().pack_many([("GET", i) for i in range(1000)])
    assert (len(chunks), count) == (1, 1000)


def test_no_commands_are_no_chunks() -> None:
    assert ours().pack_many([]) == ([], 0)


def test_commands_may_be_lists() -> None:
    assert ours().pack_many([["GET", "a"]])[0] == [b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n"]


def test_a_bad_command_among_many_raises() -> None:
    with pytest.raises(DataError):
        ours().pack_many([("GET", "a"), ("GET", None), ("GET", "b")])


def test_the_function_packs_what_needs_no_encoder() -> None:
    args = ("CONFIG SET", "a", b"b", 5, memoryview(b"d"))
    assert pack_command(args) == b"".join(theirs().pack(*args))
    assert pack_command(("X", bytearray(b"c"))) == pack_command(("X", b"c"))


@pytest.mark.parametrize("value", [1.5, None, True, [], 2**70, "\ud800"])
def test_the_function_refuses_what_needs_one(value: Any) -> None:
    with pytest.raises((TypeError, UnicodeEncodeError)):
        pack_command(("SET", "key", value))
    assert pack_command(("PING",)) == b"*1\r\n$4\r\nPING\r\n"


@pytest.mark.parametrize("step", [-1, 2, -3])
@pytest.mark.parametrize("size", [10, 7000, 40_000])
def test_views_that_are_not_in_one_piece_go_out_as_they_read(step: int, size: int) -> None:
    view = memoryview(bytes(range(256)) * (size // 32))[::step][:size]
    body = bytes(view)
    wanted = b"*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n" % (len(body), body)
    assert b"".join(Packer().pack("GET", view)) == wanted
    assert b"".join(Packer().pack_many([("GET", view)])[0]) == wanted
