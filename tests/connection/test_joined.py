"""Sending and reading in one go: within redis-py's Retry a send waits for the read.

Nobody may be able to tell: it goes out before anything else happens, in the order it was
called, and once.
"""

from __future__ import annotations

import copy
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis.backoff import ConstantBackoff, NoBackoff
from redis.connection import AbstractConnection
from redis.exceptions import ConnectionError, DataError, ResponseError
from redis.retry import Retry

from tests.wire.conftest import make_wire
from tests.wire.peer import LIBRARIES, Link, Task, Wire, is_connected, request, wait_for

PING = request(b"PING")


@pytest.fixture
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    """Give a listening socket whose connections are read by descriptor."""
    made = make_wire("fd", request)
    yield made
    made.close()


@pytest.fixture
def link(wire: Wire) -> Link:
    """Give a connection and its server's end."""
    return wire.connect()


def within_retry(link: Link, do: Callable[[], Any]) -> Any:
    return link.conn.retry.call_with_retry(do, lambda _: None)


def sent(link: Link) -> bytes:
    """What the server has been told, once the client has closed the connection."""
    link.conn.disconnect()
    return link.receive(1 << 20)


def nothing_was_sent(link: Link) -> bool:
    link.peer.setblocking(False)
    try:
        return not link.peer.recv(1)
    except BlockingIOError:
        return True
    finally:
        link.peer.settimeout(20)


def was_sent(link: Link, data: bytes) -> bool:
    return link.receive(len(data)) == data


def test_a_send_is_held_until_the_read(link: Link) -> None:
    def do() -> Any:
        link.conn.send_command("PING")
        assert nothing_was_sent(link)
        link.send(b"+PONG\r\n")
        return link.conn.read_response()

    assert within_retry(link, do) == b"PONG"
    assert was_sent(link, PING)


def test_a_send_outside_a_retry_goes_out_at_once(link: Link) -> None:
    link.conn.send_command("PING")
    assert was_sent(link, PING)
    within_retry(link, lambda: None)
    link.conn.send_command("PING")
    assert was_sent(link, PING)


# It goes out before anything else happens


def ask_if_readable(link: Link) -> None:
    link.conn.can_read(timeout=0)


def ask_the_parser(link: Link) -> None:
    link.conn._parser.can_read(timeout=0)


def take_the_socket(link: Link) -> None:
    assert link.conn._sock is link.sock


def ask_if_connected(link: Link) -> None:
    assert link.conn.is_connected


def look_into_the_parser(link: Link) -> None:
    assert link.conn._parser._buffer is not None


def read_by_the_parser(link: Link) -> None:
    link.send(b"+PONG\r\n")
    link.conn._parser.read_response()


def disconnect(link: Link) -> None:
    link.conn.disconnect()


THINGS: list[Callable[[Link], None]] = [
    ask_if_readable,
    ask_the_parser,
    take_the_socket,
    *([ask_if_connected] if hasattr(AbstractConnection, "is_connected") else []),
    look_into_the_parser,
    read_by_the_parser,
    disconnect,
]


@pytest.mark.parametrize("thing", THINGS)
def test_a_held_send_goes_out_before_anything_else(
    link: Link, thing: Callable[[Link], None]
) -> None:
    def do() -> None:
        link.conn.send_command("PING")
        thing(link)
        assert was_sent(link, PING)

    within_retry(link, do)


def test_a_held_send_goes_out_at_the_end_of_the_callable(link: Link) -> None:
    within_retry(link, lambda: link.conn.send_command("PING"))
    assert was_sent(link, PING)
    assert link.conn._session.owed == 1


def test_a_held_send_goes_out_when_the_callable_fails(link: Link) -> None:
    def do() -> None:
        link.conn.send_command("PING")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        within_retry(link, do)
    assert was_sent(link, PING)


def test_a_callable_that_fails_after_the_end_of_the_connection_shows_its_own_error(
    link: Link,
) -> None:
    def do() -> None:
        link.conn.send_command("PING")
        link.reset()
        link.wait_broken()
        raise ZeroDivisionError

    link.conn.retry = Retry(NoBackoff(), 0)  # another attempt would have nobody to talk to
    with pytest.raises((ZeroDivisionError, ConnectionError)) as raised:
        within_retry(link, do)
    error: BaseException | None = raised.value
    while error is not None and not isinstance(error, ZeroDivisionError):
        error = error.__context__
    assert isinstance(error, ZeroDivisionError)


def test_sends_go_out_in_their_order_and_once(link: Link) -> None:
    large = b"x" * 100_000

    def do() -> list[Any]:
        link.conn.send_command("ECHO", 1)
        link.conn.send_packed_command(link.conn.pack_command("ECHO", large))
        link.conn.send_command("ECHO", large)
        link.conn.send_packed_command(link.conn.pack_commands([("ECHO", 4), ("ECHO", 5)]))
        feeding = Task(link.send, b":1\r\n:2\r\n:3\r\n:4\r\n:5\r\n")
        receiving = Task(link.receive, 5 * len(request(b"ECHO", b"1")))
        replies = [link.conn.read_response() for _ in range(5)]
        feeding.result()
        receiving.result()
        return replies

    assert within_retry(link, do) == [1, 2, 3, 4, 5]
    assert link.conn._session.clean


def test_the_bytes_of_many_held_sends_are_those_of_redis_py(wire: Wire) -> None:
    streams = []
    for library in LIBRARIES:
        link = wire.connect(library)

        def do(conn: Any = link.conn) -> None:
            for size in (1, 5_999, 6_001, 16_384, 16_385, 100_000):
                conn.send_command("SET", f"key:{size}", b"x" * size)
                conn.send_command("SET", "view", memoryview(bytearray(b"y" * size)))
                packed = conn.pack_commands([("GET", "a"), ("SET", "b", b"z" * size)])
                conn.send_packed_command(packed)

        receiving = Task(link.receive, 1 << 22)
        within_retry(link, do)
        link.conn.disconnect()
        streams.append(receiving.result())
    assert len(streams[0]) > 400_000
    assert streams[0] == streams[1]


def test_a_read_with_a_reply_at_hand_still_sends_what_is_held(link: Link) -> None:
    link.send(b"+early\r\n+late\r\n")
    wait_for(lambda: link.unread_bytes, "both replies arrive")
    assert link.conn.read_response() == b"early"

    def do() -> Any:
        link.conn.send_command("PING")
        return link.conn.read_response()

    assert within_retry(link, do) == b"late"
    assert was_sent(link, PING)


def test_an_argument_that_cannot_be_encoded_leaves_what_was_held(link: Link) -> None:
    def do() -> Any:
        link.conn.send_command("PING")
        with pytest.raises(DataError):
            link.conn.send_command("SET", "key", b"x" * 100_000, None)
        link.send(b"+PONG\r\n")
        return link.conn.read_response()

    assert within_retry(link, do) == b"PONG"
    assert sent(link) == PING


def test_a_nested_retry_holds_and_sends_in_order(link: Link) -> None:
    def inner() -> Any:
        link.conn.send_command("ECHO", 2)
        return link.conn.read_response()

    def outer() -> Any:
        link.conn.send_command("ECHO", 1)
        link.send(b":1\r\n:2\r\n")
        return within_retry(link, inner), link.conn.read_response()

    assert within_retry(link, outer) == (1, 2)
    assert sent(link) == request(b"ECHO", b"1") + request(b"ECHO", b"2")


def test_an_error_reply_does_not_end_the_connection(link: Link) -> None:
    def do() -> Any:
        link.conn.send_command("LPOP", "string")
        link.send(b"-WRONGTYPE no list\r\n")
        return link.conn.read_response()

    with pytest.raises(ResponseError, match="no list"):
        within_retry(link, do)
    assert is_connected(link.conn)
    assert link.conn._session.clean


def test_a_request_the_server_does_not_take_at_once_is_sent_whole(link: Link) -> None:
    value = bytes(range(256)) * 40_000
    wanted = request(b"SET", b"key", value)
    receiving = Task(link.receive, len(wanted))

    def do() -> Any:
        link.conn.send_command("SET", "key", value)
        link.send(b"+OK\r\n")
        return link.conn.read_response()

    assert within_retry(link, do) == b"OK"
    link.conn.disconnect()
    assert receiving.result() == wanted


def test_an_argument_is_free_again_after_a_failed_command(link: Link) -> None:
    value = bytearray(1_000_000)

    def do() -> Any:
        link.conn.send_command("SET", "key", value)
        link.close()
        return link.conn.read_response()

    with pytest.raises(ConnectionError):
        within_retry(link, do)
    value.clear()


# The object that `retry` gives


def test_the_retry_is_redis_pys_to_who_looks(link: Link) -> None:
    policy = Retry(ConstantBackoff(0.5), 7)
    link.conn.retry = policy
    seen = link.conn.retry
    assert isinstance(seen, Retry)
    assert seen == policy and policy == seen
    assert hash(seen) == hash(policy)
    assert seen.get_retries() == 7
    assert link.conn.retry is seen


def test_a_change_by_the_retry_is_the_policys(link: Link) -> None:
    policy = Retry(NoBackoff(), 1)
    link.conn.retry = policy
    link.conn.retry.update_retries(5)
    link.conn.retry.update_supported_errors([KeyError])
    assert policy.get_retries() == 5
    assert KeyError in policy._supported_errors
    policy.update_retries(2)
    assert link.conn.retry.get_retries() == 2


def test_a_copy_of_the_retry_is_a_policy_of_its_own(link: Link) -> None:
    for made in (copy.deepcopy(link.conn.retry), copy.copy(link.conn.retry)):
        assert type(made) is Retry
        assert made == link.conn.retry
    copied = copy.deepcopy(link.conn.retry)
    copied.update_retries(9)
    assert link.conn.retry.get_retries() == 0


def test_the_retry_of_one_connection_serves_another(wire: Wire) -> None:
    first, second = wire.connect(), wire.connect()
    second.conn.retry = first.conn.retry

    def do() -> Any:
        second.conn.send_command("PING")
        second.send(b"+PONG\r\n")
        return second.conn.read_response()

    assert second.conn.retry.call_with_retry(do, lambda _: None) == b"PONG"
    assert first.conn.retry.call_with_retry(do, lambda _: None) == b"PONG"
    assert second.receive(2 * len(PING)) == PING * 2


def test_the_retry_outlives_its_connection(wire: Wire) -> None:
    link = wire.connect()
    retry = link.conn.retry
    link.conn.disconnect()
    del link
    wire.forget()
    assert retry.call_with_retry(lambda: 5, lambda _: None) == 5


def test_an_interrupt_is_not_lost_to_a_send_that_fails(link: Link) -> None:
    calls = []

    def do() -> None:
        calls.append(1)
        link.sock.shutdown(socket.SHUT_RDWR)
        link.conn.send_command("PING")
        raise KeyboardInterrupt

    link.conn.retry = Retry(NoBackoff(), 3)
    with pytest.raises(KeyboardInterrupt):
        within_retry(link, do)
    assert len(calls) == 1
    assert not link.conn._session.clean
