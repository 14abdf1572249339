"""Retries: the first error enters redis-py's Retry as its first attempt, so all counts are its.

Each case is made twice, with redis-py's pool and with ours, against a server that fails so
and so often, and everything that can be noted is compared.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import redis
from redis._parsers import _RESP2Parser
from redis.backoff import AbstractBackoff, NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    ConnectionError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry

import cpool
from tests.connection.fakeserver import CLOSE, FakeServer, Reply, Words
from tests.wire.peer import HAS_FAILURE_COUNT, LIBRARIES

FAILURES = (0, 1, 2, 3, 4)
RETRIES = 3


class Backoff(AbstractBackoff):
    """Waits for nothing, and notes what it was asked."""

    def __init__(self) -> None:
        self.computed: list[int] = []

    def compute(self, failures: int) -> float:
        """Note the number of failures."""
        self.computed.append(failures)
        return 0

    def __deepcopy__(self, memo: Any) -> Backoff:
        return self


class NotingRetry(Retry):
    """A Retry of somebody's own, which notes its calls."""

    def __init__(self, backoff: AbstractBackoff, retries: int, notes: list[Any]) -> None:
        super().__init__(backoff, retries)
        self.notes = notes

    def call_with_retry(self, do: Any, fail: Any, *args: Any, **kwargs: Any) -> Any:
        """Note each attempt and each failure, then go on as ever."""

        def noted_do() -> Any:
            self.notes.append("do")
            return do()

        def noted_fail(error: Exception, *count: int) -> Any:
            self.notes.append((type(error), str(error), count))
            return fail(error, *count)

        return super().call_with_retry(noted_do, noted_fail, *args, **kwargs)

    def __deepcopy__(self, memo: Any) -> NotingRetry:
        return self


def failing(times: int, how: Reply) -> Callable[[Words], bytes | None]:
    """A reply that comes only after so many failures."""
    left = [times]

    def reply(_: Words) -> bytes | None:
        left[0] -= 1
        if left[0] >= 0:
            assert not callable(how)
            return how
        return b"$5\r\nvalue\r\n"

    return reply


def clients(server: FakeServer, **options: Any) -> Iterator[redis.Redis]:
    """Give a client on redis-py's pool, then one on ours."""
    for library in LIBRARIES:
        pool = library.ConnectionPool(host=server.host, port=server.port, **options)
        yield redis.Redis(connection_pool=pool)
        pool.disconnect()


def result_of(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except redis.RedisError as error:
        return type(error), str(error)


HOW: dict[str, Reply] = {
    "closed": CLOSE,
    "half": b"$5\r\nva",
    "loading": b"-LOADING not yet\r\n",
    "error": b"-ERR no\r\n",
    "garbage": b"garbage\r\n",
}


@pytest.mark.parametrize(
    "how, times",
    # half a reply takes a timeout each time
    [(how, times) for how in HOW for times in FAILURES if how != "half" or times in (1, 4)],
)
def test_a_command_is_tried_as_often_as_redis_py_does(how: str, times: int) -> None:
    """With its connects, its backoff, and the number of times the server saw it."""
    seen = []
    for library in LIBRARIES:
        with FakeServer({"GET": failing(times, HOW[how])}) as server:
            backoff = Backoff()
            pool = library.ConnectionPool(
                host=server.host,
                port=server.port,
                retry=Retry(backoff, RETRIES),
                # its own parser, whose texts ours has in all versions
                parser_class=_RESP2Parser,
                socket_timeout=0.2 if how == "half" else 20,
            )
            client = redis.Redis(connection_pool=pool)
            result = result_of(lambda client=client: client.get("key"))
            gets = [
                words
                for connection in server.connections
                for batch in connection
                for words in batch
                if words[0] == b"GET"
            ]
            seen.append((result, len(server.connections), gets, backoff.computed))
            assert len(pool._available_connections) == 1
            pool.disconnect()
    if how != "garbage":  # the text differs
        assert seen[1] == seen[0]
    else:
        assert seen[1][1:] == seen[0][1:]


@pytest.mark.parametrize("times", FAILURES)
def test_a_retry_class_of_somebodys_own_sees_every_attempt(times: int) -> None:
    all_notes = []
    for library in LIBRARIES:
        with FakeServer({"GET": failing(times, CLOSE)}) as server:
            notes: list[Any] = []
            pool = library.ConnectionPool(
                host=server.host, port=server.port, retry=NotingRetry(NoBackoff(), RETRIES, notes)
            )
            conn = pool.get_connection()
            pool.release(conn)
            assert type(conn.retry) is NotingRetry
            notes.clear()  # of connecting
            notes.append(result_of(lambda pool=pool: redis.Redis(connection_pool=pool).get("k")))
            all_notes.append(notes)
            pool.disconnect()
    # A checkout may connect by the retry as well, which redis-py does at each.
    assert [n for n in all_notes[0] if n != "do"] == [n for n in all_notes[1] if n != "do"]
    assert "do" in all_notes[1]


def test_a_retry_of_somebodys_own_can_be_replaced_and_dropped() -> None:
    for library in LIBRARIES:
        conn = library.Connection(port=1)
        for made in (NotingRetry(NoBackoff(), 1, []), Retry(NoBackoff(), 1)) * 2:
            conn.retry = made
            assert type(conn.retry) is type(made) or isinstance(conn.retry, Retry)
            assert conn.retry == made
        conn.retry = NotingRetry(NoBackoff(), 1, [])
        assert conn.retry.get_retries() == 1
        del conn
        gc.collect()


def noting(notes: list[Any], original: Callable[..., Any]) -> Callable[..., Any]:
    def call_with_retry(self: Any, do: Any, *args: Any, **kwargs: Any) -> Any:
        notes.append("called")
        return original(self, do, *args, **kwargs)

    return call_with_retry


def test_a_patched_retry_class_sees_every_command() -> None:
    notes: list[Any] = []
    with FakeServer() as server:
        for client in clients(server):
            client.get("key")
            patched = noting(notes, Retry.call_with_retry)
            with mock.patch.object(Retry, "call_with_retry", patched):
                notes.clear()
                client.get("key")
                assert notes, client
            notes.clear()
            client.get("key")
            assert notes == []


def test_a_patched_retry_object_sees_every_command() -> None:
    with FakeServer() as server:
        for client in clients(server):
            policy = Retry(NoBackoff(), 1)
            notes: list[Any] = []
            patched = noting(notes, Retry.call_with_retry)
            policy.call_with_retry = functools.partial(patched, policy)  # type: ignore
            client.set_retry(policy)
            client.get("key")
            notes.clear()
            client.get("key")
            assert notes, client


def test_a_patched_retry_of_a_connection_sees_its_commands() -> None:
    with FakeServer() as server:
        for client in clients(server):
            conn = client.connection_pool.get_connection()
            with mock.patch.object(conn.retry, "call_with_retry", return_value="mocked"):
                client.connection_pool.release(conn)
                assert client.get("key") == "mocked"
            assert client.get("key") is None


def test_a_policys_view_may_be_called_while_its_connection_ends() -> None:
    """By the finaliser of an attribute, or by another thread at that moment."""
    with FakeServer() as server:
        pool = cpool.ConnectionPool(host=server.host, port=server.port)
        conn = pool.get_connection()
        view, called = conn.retry, []

        class Last:
            def __del__(self) -> None:
                called.append(view.call_with_retry(lambda: "done", lambda _: None))

        conn.last = Last()
        del conn
        gc.collect()
        assert called == ["done"]
        pool.release(pool.get_connection())
        pool.disconnect()


def test_a_new_retry_holds_for_connections_there_are_and_will_be() -> None:
    """redis-py's blocking pool can't do that."""
    for pool_class in (cpool.ConnectionPool, cpool.BlockingConnectionPool):
        with FakeServer({"GET": failing(2, CLOSE)}) as server:
            pool = pool_class(host=server.host, port=server.port)
            client = redis.Redis(connection_pool=pool)
            held, idle = pool.get_connection(), pool.get_connection()
            pool.release(idle)
            policy = Retry(NoBackoff(), 2)
            client.set_retry(policy)
            assert held.retry == idle.retry == policy
            pool.release(held)
            assert client.get("key") == b"value"
            pool.disconnect()


def test_errors_that_are_no_failures_of_the_connection_are_not_retried() -> None:
    for reply, expected in ((b"-READONLY no\r\n", ReadOnlyError), (b"-ERR no\r\n", ResponseError)):
        with FakeServer({"GET": reply}) as server:
            for client in clients(server, retry=Retry(NoBackoff(), RETRIES)):
                with pytest.raises(expected):
                    client.get("key")
                assert [w for w in server.requests if w[0] == b"GET"] == [(b"GET", b"key")]


@pytest.mark.parametrize(
    "option", [{"retry_on_timeout": True}, {"retry_on_error": [ReadOnlyError]}]
)
def test_the_options_for_retries_are_redis_pys(option: dict[str, Any]) -> None:
    how = b"" if "retry_on_timeout" in option else b"-READONLY no\r\n"
    seen = []
    for library in LIBRARIES:
        with FakeServer({"GET": failing(1, how)}) as server:
            pool = library.ConnectionPool(
                host=server.host, port=server.port, socket_timeout=0.1, **option
            )
            value = result_of(lambda pool=pool: redis.Redis(connection_pool=pool).get("key"))
            seen.append((value, pool.make_connection().retry.get_retries()))
            pool.disconnect()
    assert seen[0] == (b"value", 1)
    assert seen[1] == seen[0]


@pytest.mark.skipif(not HAS_FAILURE_COUNT, reason="since redis-py 7.2")
def test_a_timeout_is_a_failure_that_is_counted_once() -> None:
    failures = []
    for library in LIBRARIES:
        with FakeServer({"GET": b""}) as server:
            conn = library.Connection(
                host=server.host,
                port=server.port,
                socket_timeout=0.05,
                retry=Retry(NoBackoff(), 2),
            )
            conn.connect()
            noted: list[Any] = []

            def do(conn: Any = conn) -> Any:
                conn.send_command("GET", "key")
                return conn.read_response()

            def fail(error: Exception, count: int, noted: Any = noted) -> None:
                noted.append((type(error), count))

            with pytest.raises(TimeoutError):
                conn.retry.call_with_retry(do, fail, with_failure_count=True)
            failures.append(noted)
            conn.disconnect()
    assert failures[0] == [(TimeoutError, 1), (TimeoutError, 2), (TimeoutError, 3)]
    assert failures[1] == failures[0]


@pytest.mark.skipif(not HAS_FAILURE_COUNT, reason="since redis-py 7.2")
def test_what_is_not_retryable_by_the_callers_word_is_not_retried() -> None:
    noted: list[Any] = []
    for library in LIBRARIES:
        with FakeServer({"GET": CLOSE}) as server:
            conn = library.Connection(
                host=server.host, port=server.port, retry=Retry(NoBackoff(), 5)
            )
            conn.connect()

            def do(conn: Any = conn) -> Any:
                conn.send_command("GET", "key")
                return conn.read_response()

            with pytest.raises(ConnectionError):
                conn.retry.call_with_retry(do, noted.append, is_retryable=lambda _: False)
            assert noted == []
            conn.disconnect()


def test_an_error_of_a_retried_command_keeps_its_traceback() -> None:
    with FakeServer({"GET": b"-LOADING not yet\r\n"}) as server:
        for client in clients(server, retry=Retry(NoBackoff(), 1)):
            with pytest.raises(BusyLoadingError) as raised:
                client.get("key")
            names = [entry.name for entry in raised.traceback]
            assert "get" in names
            assert "execute_command" in names
