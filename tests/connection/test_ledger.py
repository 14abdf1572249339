"""The reply ledger: each connection knows how many replies it is owed and what was left open.

A connection that is owed something, or was left in a state the next borrower would meet, is
closed when it comes back; one about which nothing is wrong stays connected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis.exceptions import DataError, NoPermissionError, ResponseError

import cpool
from cpool import Connection
from cpool.tools.servers import EmbeddedServer
from tests.support.servers import StartServer
from tests.wire.peer import KINDS, by_methods, request

Commands = list[tuple[Any, ...]]


@pytest.fixture(params=[2, 3], ids=["resp2", "resp3"])
def pool(request: pytest.FixtureRequest, redis_server: EmbeddedServer) -> Iterator[Any]:
    """Give a pool of one connection to a real server."""
    made = cpool.ConnectionPool(
        host=redis_server.host, port=redis_server.port, protocol=request.param, max_connections=1
    )
    yield made
    made.disconnect()


def send_each(conn: Any, commands: Commands) -> None:
    for command in commands:
        conn.send_command(*command)


def send_packed(conn: Any, commands: Commands) -> None:
    conn.send_packed_command(conn.pack_commands(commands))


def send_packed_singly(conn: Any, commands: Commands) -> None:
    for command in commands:
        conn.send_packed_command(conn.pack_command(*command))


def send_bytes(conn: Any, commands: Commands) -> None:
    """Packed by somebody else, in one piece."""
    conn.send_packed_command(foreign(commands))


def send_list_of_bytes(conn: Any, commands: Commands) -> None:
    conn.send_packed_command([foreign([command]) for command in commands])


def send_split_bytes(conn: Any, commands: Commands) -> None:
    """Packed by somebody else, cut where no command ends."""
    data = foreign(commands)
    conn.send_packed_command([data[at : at + 3] for at in range(0, len(data), 3)])


def send_views(conn: Any, commands: Commands) -> None:
    data = memoryview(bytearray(foreign(commands)))
    conn.send_packed_command([data[:5], data[5:]])


def send_generator(conn: Any, commands: Commands) -> None:
    conn.send_packed_command(foreign([command]) for command in commands)


def send_redis_pys_packer(conn: Any, commands: Commands) -> None:
    packer = redis.connection.PythonRespSerializer(6000, conn.encoder.encode)
    for command in commands:
        conn.send_packed_command(packer.pack(*command))


def foreign(commands: Commands) -> bytes:
    words = [[w if isinstance(w, bytes) else str(w).encode() for w in c] for c in commands]
    return b"".join(request(*(w for word in c[:1] for w in word.split()), *c[1:]) for c in words)


WAYS: list[Callable[[Any, Commands], None]] = [
    send_each,
    send_packed,
    send_packed_singly,
    send_bytes,
    send_list_of_bytes,
    send_split_bytes,
    send_views,
    send_generator,
    send_redis_pys_packer,
]
each_way = pytest.mark.parametrize("send", WAYS)
SMALL: Commands = [("SET", "key", "value"), ("GET", "key"), ("CONFIG GET", "port"), ("PING",)]
LARGE: Commands = [("SET", "key", b"x" * 70_000), ("ECHO", b"y" * 20_000), ("GET", "key")]


@each_way
@pytest.mark.parametrize("commands", [SMALL, LARGE], ids=["small", "large"])
def test_every_command_is_owed_one_reply(
    pool: Any, send: Callable[[Any, Commands], None], commands: Commands
) -> None:
    conn = pool.get_connection()
    send(conn, commands)
    assert conn._session.owed == len(commands)
    for left in reversed(range(len(commands))):
        assert not conn._session.clean
        conn.read_response()
        assert conn._session.owed == left
    assert conn._session.clean
    pool.release(conn)
    assert pool.get_connection()._sock is not None
    assert pool.stats().discarded == 0


@each_way
def test_a_connection_that_is_owed_a_reply_is_closed_at_its_return(
    pool: Any, send: Callable[[Any, Commands], None]
) -> None:
    conn = pool.get_connection()
    send(conn, SMALL)
    conn.read_response()
    pool.release(conn)
    assert conn._sock is None
    assert pool.stats().discarded == 1
    assert redis.Redis(connection_pool=pool).echo("mine") == b"mine"


def test_inline_commands_close_the_connection_at_its_return(pool: Any) -> None:
    """They have no header to be counted by."""
    conn = pool.get_connection()
    conn.send_packed_command(b"PING\r\n")
    assert conn.read_response() == b"PONG"
    pool.release(conn)
    assert redis.Redis(connection_pool=pool).echo("mine") == b"mine"


@pytest.mark.parametrize("tail", [b"*1\r\n$4\r\nPI", b"*2\r\n$4\r\nPING\r\n", b"$4\r\nPING\r\n"])
def test_bytes_that_are_no_whole_command_close_the_connection_at_its_return(
    pool: Any, tail: bytes
) -> None:
    conn = pool.get_connection()
    conn.send_packed_command(request(b"PING") + tail)
    assert conn.read_response() == b"PONG"
    pool.release(conn)
    assert conn._sock is None
    assert redis.Redis(connection_pool=pool).echo("mine") == b"mine"


def test_an_error_reply_is_a_reply(pool: Any) -> None:
    conn = pool.get_connection()
    conn.send_command("NO-SUCH-COMMAND")
    with pytest.raises(ResponseError):
        conn.read_response()
    assert conn._session.clean
    pool.release(conn)
    assert pool.stats().discarded == 0


def test_a_command_that_could_not_be_encoded_is_owed_nothing(pool: Any) -> None:
    conn = pool.get_connection()
    for arguments in [("SET", "key", None), ("SET", True), ("SET", b"x" * 20_000, object())]:
        with pytest.raises(DataError):
            conn.send_command(*arguments)
    assert conn._session.clean
    conn.send_command("ECHO", "mine")
    assert conn.read_response() == b"mine"
    pool.release(conn)


def test_a_reply_nobody_asked_for_closes_the_connection_at_its_return(pool: Any) -> None:
    conn = pool.get_connection()
    conn.send_command("PING")
    conn._session.owed = 0  # as if it had been forgotten
    assert conn.read_response() == b"PONG"
    pool.release(conn)
    assert conn._sock is None


def test_a_read_that_timed_out_leaves_the_reply_owed(pool: Any) -> None:
    conn = pool.get_connection()
    conn.send_command("BLPOP", "never", "0")
    with pytest.raises(redis.TimeoutError):
        conn.read_response(timeout=0.01, disconnect_on_error=False)
    assert conn._session.owed == 1
    pool.release(conn)
    assert conn._sock is None


def test_half_a_reply_closes_the_connection_at_its_return(pool: Any) -> None:
    client = redis.Redis(connection_pool=pool)
    client.set("large", b"x" * 3_000_000)
    conn = pool.get_connection()
    conn.send_command("GET", "large")
    assert conn.can_read(timeout=20)
    pool.release(conn)
    assert conn._sock is None
    assert client.echo("mine") == b"mine"


# What a command leaves behind


LEFT_OPEN: dict[str, Commands] = {
    "multi": [("MULTI",)],
    "multi-and-more": [("MULTI",), ("GET", "key")],
    "multi-unwatch": [("MULTI",), ("UNWATCH",)],
    "watch": [("WATCH", "key")],
    "watch-and-more": [("WATCH", "key"), ("GET", "key")],
    "watch-exec": [("WATCH", "key"), ("EXEC",)],
    "watch-discard": [("WATCH", "key"), ("DISCARD",)],
    "watch-again": [("WATCH", "key"), ("UNWATCH",), ("WATCH", "other")],
    "subscribe": [("SUBSCRIBE", "channel")],
    "psubscribe": [("PSUBSCRIBE", "ch*")],
    "subscribe-unsubscribe": [("SUBSCRIBE", "channel"), ("UNSUBSCRIBE", "channel")],
    "monitor": [("MONITOR",)],
    "reply-off": [("CLIENT", "REPLY", "OFF")],
    "reply-skip": [("CLIENT", "REPLY", "SKIP"), ("PING",)],
    "reply-words": [("CLIENT REPLY", "SKIP"), ("PING",)],
    "reply-on": [("CLIENT", "REPLY", "ON")],
    "reset": [("RESET",)],
    "lower-case": [("multi",)],
    "bytes": [(b"WATCH", b"key")],
}
CLEAN: dict[str, Commands] = {
    "transaction": [("MULTI",), ("GET", "key"), ("EXEC",)],
    "empty-transaction": [("MULTI",), ("EXEC",)],
    "discarded": [("MULTI",), ("GET", "key"), ("DISCARD",)],
    "watched": [("WATCH", "key"), ("MULTI",), ("EXEC",)],
    "watched-discarded": [("WATCH", "key"), ("MULTI",), ("DISCARD",)],
    "unwatched": [("WATCH", "key"), ("UNWATCH",)],
    "unwatch": [("UNWATCH",)],
    "exec": [("EXEC",)],
    "client": [("CLIENT", "ID"), ("CLIENT", "NO-EVICT", "OFF"), ("CLIENT GETNAME",)],
    "unknown": [("MULTIPLY",), ("WATCHDOG",), ("SUBSTR", "key", 0, 1), ("RESTORE",)],
    "scan": [("SCAN", 0), ("CONFIG", "GET", "port"), ("MEMORY", "USAGE", "key")],
    "publish": [("PUBLISH", "channel", "message"), ("PUBSUB", "CHANNELS")],
}


def replies_to(commands: Commands) -> int:
    """How many replies come for sure; a session that is open may give any number."""
    return 0 if any(b"REPLY" in str(c).encode() for c in commands) else len(commands)


def exchange(conn: Any, send: Callable[[Any, Commands], None], commands: Commands) -> None:
    send(conn, commands)
    for _ in range(replies_to(commands)):
        try:
            conn.read_response(push_request=True)
        except ResponseError:
            pass


@each_way
@pytest.mark.parametrize("commands", LEFT_OPEN.values(), ids=LEFT_OPEN)
def test_a_session_left_open_is_closed_at_its_return(
    pool: Any, send: Callable[[Any, Commands], None], commands: Commands
) -> None:
    conn = pool.get_connection()
    exchange(conn, send, commands)
    pool.release(conn)
    assert conn._sock is None
    client = redis.Redis(connection_pool=pool)
    assert client.echo("mine") == b"mine"
    assert client.pipeline().set("key", 1).execute() == [True]


@each_way
@pytest.mark.parametrize("commands", CLEAN.values(), ids=CLEAN)
def test_a_session_that_was_ended_stays_connected(
    pool: Any, send: Callable[[Any, Commands], None], commands: Commands
) -> None:
    conn = pool.get_connection()
    sock = conn._sock
    exchange(conn, send, commands)
    assert conn._session.clean
    pool.release(conn)
    assert pool.get_connection()._sock is sock
    assert pool.stats().discarded == pool.stats().replaced == 0


def bytes_like_kinds() -> list[type]:
    """The kinds that this redis-py's encoder takes."""
    encoder = redis.connection.Encoder("utf-8", "strict", False)
    try:
        encoder.encode(bytearray(b"x"))
    except DataError:
        return [memoryview]
    return [bytearray, memoryview]


@pytest.mark.parametrize("kind", bytes_like_kinds())
def test_names_that_are_bytes_like_are_known_too(pool: Any, kind: Any) -> None:
    for words in ([b"MULTI"], [b"WATCH", b"key"], [b"CLIENT", b"REPLY", b"ON"]):
        for pack in (Connection.pack_command, pack_as_many):
            conn = pool.get_connection()
            conn.send_packed_command(pack(conn, *map(kind, words)))
            assert conn.read_response() == b"OK"
            pool.release(conn)
            assert conn._sock is None
            assert redis.Redis(connection_pool=pool).echo("mine") == b"mine"


def pack_as_many(conn: Any, *words: Any) -> Any:
    return conn.pack_commands([words])


@pytest.mark.parametrize(
    "commands",
    [
        [("MULTI",), ("DISCARD",)],
        [("MULTI",), ("DISCARD", "too", "many")],
        [("WATCH", "key"), ("UNWATCH",)],
        [("WATCH", "key"), ("UNWATCH", "too", "many")],
    ],
    ids=["discard", "discard-arity", "unwatch", "unwatch-arity"],
)
def test_a_session_that_the_server_refused_to_end_is_closed_at_its_return(
    start_server: StartServer, commands: Commands
) -> None:
    server = start_server(config="user few on >secret ~* &* +@all -discard -unwatch\n")
    pool = cpool.ConnectionPool(
        host=server.host, port=server.port, username="few", password="secret"
    )
    conn = pool.get_connection()
    for command in commands:
        conn.send_command(*command)
    conn.read_response()
    with pytest.raises((NoPermissionError, ResponseError)):
        conn.read_response()
    pool.release(conn)
    client = redis.Redis(connection_pool=pool)
    assert client.echo("mine") == b"mine"
    pool.disconnect()


def test_an_exec_that_the_server_refused_has_ended_the_transaction(
    start_server: StartServer,
) -> None:
    server = start_server(config="user few on >secret ~* &* +@all -exec\n")
    pool = cpool.ConnectionPool(
        host=server.host, port=server.port, username="few", password="secret"
    )
    client = redis.Redis(connection_pool=pool)
    with pytest.raises(redis.RedisError):
        client.pipeline().set("key", 1).execute()
    assert client.echo("mine") == b"mine"
    pool.disconnect()


def test_an_aborted_transaction_leaves_the_connection_clean(pool: Any) -> None:
    client = redis.Redis(connection_pool=pool)
    with pytest.raises(redis.exceptions.ExecAbortError):
        conn = pool.get_connection()
        for command in [("MULTI",), ("NO-SUCH-COMMAND",), ("EXEC",)]:
            conn.send_command(*command)
        conn.read_response()
        with pytest.raises(ResponseError):
            conn.read_response()
        conn.read_response()
    assert conn._session.clean
    pool.release(conn)
    assert client.echo("mine") == b"mine"


@pytest.mark.parametrize("kind", KINDS)
def test_the_ledger_is_kept_for_every_kind_of_socket(
    kind: str, request: pytest.FixtureRequest
) -> None:
    names = {"unix": "unix_server", "tls": "tls_server"}
    url = request.getfixturevalue(names.get(kind, "redis_server")).url
    options = {"connection_class": by_methods(cpool.Connection)} if kind == "methods" else {}
    with cpool.ConnectionPool.from_url(url, **options) as pool:
        conn = pool.get_connection()
        conn.send_command("PING")
        assert conn._session.owed == 1
        pool.release(conn)
        assert conn._sock is None
        conn = pool.get_connection()
        conn.send_command("MULTI")
        conn.read_response()
        pool.release(conn)
        assert conn._sock is None
        assert redis.Redis(connection_pool=pool).echo("mine") == b"mine"


@pytest.mark.parametrize("name", ["", "  ", b" "])
def test_a_command_of_no_words_is_owed_no_reply(pool: Any, name: Any) -> None:
    """A server takes no notice of it."""
    conn = pool.get_connection()
    conn.send_command(name)
    assert conn._session.owed == 0
    conn.send_command("ECHO", "x")
    assert conn.read_response() == b"x"
    pool.release(conn)


def test_a_reply_that_could_not_be_decoded_is_owed_no_more(redis_server: EmbeddedServer) -> None:
    conn = Connection(
        host=redis_server.host, port=redis_server.port, decode_responses=True, protocol=3
    )
    conn.connect()
    for command in (["ECHO", b"\xff"], ["EVAL", "return {1, ARGV[1]}", 0, b"\xff"]):
        conn.send_command(*command)
        with pytest.raises(UnicodeDecodeError):
            conn.read_response(disconnect_on_error=False)
        assert conn._session.owed == 0
        conn.send_command("ECHO", "next")
        assert conn.read_response() == "next"
    assert conn._session.clean
    conn.disconnect()
