"""A command that fails is retried as redis-py retries it: as often, on the same errors, with
the same calls of what a subclass may have overridden."""

from __future__ import annotations

import itertools
import logging
import re
import signal
import sys
from types import FrameType
from typing import Any

import pytest
import redis
from redis.backoff import AbstractBackoff, NoBackoff
from redis.exceptions import ConnectionError, NoScriptError, ResponseError, TimeoutError
from redis.retry import Retry

import cpool
from cpool.tools.servers import EmbeddedServer
from tests.client.support import (
    LIBRARIES,
    asked,
    both,
    client_of,
    counts_of,
    no_retry,
    outcome_of,
    that_notes,
)
from tests.client.test_errors import state_of
from tests.connection.fakeserver import CLOSE, FakeServer
from tests.pool.support import REDIS_VERSION
from tests.support.faultproxy import FaultProxy


def closing(times: int, reply: bytes = b"$5\r\nvalue\r\n") -> Any:
    """Return what answers so many requests by closing, the next by `reply`, and so on."""
    asked_for = [0]

    def answer(words: Any) -> bytes | None:
        asked_for[0] += 1
        return CLOSE if asked_for[0] % (times + 1) else reply

    return answer


def attempts(server: FakeServer, client: Any) -> Any:
    """Run a GET; return what came of it and what it took."""
    before = asked(server, "GET"), len(server.connections)
    got = outcome_of(client.get, "k")
    return (
        got,
        asked(server, "GET") - before[0],
        len(server.connections) - before[1],
        state_of(client),
        outcome_of(client.ping),
    )


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("retries", [0, 1, 3])
@pytest.mark.parametrize("closes", [0, 1, 2, 4])
def test_a_server_that_closes(closes: int, retries: int, single: bool) -> None:
    with FakeServer() as server:

        def scenario(client: Any) -> Any:
            server.replies["GET"] = closing(closes)
            return attempts(server, client)

        options = {"retry": no_retry(retries), "single_connection_client": single}
        both(server, scenario, protocol=2, **options)


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("direction", ["requests", "replies"])
@pytest.mark.parametrize("at", [0, 1, 4, 9])
def test_a_connection_cut_at_any_byte(
    redis_server: EmbeddedServer, direction: str, at: int, how: Any, retries: int
) -> None:
    """A reset may be noticed by a send or by a read, so its words are not compared."""
    address = redis_server.host, redis_server.port
    with FaultProxy(address) as proxy:

        def scenario(client: Any) -> Any:
            client.set("k", "0")
            getattr(proxy, direction).cut_after(at, how)
            got = outcome_of(client.append, "k", "x")
            return got[:2], outcome_of(client.get, "k")[:2], state_of(client)

        both(proxy, scenario, protocol=2, retry=no_retry(retries))


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_a_reply_that_is_late(retries: int) -> None:
    with FakeServer({"GET": b"$9\r\nhalf"}) as server:
        options = {"socket_timeout": 0.03, "retry": no_retry(retries)}
        both(server, lambda client: attempts(server, client), **options)


ERRORS: list[Any] = [
    (),
    (ResponseError,),
    (NoScriptError,),
    (ConnectionError,),
    (TimeoutError, ResponseError),
    (Exception,),
    (BaseException,),
]


@pytest.mark.parametrize("supported", ERRORS)
@pytest.mark.parametrize("reply", [b"-NOSCRIPT x\r\n", b"-ERR x\r\n", b"-LOADING x\r\n", CLOSE])
def test_the_errors_to_retry_are_the_policys(supported: Any, reply: bytes | None) -> None:
    with FakeServer({"GET": reply}) as server:
        retry = no_retry(2, supported_errors=supported)
        both(server, lambda client: attempts(server, client), protocol=2, retry=retry)


@pytest.mark.parametrize("errors", [[ResponseError], [TimeoutError, NoScriptError]])
def test_retry_on_error(errors: Any) -> None:
    with FakeServer({"GET": b"-NOSCRIPT x\r\n"}) as server:
        both(server, lambda client: attempts(server, client), retry_on_error=errors)


@pytest.mark.parametrize("options", [{}, {"retry": None}, {"retry_on_error": [ResponseError]}])
@pytest.mark.parametrize("reply", [b"-NOSCRIPT x\r\n", CLOSE])
def test_pools_of_ones_own_without_a_policy(options: Any, reply: bytes | None) -> None:
    results = []
    with FakeServer({"GET": reply}) as server:
        for library in LIBRARIES:
            address = {"host": server.host, "port": server.port}
            pool = library.ConnectionPool(**address, protocol=2, **options)
            client = library.Redis(connection_pool=pool)
            results.append((outcome_of(client.ping), attempts(server, client)))
            pool.disconnect()
    assert results[0] == results[1]


def test_a_policy_changed_on_the_way(redis_server: EmbeddedServer) -> None:
    with FakeServer({"GET": b"-NOSCRIPT x\r\n"}) as server:

        def scenario(client: Any) -> Any:
            results = [attempts(server, client)]
            client.set_retry(no_retry(2, supported_errors=(ResponseError,)))
            results.append(attempts(server, client))
            connection = client.connection_pool.get_connection()
            client.connection_pool.release(connection)
            connection.retry.update_retries(1)
            results.append(attempts(server, client))
            connection.retry = no_retry(0, supported_errors=())
            results.append(attempts(server, client))
            return results, [result[1] for result in results]

        assert both(server, scenario)[1] == [1, 3, 2, 1]


# -- Who is told --------------------------------------------------------------------------


def that_is_told(cls: Any, told: list[Any]) -> Any:
    """Return a subclass that notes why its connections are closed."""

    def _close_connection(self: Any, conn: Any, *args: Any, **kwargs: Any) -> None:
        # The third argument is the time it began.
        said = [type(arg) if isinstance(arg, Exception) else arg for arg in args]
        told.append((said[:2], said[3:], kwargs))
        cls._close_connection(self, conn, *args, **kwargs)

    return type("Told", (cls,), {"_close_connection": _close_connection})


@pytest.mark.parametrize("retries", [0, 2])
@pytest.mark.parametrize("closes", [1, 2, 5])
def test_a_subclass_sees_each_failure(closes: int, retries: int) -> None:
    results = []
    with FakeServer() as server:
        for library in LIBRARIES:
            server.replies["GET"] = closing(closes)
            told: list[Any] = []
            client = that_is_told(library.Redis, told)(
                server.host, server.port, protocol=2, retry=no_retry(retries)
            )
            results.append((attempts(server, client), told))
            client.connection_pool.disconnect()
    assert results[0] == results[1]
    assert len(results[1][1]) == min(closes, retries + 1)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what redis-py's client has logged, classes and numbers made alike."""
    told = [record.getMessage() for record in caplog.records if record.name == "redis.client"]
    caplog.clear()
    return [re.sub(r"\d+", "N", text.replace("cpool.", "redis.")) for text in told]


@pytest.mark.skipif(REDIS_VERSION < (8, 0), reason="since redis-py 8")
def test_the_debug_log_is_the_same(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "redis.client")
    with FakeServer() as server:

        def scenario(client: Any) -> Any:
            server.replies["GET"] = closing(2)
            return attempts(server, client), messages(caplog)

        assert len(both(server, scenario, protocol=2, retry=no_retry(3))[1]) == 2


@pytest.mark.parametrize("closes", [0, 1, 5])
def test_a_connections_disconnect_is_called_for_each_failure(closes: int) -> None:
    results = []
    with FakeServer() as server:
        for library in LIBRARIES:
            server.replies["GET"] = closing(closes)
            seen: list[str] = []
            connection_class = that_notes(library.Connection, seen, "disconnect")
            address = {"host": server.host, "port": server.port, "protocol": 2}
            pool = library.ConnectionPool(
                connection_class, retry=no_retry(2, supported_errors=(ConnectionError,)), **address
            )
            client = library.Redis(connection_pool=pool)
            results.append((attempts(server, client), list(seen)))
            pool.disconnect()
    assert results[0] == results[1]


def test_the_backoff_is_asked_as_often() -> None:
    class Backoff(AbstractBackoff):
        seen: list[Any] = []

        def reset(self) -> None:
            pass  # called before each command by redis-py, before each failure by ours

        def compute(self, failures: int) -> float:
            self.seen.append(failures)
            return 0

    with FakeServer() as server:

        def scenario(client: Any) -> Any:
            Backoff.seen.clear()
            server.replies["GET"] = closing(5)
            return attempts(server, client), list(Backoff.seen)

        both(server, scenario, protocol=2, retry=Retry(Backoff(), 3))


class Interrupt(BaseException):
    """What strikes where a signal would."""


def test_an_interrupt_during_a_command_leaves_the_pool_whole(
    redis_server: EmbeddedServer,
) -> None:
    """redis-py 8 returns such a connection with its reply unread; ours is closed."""

    def interrupt(*_: Any) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for library in LIBRARIES:
            with client_of(library, redis_server, protocol=2) as client:
                client.ping()
                signal.setitimer(signal.ITIMER_REAL, 0.05)
                with pytest.raises(Interrupt):
                    client.blpop("nothing", 20)
                assert client.ping() is True
                assert client.echo("x") == b"x"
                assert len(client.connection_pool._in_use_connections) == 0
    finally:
        signal.signal(signal.SIGALRM, before)


def struck(call: Any, at: int) -> bool:
    """Interrupt a call at the event `at` of redis-py's client and retry policy; tell
    whether there were so many. Only as deep as that, since finalisers swallow errors."""
    left = [at]

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename not in DRIVING:
            return None
        left[0] -= 1
        if left[0] == 0:
            raise Interrupt
        return trace

    sys.settrace(trace)
    try:
        call()
    except Interrupt:
        pass
    finally:
        sys.settrace(None)
    return left[0] <= 0


DRIVING = (redis.client.__file__, redis.retry.__file__)


class OwnPolicy(Retry):
    """A policy for which redis-py drives every command."""


# Struck between dialling and keeping the socket, redis-py leaves it to be collected.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored .* <socket.socket:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize(("policy", "answer"), [(OwnPolicy, b"+x\r\n"), (Retry, CLOSE)])
def test_no_interrupt_while_redis_py_drives_loses_the_slot(policy: Any, answer: bytes) -> None:
    """All of the command, or all that follows its first error: redis-py itself loses the
    connection if it is struck between two statements."""
    with FakeServer({"ECHO": b"+x\r\n"}) as server:
        for at in itertools.count(1):
            retry = policy(NoBackoff(), 1)
            with client_of(cpool, server, retry=retry, max_connections=1) as client:
                assert client.echo("x") == b"x"
                server.replies["GET"] = closing(1) if answer is CLOSE else answer
                was_struck = struck(lambda: client.get("k"), at)  # noqa: B023 - called at once
                assert counts_of(client.connection_pool) == (1, 0), at
                assert client.echo("x") == b"x"
            if not was_struck:
                break
        assert at > 20
