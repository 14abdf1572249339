"""Whoever has replaced something sees its calls, and the counters name the reason; when all
is ordinary again, commands are one compiled call again."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import redis
from redis.retry import Retry

import cpool
from cpool import fast_path
from cpool.tools.servers import EmbeddedServer
from tests.client.support import (
    ARGUMENTS,
    LIBRARIES,
    asked,
    both,
    client_of,
    counted,
    no_retry,
    note,
    outcome_of,
    that_notes,
)
from tests.connection.fakeserver import FakeServer
from tests.pool.support import that_may_be_cached
from tests.support.servers import TLSServer

N = 3


def work(client: Any) -> list[Any]:
    """Run commands: some that work and one that does not."""
    got = [client.echo(f"{i}") for i in range(N - 1)]
    return [*got, outcome_of(client.execute_command, "NOSUCH")]


def check_ordinary(client: Any) -> None:
    """Assert that commands are one compiled call."""
    with counted() as counts:
        work(client)
    assert counts() == {"taken": N}


@pytest.fixture
def client(redis_server: EmbeddedServer) -> Iterator[Any]:
    """Give a client of ours that has run a command."""
    with client_of(cpool, redis_server) as client:
        client.ping()
        yield client


# -- All is ordinary ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"protocol": 2},
        {"protocol": 3},
        {"single_connection_client": True},
        {"decode_responses": True},
        {"health_check_interval": 1000},
        {"max_connections": 1},
        {"timeout": 1, "order": "fifo", "name": "mine"},
        {"socket_timeout": None, "retry": None},
        {"client_name": "me", "db": 1},
    ],
    ids=lambda options: ",".join(options) or "none",
)
def test_ordinary_clients_take_the_compiled_call(
    redis_server: EmbeddedServer, options: dict[str, Any]
) -> None:
    with client_of(cpool, redis_server, **options) as client:
        check_ordinary(client)


def test_so_it_is_by_unix_socket(unix_server: EmbeddedServer) -> None:
    with contextlib.closing(cpool.Redis(unix_socket_path=unix_server.unixsocket)) as client:
        check_ordinary(client)


def test_so_it_is_by_tls(tls_server: TLSServer) -> None:
    with contextlib.closing(cpool.from_url(tls_server.url)) as client:
        check_ordinary(client)


def test_so_it_is_on_a_blocking_pool(redis_server: EmbeddedServer) -> None:
    pool = cpool.BlockingConnectionPool(host=redis_server.host, port=redis_server.port)
    with contextlib.closing(pool):
        check_ordinary(cpool.Redis(connection_pool=pool))


def test_so_it_is_with_subclasses_that_change_nothing(redis_server: EmbeddedServer) -> None:
    class Client(cpool.Redis):
        def mine(self) -> Any:
            return self.ping()

    class Pool(cpool.ConnectionPool):
        pass

    class Connection(cpool.Connection):
        pass

    address = {"host": redis_server.host, "port": redis_server.port}
    with contextlib.closing(Pool(connection_class=Connection, **address)) as pool:
        check_ordinary(Client(connection_pool=pool))


# -- Switched off -------------------------------------------------------------------------


def test_switched_off_every_command_is_redis_pys(client: Any) -> None:
    fast_path.disable()
    try:
        assert not fast_path.is_enabled()
        with counted() as counts:
            work(client)
        assert counts() == {"switched off": N}
    finally:
        fast_path.enable()
    check_ordinary(client)


def test_the_counters_can_be_reset(client: Any) -> None:
    fast_path.reset_stats()
    stats = fast_path.stats()
    assert stats.taken == 0 and set(stats.refused.values()) == {0}
    client.ping()
    assert fast_path.stats().taken == 1


# -- Clients ------------------------------------------------------------------------------

METHODS = (
    "parse_response",
    "_send_command_parse_response",
    "_execute_command",
    "execute_command",
    "_close_connection",
)
REFUSING = METHODS[:2]


@pytest.mark.parametrize("name", METHODS)
def test_a_subclass_sees_its_calls(redis_server: EmbeddedServer, name: str) -> None:
    seen: list[list[str]] = []
    for library in LIBRARIES:
        seen.append([])
        cls = that_notes(library.Redis, seen[-1], name)
        with counted() as counts, contextlib.closing(cls(port=redis_server.port)) as client:
            work(client)
    assert seen[1] == seen[0] == [name] * (0 if name == "_close_connection" else N)
    assert counts() == {"client overridden" if name in REFUSING else "taken": N}


@pytest.mark.parametrize("name", METHODS[:3])
def test_a_mixin_behind_ours_sees_its_calls(redis_server: EmbeddedServer, name: str) -> None:
    seen: list[str] = []

    class Mixed(cpool.Redis, that_notes(redis.Redis, seen, name)):  # type: ignore[misc]
        pass

    with counted() as counts, contextlib.closing(Mixed(port=redis_server.port)) as client:
        work(client)
    assert seen == [name] * N
    assert counts() == {"client overridden": N}


@pytest.mark.parametrize("name", METHODS[:4])
@pytest.mark.parametrize("owner", [redis.Redis, cpool.Redis], ids=["redis.Redis", "cpool.Redis"])
def test_a_patch_of_the_class_sees_its_calls(client: Any, owner: Any, name: str) -> None:
    for _ in range(2):
        seen: list[str] = []
        with mock.patch.object(owner, name, note(seen, name, getattr(owner, name))):
            work(client)
        assert seen == [name] * N
        check_ordinary(client)


@pytest.mark.parametrize("name", METHODS[:4])
def test_a_patch_of_the_instance_sees_its_calls(client: Any, name: str) -> None:
    for _ in range(2):
        with mock.patch.object(client, name, wraps=getattr(client, name)) as patched:
            work(client)
        assert patched.call_count == N
        check_ordinary(client)


@pytest.mark.parametrize("name", METHODS[:2])
def test_two_patches_are_taken_back_one_by_one(client: Any, name: str) -> None:
    other = METHODS[1 - METHODS.index(name)]
    with mock.patch.object(client, other, wraps=getattr(client, other)) as outer:
        with mock.patch.object(client, name, wraps=getattr(client, name)) as inner:
            work(client)
        work(client)
    assert (outer.call_count, inner.call_count) == (2 * N, N)
    check_ordinary(client)


def test_mocked_replies(redis_server: EmbeddedServer) -> None:
    def scenario(client: Any) -> Any:
        with mock.patch.object(type(client), "parse_response", return_value="mocked"):
            first = client.ping()
        client.connection_pool.disconnect()  # whose replies are unread
        with mock.patch.object(client, "parse_response", side_effect=[redis.ReadOnlyError("x")]):
            second = outcome_of(client.ping)
        client.connection_pool.disconnect()
        return first, second, client.ping()

    both(redis_server, scenario)


@pytest.mark.parametrize("name", ["connection_pool", "connection", "response_callbacks"])
def test_an_attribute_that_is_a_property_is_asked(redis_server: EmbeddedServer, name: str) -> None:
    hidden = f"_{name}_"

    def get(self: Any) -> Any:
        seen.append(name)
        return self.__dict__[hidden]

    def set_(self: Any, value: Any) -> None:
        self.__dict__[hidden] = value

    results = []
    for library in LIBRARIES:
        seen: list[str] = []
        cls = type("Mine", (library.Redis,), {name: property(get, set_)})
        with client_of(library, redis_server) as client:
            mine = cls(connection_pool=client.connection_pool)
            seen.clear()
            results.append((work(mine), list(seen)))
    assert results[0] == results[1]
    assert results[1][1]


def test_a_class_that_keeps_its_attributes_elsewhere(redis_server: EmbeddedServer) -> None:
    def keep(self: Any, name: str, value: Any) -> None:
        self.__dict__[name] = value

    results = []
    for library in LIBRARIES:
        cls = type("Mine", (library.Redis,), {"__setattr__": keep})
        with contextlib.closing(cls(port=redis_server.port)) as client:
            work(client)
            client.response_callbacks = {"ECHO": repr}
            results.append(work(client))
    assert results[0] == results[1]


def test_a_class_that_looks_attributes_up_its_own_way(redis_server: EmbeddedServer) -> None:
    def look_up(self: Any, name: str) -> Any:
        if name == "parse_response":
            return lambda conn, *_, **__: ("mine", conn.read_response())
        return object.__getattribute__(self, name)

    results = []
    for library in LIBRARIES:
        cls = type("Mine", (library.Redis,), {"__getattribute__": look_up})
        with contextlib.closing(cls(port=redis_server.port)) as client:
            results.append(client.ping())
    assert results[0] == results[1] == ("mine", b"PONG")


def test_an_attributes_name_may_be_a_subclass_of_str(redis_server: EmbeddedServer) -> None:
    def scenario(client: Any) -> Any:
        name = type("Name", (str,), {})("response_callbacks")
        client.ping()
        setattr(client, name, {"PING": repr})
        return client.ping()

    assert both(redis_server, scenario) == "b'PONG'"


# -- Commands -----------------------------------------------------------------------------

NAMES = ["HIMPORT", "himport", "HImport SET", b"PING", "PÏNG", 5, None]


@pytest.mark.parametrize("name", NAMES)
def test_commands_that_are_left_to_redis_py(client: Any, name: Any) -> None:
    with counted() as counts:
        outcome_of(client.execute_command, name, "x")
    assert counts() == {"command": 1}


def test_a_command_of_nothing_is_left_to_redis_py(client: Any) -> None:
    with counted() as counts, pytest.raises(IndexError):
        client.execute_command()
    assert counts() == {"command": 1}


# -- Pools --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["get_connection", "release"])
def test_a_subclass_of_the_pool_sees_its_calls(redis_server: EmbeddedServer, name: str) -> None:
    seen: list[str] = []
    pool = that_notes(cpool.ConnectionPool, seen, name)(port=redis_server.port)
    with counted() as counts, contextlib.closing(pool):
        work(cpool.Redis(connection_pool=pool))
    assert seen == [name] * N
    assert counts() == {"pool overridden": N}


@pytest.mark.parametrize("name", ["get_connection", "release"])
@pytest.mark.parametrize("on_class", [True, False])
def test_a_patched_pool_sees_its_calls(client: Any, name: str, on_class: bool) -> None:
    owner = cpool.ConnectionPool if on_class else client.connection_pool
    seen: list[str] = []
    with mock.patch.object(owner, name, note(seen, name, getattr(owner, name))):
        with counted() as counts:
            work(client)
    assert seen == [name] * N
    assert counts() == {"pool overridden": N}
    check_ordinary(client)


@pytest.mark.parametrize("name", ["owns_connection", "make_connection"])
def test_other_methods_of_the_pool_are_called(redis_server: EmbeddedServer, name: str) -> None:
    seen: list[list[str]] = []
    for library in LIBRARIES:
        seen.append([])
        pool = that_notes(library.ConnectionPool, seen[-1], name)(port=redis_server.port)
        with contextlib.closing(pool):
            work(library.Redis(connection_pool=pool))
    assert seen[0] == seen[1] != []


def test_redis_pys_own_pool(redis_server: EmbeddedServer) -> None:
    with contextlib.closing(redis.ConnectionPool(port=redis_server.port)) as pool:
        with counted() as counts:
            work(cpool.Redis(connection_pool=pool))
    assert counts() == {"pool overridden": N}


def test_a_live_clients_pool_may_be_replaced(redis_server: EmbeddedServer) -> None:
    def scenario(client: Any) -> Any:
        client.set("k", "first")
        first = client.connection_pool
        for other in (type(first), redis.ConnectionPool):
            client.connection_pool = other(port=redis_server.port, decode_responses=True, db=1)
            client.set("k", "other")
            yield client.get("k"), len(first._available_connections)
            client.connection_pool.disconnect()
        client.connection_pool = first
        yield client.get("k")

    both(redis_server, lambda client: list(scenario(client)))


def test_metrics_are_told_of_each_command(
    redis_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = pytest.importorskip("tests.pool.test_twin_metrics", exc_type=ImportError)

    def scenario(client: Any) -> Any:
        client.connection_pool.connection_kwargs["client_name"] = "x"
        with metrics.collected(monkeypatch) as collector:
            work(client)
            outcome_of(client.echo, "x")
        told = [
            (name, {key: repr(value) for key, value in said.items() if "dur" not in key})
            for name, said in collector.calls
            if "operation" in name or "error" in name
        ]
        work(client)
        return told

    with counted() as counts:
        assert len(both(redis_server, scenario)) >= N
    assert counts() == {"metrics on": N + 1, "taken": N + 1}


# -- Connections --------------------------------------------------------------------------

VERBS = (
    *("send_command", "send_packed_command", "read_response", "connect", "can_read"),
    *("check_health", "should_reconnect", "re_auth", "disconnect", "pack_command"),
)
REFUSED = {"send_command", "send_packed_command", "read_response", "can_read", "check_health"}


@pytest.mark.parametrize("name", VERBS)
def test_a_subclass_of_the_connection_sees_its_calls(
    redis_server: EmbeddedServer, name: str
) -> None:
    if not hasattr(redis.Connection, name):
        pytest.skip("this redis-py has no such method")
    seen: list[list[str]] = []
    for library in LIBRARIES:
        seen.append([])
        connection_class = that_notes(library.Connection, seen[-1], name)
        pool = library.ConnectionPool(connection_class, port=redis_server.port)
        client = library.Redis(connection_pool=pool)
        client.ping()
        seen[-1].clear()
        with counted() as counts:
            work(client)
        seen[-1][:] = list(seen[-1])
        pool.disconnect()
    theirs, ours = (len(calls) for calls in seen)
    if name in REFUSED:
        assert set(counts()) == {"connection overridden"}
    if name in ("connect", "can_read", "should_reconnect", "disconnect", "re_auth"):
        assert bool(ours) == bool(theirs)  # at a checkout ours may call less
    elif name != "pack_command":  # which redis-py does not call itself
        assert ours == theirs


@pytest.mark.parametrize("name", VERBS[:6])
@pytest.mark.parametrize("owner", [redis.connection.AbstractConnection, cpool.Connection])
def test_a_patch_of_the_connections_class_sees_its_calls(
    client: Any, owner: Any, name: str
) -> None:
    seen: list[str] = []
    with mock.patch.object(owner, name, note(seen, name, getattr(owner, name))):
        with counted() as counts:
            work(client)
    assert len(seen) >= N
    assert set(counts()) == {"connection overridden"}
    check_ordinary(client)


@pytest.mark.parametrize("name", VERBS[:6])
def test_a_patched_connection_sees_its_calls(client: Any, name: str) -> None:
    (connection,) = client.connection_pool._available_connections
    with mock.patch.object(connection, name, wraps=getattr(connection, name)) as patched:
        with counted() as counts:
            work(client)
    assert patched.call_count >= N
    assert counts() == {"connection overridden": N}
    check_ordinary(client)


def test_a_patched_parser_sees_its_calls(client: Any) -> None:
    (connection,) = client.connection_pool._available_connections
    parser = connection._parser
    with mock.patch.object(parser, "read_response", wraps=parser.read_response) as patched:
        with counted() as counts:
            work(client)
    assert patched.call_count == N
    assert counts() == {"connection overridden": N}
    check_ordinary(client)


@pytest.mark.parametrize("packer", ["command_packer", "_command_packer"])
def test_a_packer_of_ones_own_sees_its_calls(redis_server: EmbeddedServer, packer: str) -> None:
    class Mine:
        def pack(self, *args: Any) -> list[bytes]:
            seen.append("pack")
            words = [str(arg).encode() for arg in args]
            head = b"*%d\r\n" % len(words)
            return [head + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)]

    seen: list[str] = []
    options = {"command_packer": Mine()} if packer == "command_packer" else {}
    pool = cpool.ConnectionPool(port=redis_server.port, **options)
    with contextlib.closing(pool):
        client = cpool.Redis(connection_pool=pool)
        client.ping()
        (connection,) = pool._available_connections
        connection._command_packer = Mine()
        seen.clear()
        with counted() as counts:
            work(client)
    assert seen == ["pack"] * N
    assert counts() == {"connection overridden": N}


def test_a_cache_is_asked(redis_server: EmbeddedServer) -> None:
    if "cache_config" not in ARGUMENTS:
        pytest.skip("this redis-py has no cache")
    from redis.cache import CacheConfig

    results = []
    for library in LIBRARIES:
        pool = library.ConnectionPool(
            connection_class=that_may_be_cached(library.Connection),
            port=redis_server.port,
            protocol=3,
            cache_config=CacheConfig(),
        )
        client = library.Redis(connection_pool=pool)
        with contextlib.closing(pool), counted() as counts:
            client.set("k", "v")
            results.append((client.get("k"), client.get("k"), client.get_cache().size))
    assert results[0] == results[1] == (b"v", b"v", 1)
    assert counts() == {"connection overridden": 3}


def test_a_health_check_that_is_due_is_made() -> None:
    with FakeServer() as server:

        def scenario(client: Any) -> Any:
            client.get("k")
            (connection,) = client.connection_pool._available_connections
            before = asked(server, "PING")
            for due in (True, False, True):
                if due:
                    connection.next_health_check = 1
                client.get("k")
            return asked(server, "PING") - before, connection.next_health_check > 1

        with counted() as counts:
            assert both(server, scenario, health_check_interval=1000)[0] == 2
    assert counts() == {"taken": 3, "health check due": 2}


# -- Retries ------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["class", "policy", "subclass", "connection"])
def test_a_policy_of_ones_own_sees_its_calls(
    redis_server: EmbeddedServer, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    name = "call_with_retry"
    cls = that_notes(Retry, seen, name) if where == "subclass" else Retry
    policy = cls(no_retry()._backoff, 0)
    with client_of(cpool, redis_server, retry=policy) as client:
        client.ping()
        (connection,) = client.connection_pool._available_connections
        if where != "subclass":
            owner = {"class": Retry, "policy": connection.retry.joined_inner}
            target = owner.get(where, connection.retry)
            monkeypatch.setattr(target, name, note(seen, name, getattr(target, name)))
        seen.clear()
        with counted() as counts:
            work(client)
        assert seen == [name] * N
        assert counts() == {"retry overridden": N}
        if where != "subclass":
            monkeypatch.undo()
            check_ordinary(client)


# -- Events -------------------------------------------------------------------------------


def listener_to(seen: list[Any]) -> Any:
    from redis.event import EventListenerInterface

    class Listener(EventListenerInterface):
        def listen(self, event: Any) -> None:
            seen.append(event.connection)

    return Listener()


def test_a_foreign_listener_gets_its_events(redis_server: EmbeddedServer) -> None:
    from redis.event import AfterConnectionReleasedEvent

    def scenario(client: Any) -> Any:
        seen: list[Any] = []
        pool = client.connection_pool
        listeners = {AfterConnectionReleasedEvent: [listener_to(seen)]}
        client.ping()
        mapping = pool._event_dispatcher._event_listeners_mapping
        mapping.setdefault(AfterConnectionReleasedEvent, []).extend(*listeners.values())
        work(client)
        (connection,) = pool._available_connections
        return len(seen), [conn is connection for conn in seen]

    assert both(redis_server, scenario)[0] == N


def test_listeners_given_to_a_new_pool_get_their_events(redis_server: EmbeddedServer) -> None:
    from redis.event import AfterConnectionReleasedEvent, EventDispatcher

    if "event_listeners" not in inspect.signature(EventDispatcher).parameters:
        pytest.skip("this redis-py's dispatcher takes no listeners")

    def scenario(client: Any) -> Any:
        seen: list[Any] = []
        dispatcher = EventDispatcher({AfterConnectionReleasedEvent: [listener_to(seen)]})
        cls = type(client.connection_pool)
        pool = cls(port=redis_server.port, event_dispatcher=dispatcher)
        work(type(client)(connection_pool=pool))
        pool.disconnect()
        return len(seen)

    assert both(redis_server, scenario) == N


DISPATCH = pytest.param(
    "dispatch", marks=pytest.mark.xfail(reason="only the listeners are watched, not dispatch()")
)


@pytest.mark.parametrize("how", [DISPATCH, "dispatcher"])
def test_a_replaced_dispatcher_gets_its_events(redis_server: EmbeddedServer, how: str) -> None:
    def scenario(client: Any) -> Any:
        client.ping()
        pool = client.connection_pool
        if how == "dispatch":
            pool._event_dispatcher.dispatch = told = mock.Mock()
        else:
            pool._event_dispatcher = mock.Mock()
            told = pool._event_dispatcher.dispatch
        work(client)
        return told.call_count

    assert both(redis_server, scenario) == N


def test_a_token_set_during_a_command_is_used_at_its_return() -> None:
    class Token:
        def try_get(self, key: str) -> str:
            return "me"

        def get_value(self) -> str:
            return "secret"

    with FakeServer() as server:

        def scenario(client: Any) -> Any:
            def callback(reply: Any) -> Any:
                (connection,) = client.connection_pool._in_use_connections
                connection.set_re_auth_token(Token())
                return reply

            client.set_response_callback("GET", callback)
            before = asked(server, "AUTH")
            client.get("k")
            authenticated = asked(server, "AUTH") - before
            client.ping()
            return authenticated, asked(server, "AUTH") - before

        with counted() as counts:
            assert both(server, scenario) == (1, 1)
        assert counts() == {"taken": 3}


# -- Single-connection clients ------------------------------------------------------------


def test_a_single_connection_that_is_closed_is_dialled_again(
    redis_server: EmbeddedServer,
) -> None:
    with client_of(cpool, redis_server, single_connection_client=True) as client:
        client.connection.disconnect()
        with counted() as counts:
            assert client.ping() is client.ping() is True
        assert counts() == {"connection pinned": 1, "taken": 1}


def test_a_single_connection_left_in_a_transaction(redis_server: EmbeddedServer) -> None:
    def scenario(client: Any) -> Any:
        calls: list[Callable[[], Any]] = [
            lambda: client.execute_command("MULTI"),
            lambda: client.execute_command("SET", "k", "v"),
            lambda: client.execute_command("EXEC"),
            lambda: client.get("k"),
        ]
        return [outcome_of(call) for call in calls]

    with counted() as counts:
        both(redis_server, scenario, single_connection_client=True)
    assert counts() == {"taken": 3, "connection pinned": 2}


def test_a_wrapped_single_connection_sees_its_calls(redis_server: EmbeddedServer) -> None:
    with client_of(cpool, redis_server, single_connection_client=True) as client:
        connection = client.connection
        with mock.patch.object(connection, "send_command", wraps=connection.send_command) as sent:
            with counted() as counts:
                work(client)
        assert sent.call_count == N
        assert counts() == {"connection overridden": N}
        check_ordinary(client)


def test_a_policy_that_was_patched_after_it_gained_and_lost_an_attribute_is_asked(
    redis_server: EmbeddedServer,
) -> None:
    """The number of its attributes is what it was."""
    with client_of(cpool, redis_server, retry=no_retry()) as client:
        connection = client.connection_pool.get_connection()
        policy = connection.retry.joined_inner
        client.connection_pool.release(connection)
        policy.note = 1
        client.ping()
        del policy.note
        calls: list[Any] = []
        original = policy.call_with_retry

        def counted(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            return original(*args, **kwargs)

        policy.call_with_retry = counted
        client.ping()
        assert calls == [1]
