"""The Reader beside redis-py's parsers and hiredis, and the list of our own choices."""

from __future__ import annotations

from typing import Any

import pytest

from cpool._resp import INCOMPLETE
from tests.codec.oracles import REFUSED, Refused, hiredis_py, ours, plain, redis_py
from tests.codec.replies import ErrorText, same
from tests.codec.test_reader import REPLIES

SAME = object()  # in the table: this oracle agrees with us

# Where an oracle says something else, by our choice. One line for each:
# bytes: (ours, hiredis, redis-py's RESP3 parser, why).
CHOICES: dict[bytes, tuple[Any, Any, Any, str]] = {
    # Nulls of RESP2 keep their meaning whichever protocol was negotiated.
    b"$-1\r\n": (None, SAME, INCOMPLETE, "redis-py's RESP3 parser reads on"),
    b"*-1\r\n": (None, SAME, [], "redis-py's RESP3 parser sees an empty array"),
    b"*3\r\n$-1\r\n*-1\r\n_\r\n": (
        [None, None, None],
        SAME,
        [b"", ErrorText("1"), None],
        "both of the above",
    ),
    # Types that hiredis has not, or sees otherwise.
    b"!21\r\nSYNTAX invalid syntax\r\n": (
        ErrorText("SYNTAX invalid syntax"),
        REFUSED,
        SAME,
        "hiredis-py has no blob errors",
    ),
    b"!6\r\nE a\r\nb\r\n": (ErrorText("E a\r\nb"), REFUSED, SAME, "hiredis-py has no blob errors"),
    b"(3492890328409238509324850943850943825024385\r\n": (
        3492890328409238509324850943850943825024385,
        b"3492890328409238509324850943850943825024385",
        SAME,
        "big numbers are numbers",
    ),
    b"(-34928903284092385093248509438509438250243\r\n": (
        -34928903284092385093248509438509438250243,
        b"-34928903284092385093248509438509438250243",
        SAME,
        "big numbers are numbers",
    ),
    b"(1\r\n": (1, b"1", SAME, "big numbers are numbers"),
    # Attributes are skipped: they are no reply, and may come before any.
    b"|1\r\n+ttl\r\n:3600\r\n$1\r\nv\r\n": (
        b"v",
        [b"ttl", 3600],
        REFUSED,
        "hiredis-py returns them, redis-py refuses them",
    ),
    b"|0\r\n:1\r\n": (1, [], REFUSED, "as above"),
    b"*3\r\n:1\r\n|1\r\n+a\r\n*1\r\n:9\r\n:2\r\n:3\r\n": (
        [1, 2, 3],
        [1, [b"a", [9]], 2],
        REFUSED,
        "as above",
    ),
    b"|1\r\n|1\r\n+a\r\n+b\r\n+c\r\n+d\r\n:1\r\n": (1, [[b"a", b"b"], b"c"], REFUSED, "as above"),
    b"|1\r\n+a\r\n+b\r\n|1\r\n+c\r\n+d\r\n:1\r\n": (1, [b"a", b"b"], REFUSED, "as above"),
    b"|1\r\n+a\r\n+b\r\n*2\r\n:1\r\n:2\r\n": ([1, 2], [b"a", b"b"], REFUSED, "as above"),
    b"%1\r\n|1\r\n+a\r\n+b\r\n+k\r\n|1\r\n+a\r\n+b\r\n+v\r\n": (
        {b"k": b"v"},
        REFUSED,
        REFUSED,
        "as above; hiredis-py takes one for a key",
    ),
    b"%3\r\n+k\r\n:1\r\n+x\r\n:2\r\n+k\r\n:3\r\n": (
        {b"k": 3, b"x": 2},
        {b"k": None, b"x": 3},
        SAME,
        "hiredis-py mixes values up when a key comes twice",
    ),
    # Text that the specification allows and hiredis does not.
    b":+5\r\n": (5, REFUSED, SAME, "the specification allows a plus"),
    b":-0\r\n": (0, REFUSED, SAME, "a number all the same"),
    b":0005\r\n": (5, REFUSED, SAME, "a number all the same"),
    b":99999999999999999999\r\n": (
        99999999999999999999,
        REFUSED,
        SAME,
        "too large for 64 bits, not for an int",
    ),
    b"+a\rb\nc\r\n": (b"a\rb\nc", REFUSED, INCOMPLETE, "only CR LF ends a line"),
    b",1e999\r\n": (float("inf"), REFUSED, SAME, "as float() rounds it"),
    b"$01\r\na\r\n": (b"a", REFUSED, SAME, "a number all the same"),
    # Malformed bytes: what redis-py lets pass, or finds out by a ValueError, is refused,
    # since the stream can no longer be trusted.
    b"$1\r\nab\r\n": (REFUSED, b"a", b"a", "CR LF must stand where the length says"),
    b"$1\r\nax\n": (REFUSED, b"a", b"a", "CR LF must stand where the length says"),
    b"$-2\r\n": (REFUSED, SAME, b"", "-1 is the only negative length"),
    b"*-2\r\n": (REFUSED, SAME, [], "-1 is the only negative length"),
    b"~-1\r\n": (REFUSED, None, [], "sets have no null"),
    b"%-1\r\n": (REFUSED, None, {}, "maps have no null"),
    b"=-1\r\n": (REFUSED, None, INCOMPLETE, "verbatim strings have no null"),
    b"!-1\r\n": (REFUSED, SAME, INCOMPLETE, "blob errors have no null"),
    b">0\r\n": (REFUSED, [], SAME, "a push has a kind"),
    b">-1\r\n": (REFUSED, None, SAME, "a push has a kind"),
    b"*1\r\n>1\r\n+a\r\n": (REFUSED, [[b"a"]], INCOMPLETE, "a push stands between replies"),
    b"_x\r\n": (REFUSED, SAME, None, "a null has no text"),
    b"#x\r\n": (REFUSED, SAME, False, "t or f"),
    b"#true\r\n": (REFUSED, SAME, False, "t or f"),
    b"=3\r\nabc\r\n": (REFUSED, SAME, b"", "a format of three letters and a colon"),
    b"=8\r\ntextabcd\r\n": (REFUSED, SAME, b"abcd", "a format of three letters and a colon"),
    b": 1\r\n": (REFUSED, SAME, 1, "int() is more generous than the protocol"),
    b":1_0\r\n": (REFUSED, SAME, 10, "int() is more generous than the protocol"),
    b"$ 1\r\na\r\n": (REFUSED, SAME, b"a", "int() is more generous than the protocol"),
    b"$+1\r\na\r\n": (REFUSED, SAME, b"a", "lengths have no plus"),
    b",1_0\r\n": (REFUSED, SAME, 10.0, "float() is more generous than the protocol"),
    b", 1\r\n": (REFUSED, SAME, 1.0, "float() is more generous than the protocol"),
    b"*00000000000000000001\r\n:1\r\n": (REFUSED, SAME, [1], "no length has 20 digits"),
    b"(\r\n": (REFUSED, b"", SAME, "a number has a digit"),
    b"$1\na\n": (REFUSED, INCOMPLETE, INCOMPLETE, "known at the first wrong byte"),
}

# Malformed, and everybody says so in some way.
MALFORMED = [
    b"x\r\n", b"\r\n", b"\n", b"\0", b"HTTP/1.1 400\r\n", b"?1\r\n", b":\r\n", b":x\r\n",
    b":1.0\r\n", b"(x\r\n", b",\r\n", b",abc\r\n", b",1\x00x\r\n", b"$x\r\n", b"*x\r\n", b"%x\r\n",
    b"$?\r\n;1\r\na\r\n;0\r\n", b"*?\r\n:1\r\n.\r\n", b"%1\r\n*0\r\n:1\r\n", b"*1\r\nx\r\n",
    b"*2\r\n:1\r\n:x\r\n", b"$1x\r\na\r\n", b"*1 \r\n:x\r\n",
]  # fmt: skip


@pytest.mark.parametrize(("data", "expected"), REPLIES.values(), ids=REPLIES)
def test_the_oracles_agree_on_a_valid_reply(data: bytes, expected: Any) -> None:
    """Unless the table says why not."""
    _, hiredis, resp3, _ = CHOICES.get(data, (expected, SAME, SAME, ""))
    if hiredis is SAME:
        assert same(plain(hiredis_py(data)), expected)
    if resp3 is SAME:
        assert same(redis_py(data, 3), expected)


@pytest.mark.parametrize(
    ("data", "expected"),
    [REPLIES[name] for name in REPLIES if REPLIES[name][0][:1] in b"+-:$*"],
    ids=[name for name in REPLIES if REPLIES[name][0][:1] in b"+-:$*"],
)
def test_the_resp2_parser_agrees_on_a_reply_of_resp2(data: bytes, expected: Any) -> None:
    theirs = redis_py(data, 2)
    if b"_\r\n" in data or b"|" in data:
        assert theirs == REFUSED  # RESP3 inside
    elif b"\nc" in data:
        assert theirs is INCOMPLETE  # a LF alone ends its line
    else:
        assert same(theirs, expected)


@pytest.mark.parametrize("data", CHOICES)
def test_a_difference_is_as_the_table_says(data: bytes) -> None:
    """So that a change on either side is noticed."""
    mine, hiredis, resp3, _ = CHOICES[data]
    got = ours(data)
    assert got == REFUSED if mine is REFUSED else same(got, mine)
    for theirs, expected in ((plain(hiredis_py(data)), hiredis), (redis_py(data, 3), resp3)):
        wanted = mine if expected is SAME else expected
        assert theirs is wanted or theirs == wanted or same(theirs, wanted)


@pytest.mark.parametrize("data", MALFORMED)
def test_what_is_malformed_is_so_for_everybody(data: bytes) -> None:
    for theirs in (ours(data), hiredis_py(data), redis_py(data, 3), redis_py(data, 2)):
        assert isinstance(theirs, Refused) or theirs is INCOMPLETE
    assert ours(data) == REFUSED


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16", "ascii"])
@pytest.mark.parametrize("errors", ["strict", "replace", "ignore", "backslashreplace"])
@pytest.mark.parametrize("body", [b"", b"abc", b"\xe4\xf6", "\u20ac\U0001f600".encode(), b"\0a"])
def test_decoding_agrees(body: bytes, encoding: str, errors: str) -> None:
    data = b"*2\r\n$%d\r\n%s\r\n=%d\r\ntxt:%s\r\n" % (len(body), body, len(body) + 4, body)
    mine = ours(data, encoding, errors)
    theirs = redis_py(data, 3, encoding, errors)
    assert mine == theirs
    if body and encoding != "utf-16":  # hiredis decodes an empty string by no codec
        assert hiredis_py(data, encoding, errors) == theirs
