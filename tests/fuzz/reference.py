"""A reader of RESP that is slow, recursive and obvious: what the compiled one must equal.

It restates every choice of the product (see the table in tests/codec/test_reader_oracles.py)
in as few lines as possible, so it serves as the oracle of fuzzing, where hiredis and
redis-py's parser may differ by their own choices.
"""

from __future__ import annotations

import re
from typing import Any

from tests.codec.replies import ErrorText

INTEGER = re.compile(rb"[+-]?[0-9]+\Z")
LENGTH = re.compile(rb"-?[0-9]{1,18}\Z")
LENGTH_SO_FAR = re.compile(rb"-?[0-9]{0,18}\r?\Z")
DOUBLE = re.compile(rb"[+-]?(inf|infinity|nan|([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?)\Z", re.I)


class Cut(Exception):
    """The reply is not whole."""


class Malformed(Exception):
    """The bytes are no reply."""


class Unbuildable(Exception):
    """Well formed, but not to be had as a Python object (an unhashable key, a number
    longer than Python converts); everything of the reply is consumed."""


class Reference:
    """Reads one reply from the start of `data`; `at` is then where it ends."""

    def __init__(self, data: bytes, max_depth: int, max_bulk_bytes: int) -> None:
        self.data = data
        self.at = 0
        self.max_depth = max_depth
        self.max_bulk_bytes = max_bulk_bytes
        self.unbuildable = False

    def read(self) -> Any:
        reply = self.value(0)
        if self.unbuildable:
            raise Unbuildable
        return reply

    def byte(self) -> bytes:
        if self.at == len(self.data):
            raise Cut
        self.at += 1
        return self.data[self.at - 1 : self.at]

    def line(self) -> bytes:
        end = self.data.find(b"\r\n", self.at)
        so_far = len(self.data.removesuffix(b"\r")) if end < 0 else end
        if so_far - self.at > self.max_bulk_bytes:
            raise Malformed
        if end < 0:
            raise Cut
        text = self.data[self.at : end]
        self.at = end + 2
        return text

    def length(self) -> int:
        end = self.data.find(b"\r", self.at)
        text = self.data[self.at :] if end < 0 else self.data[self.at : end + 1]
        if not LENGTH_SO_FAR.match(text) or text in (b"\r", b"-\r"):
            raise Malformed
        if end < 0 or end + 1 == len(self.data):
            raise Cut
        if self.data[end + 1] != ord("\n"):
            raise Malformed
        assert LENGTH.match(text[:-1])
        self.at = end + 2
        return int(text[:-1])

    def string(self, type: bytes) -> bytes | None:
        length = self.length()
        if length == -1 and type == b"$":
            return None
        if length < 0 or length > self.max_bulk_bytes or (type == b"=" and length < 4):
            raise Malformed
        body = self.data[self.at : self.at + length]
        if type == b"=" and body[3:4] not in (b":", b""):
            raise Malformed
        end = self.data[self.at + length : self.at + length + 2]
        if not b"\r\n".startswith(end):
            raise Malformed
        if len(end) < 2:
            raise Cut
        self.at += length + 2
        return body

    def value(self, depth: int) -> Any:
        type = self.byte()
        if type in b"+-:_#,(":
            return self.scalar(type, self.line())
        if type in b"$=!":
            body = self.string(type)
            if type == b"!":
                assert body is not None
                return ErrorText(body.decode("utf-8", "replace"))
            return body[4:] if body is not None and type == b"=" else body
        if type in b"*~%>|":
            return self.aggregate(type, depth)
        raise Malformed

    def scalar(self, type: bytes, text: bytes) -> Any:
        if type == b"+":
            return text
        if type == b"-":
            return ErrorText(text.decode("utf-8", "replace"))
        if type in b":(":
            return self.integer(text)
        if type == b"_" and text == b"":
            return None
        if type == b"#" and text in (b"t", b"f"):
            return text == b"t"
        if type == b"," and text and b"\0" not in text:
            # what float() does not take is found out when the whole reply is built
            self.unbuildable |= not DOUBLE.match(text)
            return float(text) if DOUBLE.match(text) else None
        raise Malformed

    def integer(self, text: bytes) -> int:
        if not INTEGER.match(text):
            raise Malformed
        try:
            return int(text)
        except ValueError:
            self.unbuildable = True
            return 0

    def aggregate(self, type: bytes, depth: int) -> Any:
        if type == b">" and depth:
            raise Malformed
        count = self.length()
        if count == -1 and type == b"*":
            return None
        values = count if type in b"*~>" else 2 * count + (type == b"|")
        if count < 0 or (type == b">" and count == 0):
            raise Malformed
        if values and depth >= self.max_depth:
            raise Malformed
        if type == b"|":
            for _ in range(2 * count):
                self.value(depth + 1)
            return self.value(depth + 1)
        if type == b"%":
            return self.map(count, depth)
        found = []
        while len(found) < count:
            found.append(self.value(depth + 1))
        return found

    def map(self, count: int, depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        while count > 0:
            key, value = self.value(depth + 1), self.value(depth + 1)
            count -= 1
            if isinstance(key, (list, dict)):
                self.unbuildable = True
            else:
                found[key] = value
        return found
