"""Options and attributes of a connection: parsers, packers, encodings, addresses, timeouts."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import redis
from redis._parsers import BaseParser, _RESP2Parser, _RESP3Parser
from redis.connection import DefaultParser, PythonRespSerializer
from redis.exceptions import ConnectionError, ResponseError

import cpool
from cpool.tools.servers import EmbeddedServer
from tests.connection.fakeserver import FakeServer
from tests.support.servers import TLSServer
from tests.wire.peer import HAS_MAINTENANCE, LIBRARIES, Task, silent


def connect(library: Any, server: Any, **options: Any) -> Any:
    conn = library.Connection(host=server.host, port=server.port, **options)
    conn.connect()
    return conn


def ask(conn: Any, *args: Any) -> Any:
    conn.send_command(*args)
    return conn.read_response()


# Parsers


class OwnParser(_RESP2Parser):
    """A parser of somebody's own: strings come reversed."""

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """Reverse what comes."""
        reply = super().read_response(*args, **kwargs)
        return reply[::-1] if isinstance(reply, bytes) else reply


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("parser", [None, DefaultParser, _RESP2Parser, _RESP3Parser])
def test_redis_pys_parser_classes_stand_for_ours(
    redis_server: EmbeddedServer, parser: Any, protocol: int
) -> None:
    options = {} if parser is None else {"parser_class": parser}
    conn = connect(cpool, redis_server, protocol=protocol, **options)
    assert conn._session is not None
    assert ask(conn, "ECHO", "hello") == b"hello"
    assert conn._session.clean
    conn.disconnect()


def test_a_parser_of_somebodys_own_is_used(redis_server: EmbeddedServer) -> None:
    pool = cpool.ConnectionPool(
        host=redis_server.host, port=redis_server.port, parser_class=OwnParser, **silent()
    )
    client = redis.Redis(connection_pool=pool)
    for _ in range(3):
        assert client.echo("hello") == b"olleh"
    conn = pool.get_connection()
    assert type(conn._parser) is OwnParser
    pool.release(conn)
    assert pool.stats().created == 1
    pool.disconnect()


def test_a_parser_set_later_is_used(redis_server: EmbeddedServer) -> None:
    conn = connect(cpool, redis_server, **silent())
    conn.disconnect()
    conn.set_parser(OwnParser)
    conn.connect()
    assert ask(conn, "ECHO", "hello") == b"olleh"
    conn.disconnect()
    conn.set_parser(_RESP2Parser)
    conn.connect()
    assert ask(conn, "ECHO", "hello") == b"hello"
    conn.disconnect()


def test_an_error_class_added_to_redis_pys_table_is_used(redis_server: EmbeddedServer) -> None:
    class Own(ResponseError):
        pass

    conn = connect(cpool, redis_server)
    ask(conn, "SET", "key", "value")
    with mock.patch.dict(BaseParser.EXCEPTION_CLASSES, {"WRONGTYPE": Own}):
        with pytest.raises(Own):
            ask(conn, "LPOP", "key")
    with pytest.raises(ResponseError) as raised:
        ask(conn, "LPOP", "key")
    assert raised.type is ResponseError
    conn.disconnect()


# Packers


class OwnPacker(PythonRespSerializer):
    """A packer of somebody's own, which notes what it packs."""

    def __init__(self) -> None:
        self.packed: list[Any] = []
        super().__init__(6000, redis.connection.Encoder("utf-8", "strict", False).encode)

    def pack(self, *args: Any) -> Any:
        """Note and pack."""
        self.packed.append(args)
        return super().pack(*args)


def test_a_packer_of_somebodys_own_packs_everything(redis_server: EmbeddedServer) -> None:
    packer = OwnPacker()
    pool = cpool.ConnectionPool(
        host=redis_server.host, port=redis_server.port, command_packer=packer, db=1
    )
    client = redis.Redis(connection_pool=pool)
    assert client.set("key", "value")
    assert client.pipeline(transaction=False).get("key").execute() == [b"value"]
    assert ("SELECT", 1) in packer.packed
    assert ("SET", "key", "value") in packer.packed
    assert ("GET", "key") in packer.packed
    conn = pool.get_connection()
    conn.send_command("PING")
    assert conn._session.owed == 1
    conn.read_response()
    pool.release(conn)
    stats = pool.stats()
    assert (stats.created, stats.discarded) == (1, 0)
    pool.disconnect()


def test_packed_commands_are_those_of_redis_pys_python_packer() -> None:
    theirs = redis.Connection(
        command_packer=PythonRespSerializer(
            6000, redis.connection.Encoder("utf-8", "strict", False).encode
        )
    )
    ours = cpool.Connection()
    for command in [
        ("GET", "key"),
        ("CONFIG GET", "port"),
        ("SET", "key", 1, 2.5, b"bytes", "ü"),
        ("SET", "key", "x" * 7000, "after"),
        ("SET", "key", memoryview(b"view"), memoryview(bytearray(b"array"))),
    ]:
        assert list(map(bytes, ours.pack_command(*command))) == list(
            map(bytes, theirs.pack_command(*command))
        )
    many = [("SET", f"key:{i}", "x" * i * 100) for i in range(100)]
    assert b"".join(ours.pack_commands(many)) == b"".join(theirs.pack_commands(many))


# Encodings


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16", "cp1252"])
def test_text_goes_out_and_comes_back_in_the_encoding(
    redis_server: EmbeddedServer, encoding: str
) -> None:
    text = "Grüße – 10 €" if encoding != "latin-1" else "Grüße"
    conn = connect(cpool, redis_server, encoding=encoding, decode_responses=True, protocol=2)
    raw = connect(cpool, redis_server)
    conn.send_packed_command(raw.pack_command("SET", "text", text.encode(encoding)))
    assert conn.read_response(disable_decoding=True) == b"OK"
    conn.send_packed_command(raw.pack_command("GET", "text"))
    assert conn.read_response() == text
    conn.disconnect()
    raw.disconnect()


@pytest.mark.parametrize("errors", ["strict", "replace", "ignore", "surrogateescape"])
def test_errors_of_the_encoding_are_handled_as_asked(
    redis_server: EmbeddedServer, errors: str
) -> None:
    raw = connect(cpool, redis_server)
    ask(raw, "SET", "bad", b"a\xffb")
    raw.disconnect()
    conn = connect(cpool, redis_server, decode_responses=True, encoding_errors=errors)
    if errors == "strict":
        with pytest.raises(UnicodeDecodeError):
            ask(conn, "GET", "bad")
        assert conn._sock is None
    else:
        assert ask(conn, "GET", "bad") == b"a\xffb".decode("utf-8", errors)
    conn.disconnect()


def test_decoding_can_be_left_out_for_one_reply(redis_server: EmbeddedServer) -> None:
    conn = connect(cpool, redis_server, decode_responses=True)
    for disable, expected in ((True, b"hello"), (False, "hello")):
        conn.send_command("ECHO", "hello")
        assert conn.read_response(disable_decoding=disable) == expected
    conn.disconnect()


# Who and where


def test_a_connection_tells_where_it_is_connected(redis_server: EmbeddedServer) -> None:
    conns = [connect(library, redis_server, client_name="me", db=2) for library in LIBRARIES]
    theirs, ours = conns
    assert repr(ours).replace("cpool.connection", "redis.connection") == repr(theirs)
    assert ours.repr_pieces() == theirs.repr_pieces()
    assert (ours.host, ours.port, ours.db) == (theirs.host, theirs.port, theirs.db)
    if hasattr(theirs, "getpeername"):
        assert ours.getpeername() == theirs.getpeername() == "127.0.0.1"
        assert ours.get_resolved_ip() == theirs.get_resolved_ip()
    if hasattr(theirs, "extract_connection_details"):
        port = ours._sock.getsockname()[1]
        details = f"connected to ip 127.0.0.1, local socket port: {port}"
        assert ours.extract_connection_details() == details
    for conn in conns:
        conn.disconnect()
    if hasattr(theirs, "extract_connection_details"):
        assert ours.extract_connection_details() == theirs.extract_connection_details()


def test_the_host_can_be_changed_for_the_next_connect(redis_server: EmbeddedServer) -> None:
    conn = cpool.Connection(host="127.0.0.2", port=1, socket_connect_timeout=0.5)
    conn.host = redis_server.host
    conn.port = redis_server.port
    conn.connect()
    assert conn.repr_pieces()[0] == ("host", redis_server.host)
    assert conn._host_error() == f"{redis_server.host}:{redis_server.port}"
    conn.disconnect()


def test_errors_name_the_host_as_it_is_now(redis_server: EmbeddedServer) -> None:
    conn = connect(cpool, redis_server)
    conn.host = "elsewhere"
    with mock.patch.object(conn._parser, "read_response", side_effect=OSError(5, "bad")):
        with pytest.raises(ConnectionError, match=f"elsewhere:{redis_server.port}"):
            conn.read_response()
    conn.disconnect()


def test_redis_pys_classes_are_bases_of_ours(tls_server: TLSServer) -> None:
    assert issubclass(cpool.Connection, redis.connection.Connection)
    assert issubclass(cpool.SSLConnection, redis.connection.SSLConnection)
    assert issubclass(cpool.SSLConnection, cpool.Connection)
    unix = redis.connection.UnixDomainSocketConnection
    assert issubclass(cpool.UnixDomainSocketConnection, unix)
    conn = cpool.SSLConnection(
        host=tls_server.host, port=tls_server.port, ssl_ca_certs=tls_server.certificates.ca
    )
    assert ask(conn, "ECHO", "hello") == b"hello"
    assert not conn._session.uses_fd
    conn.disconnect()


def test_a_certificate_nobody_has_signed_is_redis_pys_error(tls_server: TLSServer) -> None:
    results = []
    for library in (redis, cpool):
        conn = library.SSLConnection(host=tls_server.host, port=tls_server.port)
        with pytest.raises(ConnectionError) as raised:
            conn.connect()
        results.append((type(raised.value), str(raised.value).split("(")[0]))
        conn.disconnect()
    assert results[0] == results[1]


# Attributes that others set, and life


def test_attributes_can_be_set_and_deleted_as_on_any_object(redis_server: EmbeddedServer) -> None:
    conn = connect(cpool, redis_server)
    conn.note = "mine"
    assert vars(conn)["note"] == "mine"
    del conn.note
    assert bool(conn)
    assert conn in {conn}
    assert weakref.ref(conn)() is conn
    conn.disconnect()


PATCHED: dict[str, Any] = {
    "_sock": mock.Mock(),
    "_parser": mock.Mock(),
    "retry": mock.Mock(),
    "_command_packer": mock.Mock(),
    "encoder": mock.Mock(),
    "health_check_interval": 5,
    "next_health_check": 1e9,
    "_should_reconnect": True,
    "_re_auth_token": mock.Mock(),
    "pid": -1,
}


@pytest.mark.parametrize("name", PATCHED)
def test_a_patched_attribute_is_as_before_afterwards(
    redis_server: EmbeddedServer, name: str
) -> None:
    conn = connect(cpool, redis_server)
    if not hasattr(conn, name):
        pytest.skip("not in this redis-py")
    before = getattr(conn, name)
    with mock.patch.object(conn, name, PATCHED[name]):
        assert getattr(conn, name) == PATCHED[name]
    assert getattr(conn, name) is before or getattr(conn, name) == before
    assert ask(conn, "ECHO", "hello") == b"hello"
    conn.disconnect()


def test_a_dropped_connection_closes_its_socket(redis_server: EmbeddedServer) -> None:
    conn = connect(cpool, redis_server)
    sock, alive = conn._sock, weakref.ref(conn)
    del conn
    gc.collect()
    assert alive() is None
    assert sock.fileno() == -1


def test_a_connection_can_be_made_again_and_again(redis_server: EmbeddedServer) -> None:
    conn = connect(cpool, redis_server, protocol=3, db=1)
    for i in range(20):
        assert ask(conn, "ECHO", i) == b"%d" % i
        conn.disconnect()
        conn.disconnect()
        conn.connect()
        conn.connect()
    conn.disconnect()


def test_reconnecting_can_be_asked_for(redis_server: EmbeddedServer) -> None:
    if not hasattr(redis.Connection, "mark_for_reconnect"):
        pytest.skip("since redis-py 7.0")
    pool = cpool.ConnectionPool(host=redis_server.host, port=redis_server.port)
    client = redis.Redis(connection_pool=pool)
    conn = pool.get_connection()
    conn.mark_for_reconnect()
    assert conn.should_reconnect()
    pool.release(conn)
    assert conn._sock is None
    assert not conn.should_reconnect()
    assert client.ping()
    pool.disconnect()


# Maintenance notifications change timeouts and addresses, on timer threads


@pytest.fixture
def quiet(redis_server: EmbeddedServer) -> Iterator[Any]:
    """Give a connection for which maintenance is nothing that is asked about."""
    if not HAS_MAINTENANCE:
        pytest.skip("since redis-py 7.0")
    conn = connect(cpool, redis_server, protocol=3, socket_timeout=5)
    yield conn
    conn.disconnect()


def test_a_relaxed_timeout_is_the_sockets(quiet: Any) -> None:
    quiet.update_current_socket_timeout(12.5)
    assert quiet._sock.gettimeout() == 12.5
    quiet.update_current_socket_timeout(-1)
    assert quiet._sock.gettimeout() == 5
    assert quiet._session is not None


def test_temporary_settings_are_taken_back(quiet: Any) -> None:
    quiet.set_tmp_settings(tmp_host_address="elsewhere", tmp_relaxed_timeout=30)
    assert (quiet.host, quiet.socket_timeout, quiet.socket_connect_timeout) == (
        "elsewhere",
        30,
        30,
    )
    quiet.orig_host_address = "127.0.0.1"
    quiet.orig_socket_timeout = quiet.orig_socket_connect_timeout = 5
    quiet.reset_tmp_settings(reset_host_address=True, reset_relaxed_timeout=True)
    assert (quiet.host, quiet.socket_timeout) == ("127.0.0.1", 5)


def test_timeouts_changed_by_timers_break_no_command(quiet: Any) -> None:
    over = threading.Event()

    def change() -> int:
        changes = 0
        while not over.is_set():
            quiet.update_current_socket_timeout((20, 30.5, None, -1)[changes % 4])
            changes += 1
        return changes

    changing = Task(change)
    for i in range(1500):
        assert ask(quiet, "ECHO", i) == b"%d" % i
    over.set()
    assert changing.result() > 0


def test_notices_of_maintenance_reach_redis_pys_handlers() -> None:
    """A server that migrates says so by pushes, between replies and while idle."""
    if not HAS_MAINTENANCE:
        pytest.skip("since redis-py 7.0")
    migrating = b">4\r\n$9\r\nMIGRATING\r\n:1\r\n:10\r\n:0\r\n"
    migrated = b">3\r\n$8\r\nMIGRATED\r\n:2\r\n:0\r\n"
    with FakeServer() as server:
        seen = []
        for library in LIBRARIES:
            pool = library.ConnectionPool(
                host=server.host, port=server.port, protocol=3, socket_timeout=5
            )
            conn = pool.get_connection()
            timeouts = [conn._sock.gettimeout()]
            for notice in (migrating, migrated):
                server.say(notice)
                assert ask(conn, "PING") == b"PONG"
                timeouts.append(conn._sock.gettimeout())
            seen.append(timeouts)
            pool.release(conn)
            pool.disconnect()
    assert len(set(seen[0])) > 1
    assert seen[1] == seen[0]
