"""A deadline while something is sent or received: whatever the command, the path, the server."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis

import cpool
from cpool.tools.servers import EmbeddedServer
from tests.deadlines.conftest import (
    SHORT_S,
    MakeClient,
    Serve,
    Struck,
    is_as_new,
    open_connections,
)
from tests.deadlines.slowserver import Silent, SlowServer, drip, flood, stall

LONG_S = 100.0
# More than the socket buffers of both sides.
LARGE = b"x" * (32 << 20)


def opened(server: SlowServer, make_client: MakeClient, **options: Any) -> redis.Redis:
    """Make a client that has a connection already."""
    return open_connections(make_client(server.pool(**options)))


def test_a_stalled_server(serve: Serve, make_client: MakeClient, struck: Struck) -> None:
    client = opened(serve(stall), make_client)
    error = struck(lambda: client.get("key"))
    assert (error.phase, error.bytes_received) == ("reading", 0)
    assert error.reading_s > 0 and error.writing_s > 0
    assert error.dialling_s == error.waiting_s == error.sleeping_s == 0
    assert is_as_new(client)


def test_a_server_that_drips(serve: Serve, make_client: MakeClient, struck: Struck) -> None:
    client = opened(serve(drip(0.001)), make_client, socket_timeout=LONG_S)
    error = struck(lambda: client.get("key"), 3 * SHORT_S)
    assert error.phase == "reading"
    assert error.bytes_received > 0
    assert is_as_new(client)


def test_a_server_that_never_stops_sending(
    serve: Serve, make_client: MakeClient, struck: Struck
) -> None:
    client = opened(serve(flood), make_client)
    error = struck(lambda: client.get("key"), 3 * SHORT_S)
    assert error.phase == "reading"
    assert error.bytes_received > 65536
    assert is_as_new(client)


def test_a_server_that_takes_nothing(
    silent: Silent, make_client: MakeClient, struck: Struck
) -> None:
    """Neither by a command of a large value nor by a pipeline of many."""
    if silent.transport == "tls":
        pytest.skip("nothing can be sent before the TLS handshake")
    pool = silent.pool(protocol=2, redis_connect_func=lambda conn: None)
    client = open_connections(make_client(pool))
    error = struck(lambda: client.set("key", LARGE))
    assert error.phase == "writing"
    assert error.writing_s > 0 and error.reading_s == 0
    pipe = client.pipeline(transaction=False)
    for _ in range(8):
        pipe.set("key", LARGE[: 4 << 20])
    open_connections(client)
    error = struck(pipe.execute)
    assert error.phase == "writing"
    assert error.writing_s > 0
    assert is_as_new(client)


@pytest.mark.parametrize("transport", ["tls"], indirect=True)
def test_a_tls_server_that_takes_nothing(
    serve: Serve, make_client: MakeClient, struck: Struck
) -> None:
    client = opened(serve(stall), make_client)
    client.connection_pool.max_connections = 1
    conn = client.connection_pool.get_connection()
    conn.send_command("GET", "key")  # from here on nothing is read
    error = struck(lambda: conn.send_command("SET", "key", LARGE))
    assert error.phase == "writing"
    assert conn._sock is None
    client.connection_pool.release(conn)
    assert is_as_new(client)


@pytest.mark.parametrize("transaction", [False, True])
def test_pipelines_and_transactions(
    serve: Serve, make_client: MakeClient, struck: Struck, transaction: bool
) -> None:
    client = opened(serve(stall), make_client)
    pipe = client.pipeline(transaction=transaction)
    for i in range(10):
        pipe.set(f"key:{i}", "value").get(f"key:{i}")
    error = struck(pipe.execute)
    assert error.phase == "reading"
    assert error.reading_s > 0
    assert is_as_new(client)


def test_a_pipeline_whose_replies_drip(
    serve: Serve, make_client: MakeClient, struck: Struck
) -> None:
    client = opened(serve(drip(0.001)), make_client)
    error = struck(
        client.pipeline(transaction=False).set("key", 1).get("key").execute, 3 * SHORT_S
    )
    assert error.phase == "reading"
    assert error.bytes_received > 0
    assert is_as_new(client)


def test_a_pipeline_whose_replies_never_stop(
    serve: Serve, make_client: MakeClient, struck: Struck
) -> None:
    client = opened(serve(flood), make_client)
    error = struck(client.pipeline(transaction=False).get("key").execute)
    assert error.phase == "reading"
    assert is_as_new(client)


@pytest.mark.parametrize(
    "command",
    [
        lambda client: client.blpop(["none"], 0),
        lambda client: client.execute_command("BLPOP", "none", 0),
        lambda client: client.xread({"none": "$"}, block=0),
        lambda client: client.wait(10, 0),
    ],
    ids=["blpop", "execute_command", "xread", "wait"],
)
def test_commands_that_wait_for_ever(
    client: redis.Redis, struck: Struck, command: Callable[[redis.Redis], Any]
) -> None:
    error = struck(lambda: command(client))
    assert (error.phase, error.bytes_received) == ("reading", 0)
    assert is_as_new(client)
    assert client.ping()


def test_a_reply_that_comes_too_late_is_nobodys(client: redis.Redis, struck: Struck) -> None:
    struck(lambda: client.blpop(["list"], 0))
    client.rpush("list", "late")
    assert client.echo("own") == b"own"


def test_what_takes_less_is_as_ever(client: redis.Redis) -> None:
    value = b"v" * (1 << 20)
    with cpool.deadline(LONG_S) as deadline:
        assert client.set("key", value)
        assert client.get("key") == value
        assert client.pipeline().get("key").ping().execute() == [value, True]
        assert client.pipeline(transaction=False).get("key").ping().execute() == [value, True]
        assert 0 < deadline.remaining_s < LONG_S


def test_listening(client: redis.Redis, struck: Struck) -> None:
    """The subscriptions stay: no reply is owed."""
    with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe("channel")
        assert struck(lambda: next(pubsub.listen())).phase == "reading"
        client.publish("channel", "news")
        assert next(pubsub.listen())["data"] == b"news"


@pytest.mark.parametrize("timeout_s", [None, LONG_S])
def test_getting_a_message(client: redis.Redis, struck: Struck, timeout_s: float | None) -> None:
    with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe("channel")
        pubsub.get_message(timeout=LONG_S)
        assert struck(lambda: pubsub.get_message(timeout=timeout_s)).phase == "reading"
        client.publish("channel", "news")
        assert pubsub.get_message(timeout=LONG_S)["data"] == b"news"


def test_asking_for_messages_again_and_again_ends(client: redis.Redis, struck: Struck) -> None:
    with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe("channel")

        def poll() -> None:
            while True:
                pubsub.get_message()

        struck(poll)


def test_monitoring(client: redis.Redis, struck: Struck) -> None:
    with client.monitor() as monitor:
        assert struck(monitor.next_command).phase == "reading"
    assert is_as_new(client)


def test_health_checks(serve: Serve, make_client: MakeClient, struck: Struck) -> None:
    client = opened(serve(stall), make_client)
    conn = client.connection_pool.get_connection()
    conn.health_check_interval, conn.next_health_check = 1, -LONG_S
    client.connection_pool.release(conn)
    assert struck(lambda: client.get("key")).phase == "reading"
    assert is_as_new(client)


@pytest.mark.parametrize("seconds", [0, 0.0])
def test_a_command_after_the_deadline_is_not_begun(
    client: redis.Redis, struck: Struck, seconds: float
) -> None:
    before = client.connection_pool.stats().checkouts
    error = struck(lambda: client.set("key", 1), seconds)
    assert error.phase == "before it began"
    assert client.connection_pool.stats().checkouts == before
    assert not client.exists("key")


def test_a_connection_of_ones_own_is_not_sent_to_after_the_deadline(
    client: redis.Redis, struck: Struck
) -> None:
    conn = client.connection_pool.get_connection()
    for send in (
        lambda: conn.send_command("SET", "key", 1),
        lambda: conn.send_packed_command(conn.pack_command("SET", "key", 1)),
    ):
        assert struck(send, 0).phase == "before it began"
    assert conn._session.clean
    client.connection_pool.release(conn)
    assert not client.exists("key")


def test_a_reply_that_is_there_is_taken_after_the_deadline(client: redis.Redis) -> None:
    conn = client.connection_pool.get_connection()
    conn.send_command("PING")
    assert conn.can_read(timeout=LONG_S)
    with cpool.deadline(0):
        assert conn.read_response() == b"PONG"
    client.connection_pool.release(conn)


def no_unwatch(sock: Any, words: Any, stop: threading.Event) -> None:
    """Answer all but an UNWATCH."""
    stall(sock, words, stop) if words[0] == b"UNWATCH" else sock.sendall(b"+OK\r\n")


def test_a_connection_that_watches_is_returned_after_the_deadline(
    serve: Serve, make_client: MakeClient, struck: Struck
) -> None:
    """redis-py's reset() sends an UNWATCH first: what that raises must not keep the slot."""
    client = opened(serve(no_unwatch), make_client)

    def watch() -> None:
        with client.pipeline() as pipe:
            pipe.watch("key")
            while True:
                pipe.get("key")

    struck(watch)
    assert is_as_new(client)


def test_a_watch_whose_end_is_not_answered_is_ended_by_closing(
    serve: Serve, make_client: MakeClient
) -> None:
    client = opened(serve(no_unwatch), make_client)
    with cpool.deadline(SHORT_S) as deadline, client.pipeline() as pipe:
        pipe.watch("key")
    assert deadline.remaining_s == 0
    assert is_as_new(client)


def test_ending_a_watch_oneself_tells_that_the_watch_is_lost(
    serve: Serve, make_client: MakeClient, struck: Struck
) -> None:
    """As redis-py tells of every connection lost while watching; trying again ends."""
    client = opened(serve(no_unwatch), make_client)

    def watch_again_and_again() -> None:
        with client.pipeline() as pipe:
            while True:
                with contextlib.suppress(redis.WatchError):
                    pipe.watch("key")
                    pipe.unwatch()

    struck(watch_again_and_again)
    assert is_as_new(client)


def test_a_method_that_somebody_watches_is_bounded_too(
    serve: Serve, make_client: MakeClient, struck: Struck, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes through redis-py's own sending."""
    theirs = cpool.Connection.send_packed_command
    seen: list[Any] = []

    def watched(self: Any, command: Any, check_health: bool = True) -> Any:
        seen.append(command)
        return theirs(self, command, check_health)

    server = serve(stall)
    monkeypatch.setattr(cpool.Connection, "send_packed_command", watched)
    monkeypatch.setattr(cpool.UnixDomainSocketConnection, "send_packed_command", watched)
    client = opened(server, make_client)
    assert struck(lambda: client.get("key")).phase == "reading"
    open_connections(client)
    assert struck(lambda: client.set("key", LARGE)).phase in ("writing", "reading")
    assert seen
    assert is_as_new(client)


def test_redis_pys_own_parser_is_bounded_too(
    serve: Serve, make_client: MakeClient, struck: Struck
) -> None:
    client = opened(serve(stall), make_client)
    conn = client.connection_pool.get_connection()
    assert conn._parser._buffer is not None  # the compiled session ends here
    conn.send_command("GET", "key")
    assert struck(conn.read_response).phase == "reading"
    client.connection_pool.release(conn)
    assert is_as_new(client)


@pytest.mark.skipif(not hasattr(BaseException, "add_note"), reason="notes came with Python 3.11")
def test_a_timeout_without_a_deadline_notes_how_far_the_reply_was(
    serve: Serve, make_client: MakeClient
) -> None:
    client = opened(serve(stall), make_client)
    (conn,) = client.connection_pool._idle()
    conn._sock.settimeout(0.03)
    with pytest.raises(redis.TimeoutError) as caught:
        client.get("key")
    assert caught.value.__notes__ == ["0 bytes of the reply had come"]


def test_a_signals_handler_runs_and_the_rest_of_the_time_is_waited(
    redis_server: EmbeddedServer, client: redis.Redis, struck: Struck
) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: seen.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
    try:
        assert struck(lambda: client.blpop(["none"], 0)).phase == "reading"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(seen) > 1
    assert is_as_new(client)


def test_a_signals_handler_may_end_the_wait(client: redis.Redis) -> None:
    def stop(*_: object) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    try:
        with pytest.raises((InterruptedError, redis.ConnectionError)), cpool.deadline(LONG_S):
            client.blpop(["none"], 0)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert is_as_new(client)
