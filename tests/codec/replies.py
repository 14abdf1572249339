"""A small RESP3 writer: trees of replies, their bytes, and what the Reader makes of them.

Written from the specification and by nothing of the product, so that a test can state
`read(wire(tree)) == value(tree)`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from cpool._resp import INCOMPLETE, Reader


@dataclass(frozen=True)
class ErrorText:
    """Stands in for the exception of an error reply; equal by its text."""

    text: str


@dataclass(frozen=True)
class Line:
    """Simple string, error, number, big number, double, boolean, null: a line of text."""

    type: bytes
    text: bytes


@dataclass(frozen=True)
class Block:
    """Bulk string, blob error, verbatim string: a length and as many bytes."""

    type: bytes
    body: bytes


@dataclass(frozen=True)
class Null:
    """One of the three ways to say null."""

    wire: bytes


@dataclass(frozen=True)
class Aggregate:
    """Array, set, push: values one after another."""

    type: bytes
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Map:
    pairs: tuple[tuple[Any, Any], ...]


@dataclass(frozen=True)
class Attributed:
    """A value with attributes before it, which readers skip."""

    pairs: tuple[tuple[Any, Any], ...]
    value: Any


Reply = Line | Block | Null | Aggregate | Map | Attributed


def header(type: bytes, number: int) -> bytes:
    return b"%s%d\r\n" % (type, number)


def wire_of_pairs(type: bytes, pairs: tuple[tuple[Any, Any], ...]) -> bytes:
    inside = b"".join(wire(key) + wire(value) for key, value in pairs)
    return header(type, len(pairs)) + inside


def wire(reply: Reply) -> bytes:
    """The bytes a server sends for it."""
    match reply:
        case Line(type, text):
            return type + text + b"\r\n"
        case Block(type, body):
            return header(type, len(body)) + body + b"\r\n"
        case Null(bytes_):
            return bytes_
        case Aggregate(type, values):
            return header(type, len(values)) + b"".join(map(wire, values))
        case Map(pairs):
            return wire_of_pairs(b"%", pairs)
        case Attributed(pairs, inner):
            return wire_of_pairs(b"|", pairs) + wire(inner)


def value_of_line(type: bytes, text: bytes) -> Any:
    if type == b"+":
        return text
    if type == b"-":
        return ErrorText(text.decode("utf-8", "replace"))
    if type == b",":
        return float(text)
    return text == b"t" if type == b"#" else int(text)


def value(reply: Reply) -> Any:
    """What a Reader without an encoding returns for it."""
    match reply:
        case Line(type, text):
            return value_of_line(type, text)
        case Block(b"!", body):
            return ErrorText(body.decode("utf-8", "replace"))
        case Block(type, body):
            return body[4:] if type == b"=" else body
        case Null():
            return None
        case Aggregate(_, values):
            return [value(inside) for inside in values]
        case Map(pairs):
            return {value(key): value(inside) for key, inside in pairs}
        case Attributed(_, inner):
            return value(inner)


def same(left: Any, right: Any) -> bool:
    """Equal in type too: 1, 1.0 and True differ, nan is nan, -0.0 is not 0.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        pairs = zip(left.items(), right.items(), strict=False)
        return len(left) == len(right) and all(same([*a], [*b]) for a, b in pairs)
    if isinstance(left, float):
        return (left != left and right != right) or struct.pack("d", left) == struct.pack(
            "d", right
        )
    return bool(left == right)


def reader(**options: Any) -> Reader:
    return Reader(**{"make_error": ErrorText, **options})


def read(data: bytes, **options: Any) -> Any:
    """The one reply in these bytes."""
    r = reader(**options)
    r.feed(data)
    reply = r.gets()
    assert reply is not INCOMPLETE
    assert r.unread_bytes == 0
    assert r.gets() is INCOMPLETE
    return reply


# Strategies. Lines hold no CR LF; sizes stay small so that every cut can be tried.
BODIES = st.binary(max_size=24) | st.sampled_from([b"", b"\r\n", b"$1\r\na\r\n", b"\r", b"\0"])
TEXTS = BODIES.filter(lambda text: b"\r\n" not in text and not text.endswith(b"\r"))
INTEGERS = st.integers(-(2**63), 2**63 - 1) | st.integers(-9, 9)


def line(type: bytes, text: st.SearchStrategy[bytes]) -> st.SearchStrategy[Line]:
    return st.builds(Line, st.just(type), text)


def ascii_of(values: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    return values.map(lambda value: repr(value).encode())


STRINGS = st.builds(Block, st.just(b"$"), BODIES) | line(b"+", TEXTS)
SCALARS = st.one_of(
    STRINGS,
    line(b"-", TEXTS),
    line(b":", ascii_of(INTEGERS)),
    line(b"(", ascii_of(st.integers(-(10**40), 10**40))),
    line(b",", ascii_of(st.floats())),
    line(b"#", st.sampled_from([b"t", b"f"])),
    st.builds(Block, st.just(b"!"), BODIES),
    st.builds(
        lambda kind, body: Block(b"=", kind + b":" + body),
        st.sampled_from([b"txt", b"mkd"]),
        BODIES,
    ),
    st.builds(Null, st.sampled_from([b"$-1\r\n", b"*-1\r\n", b"_\r\n"])),
)
KEYS = SCALARS  # what a dict takes as a key: no aggregates


def aggregates(inside: st.SearchStrategy[Reply]) -> st.SearchStrategy[Reply]:
    pairs = st.lists(st.tuples(KEYS, inside), max_size=4).map(tuple)
    values = st.lists(inside, max_size=5).map(tuple)
    return st.one_of(
        st.builds(Aggregate, st.sampled_from([b"*", b"~"]), values),
        st.builds(Map, pairs),
        st.builds(Attributed, pairs, inside),
    )


NESTED = st.recursive(SCALARS, aggregates, max_leaves=20)
PUSHES = st.builds(Aggregate, st.just(b">"), st.lists(NESTED, min_size=1, max_size=4).map(tuple))
REPLIES = NESTED | PUSHES
