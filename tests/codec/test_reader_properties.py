"""Whatever the tree of replies and however its bytes are cut: read(wire(tree)) == value(tree)."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from cpool._resp import INCOMPLETE
from tests.codec.oracles import hiredis_py, plain, redis_py
from tests.codec.replies import (
    NESTED,
    REPLIES,
    Aggregate,
    Attributed,
    Block,
    Line,
    Map,
    Null,
    Reply,
    read,
    reader,
    same,
    value,
    wire,
)


@given(REPLIES)
@example(Aggregate(b"*", tuple(Block(b"$", b"x" * n) for n in range(12))))
@example(Aggregate(b"*", (Block(b"$", b"x" * 9999), Block(b"$", b"y" * 10000), Null(b"_\r\n"))))
@example(Line(b"(", b"9" * 4000))
def test_a_reply_is_read_as_it_was_written(reply: Reply) -> None:
    assert same(read(wire(reply)), value(reply))


@given(REPLIES, st.data())
def test_a_reply_is_read_however_it_was_cut(reply: Reply, data: st.DataObject) -> None:
    bytes_ = wire(reply)
    cuts = data.draw(st.lists(st.integers(1, len(bytes_) - 1), max_size=8).map(sorted))
    r = reader()
    for start, end in zip([0, *cuts], [*cuts, len(bytes_)], strict=True):
        assert r.gets() is INCOMPLETE
        r.feed(bytes_[start:end])
    assert same(r.gets(), value(reply))
    assert r.gets() is INCOMPLETE


@given(st.lists(REPLIES, max_size=6), st.integers(1, 40))
def test_a_stream_gives_its_replies_in_order(replies: list[Reply], size: int) -> None:
    stream = b"".join(map(wire, replies))
    r = reader()
    got = []
    for at in range(0, len(stream), size):
        r.feed(stream[at : at + size])
        while (reply := r.gets()) is not INCOMPLETE:
            got.append(reply)
            assert r.last_was_push == (wire(replies[len(got) - 1])[:1] == b">")
    assert same(got, [value(reply) for reply in replies])
    assert r.unread_bytes == 0


@given(NESTED, st.binary(max_size=3))
def test_no_prefix_of_a_reply_is_a_reply(reply: Reply, rest: bytes) -> None:
    """And what follows it stays unread."""
    bytes_ = wire(reply)
    for cut in range(len(bytes_)):
        r = reader()
        r.feed(bytes_[:cut])
        assert r.gets() is INCOMPLETE
    r = reader()
    r.feed(bytes_ + rest)
    assert same(r.gets(), value(reply))
    assert r.unread_bytes == len(rest)


def contains(reply: Reply, *kinds: type | bytes) -> bool:
    """Whether a node of a class, or of a type byte, is in the tree."""
    if type(reply) in kinds or wire(reply)[:1] in kinds:
        return True
    match reply:
        case Aggregate(_, values):
            return any(contains(inside, *kinds) for inside in values)
        case Map(pairs):
            return any(contains(inside, *kinds) for pair in pairs for inside in pair)
    return isinstance(reply, Attributed)


def lone_line_ends(reply: Reply) -> bool:
    """Only CR LF ends a line; the oracles have their own ideas of a CR or LF alone."""
    match reply:
        case Line(_, text):
            return b"\r" in text or b"\n" in text
        case Aggregate(_, values):
            return any(map(lone_line_ends, values))
        case Map(pairs):
            return any(lone_line_ends(inside) for pair in pairs for inside in pair)
    return False


def repeats_a_key(reply: Reply) -> bool:
    """hiredis-py loses the value of a key that comes twice."""
    match reply:
        case Aggregate(_, values):
            return any(map(repeats_a_key, values))
        case Map(pairs):
            inside = any(repeats_a_key(item) for _, item in pairs)
            return inside or len({value(key) for key, _ in pairs}) < len(pairs)
    return False


@given(NESTED.filter(lambda reply: not contains(reply, Attributed) and not lone_line_ends(reply)))
def test_the_oracles_read_the_same(reply: Reply) -> None:
    """Where they know the type: see the table in test_reader_oracles.py."""
    bytes_ = wire(reply)
    if b"$-1\r\n" not in bytes_ and b"*-1\r\n" not in bytes_:
        assert same(redis_py(bytes_, 3), value(reply))
    if not contains(reply, b"!", b"(", b",") and not repeats_a_key(reply):
        assert same(plain(hiredis_py(bytes_)), value(reply))
