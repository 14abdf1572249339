"""The safe policy where it is easily overlooked: who reads, who closes, who retries, what an
error tells."""

from __future__ import annotations

import contextlib
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, ConnectionError, TimeoutError
from redis.retry import Retry

import cpool
from cpool import IndeterminateResultError
from cpool.tools.servers import EmbeddedServer
from tests.client.support import HAS_RECONNECT, asked
from tests.connection.fakeserver import CLOSE, FakeServer
from tests.pool.support import StubConnection
from tests.replay import tables
from tests.replay.support import CLIENTS, no_wait
from tests.support.faultproxy import FaultProxy

LOADING = b"-LOADING Redis is loading the dataset in memory\r\n"
POOLS = (cpool.ConnectionPool, cpool.BlockingConnectionPool)


def packed(*words: bytes) -> bytes:
    """Pack words as a reply, or as a command."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


def encoded(value: Any) -> bytes:
    """Return a table of commands as a server sends it."""
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, bytes):
        return b"+%s\r\n" % value
    return b"*%d\r\n" % len(value) + b"".join(map(encoded, value))


TABLE = encoded(tables.read("redis-7.0.15"))


class Turns:
    """Replies in turn, the last one for ever."""

    def __init__(self, *replies: bytes | None) -> None:
        self.replies = list(replies)

    def __call__(self, words: Any) -> bytes | None:
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


@contextlib.contextmanager
def fake(**replies: Any) -> Iterator[FakeServer]:
    """Give a fake server that knows its commands."""
    with FakeServer({"COMMAND": TABLE, "MULTI": b"+OK\r\n", **replies}) as server:
        yield server


@pytest.fixture(params=CLIENTS)
def client_on(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Give a function that makes each kind of client, under the safe policy."""
    with contextlib.ExitStack() as stack:

        def make(server: Any, **options: Any) -> Any:
            given = {"port": server.port, "retry": no_wait(), "retry_policy": "safe", **options}
            return stack.enter_context(CLIENTS[request.param](**given))

        yield make


@pytest.fixture
def proxy(fresh_db: EmbeddedServer) -> Iterator[FaultProxy]:
    """Give a proxy before an empty server."""
    with FaultProxy((fresh_db.host, fresh_db.port)) as proxy:
        yield proxy


def pool_on(server: Any, **options: Any) -> cpool.ConnectionPool:
    given = {"port": server.port, "retry": no_wait(), "retry_policy": "safe", **options}
    return cpool.ConnectionPool(**given)


def be_impatient(connection: Any) -> None:
    """Let a connection wait for next to nothing, now that it is open."""
    connection._sock.settimeout(0.01)


# The option


@pytest.mark.parametrize("pool_class", POOLS)
def test_the_policy_can_be_read_and_stand_in_a_url(pool_class: Any) -> None:
    assert pool_class().retry_policy == "redis-py"
    assert pool_class(retry_policy="safe").retry_policy == "safe"
    assert pool_class.from_url("redis://h?retry_policy=safe").retry_policy == "safe"
    with pytest.raises(ValueError, match='"retry_policy" must be one of redis-py, safe'):
        pool_class.from_url("redis://h?retry_policy=sage")


def test_a_client_takes_the_policy_for_its_pool() -> None:
    for client in (
        cpool.Redis(retry_policy="safe"),
        cpool.Redis.from_url("redis://h?retry_policy=safe"),
    ):
        assert client.connection_pool.retry_policy == "safe"


def test_connections_of_others_cant_follow_the_policy() -> None:
    with pytest.raises(ValueError, match='"retry_policy".*StubConnection'):
        cpool.ConnectionPool(StubConnection, retry_policy="safe")
    pool = cpool.ConnectionPool(lambda **_: StubConnection(), retry_policy="safe")  # type: ignore
    with pytest.raises(ValueError, match='"retry_policy".*StubConnection'):
        pool.get_connection()
    assert pool.stats().open == pool.stats().opening == 0


def test_parsers_of_others_cant_follow_the_policy(fresh_db: EmbeddedServer) -> None:
    class Foreign(redis._parsers._RESP3Parser):
        pass

    with pytest.raises(ValueError, match='"retry_policy".*parser'):
        pool_on(fresh_db, parser_class=Foreign).get_connection()


def test_a_connection_that_a_subclass_makes_itself_follows_the_policy(
    proxy: FaultProxy,
) -> None:
    class Making(cpool.ConnectionPool):
        def make_connection(self) -> Any:
            return self.connection_class(**self.connection_kwargs)

    client = redis.Redis.from_pool(Making(port=proxy.port, retry_policy="safe"))
    client.ping()
    proxy.replies.cut_after(0)
    with pytest.raises(IndeterminateResultError):
        client.incr("n")
    client.connection_pool.disconnect()


# The error


def test_the_error_tells_what_was_sent_and_what_had_come(client_on: Any, proxy: Any) -> None:
    client = client_on(proxy)
    client.ping()
    sent = proxy.requests.n_bytes
    proxy.replies.cut_after(2)
    with pytest.raises(IndeterminateResultError) as caught:
        client.execute_command("INCR", "secret")
    error = caught.value
    assert error.commands == ("INCR",) and error.n_commands == 1
    assert error.sent_bytes == proxy.requests.n_bytes - sent == 26
    assert error.received_bytes == 2
    assert str(error) == (
        "INCR may have been executed: 26 bytes were sent, 2 bytes of its reply had come"
    )
    assert type(error.__cause__) is ConnectionError
    assert not isinstance(error, (ConnectionError, TimeoutError))


def test_the_error_of_many_names_a_few(client_on: Any, proxy: Any) -> None:
    pipe = client_on(proxy).pipeline(transaction=False)
    pipe.ping().execute()
    proxy.replies.cut_after(1)
    for number in range(100):
        pipe.set(f"secret:{number}", "secret", nx=True)
    with pytest.raises(IndeterminateResultError) as caught:
        pipe.execute()
    assert caught.value.commands == ("SET",) * 5 and caught.value.n_commands == 100
    text = str(caught.value)
    assert text.startswith("100 commands (SET, SET, SET, SET, SET, ...) may have been executed: ")
    assert text.endswith(" 1 bytes of their replies had come") and "secret" not in text


def test_the_error_survives_pickling(proxy: FaultProxy) -> None:
    client = cpool.Redis.from_pool(pool_on(proxy))
    client.ping()
    proxy.replies.cut_after(0)
    with pytest.raises(IndeterminateResultError) as caught:
        client.incr("n")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value)
    for name in ("commands", "n_commands", "sent_bytes", "received_bytes"):
        assert getattr(copy, name) == getattr(caught.value, name)
    client.connection_pool.disconnect()


def test_a_timeout_is_told_like_a_break(client_on: Any, proxy: Any) -> None:
    client = client_on(proxy)
    client.ping()
    be_impatient(client.connection_pool._available_connections[0])
    proxy.replies.stall()
    with pytest.raises(IndeterminateResultError) as caught:
        client.incr("n")
    proxy.replies.release()
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert client.get("n") == b"1"


def test_a_malformed_reply_leaves_the_outcome_unknown(client_on: Any) -> None:
    with fake(INCRBY=b"?\r\n") as server, pytest.raises(IndeterminateResultError) as caught:
        client_on(server).incr("n")
    assert type(caught.value.__cause__).__name__ == "InvalidResponse"


# What is retried


def test_a_command_that_was_refused_is_tried_again(client_on: Any) -> None:
    with fake(INCRBY=Turns(LOADING, LOADING, b":1\r\n")) as server:
        assert client_on(server).incr("n") == 1
        assert asked(server, "INCRBY") == 3


def test_of_a_batch_that_was_refused_half_way_nothing_is_tried_again(client_on: Any) -> None:
    with fake(INCRBY=Turns(b":1\r\n"), SETNX=LOADING) as server:
        pipe = client_on(server).pipeline(transaction=False)
        with pytest.raises(IndeterminateResultError) as caught:
            pipe.incr("n").setnx("k", "v").execute()
        assert asked(server, "INCRBY") == 1
    assert type(caught.value.__cause__).__name__ == "BusyLoadingError"


def test_the_first_reply_of_a_connection_may_refuse_the_last_of_a_batch(client_on: Any) -> None:
    with fake(INCRBY=b":1\r\n", SETNX=Turns(LOADING, b":1\r\n")) as server:

        def shake_no_hands(connection: Any) -> None:
            connection._parser.on_connect(connection)

        client = client_on(server, redis_connect_func=shake_no_hands)
        client.ping()
        client.connection_pool.disconnect()
        with pytest.raises(IndeterminateResultError):
            client.pipeline(transaction=False).incr("n").setnx("k", "v").execute()


def test_a_batch_of_reads_is_tried_again(client_on: Any) -> None:
    with fake(GET=Turns(b"+a\r\n", CLOSE, b"+b\r\n")) as server:
        pipe = client_on(server).pipeline(transaction=False)
        assert pipe.get("a").get("b").execute() == [b"b", b"b"]


def test_what_was_answered_before_is_nobodys_risk(client_on: Any) -> None:
    """Each command begins anew, where the one before has got its reply."""
    with fake(INCRBY=b":1\r\n", GET=Turns(CLOSE, b"+v\r\n")) as server:
        client = client_on(server)
        assert (client.incr("n"), client.get("k")) == (1, b"v")
        assert asked(server, "INCRBY") == 1


def test_commands_queued_by_hand_are_one_with_their_exec(proxy: FaultProxy) -> None:
    pool = pool_on(proxy)
    connection = pool.get_connection()
    for command in (("MULTI",), ("INCR", "n")):
        connection.send_command(*command)
        connection.read_response()
    proxy.replies.cut_after(0)
    connection.send_command("EXEC")
    with pytest.raises(IndeterminateResultError) as caught:
        connection.read_response()
    assert caught.value.commands == ("MULTI", "INCR", "EXEC")
    pool.release(connection)


class Stubborn(Retry):
    """A policy of somebody's own, which takes every error for one to be retried."""

    color = "green"

    def __init__(self, retries: int) -> None:
        super().__init__(NoBackoff(), retries, (Exception,))
        self.failures = 0

    def call_with_retry(self, do: Any, fail: Any, *args: Any, **kwargs: Any) -> Any:
        def counting(error: Exception, *failures: int) -> None:
            self.failures += 1
            fail(error, *failures)

        return super().call_with_retry(do, counting, *args, **kwargs)


@pytest.mark.parametrize("retry", [Stubborn(3), Retry(NoBackoff(), 3, (Exception,))])
def test_no_policy_retries_what_may_have_run(client_on: Any, proxy: Any, retry: Retry) -> None:
    client = client_on(proxy, retry=retry)
    client.ping()
    proxy.replies.cut_after(0)
    with pytest.raises(IndeterminateResultError):
        client.incr("n")
    assert client.get("n") == b"1"
    proxy.replies.cut_after(0)
    assert client.get("n") == b"1"  # its own retries go on


def test_a_policy_of_somebodys_own_keeps_its_attributes(proxy: FaultProxy) -> None:
    retry = pool_on(proxy, retry=Stubborn(3)).make_connection().retry
    assert isinstance(retry, Retry)
    assert (retry.color, retry.failures, retry.get_retries()) == ("green", 0, 3)
    with pytest.raises(AttributeError):
        retry.colour  # noqa: B018


@pytest.mark.parametrize("make_retry", [no_wait, Stubborn])
def test_a_refused_password_is_tried_once(make_retry: Any, client_on: Any) -> None:
    refusal = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"
    counts = {}
    with fake(HELLO=refusal, AUTH=refusal) as server:
        options = {"port": server.port, "password": "secret", "retry": make_retry(10)}
        for name, client in {
            "redis-py": redis.Redis(**options),
            "like redis-py": cpool.Redis(**options),
            "safe": client_on(server, **options),
        }.items():
            server.forget()
            with pytest.raises(AuthenticationError) as caught:
                client.ping()
            counts[name] = asked(server, "HELLO") + asked(server, "AUTH")
            assert "secret" not in str(caught.value)
    theirs = counts["redis-py"]  # 1 before redis-py 7, which retried no handshake
    assert counts == {"redis-py": theirs, "like redis-py": theirs, "safe": 1}
    assert theirs == 11 or not HAS_RECONNECT


def test_a_password_that_is_refused_later_ends_the_retries(client_on: Any) -> None:
    with fake(GET=b"-NOAUTH Authentication required.\r\n") as server:
        client = client_on(server)
        with pytest.raises(AuthenticationError):
            client.get("k")
        assert asked(server, "GET") == 1


# Who reads and who closes


def test_a_disconnect_by_another_hand_before_the_read(fresh_db: EmbeddedServer) -> None:
    pool = pool_on(fresh_db)
    connection = pool.get_connection()
    connection.send_command("INCR", "n")
    closer = threading.Thread(target=pool.disconnect)
    closer.start()
    closer.join()
    with pytest.raises(IndeterminateResultError):
        connection.read_response()
    connection.send_command("GET", "n")
    assert connection.read_response() == b"1"
    connection.disconnect()


def test_polls_and_their_timeouts_are_no_failures(proxy: FaultProxy) -> None:
    connection = pool_on(proxy).get_connection()
    be_impatient(connection)
    proxy.replies.stall()
    connection.send_command("INCR", "n")
    with pytest.raises(TimeoutError):
        connection.read_response(disconnect_on_error=False)
    assert not connection.can_read()
    proxy.replies.release()
    connection._sock.settimeout(10)
    assert connection.read_response() == 1
    connection.disconnect()


def test_a_subscriber_reconnects(proxy: FaultProxy, fresh_db: EmbeddedServer) -> None:
    client = cpool.Redis.from_pool(pool_on(proxy))
    with client.pubsub() as pubsub, contextlib.closing(redis.Redis(port=fresh_db.port)) as other:
        pubsub.subscribe("news")
        assert pubsub.get_message(timeout=10)["type"] == "subscribe"
        assert pubsub.get_message(timeout=0) is None
        proxy.reset_connections()
        assert pubsub.get_message(timeout=10)["type"] == "subscribe"
        other.publish("news", "on")
        assert pubsub.get_message(timeout=10)["data"] == b"on"
    client.connection_pool.disconnect()


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_subscriber_that_reconnects_asks_no_questions(
    proxy: FaultProxy, fresh_db: EmbeddedServer, protocol: int
) -> None:
    """The answer would be taken for, or take, a confirmation."""
    client = cpool.Redis.from_pool(pool_on(proxy, protocol=protocol))
    with client.pubsub() as pubsub:
        pubsub.subscribe("news")
        assert pubsub.get_message(timeout=10)["type"] == "subscribe"
        client.connection_pool._replays._verdicts = None  # as if another was asking still
        proxy.reset_connections()
        assert pubsub.get_message(timeout=10)["type"] == "subscribe"
    client.connection_pool.disconnect()


def test_a_health_check_may_be_repeated(client_on: Any) -> None:
    with fake(PING=Turns(b"+PONG\r\n", CLOSE, b"+PONG\r\n"), INCRBY=b":1\r\n") as server:
        client = client_on(server, health_check_interval=0.0001)
        assert client.incr("n") == 1
        assert client.incr("n") == 1


RAW = [((b"INCR", b"n"), True), ((b"SET", b"k", b"v"), False), ((b"SET", b"k", b"v", b"NX"), True)]


@pytest.mark.parametrize(("words", "harmful"), [*RAW, ((b"GET", b"k"), False)])
def test_commands_that_somebody_else_has_packed(
    proxy: FaultProxy, words: tuple[bytes, ...], harmful: bool
) -> None:
    connection = pool_on(proxy).get_connection()
    proxy.replies.cut_after(0)
    connection.send_packed_command([packed(*words)])
    with pytest.raises(IndeterminateResultError if harmful else ConnectionError):
        connection.read_response()


def test_bytes_that_are_no_commands_may_be_anything(proxy: FaultProxy) -> None:
    connection = pool_on(proxy).get_connection()
    proxy.replies.cut_after(0)
    connection.send_packed_command([b"INCR n\r\n"])
    with pytest.raises(IndeterminateResultError, match="^bytes that are no command may have"):
        connection.read_response()


def test_a_command_sent_by_an_override(proxy: FaultProxy) -> None:
    class Sending(cpool.Connection):
        def send_packed_command(self, command: Any, check_health: bool = True) -> None:
            super().send_packed_command(command, check_health)

    client = redis.Redis.from_pool(pool_on(proxy, connection_class=Sending))
    client.ping()
    proxy.replies.cut_after(0)
    with pytest.raises(IndeterminateResultError) as caught:
        client.incr("n")
    assert caught.value.sent_bytes > 20
    client.connection_pool.disconnect()


def test_redis_pys_own_parser_takes_over(proxy: FaultProxy) -> None:
    connection = pool_on(proxy).get_connection()
    assert connection._parser._buffer is not None
    connection.send_command("INCR", "n")
    assert connection.read_response() == 1
    proxy.replies.cut_after(0)
    connection.send_command("INCR", "n")
    with pytest.raises(IndeterminateResultError):
        connection.read_response()


class OneMaster:
    """A sentinel manager whose master is at one address."""

    def __init__(self, server: Any) -> None:
        self.address = server.host, server.port

    def discover_master(self, service_name: str) -> Any:
        return self.address


@pytest.mark.parametrize("make_client", [redis.Redis, cpool.Redis])
def test_a_connection_of_sentinels_tells_it_too(proxy: FaultProxy, make_client: Any) -> None:
    pool = cpool.SentinelConnectionPool(
        "mymaster",
        OneMaster(proxy),
        retry=no_wait(),
        retry_policy="safe",  # type: ignore
    )
    client = make_client.from_pool(pool)
    assert client.ping()
    proxy.replies.cut_after(0)
    with pytest.raises(IndeterminateResultError):
        client.incr("n")
    proxy.replies.cut_after(0)
    assert client.get("n") == b"1"
    pool.disconnect()


def test_a_master_that_steps_down_within_a_batch() -> None:
    readonly = b"-READONLY You can't write against a read only replica.\r\n"
    with fake(INCRBY=b":1\r\n", SET=readonly) as server:
        pool = cpool.SentinelConnectionPool(
            "mymaster",
            OneMaster(server),
            retry=no_wait(),
            retry_policy="safe",  # type: ignore
        )
        pipe = redis.Redis.from_pool(pool).pipeline(transaction=False)
        with pytest.raises(IndeterminateResultError):
            pipe.incr("n").set("k", "v").execute()
        assert asked(server, "INCRBY") == 1
        pool.disconnect()
