"""What comes in the middle of a command: other threads, signals, finalisers, forks, marks."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError, RedisError

import cpool
from cpool.tools.servers import EmbeddedServer
from tests.client.support import (
    HAS_RECONNECT,
    LIBRARIES,
    asked,
    both,
    client_of,
    counted,
    counts_of,
    no_retry,
    outcome_of,
)
from tests.client.test_errors import state_of
from tests.connection.fakeserver import FakeServer
from tests.pool.support import REDIS_VERSION, Task, assert_whole, fork, run_in_child

needs_reconnect = pytest.mark.skipif(not HAS_RECONNECT, reason="since redis-py 7")


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """Give a server that answers GET with "value"."""
    with FakeServer({"GET": b"$5\r\nvalue\r\n"}) as server:
        yield server


def connection_of(client: Any) -> Any:
    """Return the one connection that is in use."""
    if client.connection is not None:
        return client.connection
    (connection,) = client.connection_pool._in_use_connections
    return connection


def during_get(client: Any, action: Callable[[], Any]) -> Any:
    """Run a GET whose callback does something first; return what came of it."""

    def callback(reply: Any) -> Any:
        action()
        return reply

    client.set_response_callback("GET", callback)
    got = outcome_of(client.get, "k")
    del client.response_callbacks["GET"]
    return got


# -- Marks and closed connections ----------------------------------------------------------


@needs_reconnect
@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_a_mark_for_reconnect_is_followed_at_the_end(
    server: FakeServer, fails: bool, single: bool
) -> None:
    def scenario(client: Any) -> Any:
        def mark() -> None:
            connection_of(client).mark_for_reconnect()
            if fails:
                raise ValueError("and that")

        before = len(server.connections)
        got = during_get(client, mark), len(server.connections) - before, state_of(client)
        return *got, client.get("k"), len(server.connections) - before

    assert both(server, scenario, single_connection_client=single)[1] == 1


@needs_reconnect
@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_a_reconnect_that_fails_is_the_commands_error(
    server: FakeServer, fails: bool, single: bool
) -> None:
    def scenario(client: Any) -> Any:
        connections = []

        def mark() -> None:
            connections.append(connection_of(client))
            connections[0].port = 1
            connections[0].mark_for_reconnect()
            if fails:
                raise ValueError("and that")

        error, state = during_get(client, mark), state_of(client)
        connections[0].port = server.port
        assert single or not isinstance(client, cpool.Redis) or state == ((1, 0), [False])
        if not single and REDIS_VERSION < (8, 1):
            state = "redis-py lost the slot"
        return error, state, client.get("k")

    error = both(server, scenario, single_connection_client=single)[0]
    assert error[1] is ConnectionError


@needs_reconnect
def test_a_mark_by_the_pool_is_followed(server: FakeServer) -> None:
    def scenario(client: Any) -> Any:
        pool = client.connection_pool
        before = len(server.connections)
        got = during_get(client, pool.update_active_connections_for_reconnect)
        return got, len(server.connections) - before, state_of(client)

    both(server, scenario)


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("single", [False, True])
def test_another_threads_disconnect_is_a_connection_error(
    server: FakeServer, single: bool, retries: int
) -> None:
    def scenario(client: Any) -> Any:
        todo = [client.connection_pool.disconnect]

        def answer(_: Any) -> bytes:
            if todo:
                todo.pop()()  # on the server's thread, while the client waits
            return b"$5\r\nvalue\r\n"

        server.replies["GET"] = answer
        before = asked(server, "GET")
        got = outcome_of(client.get, "k")[:2]
        return got, asked(server, "GET") - before, state_of(client), client.get("k")

    options = {"retry": no_retry(retries), "single_connection_client": single}
    both(server, scenario, protocol=2, **options)


ACTIONS: list[Callable[[Any], Any]] = [
    lambda client: client.connection_pool.disconnect(),
    lambda client: client.connection_pool.disconnect(inuse_connections=False),
    lambda client: client.close(),
    lambda client: client.ping(),
    lambda client: client.execute_command("NOSUCH"),
    lambda client: connection_of(client).disconnect(),
    lambda client: client.connection_pool.release(connection_of(client)),
    lambda client: client.set_response_callback("GET", None),
    lambda client: client.pipeline().llen("k").execute(),
    lambda client: connection_of(client).send_command("PING"),
    lambda client: setattr(client, "response_callbacks", {"GET": None}),
]


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("single", [False, True])
def test_a_callback_may_do_anything(
    redis_server: EmbeddedServer, action: Callable[[Any], Any], single: bool
) -> None:
    def scenario(client: Any) -> Any:
        results = []

        def callback(reply: Any) -> Any:
            results.append(outcome_of(action, client)[:2])
            return "mine"

        table = client.response_callbacks
        client.set_response_callback("GET", callback)
        results.append(outcome_of(client.get, "k"))
        client.response_callbacks = table
        client.connection_pool.disconnect()
        client.set_response_callback("GET", repr)
        return results, outcome_of(client.get, "k"), outcome_of(client.ping)

    both(redis_server, scenario, protocol=2, single_connection_client=single)


def test_a_pool_that_is_reset_during_a_command(redis_server: EmbeddedServer) -> None:
    def scenario(client: Any) -> Any:
        got = during_get(client, client.connection_pool.reset)
        return got, client.ping(), counts_of(client.connection_pool)

    both(redis_server, scenario)


class Busy(int):
    """A number that does something when it is encoded."""

    action: Callable[[], Any]

    def __repr__(self) -> str:
        self.action()
        return "7"


DISCONNECT = pytest.param(
    "disconnect",
    marks=pytest.mark.xfail(reason="redis-py dials after it has encoded, ours before: an error"),
)


@pytest.mark.parametrize("action", [DISCONNECT, "ping", "fail", "reset", "execute"])
@pytest.mark.parametrize("single", [False, True])
def test_an_argument_may_do_something_when_it_is_encoded(
    redis_server: EmbeddedServer, action: str, single: bool
) -> None:
    def scenario(client: Any) -> Any:
        pool = client.connection_pool
        value = Busy(1)
        value.action = {
            "disconnect": pool.disconnect,
            "ping": client.ping,
            "fail": lambda: 1 // 0,
            "reset": pool.reset,
            "execute": lambda: client.execute_command("NOSUCH"),
        }[action]
        got = outcome_of(client.set, "k", value), outcome_of(client.rpush, "l", "x" * 20000, value)
        return got, client.get("k"), client.llen("l")

    options = {"retry": no_retry(1), "single_connection_client": single}
    both(redis_server, scenario, **options)


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize(
    ("name", "deleted"), [("retry", True), ("retry", False), ("next_health_check", False)]
)
def test_a_connection_with_nonsense_in_an_attribute_is_returned_all_the_same(
    server: FakeServer, name: str, deleted: bool, single: bool
) -> None:
    def scenario(client: Any) -> Any:
        client.get("k")
        pool = client.connection_pool
        connection = client.connection or pool._available_connections[0]
        before = getattr(connection, name)
        setattr(connection, name, None)
        if deleted:
            delattr(connection, name)
        got = outcome_of(client.get, "k")[:2], counts_of(pool)
        setattr(connection, name, before)
        return got, client.get("k")

    both(server, scenario, health_check_interval=1000, single_connection_client=single)


@needs_reconnect
@pytest.mark.parametrize("reply", [b"+OK\r\n", b"-WRONGPASS no\r\n", None])
def test_what_comes_of_an_authentication_at_the_return(
    server: FakeServer, reply: bytes | None
) -> None:
    class Token:
        def try_get(self, key: str) -> str:
            return "me"

        def get_value(self) -> str:
            return "secret"

    server.replies["AUTH"] = reply

    def scenario(client: Any) -> Any:
        got = during_get(client, lambda: connection_of(client).set_re_auth_token(Token()))
        return got[:2], counts_of(client.connection_pool), asked(server, "AUTH") > 0

    both(server, scenario, protocol=2)


@pytest.mark.parametrize("extra", [b"+stale\r\n", b"$9\r\nhalf", b"-ERR stale\r\n", b"+a\r\n" * 3])
def test_replies_nobody_asked_for_are_not_the_next_commands(
    server: FakeServer, extra: bytes
) -> None:
    server.replies["GET"] = b"$5\r\nvalue\r\n" + extra

    for library in LIBRARIES if REDIS_VERSION >= (8, 0) else [cpool]:  # older ones mix them up
        with client_of(library, server, protocol=2) as client:
            got = [client.get("k"), client.ping(), client.get("k")]
            assert got == [b"value", True, b"value"]


def test_a_push_before_the_reply_is_no_reply(server: FakeServer) -> None:
    server.replies["GET"] = b">2\r\n$4\r\nnews\r\n$1\r\nx\r\n$5\r\nvalue\r\n"
    both(server, lambda client: [client.get("k"), client.ping()], protocol=3)


# -- Threads -------------------------------------------------------------------------------


@pytest.mark.parametrize("single", [False, True])
def test_threads_on_one_client_get_their_own_replies(
    redis_server: EmbeddedServer, single: bool
) -> None:
    with client_of(cpool, redis_server, single_connection_client=single) as client:

        def echo(thread: int) -> list[Any]:
            words = [f"{thread}-{i}".encode() for i in range(100)]
            return [(word, client.echo(word)) for word in words]

        with counted() as counts:
            tasks = [Task(echo, thread) for thread in range(6)]
            pairs = [pair for task in tasks for pair in task.result()]
        assert all(word == reply for word, reply in pairs)
        assert counts() == {"taken": 600}
        if not single:
            assert_whole(client.connection_pool, client.connection_pool.stats().open)


class TellingLock:
    """A re-entrant lock that tells when somebody waits for it."""

    def __init__(self) -> None:
        self.is_wanted = threading.Event()
        self._lock = threading.RLock()

    def acquire(self) -> bool:
        if not self._lock.acquire(blocking=False):
            self.is_wanted.set()
            self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()

    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        self.release()


@pytest.mark.parametrize("action", ["disconnect", "send", "patch", "mark", "nothing"])
def test_who_waits_for_the_one_connection_finds_it_as_it_is_then(
    redis_server: EmbeddedServer, action: str
) -> None:
    def scenario(client: Any) -> Any:
        client.single_connection_lock = lock = TellingLock()
        connection, inside = client.connection, threading.Event()
        sent: list[Any] = []

        def callback(reply: Any) -> Any:
            inside.set()
            assert lock.is_wanted.wait(10)
            if action == "disconnect":
                connection.disconnect()
            elif action == "send":
                connection.send_command("MULTI")
                connection.read_response()
            elif action == "mark" and HAS_RECONNECT:
                connection.mark_for_reconnect()
            elif action == "patch":
                send = connection.send_command
                connection.send_command = lambda *a, **k: (sent.append(a), send(*a, **k))
            return reply

        client.set_response_callback("GET", callback)
        first = Task(client.get, "k")
        assert inside.wait(10)
        second = outcome_of(client.echo, "second")
        return outcome_of(first.result), second, sent

    both(redis_server, scenario, protocol=2, single_connection_client=True)


@pytest.mark.parametrize("closes", [False, True])
def test_the_lock_of_the_one_connection_need_not_be_re_entrant(
    server: FakeServer, closes: bool
) -> None:
    server.replies["GET"] = None if closes else b"-LOADING x\r\n"

    def scenario(client: Any) -> Any:
        client.single_connection_lock = threading.Lock()
        client.connection.disconnect()
        got = client.ping(), outcome_of(client.get, "k"), client.ping()
        return got, client.single_connection_lock.locked()

    options = {"retry": no_retry(2), "single_connection_client": True}
    both(server, scenario, protocol=2, **options)


def test_a_pool_disconnected_all_the_time(redis_server: EmbeddedServer) -> None:
    """Every command has its own reply, or a ConnectionError."""
    with client_of(cpool, redis_server, protocol=2) as client:
        over = threading.Event()

        def disturb() -> None:
            while not over.is_set():
                client.connection_pool.disconnect()

        def echo(thread: int) -> None:
            for i in range(150):
                word = f"{thread}-{i}".encode()
                try:
                    assert client.echo(word) == word
                except ConnectionError:
                    pass

        disturber = Task(disturb)
        tasks = [Task(echo, thread) for thread in range(3)]
        try:
            for task in tasks:
                task.result()
        finally:
            over.set()
            disturber.result()
        assert client.ping()
        assert client.connection_pool.stats().in_use == 0


# -- Signals, finalisers -------------------------------------------------------------------


@pytest.mark.parametrize("max_connections", [1, 2])
def test_a_signal_handler_may_use_the_client(
    redis_server: EmbeddedServer, max_connections: int
) -> None:
    def scenario(client: Any) -> Any:
        results = []

        def handler(*_: Any) -> None:
            results.append(outcome_of(client.rpush, "queue", "item"))
            if len(client.connection_pool._in_use_connections) == max_connections == 1:
                with client_of(cpool, redis_server) as other:
                    other.rpush("queue", "item")

        before = signal.signal(signal.SIGALRM, handler)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            results.append(client.blpop(["queue"], 20))
        finally:
            signal.signal(signal.SIGALRM, before)
        return results, counts_of(client.connection_pool)

    both(redis_server, scenario, max_connections=max_connections)


class Finalised:
    """Garbage, for the collector only, that uses a client at its end."""

    def __init__(self, client: Any, failed: list[Any]) -> None:
        self.client = client
        self.failed = failed
        self.itself = self

    def __del__(self) -> None:
        try:
            self.client.incr("finalised")
        except RedisError as error:
            self.failed.append(error)


@pytest.mark.parametrize("single", [False, True])
def test_a_finaliser_may_use_the_client(redis_server: EmbeddedServer, single: bool) -> None:
    """Garbage is collected at nearly every allocation of a container."""
    n = 100
    options = {"single_connection_client": single, "decode_responses": True}
    with client_of(cpool, redis_server, **options) as client:
        client.delete("finalised")
        before, failed = gc.get_threshold(), list[Any]()
        gc.set_threshold(1, 1, 1)
        try:
            for i in range(n):
                Finalised(client, failed)
                assert client.echo(f"{i}") == f"{i}"
                assert client.execute_command("LRANGE", "missing", 0, -1, x=[i]) == []
        finally:
            gc.set_threshold(*before)
        gc.collect()
        assert not failed
        assert int(client.get("finalised")) == n


# -- Other threads while gates are looked up -----------------------------------------------


@contextlib.contextmanager
def while_gates_are_looked_up(cls: Any, action: Callable[[], Any]) -> Iterator[None]:
    """Give `cls` a new version, and let `action` come once while its gates are looked up,
    where another thread might."""
    left = [action]

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if left and frame.f_code.co_filename == weakref.__file__:
            left.pop()()

    cls._looked_up_anew = True
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)
        del cls._looked_up_anew
    assert not left


def test_the_pool_may_be_replaced_meanwhile(redis_server: EmbeddedServer) -> None:
    with client_of(cpool, redis_server) as client, client_of(redis, redis_server) as other:
        client.set("k", "v")

        def replace() -> None:
            client.connection_pool = other.connection_pool

        with while_gates_are_looked_up(cpool.Redis, replace):
            assert client.get("k") == b"v"
        assert client.connection_pool is other.connection_pool


@pytest.mark.parametrize("name", ["get_connection", "release"])
def test_the_connection_may_be_closed_meanwhile(redis_server: EmbeddedServer, name: str) -> None:
    with client_of(cpool, redis_server, max_connections=1) as client:
        pool = client.connection_pool
        connection = pool.get_connection()
        if name == "get_connection":
            pool.release(connection)
        with while_gates_are_looked_up(cpool.Connection, connection.disconnect):
            if name == "get_connection":
                assert pool.get_connection() is connection
            else:
                pool.release(connection)
        if name == "get_connection":
            pool.release(connection)
        assert client.ping()
        assert_whole(pool, 1)


def test_a_pipelines_connection_may_be_closed_before_it_is_used(
    redis_server: EmbeddedServer,
) -> None:
    """By whoever comes between the gates and the first byte."""
    with client_of(cpool, redis_server, health_check_interval=1000) as client:
        pool = client.connection_pool
        connection = pool.get_connection()

        class Closing(float):
            def __lt__(self, other: float) -> bool:
                connection.next_health_check = float(self)
                connection.disconnect()
                return False

        connection.next_health_check = Closing(connection.next_health_check)
        pool.release(connection)
        assert client.pipeline().echo("x").execute() == [b"x"]


# -- Forks ---------------------------------------------------------------------------------


def test_a_child_uses_the_same_client(redis_server: EmbeddedServer) -> None:
    for library in LIBRARIES:
        with client_of(library, redis_server) as client:
            parents = client.client_id()
            in_child = run_in_child(lambda client=client: (client.echo("x"), client.client_id()))
            assert in_child[0] == b"x"
            assert in_child[1] != parents == client.client_id()


def test_a_child_born_in_the_middle_of_a_command(redis_server: EmbeddedServer) -> None:
    for library in LIBRARIES:
        with client_of(library, redis_server) as client:
            parents = client.client_id()
            client.set("k", "v")
            born = [0]

            def callback(reply: Any, born: list[int] = born) -> Any:
                born[0] = fork()
                return reply

            client.set_response_callback("GET", callback)
            reader, writer = os.pipe()
            got = client.get("k")
            if born[0] == 0:
                try:
                    del client.response_callbacks["GET"]
                    fine = got == client.get("k") == b"v" and client.client_id() != parents
                    os.write(writer, b"fine" if fine else b"wrong")
                finally:
                    os._exit(0)
            os.close(writer)
            os.waitpid(born[0], 0)
            assert os.read(reader, 10) == b"fine"
            os.close(reader)
            assert got == b"v" and client.client_id() == parents
            assert counts_of(client.connection_pool) == (1, 0)
