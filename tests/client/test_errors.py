"""Every error has the type and the text it has with redis-py's client, and leaves its pool
and its connection as they are left there."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError, RedisError, ResponseError, TimeoutError

from cpool.tools.servers import EmbeddedServer
from tests.client.support import (
    asked,
    both,
    counted,
    counts_of,
    no_retry,
    outcome_of,
    outcomes_of,
)
from tests.connection.fakeserver import FakeServer
from tests.support.servers import ACLServer


def state_of(client: Any) -> Any:
    """Return what can be told of a client's pool and its idle connections."""
    pool = client.connection_pool
    return counts_of(pool), [conn._sock is not None for conn in pool._available_connections]


def test_errors_of_a_real_server(redis_server: EmbeddedServer) -> None:
    def scenario(client: Any) -> Any:
        client.rpush("l", 1)
        results = outcomes_of(
            client,
            *(("GET", "l"), ("NOSUCH",), ("GET",), ("SET", "k", "v", "EX", "x"), ("INCR", "l")),
            *(("EVALSHA", "0" * 40, 0), ("EVAL", "return {err='MINE own'}", 0)),
            *(("EVAL", "error('lua')", 0), ("AUTH", "x"), ("EXEC",), ("DEBUG", "NOSUCH")),
            *(("SELECT", 99), ("CONFIG SET", "port", "x"), ("XREADGROUP", "GROUP", "g", "c")),
            *(("RESTORE", "k", 0, "nonsense"), ("OBJECT", "ENCODING", "missing")),
        )
        return results, state_of(client)

    with counted() as counts:
        both(redis_server, scenario)
    assert set(counts()) == {"taken"}


def test_a_server_out_of_memory(redis_server: EmbeddedServer) -> None:
    def scenario(client: Any) -> Any:
        client.config_set("maxmemory", 1)
        try:
            return outcome_of(client.set, "k", "v"), outcome_of(client.get, "k")
        finally:
            client.config_set("maxmemory", 0)

    assert both(redis_server, scenario)[0][1].__name__ == "OutOfMemoryError"


@pytest.mark.parametrize("options", [{}, {"password": "wrong"}, {"username": "app"}])
def test_a_server_that_wants_a_password(acl_server: ACLServer, options: dict[str, Any]) -> None:
    from tests.client.support import LIBRARIES, client_of

    results = []
    for library in LIBRARIES:
        with client_of(library, acl_server, protocol=2, **options) as client:
            commands = (client.ping, lambda client=client: client.get("k"))
            results.append(([outcome_of(command) for command in commands], state_of(client)))
    assert results[0] == results[1]


ERRORS = [
    *("LOADING Redis is loading", "READONLY You can't write", "BUSY script", "BUSYKEY exists"),
    *("MASTERDOWN Link", "CLUSTERDOWN Hash slot", "MOVED 1 127.0.0.1:1", "ASK 1 127.0.0.1:1"),
    *("TRYAGAIN Multiple", "CROSSSLOT Keys", "NOREPLICAS Not enough", "NOPERM no", "NOAUTH no"),
    *("ERR max number of clients reached", "ERR invalid password", "WRONGPASS invalid"),
    *("ERR", "", "no upper case word", "EXECABORT discarded", "MISCONF Errors", "OOM command"),
    *("ERR wrong number of arguments for 'auth' command", "NOSCRIPT No matching", "UNKILLABLE"),
    "ERR AUTH <password> called without any password configured for the default user",
]


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("retries", [0, 1])
def test_every_kind_of_error_reply(protocol: int, retries: int) -> None:
    with FakeServer() as server:

        def scenario(client: Any) -> Any:
            results = []
            for text in ERRORS:
                server.replies["GET"] = f"-{text}\r\n".encode()
                before = asked(server, "GET")
                results.append((text, outcome_of(client.get, "k"), asked(server, "GET") - before))
                results.append(outcome_of(client.execute_command, "GET", EMPTY_RESPONSE=[]))
                results.append(state_of(client))
            return results

        both(server, scenario, protocol=protocol, retry=no_retry(retries))


REPLIES = [
    *(b"?nonsense\r\n", b"*-5\r\n", b":12x\r\n", b"$abc\r\n", b"\r\n", b"HTTP/1.1 400 Bad\r\n"),
]


@pytest.mark.parametrize("reply", REPLIES)
def test_a_reply_that_is_no_reply_is_an_error_and_closes_the_connection(reply: bytes) -> None:
    """The words for it are the parser's own, and so are the types of those that redis-py's
    parsers let through as ValueError."""
    with FakeServer({"GET": reply}) as server:

        def scenario(client: Any) -> Any:
            return outcome_of(client.get, "k")[0], outcome_of(client.ping)

        both(server, scenario, protocol=2, socket_timeout=0.1)


@pytest.mark.parametrize(
    "reply",
    [
        b"*2\r\n+a\r\n-ERR inside\r\n",
        b"*1\r\n*1\r\n-WRONGTYPE deep\r\n",
        b"*2\r\n-LOADING inside\r\n+b\r\n",
    ],
)
def test_errors_inside_a_reply_are_its_items(reply: bytes) -> None:
    with FakeServer({"LRANGE": reply}) as server:

        def scenario(client: Any) -> Any:
            return outcome_of(client.lrange, "l", 0, -1), outcome_of(client.ping)

        both(server, scenario, protocol=2)


# -- Callbacks ----------------------------------------------------------------------------


class Interrupt(BaseException):
    """What an asynchronous interrupt may be."""


RAISED = [
    *(ValueError, KeyError, RedisError, ResponseError, ConnectionError, TimeoutError),
    *(redis.BusyLoadingError, redis.AuthenticationError, socket.timeout, OSError, EOFError),
    *(KeyboardInterrupt, SystemExit, GeneratorExit, Interrupt, StopIteration, RecursionError),
]


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("retries", [0, 2])
@pytest.mark.parametrize("raised", RAISED)
def test_a_callback_that_raises(raised: type[BaseException], retries: int, single: bool) -> None:
    with FakeServer() as server:

        def scenario(client: Any) -> Any:
            calls: list[Any] = []

            def callback(reply: Any) -> Any:
                calls.append(reply)
                raise raised("of a callback")

            client.set_response_callback("GET", callback)
            before = asked(server, "GET"), len(server.connections)
            got = outcome_of(client.get, "k")
            times = asked(server, "GET") - before[0], len(server.connections) - before[1]
            return got, calls, times, state_of(client), outcome_of(client.ping)

        options = {"retry": no_retry(retries), "single_connection_client": single}
        both(server, scenario, **options)


def test_a_callback_that_raises_once_is_called_again() -> None:
    with FakeServer() as server:

        def scenario(client: Any) -> Any:
            left = [ConnectionError("once"), TimeoutError("twice")]

            def callback(reply: Any) -> Any:
                if left:
                    raise left.pop()
                return "at last"

            client.set_response_callback("GET", callback)
            return client.get("k"), asked(server, "GET") % 3, state_of(client)

        assert both(server, scenario, retry=no_retry(3))[0] == "at last"


def test_an_error_met_while_another_is_handled_has_it_as_context(
    redis_server: EmbeddedServer,
) -> None:
    def scenario(client: Any) -> Any:
        results = []
        for command in [("NOSUCH",), ("SET", "k", object())]:
            try:
                raise LookupError("before")
            except LookupError:
                with pytest.raises(RedisError) as caught:
                    client.execute_command(*command)
            results.append((type(caught.value), type(caught.value.__context__)))
        return results

    both(redis_server, scenario)


def test_arguments_that_cannot_be_encoded_cost_nothing(redis_server: EmbeddedServer) -> None:
    def scenario(client: Any) -> Any:
        bad = outcomes_of(client, ("SET", "k", None), ("SET", "k", "\ud800"), ("SET", [], {}))
        return bad, state_of(client), client.ping(), client.exists("k")

    both(redis_server, scenario)


def test_an_exhausted_pool(redis_server: EmbeddedServer) -> None:
    def scenario(client: Any) -> Any:
        connection = client.connection_pool.get_connection()
        refused = outcome_of(client.get, "k")
        client.connection_pool.release(connection)
        return refused, client.ping()

    both(redis_server, scenario, max_connections=1)


def test_a_server_that_nobody_listens_for(redis_server: EmbeddedServer) -> None:
    from tests.client.support import LIBRARIES, client_of

    results = []
    for library in LIBRARIES:
        with client_of(library, redis_server, port=1, retry=no_retry(2)) as client:
            results.append(([outcome_of(client.ping) for _ in range(2)], state_of(client)))
    assert results[0] == results[1]
