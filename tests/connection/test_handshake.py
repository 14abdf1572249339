"""A new connection: what redis-py asks, in redis-py's order, but all of it at once."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import redis
from redis._parsers import _RESP3Parser
from redis.credentials import CredentialProvider, UsernamePasswordCredentialProvider

import cpool
from cpool.tools.servers import EmbeddedServer
from tests.connection.fakeserver import FakeServer, words_of
from tests.support.faultproxy import FaultProxy
from tests.support.servers import ACLServer, TLSServer
from tests.wire.peer import Task, by_methods, silent

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "resp2": {"protocol": 2},
    "resp3": {"protocol": 3},
    "resp2-db": {"protocol": 2, "db": 3},
    "resp3-db": {"protocol": 3, "db": 3},
    "resp2-name": {"protocol": 2, "client_name": "me"},
    "resp3-name": {"protocol": 3, "client_name": "me"},
    "decoding": {"decode_responses": True, "db": 1},
    "password-2": {"protocol": 2, "password": "secret"},
    "password-3": {"protocol": 3, "password": "secret"},
    "user-2": {"protocol": 2, "username": "app", "password": "secret", "db": 2},
    "user-3": {"protocol": 3, "username": "app", "password": "secret", "db": 2},
    "everything": {
        "protocol": 3,
        "username": "app",
        "password": "secret",
        "db": 2,
        "client_name": "me",
        "decode_responses": True,
    },
}
each_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """Give a server that says yes to everything."""
    with FakeServer() as running:
        yield running


def pool_of(library: Any, server: Any, **options: Any) -> Any:
    return library.ConnectionPool(host=server.host, port=server.port, **options)


def dial(library: Any, server: Any, **options: Any) -> Any:
    """Get one connection from a new pool, which it keeps alive."""
    pool = pool_of(library, server, **options)
    conn = pool.get_connection()
    conn.pool = pool
    return conn


def ask(conn: Any, *args: Any) -> Any:
    conn.send_command(*args)
    return conn.read_response()


@each_option
def test_the_requests_are_redis_pys_in_their_order(
    server: FakeServer, options: dict[str, Any]
) -> None:
    dial(redis, server, **options).disconnect()
    theirs = server.requests
    dial(cpool, server, **options).disconnect()
    assert server.requests == theirs
    assert len(server.connections) == 2


@each_option
def test_the_requests_go_out_together(server: FakeServer, options: dict[str, Any]) -> None:
    dial(cpool, server, **options).disconnect()
    assert len(server.batches) == 1


@each_option
def test_a_connection_says_the_same_of_itself_as_redis_pys(
    server: FakeServer, options: dict[str, Any]
) -> None:
    said = []
    for library in (redis, cpool):
        conn = dial(library, server, **options)
        said.append((conn.handshake_metadata, conn.get_protocol(), conn.repr_pieces()))
        conn.disconnect()
    assert said[0] == said[1]


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("name", [None, "me"])
@pytest.mark.parametrize("db", [0, 5])
def test_one_round_trip_opens_a_connection_to_a_real_server(
    redis_server: EmbeddedServer, protocol: int, name: str | None, db: int
) -> None:
    with FaultProxy((redis_server.host, redis_server.port)) as proxy:
        conn = dial(cpool, proxy, protocol=protocol, client_name=name, db=db)
        assert (proxy.connections, proxy.round_trips) == (1, 1)
        about = ask(conn, "CLIENT", "INFO")
        about = dict(pair.split(b"=", 1) for pair in about.split() if b"=" in pair)
        conn.disconnect()
    assert about[b"db"] == b"%d" % db
    assert about[b"name"] == (name or "").encode()
    assert about.get(b"resp", b"%d" % protocol) == b"%d" % protocol


@pytest.mark.parametrize("protocol", [2, 3])
def test_one_round_trip_authenticates_at_a_real_server(
    acl_server: ACLServer, protocol: int
) -> None:
    for user, password in (
        (None, acl_server.password),
        (acl_server.app_user, acl_server.app_password),
    ):
        with FaultProxy((acl_server.host, acl_server.port)) as proxy:
            conn = dial(cpool, proxy, protocol=protocol, username=user, password=password)
            assert proxy.round_trips == 1
            assert ask(conn, "ACL", "WHOAMI").decode() == (user or "default")
            conn.disconnect()


def test_a_silent_connection_says_nothing(server: FakeServer) -> None:
    conn = dial(cpool, server, **silent())
    assert ask(conn, "PING") == b"PONG"
    conn.disconnect()
    assert server.batches == [["PING"]]


def test_a_reconnect_takes_one_round_trip_too(redis_server: EmbeddedServer) -> None:
    with FaultProxy((redis_server.host, redis_server.port)) as proxy:
        conn = dial(cpool, proxy, protocol=3, db=1, client_name="me")
        for _ in range(3):
            before = proxy.round_trips
            conn.disconnect()
            conn.connect()
            assert proxy.round_trips == before + 1
        assert conn._session.clean
        conn.disconnect()


def test_nothing_is_owed_after_the_handshake(server: FakeServer) -> None:
    for options in OPTIONS.values():
        conn = dial(cpool, server, **options)
        assert conn._session.owed == 0
        assert conn._session.clean
        conn.disconnect()


def test_a_first_command_that_connects_opens_in_one_round_trip(
    redis_server: EmbeddedServer,
) -> None:
    with FaultProxy((redis_server.host, redis_server.port)) as proxy:
        conn = cpool.Connection(host=proxy.host, port=proxy.port, protocol=3)
        assert ask(conn, "ECHO", "hello") == b"hello"
        assert proxy.round_trips == 2
        conn.disconnect()


def test_callbacks_run_once_and_after_the_handshake(server: FakeServer) -> None:
    class Watcher:
        seen: list[list[list[str]]] = []

        def connected(self, conn: Any) -> None:
            ask(conn, "ECHO", "mine")
            self.seen.append(server.batches)

    conn = cpool.Connection(host=server.host, port=server.port, protocol=3, db=1)
    watcher = Watcher()
    conn.register_connect_callback(watcher.connected)
    conn.connect()
    conn.connect()
    conn.disconnect()
    assert len(watcher.seen) == 1
    handshake, echo = watcher.seen[0]
    assert (handshake[0], handshake[-1], echo) == ("HELLO", "SELECT", ["ECHO"])


def test_a_push_within_the_handshake_goes_to_its_handler(server: FakeServer) -> None:
    pushes: list[Any] = []
    push = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nkey\r\n"
    server.replies["SELECT"] = push + b"+OK\r\n"
    conn = cpool.Connection(
        host=server.host, port=server.port, protocol=3, db=1, parser_class=_RESP3Parser
    )
    conn._parser.set_invalidation_push_handler(pushes.append)
    conn.connect()
    conn.disconnect()
    assert pushes == [[b"invalidate", [b"key"]]]


# Step by step where somebody can tell, or the next request depends on a reply


class Provider(CredentialProvider):
    """Gives a password, and notes how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def get_credentials(self) -> tuple[str, str]:
        """Return a name and a password."""
        self.asked += 1
        return "app", "secret"


class Watching(cpool.Connection):
    """Overrides a verb of the connection."""

    def send_command(self, *args: Any, **kwargs: Any) -> Any:
        """Send as ever."""
        return super().send_command(*args, **kwargs)


class WatchingReads(cpool.Connection):
    """Overrides the other verb."""

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """Read as ever."""
        return super().read_response(*args, **kwargs)


STEP_BY_STEP: dict[str, Callable[[], dict[str, Any]]] = {
    "credential_provider": lambda: {"credential_provider": Provider()},
    "health_check": lambda: {"health_check_interval": 30},
    "send_override": lambda: {"connection_class": Watching},
    "read_override": lambda: {"connection_class": WatchingReads},
    "socket_methods": lambda: {"connection_class": by_methods(cpool.Connection)},
}


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("make_options", STEP_BY_STEP.values(), ids=STEP_BY_STEP)
def test_it_goes_step_by_step_where_somebody_can_tell(
    server: FakeServer, make_options: Callable[[], dict[str, Any]], protocol: int
) -> None:
    common = {"protocol": protocol, "db": 4, "client_name": "me"}
    dial(cpool, server, **common, **make_options()).disconnect()
    steps = [len(batch) for batch in server.batches]
    assert steps == [1] * len(steps)
    ours = server.requests
    theirs = make_options()
    theirs.pop("connection_class", None)
    dial(redis, server, **common, **theirs).disconnect()
    assert ours == server.requests


def test_a_connect_func_may_leave_the_handshake_together(server: FakeServer) -> None:
    """redis-py's cluster client passes one that adds READONLY."""

    def connect(conn: Any) -> None:
        conn.on_connect()
        conn.send_command("READONLY")
        assert conn.read_response() == b"OK"

    dial(cpool, server, protocol=3, redis_connect_func=connect).disconnect()
    assert [words[0] for words in server.requests][-1] == b"READONLY"


def test_a_credential_provider_is_asked_once_for_each_connect(server: FakeServer) -> None:
    provider = Provider()
    conn = dial(cpool, server, credential_provider=provider)
    assert provider.asked == 1
    conn.disconnect()
    conn.connect()
    assert provider.asked == 2
    conn.disconnect()


def test_a_fixed_credential_provider_authenticates(acl_server: ACLServer) -> None:
    provider = UsernamePasswordCredentialProvider(acl_server.app_user, acl_server.app_password)
    conn = dial(cpool, acl_server, credential_provider=provider)
    assert ask(conn, "ACL", "WHOAMI") == acl_server.app_user.encode()
    conn.disconnect()


@pytest.mark.parametrize(
    "verb", ["send_command", "send_packed_command", "read_response", "can_read"]
)
def test_a_patched_verb_sees_the_handshake_step_by_step(server: FakeServer, verb: str) -> None:
    original = getattr(redis.connection.AbstractConnection, verb)
    with mock.patch.object(
        redis.connection.AbstractConnection, verb, autospec=True, side_effect=original
    ) as seen:
        dial(cpool, server, protocol=3, db=1).disconnect()
    steps = [len(batch) for batch in server.batches]
    assert steps == [1] * len(steps)
    if verb != "can_read":
        assert seen.call_count == len(steps)


def test_a_subclass_may_do_the_handshake_itself(server: FakeServer) -> None:
    class Own(cpool.Connection):
        def on_connect_check_health(self, check_health: bool = True) -> None:
            super().on_connect_check_health(check_health=check_health)
            self.send_command("ECHO", "own")
            self.read_response()

    dial(cpool, server, connection_class=Own, protocol=3, db=1).disconnect()
    assert server.requests[-1] == (b"ECHO", b"own")


def test_tls_connections_are_set_up_as_asked(tls_server: TLSServer) -> None:
    url = tls_server.url.replace("/0?", "/3?")
    pool = cpool.ConnectionPool.from_url(url, client_name="me", protocol=3)
    conn = pool.get_connection()
    about = ask(conn, "CLIENT", "INFO")
    conn.disconnect()
    assert b" db=3 " in about
    assert b" name=me " in about


def test_unix_connections_open_in_one_round_trip(tmp_path: Path) -> None:
    """Seen at the socket itself: all requests are there before any is answered."""
    path = str(tmp_path / "sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        conn = cpool.UnixDomainSocketConnection(path=path, protocol=2, db=1, client_name="me")
        dialled = Task(conn.connect)
        peer, _ = listener.accept()
        with peer:
            requests = words_of(peer.recv(1 << 16))
            peer.sendall(b"+OK\r\n" * len(requests))
            dialled.result()
        conn.disconnect()
    assert requests[0][:2] == (b"CLIENT", b"SETNAME")
    assert requests[-1] == (b"SELECT", b"1")


def test_a_dial_within_a_joined_command_is_one_round_trip_of_its_own(
    redis_server: EmbeddedServer,
) -> None:
    """A command that finds its connection closed dials within redis-py's Retry."""
    with FaultProxy((redis_server.host, redis_server.port)) as proxy:
        pool = pool_of(cpool, proxy, protocol=3, db=2)
        client = redis.Redis(connection_pool=pool)
        conn = pool.get_connection()
        conn.disconnect()

        def do() -> Any:
            return ask(conn, "ECHO", "hello")

        assert conn.retry.call_with_retry(do, lambda _: None) == b"hello"
        assert proxy.round_trips == 3
        pool.release(conn)
        assert client.echo("again") == b"again"
        pool.disconnect()
