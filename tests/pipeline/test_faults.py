"""A connection that is cut, split or stalled at any byte of a pipeline: redis-py's errors,
redis-py's number of executions, and nothing left behind."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, TimeoutError, WatchError
from redis.retry import Retry

from cpool.tools.servers import EmbeddedServer
from tests.pipeline.support import KINDS, make_client, open_link, outcome, state_of
from tests.support.faultproxy import FaultProxy
from tests.wire.peer import Task, Wire, bulk, is_connected, silent, wait_for

SHORT_S = 0.05


@pytest.fixture
def proxy(redis_server: EmbeddedServer) -> Iterator[FaultProxy]:
    """Give a proxy in front of a real server."""
    with FaultProxy((redis_server.host, redis_server.port)) as running:
        yield running


@pytest.fixture
def other(redis_server: EmbeddedServer) -> Iterator[redis.Redis]:
    """Give a client past the proxy, on an empty database."""
    with redis.Redis(host=redis_server.host, port=redis_server.port) as made:
        made.flushall()
        yield made


def client_of(kind: str, proxy: FaultProxy, retries: int = 0, **options: Any) -> Any:
    """Make a client of one kind, by way of the proxy, that says nothing of its own."""
    address = {"host": proxy.host, "port": proxy.port, "retry": Retry(NoBackoff(), retries)}
    return contextlib.closing(make_client(kind, {**silent(), **address, **options}))


def queue(pipe: Any) -> Any:
    """Queue commands whose replies are few bytes."""
    return pipe.incr("n").get("n").incr("m").lpush("n", 1)


def left_behind(client: Any, proxy: FaultProxy, other: redis.Redis) -> Any:
    """Wait until the server has done all it was sent; what can be seen then."""
    answers = [client.echo(f"unique:{i}") for i in range(2)]
    proxy.wait_until(lambda: proxy.open_connections == 1, "the others are closed")
    wait_for(lambda: len(other.client_list()) == 2, "the server has closed them too")
    return answers, other.get("n"), other.get("m")


def cut_at(
    kind: str, proxy: FaultProxy, other: redis.Redis, flow: str, at: int, mode: tuple[bool, int]
) -> tuple[Any, ...]:
    """Cut the connection once after `at` bytes of a pipeline's requests or replies."""
    transaction, retries = mode
    other.flushall()
    with client_of(kind, proxy, retries) as client:
        client.ping()
        pipe = queue(client.pipeline(transaction))
        getattr(proxy, flow).cut_after(at)
        told = outcome(lambda: pipe.execute(raise_on_error=False))
        getattr(proxy, flow).cut_after(1 << 30)  # none if the cut was not met
        after = left_behind(client, proxy, other)
        if kind == "cpool":
            stats = client.connection_pool.stats()
            assert (stats.in_use, stats.opening, stats.idle) == (0, 0, 1)
        return told, state_of(pipe), after


REPLIES = {False: 60, True: 110}  # more bytes than the replies have
MODES = [(False, 0), (False, 1), (True, 0), (True, 1)]


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_replies_that_are_cut_at_any_byte(
    proxy: FaultProxy, other: redis.Redis, mode: tuple[bool, int]
) -> None:
    step = 4 if any(mode) else 1
    for at in range(0, REPLIES[mode[0]], step):
        theirs, *ours = (cut_at(kind, proxy, other, "replies", at, mode) for kind in KINDS)
        assert ours == [theirs, theirs], at


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_requests_that_are_cut_at_any_byte(
    proxy: FaultProxy, other: redis.Redis, mode: tuple[bool, int]
) -> None:
    """Which error it is depends on how far the kernel is with the closing."""
    for at in range(0, 130, 7):
        theirs, *ours = (cut_at(kind, proxy, other, "requests", at, mode) for kind in KINDS)
        for told in ours:
            assert told[1:] == theirs[1:], at
            assert told[0][0] == theirs[0][0], at
            assert told[0][0] == "list" or told[0][1][0] is theirs[0][1][0], at


@pytest.mark.parametrize("how", ["reset", "half"])
@pytest.mark.parametrize("transaction", [False, True])
def test_replies_that_end_in_another_way(
    proxy: FaultProxy, other: redis.Redis, how: Any, transaction: bool
) -> None:
    for at in (0, 5, 12):
        for retries in (0, 1):
            results = []
            for kind in KINDS:
                with client_of(kind, proxy, retries) as client:
                    client.ping()
                    other.flushall()
                    pipe = queue(client.pipeline(transaction))
                    proxy.replies.cut_after(at, how)
                    told = outcome(lambda pipe=pipe: pipe.execute(raise_on_error=False))
                    error = told[1][0] if told[0] == "raised" else None
                    assert error is (None if retries else ConnectionError)
                    results.append((told if retries else error, client.echo("unique")))
            assert results[1:] == results[:1] * 2


@pytest.mark.parametrize("retries", [0, 2])
def test_a_cut_connection_while_watching_is_a_watch_error(
    proxy: FaultProxy, other: redis.Redis, retries: int
) -> None:
    results = []
    for kind in KINDS:
        with client_of(kind, proxy, retries) as client:
            pipe = client.pipeline()
            pipe.watch("n")
            pipe.multi()
            queue(pipe)
            proxy.replies.cut_after(9)
            with pytest.raises(WatchError) as caught:
                pipe.execute()
            results.append((caught.value.args, state_of(pipe), client.echo("unique")))
    assert results[1:] == results[:1] * 2


# One reply of each kind, as RESP3 has them, with pushes between.
PUSH = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nkey\r\n"
SAID = (
    [b":1\r\n", b"%1\r\n+a\r\n*2\r\n:1\r\n$-1\r\n", PUSH, b"~1\r\n$2\r\n\xc3\xa9\r\n"]
    + [b",1.5\r\n", b"-ERR no\r\n", b"_\r\n", b"#t\r\n", PUSH, b"=5\r\ntxt:a\r\n"]
    + [b"|1\r\n+k\r\n:1\r\n+v\r\n", b"(123456789012345678901\r\n", b"*0\r\n"]
)
MEANT = (1, {"a": [1, None]}, ["é"], 1.5, None, True, "a", "v", 123456789012345678901, [])
N_SAID = len(SAID) - SAID.count(PUSH)


def stream_of(transaction: bool) -> bytes:
    """What a server says to a pipeline of N_SAID commands."""
    if not transaction:
        return b"".join(SAID)
    results = b"".join(said for said in SAID if said != PUSH)
    queued = (b"+QUEUED\r\n" + PUSH) * N_SAID
    return b"+OK\r\n" + queued + b"*%d\r\n" % N_SAID + results


@pytest.mark.parametrize("transaction", [False, True])
def test_replies_that_are_split_at_any_byte(unix_wire: Wire, transaction: bool) -> None:
    link, pipe = open_link(unix_wire, protocol=3, decode_responses=True)
    pipe.transaction = transaction
    stream = stream_of(transaction)
    conn = link.conn
    for at in range(1, len(stream), 5 if transaction else 1):
        for i in range(N_SAID):
            pipe.echo(i)
        pipe.connection = conn
        feeding = Task(link.feed, [stream[:at], stream[at:]])
        results = pipe.execute(raise_on_error=False)
        feeding.result()
        assert [value for value in results if not isinstance(value, Exception)] == list(MEANT)
        assert str(results[4]) == "no"
        assert link.conn._session.clean
        assert link.peer.recv(1 << 20)  # what was asked


def test_replies_that_come_byte_by_byte(unix_wire: Wire) -> None:
    link, pipe = open_link(unix_wire, protocol=3, decode_responses=True)
    for i in range(N_SAID):
        pipe.echo(i)
    stream = stream_of(False)
    feeding = Task(link.feed, [stream[i : i + 1] for i in range(len(stream))])
    assert len(pipe.execute(raise_on_error=False)) == N_SAID
    feeding.result()


def test_large_replies_that_come_in_pieces_of_any_size(unix_wire: Wire) -> None:
    link, pipe = open_link(unix_wire)
    conn = link.conn
    large, small = b"\r\n$1" * 20_000, b"s" * 20_000
    stream = bulk(large) + bulk(small) + bulk(large) + b"$-1\r\n" + bulk(large)
    starts = (1, 7, 8, 9, 10, 11, 99_999, 100_008, 100_010, 100_011, 120_019, 120_030)
    for size in (4099, 65_537, 1 << 20):
        for first in starts:
            for name in ("large", "small", "large", "no", "large"):
                pipe.get(name)
            pipe.connection = conn
            pieces = [stream[i : i + size] for i in range(first, len(stream), size)]
            feeding = Task(link.feed, [stream[:first], *pieces])
            assert pipe.execute() == [large, small, large, None, large]
            feeding.result()
            assert link.peer.recv(1 << 20)


# -- Servers that stop -----------------------------------------------------------------------


@pytest.mark.parametrize("transaction", [False, True])
def test_a_server_that_stops_answering_is_a_read_timeout(
    proxy: FaultProxy, other: redis.Redis, transaction: bool
) -> None:
    for after in (0, 5, 7):
        results = []
        for kind in KINDS:
            with client_of(kind, proxy, socket_timeout=SHORT_S) as client:
                pipe = queue(client.pipeline(transaction))
                proxy.replies.stall(after_bytes=after)
                text = "socket" if kind == "cpool" else "(socket|127.0.0.1:)"
                with pytest.raises(TimeoutError, match=f"^Timeout reading from {text}"):
                    pipe.execute()
                proxy.replies.release()
                results.append(state_of(pipe))
        assert results[1:] == results[:1] * 2


def test_a_server_that_stops_reading_is_a_write_timeout(unix_wire: Wire) -> None:
    link, pipe = open_link(unix_wire, socket_timeout=SHORT_S, retry=Retry(NoBackoff(), 0))
    link.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    for _ in range(2000):
        pipe.set("key", b"x" * 10_000)
    with pytest.raises(TimeoutError, match="^Timeout writing to socket$"):
        pipe.execute()
    assert not is_connected(link.conn)


def test_a_server_that_answers_before_it_has_read_all(unix_wire: Wire) -> None:
    """It need not be waited for: redis-py would have read what is there."""
    link, pipe = open_link(unix_wire, socket_timeout=20)
    link.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    value = b"x" * 6_000_000

    def serve() -> None:
        link.receive(1000)
        link.send(b"-ERR too large\r\n")
        wait_for(lambda: link.unread_bytes == 0, "the client reads it")
        link.receive(len(value) + 34 - 1000)

    serving = Task(serve)
    results = pipe.set("key", value).execute(raise_on_error=False)
    serving.result()
    assert str(results[0]) == "too large"


def test_two_full_socket_buffers_do_not_wait_for_each_other(unix_wire: Wire) -> None:
    """A server that reads no more until its replies are read, as Redis does at last."""
    link, pipe = open_link(unix_wire, socket_timeout=20)
    for sock in (link.sock, link.peer):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    sizes = [1, 20_000, 3, 150_000, 500_000, 70_000, 16_384, 16_385, 0] * 4
    values = [bytes([i]) * size for i, size in enumerate(sizes)]
    for value in values:
        pipe.echo(value)

    def serve() -> None:
        for value in values:
            header = b"*2\r\n$4\r\nECHO\r\n"
            asked = link.receive(len(header + bulk(value)))
            assert asked == header + bulk(value)
            link.send(bulk(value))

    serving = Task(serve)
    assert pipe.execute() == values
    serving.result()
    assert link.conn._session.buffer_bytes <= 1 << 20
