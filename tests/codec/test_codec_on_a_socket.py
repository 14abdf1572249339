"""The codec where a connection uses it: commands as they go out, large strings as they
come in. The peer is the other end of a socket pair, so no server is needed."""

from __future__ import annotations

import array
import fcntl
import socket
import termios
import threading
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis._parsers.encoders import Encoder
from redis.connection import PythonRespSerializer
from redis.exceptions import ConnectionError, DataError, InvalidResponse, ResponseError

import cpool
from tests.codec.oracles import BYTEARRAY, needs_bytearrays, takes_bytearrays
from tests.codec.replies import read
from tests.codec.test_packer_properties import ARGUMENTS, NAMES, outcome

KIB = 1024
MIB = 1024 * KIB
LARGE_ARG_BYTES = 16 * KIB  # from there on an argument goes out from where it is
BIG_BYTES = 64 * KIB  # above, a string comes in where it will live


class Pair:
    """A connection without a handshake, and its peer."""

    def __init__(self, **options: Any) -> None:
        self.mine, self.peer = socket.socketpair()
        self.peer.settimeout(30)
        self.connection = cpool.Connection(
            redis_connect_func=lambda conn: conn._parser.on_connect(conn),
            socket_timeout=30,
            **options,
        )
        self.connection._connect = lambda: self.mine
        self.connection.connect()

    def sent(self) -> bytes:
        """Everything that has gone out so far."""
        data = b""
        self.peer.setblocking(False)
        try:
            while piece := self.peer.recv(MIB):
                data += piece
        except BlockingIOError:
            return data
        finally:
            self.peer.settimeout(30)
        return data

    def say(self, *pieces: bytes) -> threading.Thread:
        """Send from a thread of its own, as a large reply does not fit the socket."""
        thread = threading.Thread(target=lambda: [self.peer.sendall(p) for p in pieces])
        thread.start()
        return thread

    def close(self) -> None:
        self.connection.disconnect()
        self.mine.close()
        self.peer.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


@pytest.fixture
def text_pair() -> Iterator[Pair]:
    made = Pair(decode_responses=True)
    yield made
    made.close()


def packed(args: tuple[Any, ...], encoding: str = "utf-8") -> bytes:
    encode = Encoder(encoding, "strict", False).encode
    return b"".join(PythonRespSerializer(6000, encode).pack(*args))


def test_the_compiled_core_is_at_work(pair: Pair) -> None:
    assert pair.connection._session is not None
    assert pair.connection._session.uses_fd


@pytest.mark.parametrize("make", [bytes, BYTEARRAY, memoryview, bytes.decode])
@pytest.mark.parametrize("size", [0, LARGE_ARG_BYTES, LARGE_ARG_BYTES + 1, 50_000])
def test_large_arguments_go_out_in_their_place(pair: Pair, size: int, make: Any) -> None:
    value = make(b"v" * size)
    args = ("SET", "k", value, "PX", 5, value, b"end")
    pair.connection.send_command(*args)
    assert pair.sent() == packed(args)


def test_a_view_with_gaps_goes_out_as_its_bytes(pair: Pair) -> None:
    view = memoryview(bytes(range(256)) * 300)[::2]
    pair.connection.send_command("SET", "k", view)
    assert read(pair.sent()) == [b"SET", b"k", view.tobytes()]


def test_more_large_arguments_than_a_system_call_takes(pair: Pair) -> None:
    value = b"v" * (LARGE_ARG_BYTES + 1)
    received: list[bytes] = []

    def receive(wanted: int) -> None:
        while wanted > 0:
            received.append(pair.peer.recv(MIB))
            wanted -= len(received[-1])

    args = ("MSET", *[value] * 700)
    thread = threading.Thread(target=receive, args=(len(packed(args)),))
    thread.start()
    pair.connection.send_command(*args)
    thread.join()
    assert b"".join(received) == packed(args)


@pytest.mark.parametrize("bad", [None, True, [], "\ud800", object()])
def test_a_command_that_cannot_be_encoded_sends_nothing(pair: Pair, bad: Any) -> None:
    with pytest.raises((DataError, UnicodeEncodeError)):
        pair.connection.send_command("SET", "k" * 20_000, b"v" * 20_000, bad)
    assert pair.connection._sock is not None
    pair.connection.send_command("PING")
    assert pair.sent() == b"*1\r\n$4\r\nPING\r\n"


@needs_bytearrays
def test_a_command_that_cannot_be_encoded_holds_on_to_nothing(pair: Pair) -> None:
    value = bytearray(b"v" * 20_000)
    with pytest.raises(DataError):
        pair.connection.send_command("SET", "k", value, None)
    value.extend(b"more")  # not exported any more
    pair.connection.send_command("SET", "k", b"w" * 20_000)
    assert read(pair.sent()) == [b"SET", b"k", b"w" * 20_000]


@needs_bytearrays
def test_a_large_argument_may_change_once_it_is_sent(pair: Pair) -> None:
    value = bytearray(b"v" * 20_000)
    pair.connection.send_command("SET", "k", value)
    value.extend(b"more")  # no longer exported
    assert read(pair.sent()) == [b"SET", b"k", b"v" * 20_000]


def as_it_takes_them(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Bytes for bytearrays, which are sent with every redis-py: those before 8 refuse them."""
    if takes_bytearrays():
        return args
    return tuple(bytes(arg) if type(arg) is bytearray else arg for arg in args)


@settings(max_examples=60)
@given(st.lists(st.tuples(NAMES, ARGUMENTS, ARGUMENTS), max_size=4),
       st.sampled_from(["utf-8", "latin-1", "utf-16"]))  # fmt: skip
def test_any_command_goes_out_as_redis_py_packs_it(
    commands: list[tuple[Any, ...]], encoding: str
) -> None:
    pair = Pair(encoding=encoding)
    encode = Encoder(encoding, "strict", False).encode
    serializer = PythonRespSerializer(6000, encode)
    try:
        for args in commands:
            expected = outcome(serializer.pack, as_it_takes_them(args))
            try:
                pair.connection.send_command(*args)
            except Exception as error:
                assert ("error", type(error), str(error)) == expected
            else:
                assert expected == ("bytes", pair.sent())
    finally:
        pair.close()


def in_pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("piece", [777, 64 * KIB, 10 * MIB])
@pytest.mark.parametrize("size", [BIG_BYTES, BIG_BYTES + 1, 256 * KIB, 256 * KIB + 1, 3 * MIB])
def test_a_large_string_is_read_whole_and_the_next_reply_too(
    pair: Pair, size: int, piece: int
) -> None:
    body = bytes(range(251)) * (size // 251 + 1)
    data = b"$%d\r\n%s\r\n+next\r\n" % (size, body[:size])
    thread = pair.say(*in_pieces(data, piece))
    pair.connection.send_command("GET", "k")
    pair.connection.send_command("PING")
    assert pair.connection.read_response() == body[:size]
    assert pair.connection.read_response() == b"next"
    thread.join()
    assert pair.connection._session.clean


def test_a_large_string_is_decoded(text_pair: Pair) -> None:
    text = "\u20ac" * 100_000
    thread = text_pair.say(b"$%d\r\n%s\r\n" % (300_000, text.encode()))
    assert text_pair.connection.read_response() == text
    thread.join()


def test_a_large_string_may_be_left_undecoded(text_pair: Pair) -> None:
    thread = text_pair.say(b"$%d\r\n%s\r\n" % (300_000, b"\xff" * 300_000))
    assert text_pair.connection.read_response(disable_decoding=True) == b"\xff" * 300_000
    thread.join()


@pytest.mark.parametrize("end", [b"xx", b"\rx", b"x\n", b"\n\r"])
def test_a_large_string_that_does_not_end_is_refused(pair: Pair, end: bytes) -> None:
    thread = pair.say(b"$300000\r\n" + b"v" * 300_000 + end)
    with pytest.raises(InvalidResponse, match="does not end where it should"):
        pair.connection.read_response()
    thread.join()
    assert pair.connection._sock is None


def test_large_strings_inside_an_array_are_read(pair: Pair) -> None:
    one = b"$200000\r\n" + b"v" * 200_000 + b"\r\n"
    thread = pair.say(b"*2\r\n" + one + one + b"|1\r\n+a\r\n+b\r\n" + one)
    assert pair.connection.read_response() == [b"v" * 200_000] * 2
    assert pair.connection.read_response() == b"v" * 200_000
    thread.join()
    assert pair.connection._session.buffer_bytes <= 64 * KIB


def wait_until_taken(sock: socket.socket) -> None:
    """Until the other side's receive queue is empty."""
    until = time.monotonic() + 30
    left = array.array("i", [1])
    while left[0] and time.monotonic() < until:
        fcntl.ioctl(sock, termios.FIONREAD, left)
        time.sleep(0.001)
    assert left[0] == 0


def test_a_large_string_may_be_whole_but_for_its_last_byte(pair: Pair) -> None:
    """The buffer, still large from the reply before, takes it in by one receive."""
    body = b"v" * 100_000
    thread = pair.say(b"*1\r\n$600000\r\n" + b"w" * 600_000 + b"\r\n$100")
    assert pair.connection.read_response() == [b"w" * 600_000]
    thread.join()
    pair.peer.sendall(b"000\r\n" + body + b"\r")
    replies: list[bytes] = []
    reading = threading.Thread(target=lambda: replies.append(pair.connection.read_response()))
    reading.start()
    wait_until_taken(pair.mine)
    pair.peer.sendall(b"\n+next\r\n")
    reading.join()
    assert replies == [body]
    assert pair.connection.read_response() == b"next"


@pytest.mark.parametrize("arrived", [1000, 300_000, 2_000_000])
@pytest.mark.parametrize("claim", [512 * MIB, 100 * MIB])
def test_a_claim_reserves_no_memory(pair: Pair, claim: int, arrived: int) -> None:
    thread = pair.say(b"$%d\r\n" % claim, b"v" * arrived)
    tracemalloc.start()
    try:
        threading.Thread(target=lambda: (thread.join(), pair.peer.shutdown(1))).start()
        with pytest.raises(ConnectionError, match="closed by server"):
            pair.connection.read_response()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MIB + 5 * arrived


@pytest.mark.parametrize("template", [b"-%s\r\n", b"*2\r\n:1\r\n-%s\r\n"])
def test_an_error_that_ends_the_connection_is_raised_and_ends_it(
    pair: Pair, template: bytes
) -> None:
    pair.peer.sendall(template % b"ERR max number of clients reached")
    with pytest.raises(ConnectionError, match="max number of clients reached"):
        pair.connection.read_response()
    assert pair.connection._sock is None


def test_an_error_inside_a_reply_is_part_of_it(pair: Pair) -> None:
    pair.peer.sendall(b"*2\r\n:1\r\n-ERR no\r\n-ERR no\r\n")
    first, second = pair.connection.read_response()
    assert first == 1 and isinstance(second, ResponseError)
    with pytest.raises(ResponseError, match="no"):
        pair.connection.read_response()
    assert pair.connection._sock is not None


def test_a_string_above_the_connections_limit_is_refused() -> None:
    pair = Pair(max_bulk_bytes=100_000)
    try:
        pair.peer.sendall(b"$100001\r\n")
        with pytest.raises(InvalidResponse, match="longer than allowed"):
            pair.connection.read_response()
    finally:
        pair.close()
