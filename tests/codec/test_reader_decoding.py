"""Decoding of strings: which types, which codec, and what a string that can't be decoded does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpool._resp import INCOMPLETE
from tests.codec.replies import ErrorText, read, reader

EURO = "\u20ac"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"+\xe2\x82\xac\r\n", EURO),
        (b"$3\r\n\xe2\x82\xac\r\n", EURO),
        (b"$0\r\n\r\n", ""),
        (b"=7\r\ntxt:\xe2\x82\xac\r\n", EURO),
        (b"*2\r\n+a\r\n*1\r\n$1\r\nb\r\n", ["a", ["b"]]),
        (b"~1\r\n+a\r\n", ["a"]),
        (b">2\r\n+a\r\n$1\r\nb\r\n", ["a", "b"]),
        (b"%1\r\n+a\r\n$1\r\nb\r\n", {"a": "b"}),
        (b"|1\r\n+x\r\n+y\r\n+a\r\n", "a"),
        (b"-ERR x\r\n", ErrorText("ERR x")),
        (b":1\r\n", 1),
        (b"_\r\n", None),
        (b"$-1\r\n", None),
        (b"*3\r\n#t\r\n,1.5\r\n(7\r\n", [True, 1.5, 7]),
    ],
)
def test_strings_of_every_kind_are_decoded(data: bytes, expected: Any) -> None:
    assert read(data, encoding="utf-8") == expected


@pytest.mark.parametrize("name", ["utf-8", "UTF-8", "utf8", "UTF_8", "utf-8-sig", "cp65001"])
def test_names_of_utf_8_mean_utf_8(name: str) -> None:
    try:
        "".encode(name)
    except LookupError:
        pytest.skip(f"this Python does not know {name}")
    assert read(b"$3\r\n\xe2\x82\xac\r\n", encoding=name) == EURO


@pytest.mark.parametrize("name", ["latin-1", "utf-16", "utf-16-le", "utf-32", "cp1252", "ascii"])
def test_any_codec_may_be_asked_for(name: str) -> None:
    body = "abc".encode(name)
    assert read(b"$%d\r\n%s\r\n" % (len(body), body), encoding=name) == "abc"
    assert read(b"*1\r\n$%d\r\n%s\r\n" % (len(body), body), encoding=name) == ["abc"]


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ("replace", "a\ufffdb"),
        ("ignore", "ab"),
        ("backslashreplace", "a\\xffb"),
        ("surrogateescape", "a\udcffb"),
    ],
)
def test_the_error_handler_is_used(errors: str, expected: str) -> None:
    assert read(b"$3\r\na\xffb\r\n", encoding="utf-8", errors=errors) == expected


@pytest.mark.parametrize(
    "template",
    [
        b"$1\r\n\xff\r\n",
        b"+\xff\r\n",
        b"*2\r\n:1\r\n$1\r\n\xff\r\n",
        b"%1\r\n$1\r\n\xff\r\n:1\r\n",
    ],
)
def test_an_undecodable_string_raises_and_the_next_reply_is_read(template: bytes) -> None:
    r = reader(encoding="utf-8")
    r.feed(template + b"+next\r\n")
    with pytest.raises(UnicodeDecodeError):
        r.gets()
    assert r.gets() == "next"
    assert r.gets() is INCOMPLETE


def test_an_unknown_codec_raises_and_the_next_reply_is_read() -> None:
    r = reader(encoding="no-such-codec")
    r.feed(b"$1\r\na\r\n:1\r\n")
    with pytest.raises(LookupError):
        r.gets()
    assert r.gets() == 1


def test_an_unknown_error_handler_raises_only_when_it_is_needed() -> None:
    r = reader(encoding="utf-8", errors="no-such-handler")
    r.feed(b"$1\r\na\r\n$1\r\n\xff\r\n:1\r\n")
    assert r.gets() == "a"
    with pytest.raises(LookupError):
        r.gets()
    assert r.gets() == 1


def test_decoding_may_be_left_out_for_one_reply() -> None:
    r = reader(encoding="utf-8")
    r.feed(b"*1\r\n$1\r\n\xff\r\n*1\r\n$1\r\na\r\n")
    assert r.gets(decode=False) == [b"\xff"]
    assert r.gets() == ["a"]


def test_without_an_encoding_nothing_is_decoded() -> None:
    assert read(b"*2\r\n+OK\r\n=5\r\ntxt:a\r\n") == [b"OK", b"a"]


def test_the_encoding_may_change_between_replies() -> None:
    r = reader()
    r.feed(b"$1\r\n\xe4\r\n" * 4)
    assert r.gets() == b"\xe4"
    r.set_encoding("latin-1")
    assert r.gets() == "\xe4"
    r.set_encoding("utf-8", "replace")
    assert r.gets() == "\ufffd"
    r.set_encoding(None)
    assert r.gets() == b"\xe4"


def test_errors_are_text_whatever_the_encoding() -> None:
    for options in ({}, {"encoding": "utf-16"}, {"encoding": "ascii"}):
        assert read("-ERR \u20ac\r\n".encode(), **options) == ErrorText("ERR \u20ac")
        assert read(b"!3\r\nE \xff\r\n", **options) == ErrorText("E \ufffd")


@given(
    st.text(),
    st.sampled_from(["utf-8", "utf-16", "utf-32-be", "utf-7"]),
    st.sampled_from([b"$%d\r\n%s\r\n", b"*1\r\n$%d\r\n%s\r\n"]),
)
def test_any_text_survives_any_codec(text: str, encoding: str, template: bytes) -> None:
    body = text.encode(encoding)
    reply = read(template % (len(body), body), encoding=encoding)
    assert (reply[0] if isinstance(reply, list) else reply) == text


@given(
    st.binary(),
    st.sampled_from(["utf-8", "ascii", "utf-16", "shift_jis"]),
    st.sampled_from(["strict", "replace", "ignore"]),
)
def test_any_bytes_decode_as_python_does(body: bytes, encoding: str, errors: str) -> None:
    data = b"$%d\r\n%s\r\n" % (len(body), body)
    try:
        expected = body.decode(encoding, errors)
    except UnicodeDecodeError as error:
        r = reader(encoding=encoding, errors=errors)
        r.feed(data)
        with pytest.raises(UnicodeDecodeError) as caught:
            r.gets()
        assert (caught.value.start, caught.value.end) == (error.start, error.end)
    else:
        assert read(data, encoding=encoding, errors=errors) == expected
