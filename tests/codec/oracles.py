"""redis-py's own parsers and hiredis, fed from bytes: what others make of the same reply."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import hiredis
import pytest
from redis._parsers.encoders import Encoder
from redis._parsers.resp2 import _RESP2Parser
from redis._parsers.resp3 import _RESP3Parser
from redis.exceptions import DataError

from cpool._resp import INCOMPLETE
from tests.codec.replies import ErrorText, reader


def takes_bytearrays() -> bool:
    """Whether this redis-py's encoder does."""
    try:
        Encoder("utf-8", "strict", False).encode(bytearray())
    except DataError:
        return False
    return True


# redis-py 6 takes no bytearrays; what is packed is what it takes.
needs_bytearrays = pytest.mark.skipif(
    not takes_bytearrays(), reason="this redis-py's encoder takes no bytearrays"
)
BYTEARRAY = pytest.param(bytearray, marks=needs_bytearrays)


class Exhausted(Exception):
    """The oracle wants more bytes than there are."""


class Refused:
    """Stands for any exception a parser raises about the bytes; all are equal."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Refused)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Refused({type(self.error).__name__})"


REFUSED = Refused(ValueError())


class ByteSocket:
    """Gives out its bytes by recv(): in few pieces, as redis-py's parser takes a lone LF
    for the end of a line when nothing behind it has come yet."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def recv(self, room: int) -> bytes:
        piece = self.data[:room]
        self.data = self.data[len(piece) :]
        if not piece:
            raise Exhausted
        return piece

    def settimeout(self, timeout_s: float | None) -> None:
        pass


class Texts2(_RESP2Parser):
    parse_error = staticmethod(ErrorText)


class Texts3(_RESP3Parser):
    parse_error = staticmethod(ErrorText)


def redis_py(
    data: bytes, protocol: int, encoding: str | None = None, errors: str = "strict"
) -> Any:
    """One reply by redis-py's pure Python parser."""
    parser = (Texts2 if protocol == 2 else Texts3)(65536)
    encoder = Encoder(encoding or "utf-8", errors, encoding is not None)
    sock = ByteSocket(data)
    parser.on_connect(SimpleNamespace(_sock=sock, socket_timeout=1, encoder=encoder))
    options = {"push_request": True} if protocol == 3 else {}
    try:
        return parser.read_response(**options)
    except Exhausted:
        return INCOMPLETE
    except Exception as error:
        return Refused(error)


def hiredis_py(data: bytes, encoding: str | None = None, errors: str = "strict") -> Any:
    """One reply by hiredis."""
    options = {} if encoding is None else {"encoding": encoding, "errors": errors}
    parser = hiredis.Reader(notEnoughData=INCOMPLETE, replyError=ErrorText, **options)
    try:
        parser.feed(data)
        return parser.gets()
    except Exception as error:
        return Refused(error)


def ours(data: bytes, encoding: str | None = None, errors: str = "strict") -> Any:
    """One reply by the Reader."""
    parser = reader(encoding=encoding, errors=errors)
    try:
        parser.feed(data)
        return parser.gets()
    except Exception as error:
        return Refused(error)


def plain(reply: Any) -> Any:
    """hiredis marks pushes by a subclass of list; compare what is in them."""
    if isinstance(reply, list):
        return [plain(inside) for inside in reply]
    if isinstance(reply, dict):
        return {key: plain(inside) for key, inside in reply.items()}
    return reply
