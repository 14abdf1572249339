"""Bytes that are no reply to this caller: pushes go to their handlers, strays to nobody.

Pushes may come between replies, within a pipeline's replies and on an idle connection, cut
anywhere. A late reply or a stray byte on an idle connection means another connection.
"""

from __future__ import annotations

import select
from collections.abc import Iterator
from typing import Any

import pytest
import redis

import cpool
from cpool.tools.servers import EmbeddedServer
from tests.connection.fakeserver import FakeServer
from tests.support.faultproxy import FaultProxy
from tests.wire.peer import HAS_MAINTENANCE, by_methods, wait_for

INVALIDATE = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nkey\r\n"
MESSAGE = b">3\r\n$7\r\nmessage\r\n$7\r\nchannel\r\n$4\r\ntext\r\n"
UNKNOWN = b">2\r\n$7\r\nunknown\r\n:1\r\n"
INVALIDATED = [b"invalidate", [b"key"]]


@pytest.fixture
def proxy(redis_server: EmbeddedServer) -> Iterator[FaultProxy]:
    """Give a proxy in front of a real server."""
    with FaultProxy((redis_server.host, redis_server.port)) as running:
        yield running


CONNECTIONS = {"fd": cpool.Connection, "methods": by_methods(cpool.Connection)}


@pytest.fixture(params=CONNECTIONS.values(), ids=CONNECTIONS)
def pool(request: pytest.FixtureRequest, proxy: FaultProxy) -> Iterator[Any]:
    """Give a pool through the proxy; the test runs once by fd and once by methods."""
    made = cpool.ConnectionPool(
        host=proxy.host, port=proxy.port, protocol=3, connection_class=request.param
    )
    yield made
    made.disconnect()


def handled_pushes(conn: Any) -> list[Any]:
    """Note the invalidations that a connection is told about."""
    pushes: list[Any] = []
    conn._parser.set_invalidation_push_handler(pushes.append)
    return pushes


def ask(conn: Any, *args: Any) -> Any:
    conn.send_command(*args)
    return conn.read_response()


def arrive(conn: Any) -> None:
    """Wait until something is in the socket, without reading it."""
    wait_for(lambda: select.select([conn._sock], [], [], 0)[0], "bytes arrive")


# Between replies


def test_a_push_before_a_reply_goes_to_its_handler(pool: Any, proxy: FaultProxy) -> None:
    conn = pool.get_connection()
    pushes = handled_pushes(conn)
    for i in range(3):
        proxy.replies.inject(INVALIDATE * i)
        assert ask(conn, "ECHO", i) == b"%d" % i
    assert pushes == [INVALIDATED] * 3
    assert conn._session.owed == 0
    pool.release(conn)
    assert pool.stats().discarded == 0


def test_pushes_within_a_pipelines_replies_shift_nothing(pool: Any, proxy: FaultProxy) -> None:
    conn = pool.get_connection()
    pushes = handled_pushes(conn)
    proxy.replies.stall(after_messages=2)
    conn.send_packed_command(conn.pack_commands([("ECHO", i) for i in range(5)]))
    assert [conn.read_response() for _ in range(2)] == [b"0", b"1"]
    proxy.replies.wait_held()
    proxy.replies.inject(INVALIDATE + UNKNOWN + INVALIDATE)
    proxy.replies.release()
    assert [conn.read_response() for _ in range(3)] == [b"2", b"3", b"4"]
    assert pushes == [INVALIDATED] * 2
    assert conn._session.clean


def test_a_push_cut_anywhere_goes_to_its_handler() -> None:
    for connection_class in CONNECTIONS.values():
        with FakeServer() as server:
            conn = connection_class(host=server.host, port=server.port, protocol=3)
            conn.connect()
            pushes = handled_pushes(conn)
            for cut in range(1, len(INVALIDATE)):
                server.say(INVALIDATE[:cut])
                arrive(conn)
                with pytest.raises(redis.TimeoutError):
                    conn.read_response(timeout=0, disconnect_on_error=False)
                server.say(INVALIDATE[cut:])
                assert ask(conn, "PING") == b"PONG"
            conn.disconnect()
        assert pushes == [INVALIDATED] * (len(INVALIDATE) - 1)


def test_a_push_is_returned_to_who_asks_for_pushes(pool: Any, proxy: FaultProxy) -> None:
    conn = pool.get_connection()
    proxy.replies.inject(MESSAGE)
    assert conn.read_response(push_request=True) == [b"message", b"channel", b"text"]
    assert conn._session.owed == 0


def fail(_: Any) -> None:
    raise ZeroDivisionError


@pytest.mark.skipif(not HAS_MAINTENANCE, reason="redis-py logs it since 7.0")
def test_a_failing_invalidation_handler_costs_the_reader_nothing(
    pool: Any, proxy: FaultProxy
) -> None:
    conn = pool.get_connection()
    conn._parser.set_invalidation_push_handler(fail)
    proxy.replies.inject(INVALIDATE)
    assert ask(conn, "ECHO", "mine") == b"mine"


def test_a_failing_message_handler_ends_the_read_and_the_connection(
    pool: Any, proxy: FaultProxy
) -> None:
    conn = pool.get_connection()
    conn._parser.set_pubsub_push_handler(fail)
    proxy.replies.inject(MESSAGE)
    conn.send_command("ECHO", "mine")
    with pytest.raises(ZeroDivisionError):
        conn.read_response()
    assert conn._sock is None


def test_real_invalidations_reach_their_handler(pool: Any, redis_server: EmbeddedServer) -> None:
    conn = pool.get_connection()
    pushes = handled_pushes(conn)
    assert ask(conn, "CLIENT", "TRACKING", "ON") == b"OK"
    other = redis.Redis(host=redis_server.host, port=redis_server.port)
    for i in range(20):
        ask(conn, "GET", f"tracked:{i}")
        other.set(f"tracked:{i}", i)
    other.close()
    wait_for(lambda: ask(conn, "PING") == b"PONG" and len(pushes) == 20, "20 invalidations")
    assert pushes == [[b"invalidate", [b"tracked:%d" % i]] for i in range(20)]


# On an idle connection


@pytest.mark.parametrize("count", [1, 3])
def test_pushes_on_an_idle_connection_are_handled_at_its_checkout(
    pool: Any, proxy: FaultProxy, count: int
) -> None:
    conn = pool.get_connection()
    pushes = handled_pushes(conn)
    sock = conn._sock
    pool.release(conn)
    proxy.replies.inject(INVALIDATE * count)
    arrive(conn)
    again = pool.get_connection()
    assert (again, again._sock) == (conn, sock)
    assert pushes == [INVALIDATED] * count
    assert ask(again, "ECHO", "mine") == b"mine"
    assert pool.stats().replaced == 0


def test_pushes_that_came_with_the_last_reply_are_handled_at_the_next_checkout(
    pool: Any, proxy: FaultProxy
) -> None:
    """They wait in the buffer, where no look at the socket shows them."""
    conn = pool.get_connection()
    pushes = handled_pushes(conn)
    for _ in range(3):
        proxy.replies.stall()
        conn.send_command("ECHO", "mine")
        proxy.replies.wait_held()
        proxy.replies.release()
        assert conn.read_response() == b"mine"
        proxy.replies.inject(INVALIDATE)
        pool.release(conn)
        again = pool.get_connection()
        assert again is conn
    arrive_and_settle(pool, conn)
    assert pushes == [INVALIDATED] * 3


def arrive_and_settle(pool: Any, conn: Any) -> None:
    assert ask(conn, "ECHO", "settled") == b"settled"
    pool.release(conn)


def test_a_stray_reply_on_an_idle_connection_is_nobodys(pool: Any, proxy: FaultProxy) -> None:
    for stray in (b"+stray\r\n", b"$5\r\nstr", b"x", INVALIDATE + b":1\r\n", b"\r\n"):
        conn = pool.get_connection()
        replaced = pool.stats().replaced
        pool.release(conn)
        proxy.replies.inject(stray)
        arrive(conn)
        client = redis.Redis(connection_pool=pool)
        assert client.echo("mine") == b"mine"
        assert pool.stats().replaced == replaced + 1
        proxy.close_connections()


def test_a_stray_reply_that_is_not_in_the_encoding_is_nobodys(proxy: FaultProxy) -> None:
    address = {"host": proxy.host, "port": proxy.port}
    with cpool.ConnectionPool(**address, decode_responses=True, protocol=3) as pool:
        for stray in (b"$2\r\n\xff\xfe\r\n", b">1\r\n$2\r\n\xff\xfe\r\n"):
            conn = pool.get_connection()
            pool.release(conn)
            proxy.replies.inject(stray)
            arrive(conn)
            assert redis.Redis(connection_pool=pool).echo("mine") == "mine"


def test_half_a_push_on_an_idle_connection_waits_a_moment_for_its_rest(
    pool: Any, proxy: FaultProxy
) -> None:
    """What does not come to an end in time costs the connection, not the caller."""
    conn = pool.get_connection()
    pool.release(conn)
    proxy.replies.inject(INVALIDATE[:-5])
    arrive(conn)
    assert redis.Redis(connection_pool=pool).echo("mine") == b"mine"
    assert pool.stats().replaced == 1


def test_a_reply_after_its_reader_gave_up_is_nobodys(pool: Any, proxy: FaultProxy) -> None:
    conn = pool.get_connection()
    proxy.replies.stall()
    conn.send_command("ECHO", "late")
    with pytest.raises(redis.TimeoutError):
        conn.read_response(timeout=0.01, disconnect_on_error=False)
    pool.release(conn)
    proxy.replies.release()
    for i in range(5):
        assert redis.Redis(connection_pool=pool).echo(str(i)) == b"%d" % i
    assert pool.stats().discarded == 1


def test_a_connection_closed_by_the_server_while_idle_is_replaced(
    pool: Any, proxy: FaultProxy
) -> None:
    client = redis.Redis(connection_pool=pool)
    client.set_retry(redis.retry.Retry(redis.backoff.NoBackoff(), 0))
    for end in (proxy.close_connections, proxy.reset_connections, proxy.half_close):
        assert client.echo("before") == b"before"
        conn = pool.get_connection()
        pool.release(conn)
        replaced = pool.stats().replaced
        end()
        arrive(conn)
        assert client.echo("after") == b"after"
        assert pool.stats().replaced == replaced + 1
    assert pool.stats().open == 1


def test_a_push_and_then_the_end_on_an_idle_connection_is_a_replacement(
    pool: Any, proxy: FaultProxy
) -> None:
    client = redis.Redis(connection_pool=pool)
    assert client.echo("before") == b"before"
    proxy.replies.inject(INVALIDATE)
    proxy.close_connections()
    assert client.echo("after") == b"after"
    assert pool.stats().replaced == 1


def test_the_slots_of_replaced_connections_are_not_lost(pool: Any, proxy: FaultProxy) -> None:
    for _ in range(5):
        held = [pool.get_connection() for _ in range(4)]
        for conn in held:
            pool.release(conn)
        proxy.reset_connections()
    stats = pool.stats()
    assert (stats.open, stats.in_use, stats.opening) == (4, 0, 0)


# Under RESP2 there are no pushes


def test_what_comes_unasked_under_resp2_is_a_stray(proxy: FaultProxy) -> None:
    with cpool.ConnectionPool(host=proxy.host, port=proxy.port, protocol=2) as pool:
        client = redis.Redis(connection_pool=pool)
        assert client.echo("before") == b"before"
        conn = pool.get_connection()
        pool.release(conn)
        proxy.replies.inject(b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n")
        arrive(conn)
        assert client.echo("after") == b"after"
        assert pool.stats().replaced == 1
