"""Pub/sub on our connections: as on redis-py's, under both protocols, decoded and not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.cache import CacheConfig
from redis.retry import Retry

import cpool
from cpool.tools.servers import EmbeddedServer
from tests.support.faultproxy import FaultProxy
from tests.wire.peer import HAS_READ_TIMEOUT, Task, by_methods, wait_for

BOUND_S = 20.0


@pytest.fixture
def pubsub(client: redis.Redis) -> Iterator[Any]:
    """Give a PubSub of the client."""
    made = client.pubsub()
    yield made
    made.close()


def next_message(pubsub: Any, kind: str | None = None) -> Any:
    """Wait for the next message, of that kind if told."""
    give_up_s = time.monotonic() + BOUND_S
    while time.monotonic() < give_up_s:
        message = pubsub.get_message(timeout=0.5)
        if message is not None and kind in (None, message["type"]):
            return message
    raise TimeoutError(f"no message of kind {kind}")


def message(text: Any, channel: str, data: Any, kind: str = "message", pattern: Any = None) -> Any:
    return {
        "type": kind,
        "pattern": None if pattern is None else text(pattern),
        "channel": text(channel),
        "data": text(data) if isinstance(data, str) else data,
    }


def test_messages_come_as_they_were_published(client: redis.Redis, pubsub: Any, text: Any) -> None:
    pubsub.subscribe("one", "two")
    assert next_message(pubsub) == message(text, "one", 1, "subscribe")
    assert next_message(pubsub) == message(text, "two", 2, "subscribe")
    for i in range(50):
        assert client.publish("one", f"{i}") == 1
        assert client.publish("two", f"large {i}" * 4000) == 1
    for i in range(50):
        assert next_message(pubsub) == message(text, "one", f"{i}")
        assert next_message(pubsub) == message(text, "two", f"large {i}" * 4000)
    pubsub.unsubscribe("one")
    assert next_message(pubsub) == message(text, "one", 1, "unsubscribe")


def test_patterns_match(client: redis.Redis, pubsub: Any, text: Any) -> None:
    pubsub.psubscribe("ch*")
    assert next_message(pubsub)["type"] == "psubscribe"
    client.publish("channel", "text")
    assert next_message(pubsub) == message(text, "channel", "text", "pmessage", "ch*")


def test_handlers_are_called_with_messages(client: redis.Redis, pubsub: Any, text: Any) -> None:
    seen: list[Any] = []
    pubsub.subscribe(**{"channel": seen.append})
    pubsub.get_message(timeout=BOUND_S)
    client.publish("channel", "text")
    wait_for(lambda: pubsub.get_message(timeout=0.1) is None and seen, "the handler is called")
    assert seen == [message(text, "channel", "text")]


def test_no_message_is_none(pubsub: Any) -> None:
    pubsub.subscribe("channel")
    assert next_message(pubsub)["type"] == "subscribe"
    for timeout_s in (0, 0.0, 0.01):
        assert pubsub.get_message(timeout=timeout_s) is None


@pytest.mark.skipif(not HAS_READ_TIMEOUT, reason="since redis-py 8.0")
def test_a_message_without_timeout_outlives_the_sockets(
    redis_server: EmbeddedServer, library: Any, protocol: int
) -> None:
    address = {"host": redis_server.host, "port": redis_server.port, "protocol": protocol}
    pool = library.ConnectionPool(socket_timeout=0.05, **address)
    client = redis.Redis(connection_pool=pool)
    pubsub = client.pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe("channel")
    waiting = Task(lambda: next(iter(pubsub.listen())))
    waiting.wait_blocked()
    time.sleep(0.15)
    with redis.Redis(**address) as other:
        wait_for(lambda: other.publish("channel", "late"), "somebody listens")
    assert waiting.result()["data"] == b"late"
    pubsub.close()
    pool.disconnect()


def test_listening_and_subscribing_may_be_done_by_two_threads(
    client: redis.Redis, pubsub: Any, text: Any
) -> None:
    pubsub.subscribe("stop")
    got: list[Any] = []

    def listen() -> None:
        for item in pubsub.listen():
            got.append(item)
            if item["type"] == "message" and item["channel"] == text("stop"):
                return

    listening = Task(listen)
    listening.wait_blocked()
    for i in range(20):
        pubsub.subscribe(f"channel:{i}")
        wait_for(lambda i=i: client.publish(f"channel:{i}", i), "the channel is subscribed to")
    client.publish("stop", "now")
    listening.result()
    data = [item["data"] for item in got if item["type"] == "message"]
    assert data == [*(text(str(i)) for i in range(20)), text("now")]


def test_a_listening_thread_of_redis_py_can_be_stopped(
    client: redis.Redis, pubsub: Any, text: Any
) -> None:
    seen: list[Any] = []
    pubsub.subscribe(**{"channel": seen.append})
    thread = pubsub.run_in_thread(sleep_time=0.01, daemon=True)
    client.publish("channel", "one")
    wait_for(lambda: len(seen) == 1, "the first message")
    pubsub.subscribe(**{"other": seen.append})
    wait_for(lambda: client.publish("other", "two"), "the channel is subscribed to")
    wait_for(lambda: len(seen) == 2, "the second message")
    thread.stop()
    thread.join(BOUND_S)
    assert not thread.is_alive()


def test_a_pubsub_returns_its_connection_when_it_is_closed(client: redis.Redis) -> None:
    for _ in range(3):
        with client.pubsub() as pubsub:
            pubsub.subscribe("channel")
            next_message(pubsub)
    assert len(client.connection_pool._in_use_connections) == 0
    assert client.echo("mine") in (b"mine", "mine")
    wait_for(lambda: client.pubsub_numsub("channel")[0][1] == 0, "nobody is subscribed")


def test_many_pubsubs_get_their_own_messages(client: redis.Redis, text: Any) -> None:
    pubsubs = [client.pubsub(ignore_subscribe_messages=True) for _ in range(5)]
    for i, pubsub in enumerate(pubsubs):
        pubsub.subscribe(f"channel:{i}")
    for i in range(5):
        wait_for(lambda i=i: client.publish(f"channel:{i}", i), "somebody listens")
    for i, pubsub in enumerate(pubsubs):
        assert next_message(pubsub)["data"] == text(str(i))
        pubsub.close()


# Through a proxy: partial messages, lost connections


CONNECTIONS: dict[str, Callable[[], Any]] = {
    # before 8.0 it may wait for ever for a message that was lost with its connection
    **({"redis-py": lambda: redis.connection.Connection} if HAS_READ_TIMEOUT else {}),
    "fd": lambda: cpool.Connection,
    "methods": lambda: by_methods(cpool.Connection),
}


@pytest.fixture
def proxy(redis_server: EmbeddedServer) -> Iterator[FaultProxy]:
    """Give a proxy in front of a real server."""
    with FaultProxy((redis_server.host, redis_server.port)) as running:
        yield running


@pytest.fixture
def publisher(redis_server: EmbeddedServer) -> Iterator[redis.Redis]:
    """Give a client that does not go through the proxy."""
    with redis.Redis(host=redis_server.host, port=redis_server.port) as made:
        yield made


@pytest.fixture(params=CONNECTIONS.values(), ids=CONNECTIONS)
def listener(request: pytest.FixtureRequest, proxy: FaultProxy, protocol: int) -> Iterator[Any]:
    """Give a PubSub through the proxy."""
    connection_class = request.param()
    library = redis if connection_class is redis.connection.Connection else cpool
    pool = library.ConnectionPool(
        host=proxy.host,
        port=proxy.port,
        protocol=protocol,
        connection_class=connection_class,
        retry=Retry(NoBackoff(), 3),
    )
    pubsub = redis.Redis(connection_pool=pool).pubsub(ignore_subscribe_messages=True)
    yield pubsub
    pubsub.close()
    pool.disconnect()


def publish(publisher: redis.Redis, data: Any) -> None:
    wait_for(lambda: publisher.publish("channel", data), "somebody listens")


@pytest.mark.skipif(not HAS_READ_TIMEOUT, reason="it waits for the rest before redis-py 8.0")
def test_half_a_message_is_no_message_yet(
    listener: Any, proxy: FaultProxy, publisher: redis.Redis
) -> None:
    """As long as nothing takes the timeout for a failure of the connection."""
    listener.subscribe("channel")
    listener.connection.retry = Retry(NoBackoff(), 0, ())
    publish(publisher, "first")
    assert next_message(listener)["data"] == b"first"
    for data in (b"short", b"x" * 100_000):
        for held_back in (1, 3, len(data) // 2, len(data) + 2):
            before = proxy.replies.n_bytes
            proxy.replies.stall()
            publish(publisher, data)
            proxy.wait_until(lambda before=before, d=data: proxy.replies.n_bytes > before + len(d))
            proxy.replies.stall(after_bytes=proxy.replies.held_bytes - held_back)
            with_nothing = [poll(listener) for _ in range(3)]
            proxy.replies.release()
            assert with_nothing == [None] * 3
            assert next_message(listener)["data"] == data


def poll(pubsub: Any) -> Any:
    """Look for a message; half a one is a timeout."""
    try:
        return pubsub.get_message(timeout=0.02)
    except redis.TimeoutError:
        return None


def test_a_lost_connection_is_made_again_with_its_subscriptions(
    listener: Any, proxy: FaultProxy, publisher: redis.Redis
) -> None:
    listener.subscribe("channel")
    listener.psubscribe("pattern*")
    for i, end in enumerate((proxy.close_connections, proxy.reset_connections)):
        publish(publisher, f"{i}")
        assert next_message(listener)["data"] == b"%d" % i
        end()
        waiting = Task(next_message, listener)
        wait_for(lambda i=i: publisher.publish("pattern:1", f"again {i}"), "it listens again")
        assert waiting.result()["data"] == b"again %d" % i


def test_a_connection_lost_while_listening_is_made_again(
    listener: Any, proxy: FaultProxy, publisher: redis.Redis
) -> None:
    listener.subscribe("channel")
    publish(publisher, "before")
    assert next_message(listener)["data"] == b"before"
    waiting = Task(lambda: next(iter(listener.listen())))
    waiting.wait_blocked()
    proxy.reset_connections()
    publish(publisher, "after")
    assert waiting.result()["data"] == b"after"


def test_a_health_check_of_a_quiet_pubsub_is_no_message(
    redis_server: EmbeddedServer, library: Any, protocol: int
) -> None:
    pool = library.ConnectionPool(
        host=redis_server.host, port=redis_server.port, protocol=protocol, health_check_interval=1
    )
    client = redis.Redis(connection_pool=pool)
    pubsub = client.pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe("channel")
    pubsub.get_message(timeout=BOUND_S)
    for _ in range(3):
        pubsub.connection.next_health_check = 0
        assert pubsub.get_message(timeout=0.05) is None
    client.publish("channel", "text")
    assert next_message(pubsub)["data"] == b"text"
    assert pubsub.connection.next_health_check > time.monotonic()
    pubsub.close()
    pool.disconnect()


def test_a_pubsub_of_a_caching_pool_works(
    redis_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """redis-py's own raises AttributeError."""
    # redis-py refuses servers before 7.4, though 6 can do all this needs.
    monkeypatch.setattr(
        redis.connection.CacheProxyConnection, "connect", lambda self: self._conn.connect()
    )

    pool = cpool.ConnectionPool(
        host=redis_server.host, port=redis_server.port, protocol=3, cache_config=CacheConfig()
    )
    client = redis.Redis(connection_pool=pool)
    pubsub = client.pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe("channel")
    wait_for(lambda: client.publish("channel", "text"), "somebody listens")
    assert next_message(pubsub)["data"] == b"text"
    with client.monitor() as monitor:
        client.set("key", 1)
        assert monitor.next_command()
    pubsub.close()
    pool.disconnect()
