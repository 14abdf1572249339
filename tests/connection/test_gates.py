"""Whoever replaces what the core would bypass sees every call, and the work is still done.

Tracing tools patch redis-py's classes or ours, before or after connections exist; users
subclass; tests patch instances. Each sees what it would see with redis-py's own connection.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import redis

import cpool
from cpool.tools.servers import EmbeddedServer
from tests.support.faultproxy import FaultProxy
from tests.wire.scripts import run_module

VERBS = ("send_command", "send_packed_command", "read_response", "can_read", "connect")
COMMANDS = 5
ABSTRACT = redis.connection.AbstractConnection


def pool_of(server: Any, library: Any = cpool, **options: Any) -> Any:
    return library.ConnectionPool(host=server.host, port=server.port, **options)


def work(pool: Any) -> None:
    """Run commands, a pipeline and a transaction, and check every reply."""
    client = redis.Redis(connection_pool=pool)
    for i in range(COMMANDS):
        assert client.echo(f"{i}") in (b"%d" % i, f"{i}")
    pipeline = client.pipeline(transaction=False)
    assert pipeline.set("key", 1).incr("key").execute() == [True, 2]
    assert client.pipeline().set("key", 1).incr("key").execute() == [True, 2]


def check_kept(pool: Any) -> None:
    """All went over one connection, which is idle and clean."""
    stats = pool.stats()
    assert (stats.open, stats.idle, stats.created) == (1, 1, 1)
    assert stats.discarded == stats.replaced == 0


class Watch:
    """Counts the calls of one method that is passed on to."""

    def __init__(self, original: Callable[..., Any]) -> None:
        self.calls: list[str] = []
        self._original = original

    def method(self) -> Callable[..., Any]:
        """Return a function to put in the place of the method."""
        name, calls, original = self._original.__name__, self.calls, self._original

        def watched(connection: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return original(connection, *args, **kwargs)

        return watched


def calls_seen(library: Any, server: EmbeddedServer, cls: Any, verb: str, when: str) -> int:
    """Patch a class before or after the connection exists; count what the patch sees."""
    watch = Watch(getattr(cls, verb))
    pool = pool_of(server, library)
    if when == "after":
        work(pool)
    with mock.patch.object(cls, verb, watch.method()):
        work(pool)
    seen = len(watch.calls)
    work(pool)
    assert len(watch.calls) == seen  # the patch is gone
    if library is cpool:
        check_kept(pool)
    pool.disconnect()
    return seen


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    "cls", [ABSTRACT, redis.connection.Connection], ids=lambda cls: cls.__name__
)
def test_a_patch_on_redis_pys_class_sees_what_it_sees_there(
    redis_server: EmbeddedServer, cls: Any, verb: str, when: str
) -> None:
    theirs = calls_seen(redis, redis_server, cls, verb, when)
    ours = calls_seen(cpool, redis_server, cls, verb, when)
    assert theirs > 0
    if verb in ("can_read", "connect"):  # at a checkout, where redis-py calls both each time
        assert ours > 0
    else:
        assert ours == theirs


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_patch_on_our_class_sees_what_one_on_redis_pys_sees_there(
    redis_server: EmbeddedServer, verb: str, when: str
) -> None:
    theirs = calls_seen(redis, redis_server, redis.connection.Connection, verb, when)
    ours = calls_seen(cpool, redis_server, cpool.Connection, verb, when)
    if verb in ("can_read", "connect"):
        assert ours > 0
    else:
        assert ours == theirs


def watching_class(base: Any, verb: str, calls: list[str]) -> Any:
    """Make a subclass that overrides one verb and passes on to its base."""

    def override(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(verb)
        return getattr(base, verb)(self, *args, **kwargs)

    return type("Watching", (base,), {verb: override})


@pytest.mark.parametrize("verb", VERBS)
def test_an_override_sees_what_it_sees_with_redis_py(
    redis_server: EmbeddedServer, verb: str
) -> None:
    seen = []
    for library in (redis, cpool):
        calls: list[str] = []
        connection_class = watching_class(library.Connection, verb, calls)
        pool = pool_of(redis_server, library, connection_class=connection_class)
        work(pool)
        seen.append(len(calls))
        if library is cpool:
            check_kept(pool)
        pool.disconnect()
    assert seen[0] > 0
    assert seen[1] == seen[0]


@pytest.mark.parametrize("verb", VERBS)
def test_a_patched_instance_sees_its_calls(redis_server: EmbeddedServer, verb: str) -> None:
    seen = []
    for library in (redis, cpool):
        pool = pool_of(redis_server, library)
        conn = pool.get_connection()
        pool.release(conn)
        with mock.patch.object(conn, verb, wraps=getattr(conn, verb)) as patched:
            work(pool)
            seen.append(patched.call_count)
        work(pool)
        pool.disconnect()
    assert seen[0] > 0
    assert seen[1] == seen[0]


def test_a_patched_instance_that_answers_itself_is_believed(redis_server: EmbeddedServer) -> None:
    pool = pool_of(redis_server)
    client = redis.Redis(connection_pool=pool)
    conn = pool.get_connection()
    pool.release(conn)
    with (
        mock.patch.object(conn, "send_command") as send,
        mock.patch.object(conn, "read_response", return_value=b"mocked"),
    ):
        assert client.get("key") == b"mocked"
        send.assert_called_once()
    assert client.echo("real") == b"real"
    pool.disconnect()


# The parser


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_patched_parser_is_asked(redis_server: EmbeddedServer, protocol: int) -> None:
    pool = pool_of(redis_server, protocol=protocol)
    client = redis.Redis(connection_pool=pool)
    conn = pool.get_connection()
    pool.release(conn)
    with mock.patch.object(conn._parser, "read_response", return_value=b"mocked") as read:
        assert client.get("key") == b"mocked"
        read.assert_called_once()
    conn.disconnect()
    assert client.echo("real") == b"real"
    pool.disconnect()


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_mock_in_place_of_the_parser_is_asked(
    redis_server: EmbeddedServer, protocol: int
) -> None:
    conn = pool_of(redis_server, protocol=protocol).get_connection()
    with mock.patch.object(conn, "_parser") as parser:
        parser.can_read.return_value = True
        parser.read_response.return_value = b"mocked"
        assert conn.can_read()
        assert conn.read_response() == b"mocked"
    conn.disconnect()


def test_a_parser_that_fails_closes_the_connection(redis_server: EmbeddedServer) -> None:
    conn = pool_of(redis_server).get_connection()
    with mock.patch.object(conn._parser, "read_response", side_effect=KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            conn.read_response()
    assert conn._sock is None


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_look_into_the_parser_leaves_redis_pys_own_at_work(
    redis_server: EmbeddedServer, protocol: int
) -> None:
    """On the same bytes: what was read ahead is not lost."""
    conn = pool_of(redis_server, protocol=protocol).get_connection()
    conn.send_packed_command(conn.pack_commands([("ECHO", i) for i in range(6)]))
    assert conn.read_response() == b"0"
    assert conn._parser._buffer is not None
    assert [conn.read_response() for _ in range(5)] == [b"%d" % i for i in range(1, 6)]
    conn.send_command("ECHO", "more")
    assert conn.read_response() == b"more"
    conn.disconnect()
    conn.connect()
    assert conn._session is not None
    conn.disconnect()


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_look_into_the_parser_within_a_large_reply_loses_nothing(
    redis_server: EmbeddedServer, protocol: int
) -> None:
    value = bytes(range(256)) * 1000
    with FaultProxy((redis_server.host, redis_server.port)) as proxy:
        conn = pool_of(proxy, protocol=protocol).get_connection()
        for passed in (100, 70_000, 200_000):
            proxy.replies.stall(after_bytes=passed)
            conn.send_command("ECHO", value)
            with pytest.raises(redis.TimeoutError):
                conn.read_response(timeout=0.05, disconnect_on_error=False)
            assert conn._parser._buffer is not None
            proxy.replies.release()
            assert conn.read_response() == value
            conn.disconnect()
            conn.connect()
        conn.disconnect()


def test_the_parsers_are_redis_pys_to_who_asks(redis_server: EmbeddedServer) -> None:
    from redis._parsers import _RESP2Parser, _RESP3Parser

    for protocol, parser in ((2, _RESP2Parser), (3, _RESP3Parser)):
        conn = pool_of(redis_server, protocol=protocol).get_connection()
        assert isinstance(conn._parser, parser)
        assert conn._parser.EXCEPTION_CLASSES == parser.EXCEPTION_CLASSES
        conn.disconnect()


# Classes come and go


def test_a_connection_class_made_at_run_time_is_freed(redis_server: EmbeddedServer) -> None:
    """kombu makes one for each channel."""
    classes = []
    for _ in range(5):
        made = type("Connection", (cpool.Connection,), {})
        pool = pool_of(redis_server, connection_class=made)
        work(pool)
        pool.disconnect()
        classes.append(weakref.ref(made))
        del made, pool
    gc.collect()
    assert [ref() for ref in classes] == [None] * 5


def test_an_override_added_to_a_class_later_is_seen(redis_server: EmbeddedServer) -> None:
    made = type("Connection", (cpool.Connection,), {})
    pool = pool_of(redis_server, connection_class=made)
    work(pool)
    for verb in VERBS:
        calls: list[str] = []
        setattr(made, verb, getattr(watching_class(cpool.Connection, verb, calls), verb))
        work(pool)
        assert calls, verb
        delattr(made, verb)
        before = len(calls)
        work(pool)
        assert len(calls) == before
    check_kept(pool)
    pool.disconnect()


@pytest.fixture
def mixin_pool(redis_server: EmbeddedServer) -> Iterator[tuple[Any, list[str]]]:
    """Give a pool whose connection class has a mixin in front, and the mixin's notes."""
    notes: list[str] = []

    class Noting:
        def send_packed_command(self, *args: Any, **kwargs: Any) -> Any:
            notes.append("send")
            return super().send_packed_command(*args, **kwargs)  # type: ignore[misc]

        def disconnect(self, *args: Any) -> None:
            notes.append("disconnect")
            super().disconnect(*args)  # type: ignore[misc]

    made = type("Mixed", (Noting, cpool.Connection), {})
    pool = pool_of(redis_server, connection_class=made)
    yield pool, notes
    pool.disconnect()


def test_a_mixin_in_front_sees_its_calls(mixin_pool: tuple[Any, list[str]]) -> None:
    pool, notes = mixin_pool
    work(pool)
    notes.clear()
    redis.Redis(connection_pool=pool).get("key")
    assert notes == ["send"]
    pool.disconnect()
    assert notes == ["send", "disconnect"]


@pytest.mark.parametrize("like", ["functools", "closure", "equal"])
def test_wrappers_that_were_there_before_cpool_see_every_call(
    redis_server: EmbeddedServer, like: str
) -> None:
    """They must not be taken for redis-py's own functions, which the core stands in for."""
    answer = run_module(
        "tests.connection.wrapped_first_script", redis_server.host, redis_server.port, like
    )
    assert answer["seen"] == answer["wrapped"]
