"""A connection that can't be set up fails exactly as redis-py's does, at the same request.

Each case is made twice, for redis-py's connection and for ours, against the same replies.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import redis
from redis._parsers import _RESP3Parser
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,
    MaxConnectionsError,
    NoPermissionError,
    RedisError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry

import cpool
from tests.connection.fakeserver import (
    CLOSE,
    WAIT_TIMEOUT_S,
    FakeServer,
    Reply,
    Words,
    hello,
)
from tests.support.servers import ACLServer, StartServer
from tests.wire.peer import HAS_MAINTENANCE, LIBRARIES, Outcome, Task, outcome

ALL = {"protocol": 3, "db": 1, "client_name": "me"}
ALL_2 = {**ALL, "protocol": 2}
AUTH = {"username": "app", "password": "secret"}
WRONG_PASS = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"
NO_SUCH_COMMAND = b"-ERR unknown command 'HELLO'\r\n"
TOO_MANY_ARGS = b"-ERR wrong number of arguments for 'auth' command\r\n"
MAX_CLIENTS = b"-ERR max number of clients reached\r\n"
NO_AUTH = b"-NOAUTH HELLO must be called with the client already authenticated\r\n"

# name: (options, replies, redis-py's exception)
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Reply], type[Exception]]] = {
    "hello": (ALL, {"HELLO": NO_SUCH_COMMAND}, ResponseError),
    "hello_says_2": (ALL, {"HELLO": b"%1\r\n$5\r\nproto\r\n:2\r\n"}, ConnectionError),
    "hello_says_list": (ALL, {"HELLO": b"*0\r\n"}, AttributeError),
    "hello_auth": ({**ALL, **AUTH}, {"HELLO": WRONG_PASS}, AuthenticationError),
    "hello_noauth": (ALL, {"HELLO": NO_AUTH}, AuthenticationError),
    "hello_loading": (ALL, {"HELLO": b"-LOADING not yet\r\n"}, BusyLoadingError),
    "hello_noperm": ({**ALL, **AUTH}, {"HELLO": b"-NOPERM no\r\n"}, NoPermissionError),
    "hello_max": (ALL, {"HELLO": MAX_CLIENTS}, ConnectionError),
    "auth": ({**ALL_2, **AUTH}, {"AUTH": WRONG_PASS}, AuthenticationError),
    "auth_not_ok": ({**ALL_2, **AUTH}, {"AUTH": b"+NO\r\n"}, AuthenticationError),
    "auth_max": ({**ALL_2, **AUTH}, {"AUTH": MAX_CLIENTS}, ConnectionError),
    "name": (ALL, {"CLIENT SETNAME": b"-ERR no such name\r\n"}, ResponseError),
    "name_not_ok": (ALL_2, {"CLIENT SETNAME": b"+NO\r\n"}, ConnectionError),
    "name_noperm": (ALL, {"CLIENT SETNAME": b"-NOPERM no\r\n"}, NoPermissionError),
    "info_loading": (ALL, {"CLIENT SETINFO": b"-LOADING not yet\r\n"}, BusyLoadingError),
    "db": (ALL, {"SELECT": b"-ERR DB index is out of range\r\n"}, ResponseError),
    "db_2": (ALL_2, {"SELECT": b"-ERR DB index is out of range\r\n"}, ResponseError),
    "db_not_ok": (ALL, {"SELECT": b"+NO\r\n"}, ConnectionError),
    "db_noauth": (ALL_2, {"SELECT": b"-NOAUTH Authentication required.\r\n"}, AuthenticationError),
    "first_of_two": (
        ALL,
        {"CLIENT SETNAME": b"-NOPERM first\r\n", "SELECT": b"-ERR second\r\n"},
        NoPermissionError,
    ),
    "closed_at_hello": (ALL, {"HELLO": CLOSE}, ConnectionError),
    "closed_after_hello": (ALL, {"CLIENT": CLOSE}, ConnectionError),
    "closed_at_the_last": (ALL, {"SELECT": CLOSE}, ConnectionError),
    "silent_at_the_last": (
        {**ALL, "socket_timeout": 0.1, "parser_class": _RESP3Parser},
        {"SELECT": b""},
        TimeoutError,
    ),
}
each_refusal = pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)

# name: (options, replies) that redis-py puts up with
TOLERATED: dict[str, tuple[dict[str, Any], dict[str, Reply]]] = {
    "info": (ALL, {"CLIENT SETINFO": b"-ERR unknown subcommand\r\n"}),
    "info_noperm": (ALL_2, {"CLIENT SETINFO": b"-NOPERM no\r\n"}),
    "maintenance": (ALL, {"CLIENT MAINT_NOTIFICATIONS": b"-ERR unknown subcommand\r\n"}),
}


def dial(library: Any, server: FakeServer, **options: Any) -> tuple[Outcome, Any]:
    """Connect by a pool, which makes redis-py's own settings; tell what it comes to."""
    pool = library.ConnectionPool(host=server.host, port=server.port, **options)
    conn = pool.make_connection()
    result = outcome(conn, conn.connect)
    return result, conn


@each_refusal
def test_a_refusal_is_redis_pys_error(
    case: tuple[dict[str, Any], dict[str, Reply], type[Exception]],
) -> None:
    options, replies, expected = case
    with FakeServer(replies) as server:
        theirs, ours = (dial(library, server, **options)[0] for library in LIBRARIES)
    assert theirs.error is expected
    if not issubclass(expected, RedisError):
        # redis-py leaves the connection open, and a stranger its replies; ours is closed.
        theirs = dataclasses.replace(theirs, connected=False)
    assert ours == theirs


@each_refusal
def test_a_refused_checkout_is_redis_pys_error_and_costs_no_slot(
    case: tuple[dict[str, Any], dict[str, Reply], type[Exception]],
) -> None:
    options, replies, expected = case
    with FakeServer(replies) as server:
        pool = cpool.ConnectionPool(
            host=server.host, port=server.port, max_connections=1, **options
        )
        for _ in range(2):
            with pytest.raises(expected) as raised:
                pool.get_connection()
            assert raised.type is not MaxConnectionsError
        assert pool.stats().in_use == 0


@each_refusal
def test_a_refused_connection_can_be_set_up_later(
    case: tuple[dict[str, Any], dict[str, Reply], type[Exception]],
) -> None:
    options, replies, expected = case
    with FakeServer(replies) as server:
        pool = cpool.ConnectionPool(host=server.host, port=server.port, **options)
        with pytest.raises(expected):
            pool.get_connection()
        for command in replies:
            server.replies[command] = hello if command == "HELLO" else b"+OK\r\n"
        conn = pool.get_connection()
        conn.send_command("PING")
        assert conn.read_response() == b"PONG"
        assert conn._session.clean
        pool.disconnect()


@pytest.mark.parametrize("case", TOLERATED.values(), ids=TOLERATED)
def test_what_redis_py_tolerates_is_tolerated(
    case: tuple[dict[str, Any], dict[str, Reply]],
) -> None:
    options, replies = case
    asked = []
    with FakeServer(replies) as server:
        for library in LIBRARIES:
            result, conn = dial(library, server, **options)
            assert (result.error, result.connected) == (None, True)
            asked.append(server.requests)
            conn.disconnect()
    assert asked[0] == asked[1]


def test_maintenance_notifications_that_must_be_on_fail_as_redis_pys_do() -> None:
    maintenance = pytest.importorskip("redis.maint_notifications")
    replies: dict[str, Reply] = {"CLIENT MAINT_NOTIFICATIONS": b"-ERR unknown subcommand\r\n"}
    results = []
    with FakeServer(replies) as server:
        for library in LIBRARIES:
            config = maintenance.MaintNotificationsConfig(enabled=True)
            results.append(dial(library, server, **ALL, maint_notifications_config=config)[0])
    assert results[0].error is ResponseError
    assert results[1] == results[0]


# A handshake that is broken off by what redis-py does not expect


class Interrupt(BaseException):
    """What may strike at any moment: a signal's handler, a greenlet's timeout."""


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("error", [Interrupt, ZeroDivisionError])
@pytest.mark.parametrize("moment", ["at-once", "after-the-first-request"])
def test_a_handshake_that_broke_off_leaves_its_replies_to_nobody(
    protocol: int, error: type[BaseException], moment: str
) -> None:
    """They may come long after the connection has been returned."""
    let_go = threading.Event()
    original = redis.connection.str_if_bytes

    def late(_: Words) -> bytes:
        let_go.wait(WAIT_TIMEOUT_S)
        return b"$5\r\nstray\r\n"

    def strike(value: Any) -> Any:
        if moment == "at-once" or any(map(len, server.connections)):
            raise error
        return original(value)

    replies: dict[str, Reply] = {
        "CLIENT SETINFO": late,
        "ECHO": lambda words: b"+%b\r\n" % words[1],
    }
    with FakeServer(replies) as server:
        # so that SETINFO follows the first request whose reply is looked at
        name = None if protocol == 3 and HAS_MAINTENANCE else "me"
        options = {"protocol": protocol, "client_name": name, "db": 1}
        pool = cpool.ConnectionPool(host=server.host, port=server.port, **options)
        with mock.patch("redis.connection.str_if_bytes", strike), pytest.raises(error):
            pool.get_connection()
        server.replies["CLIENT SETINFO"] = b"+OK\r\n"
        asking = Task(redis.Redis(connection_pool=pool).echo, "mine")
        asking.wait_blocked_or_ended()
        let_go.set()
        assert asking.result() == b"mine"
        assert pool.stats().in_use == 0
        pool.disconnect()


# A server before version 6 knows AUTH with a password only


def old_server(password: bytes = b"secret") -> FakeServer:
    def auth(words: Words) -> bytes:
        if len(words) > 2:
            return TOO_MANY_ARGS
        return b"+OK\r\n" if words[1] == password else b"-ERR invalid password\r\n"

    return FakeServer({"AUTH": auth, "HELLO": NO_SUCH_COMMAND})


def test_an_old_server_is_asked_again_with_the_password_alone() -> None:
    with old_server() as server:
        result, conn = dial(cpool, server, **ALL_2, **AUTH)
        assert (result.error, result.connected) == (None, True)
        assert (b"AUTH", b"secret") in server.requests
        assert server.requests[-1] == (b"SELECT", b"1")
        assert conn._session.clean
        conn.disconnect()


def test_an_old_server_that_wants_another_password_is_redis_pys_error() -> None:
    with old_server(b"another") as server:
        theirs, ours = (dial(library, server, **ALL_2, **AUTH)[0] for library in LIBRARIES)
    assert theirs == Outcome(None, AuthenticationError, "invalid password", False)
    assert ours == theirs


def test_an_old_server_that_goes_in_between_is_a_connection_error() -> None:
    with old_server() as server:
        server.replies["SELECT"] = CLOSE
        theirs, ours = (dial(library, server, **ALL_2, **AUTH)[0] for library in LIBRARIES)
    assert theirs.error is ConnectionError
    assert ours == theirs


# Retries: as many dials as redis-py makes, and backoff between them


class CountingBackoff(NoBackoff):
    """Waits for nothing, and notes what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def compute(self, failures: int) -> float:
        """Note the number of failures."""
        self.calls.append(failures)
        return 0

    def reset(self) -> None:
        """Note nothing: redis-py resets at each call, we only once something has failed."""

    def __deepcopy__(self, memo: Any) -> CountingBackoff:
        return self


@pytest.mark.parametrize("name", ["hello_auth", "hello_loading", "closed_at_the_last", "name"])
def test_a_refused_connect_is_tried_as_often_as_redis_py_does(name: str) -> None:
    options, replies, expected = REFUSED[name]
    tried = []
    for library in LIBRARIES:
        with FakeServer(replies) as server:
            backoff = CountingBackoff()
            result, _ = dial(library, server, retry=Retry(backoff, 3), **options)
            tried.append((result, len(server.connections), backoff.calls))
    assert tried[0][0].error is expected
    assert tried[0] == tried[1]


# Real servers


def test_a_wrong_password_is_redis_pys_error(acl_server: ACLServer) -> None:
    for protocol in (2, 3):
        results = []
        for library in LIBRARIES:
            conn = library.ConnectionPool(
                host=acl_server.host, port=acl_server.port, password="no", protocol=protocol
            ).make_connection()
            results.append(outcome(conn, conn.connect))
        assert results[0].error is AuthenticationError
        assert results[1] == results[0]


def test_no_password_is_redis_pys_error(acl_server: ACLServer) -> None:
    for options in ({"protocol": 2, "db": 1}, {"protocol": 3}, {**ALL_2, "db": 0}):
        results = []
        for library in LIBRARIES:
            conn = library.ConnectionPool(
                host=acl_server.host, port=acl_server.port, **options
            ).make_connection()
            results.append(outcome(conn, conn.connect))
        assert results[0].error is AuthenticationError
        assert results[1] == results[0]


@pytest.fixture
def small_server(start_server: StartServer) -> Iterator[Any]:
    """Give a server that takes three clients and has few databases."""
    yield start_server(args=("--maxclients", "3", "--databases", "2"))


def test_a_missing_database_is_redis_pys_error(small_server: Any) -> None:
    results = []
    for library in LIBRARIES:
        conn = library.Connection(host=small_server.host, port=small_server.port, db=7)
        results.append(outcome(conn, conn.connect))
    assert results[0].error is ResponseError
    assert results[1] == results[0]


def test_a_full_server_is_a_connection_error(small_server: Any) -> None:
    """Its refusal and the end of the connection race with our request, in redis-py too."""
    address = {"host": small_server.host, "port": small_server.port}
    with cpool.ConnectionPool(**address) as pool:
        held = [pool.get_connection() for _ in range(3)]
        for _ in range(10):
            with pytest.raises(ConnectionError):
                pool.get_connection()
        assert pool.stats().in_use == 3
        pool.release(held.pop())
        client = redis.Redis(connection_pool=pool)
        assert client.ping()
