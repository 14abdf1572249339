"""Replies, options and clients that redis-py's pools get wrong, shown there and absent here."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from redis._parsers import _RESP3Parser
from redis.cache import CacheConfig
from redis.exceptions import TimeoutError

from tests.pool.conftest import MakePool
from tests.pool.scenarios import Lab, Scenario, Scenarios, check_ours, check_theirs
from tests.pool.support import (
    REDIS_VERSION,
    Implementation,
    Task,
    is_answering,
    that_may_be_cached,
    wait_for,
)
from tests.support.faultproxy import FaultProxy

SCENARIOS = Scenarios()


# -- Connections in a bad state ---------------------------------------------------------------


@SCENARIOS.add(
    right="b'mine'",
    wrong="b'of the caller before'",
    affected=REDIS_VERSION >= (7, 0),
    fixed="before maintenance notifications, RESP3 connections were checked",
)
def a_reply_was_left_unread_under_resp3(impl: Implementation, lab: Lab) -> str:
    pool = lab.pool(impl.ConnectionPool, protocol=3, max_connections=1)
    connection = pool.get_connection()
    connection.send_command("ECHO", "of the caller before")
    assert connection.can_read(timeout=10)
    pool.release(connection)
    return repr(redis.Redis(connection_pool=pool).echo("mine"))


@SCENARIOS.add(
    right="b'mine'",
    wrong="b'of the caller before'",
    affected=REDIS_VERSION >= (7, 0),
    fixed="before maintenance notifications, RESP3 connections were checked",
)
def a_reply_came_after_the_release_under_resp3(impl: Implementation, lab: Lab) -> str:
    with FaultProxy((lab.server.host, lab.server.port)) as proxy:
        pool = lab.pool(impl.ConnectionPool, port=proxy.port, protocol=3, max_connections=1)
        connection = pool.get_connection()
        proxy.replies.stall()
        connection.send_command("ECHO", "of the caller before")
        proxy.replies.wait_held()
        pool.release(connection)
        proxy.replies.release()
        proxy.wait_until(lambda: proxy.replies.held_bytes == 0, "the late reply")
        wait_for(lambda: connection._sock is None or connection.can_read(), "the late reply")
        return repr(redis.Redis(connection_pool=pool).echo("mine"))


@SCENARIOS.add(
    right="a live connection",
    wrong="Connection closed by server.",
    affected=(8, 0) <= REDIS_VERSION < (8, 1),
    fixed="the installed redis-py sees the end of a RESP3 connection",
)
def the_server_closes_an_idle_resp3_connection(impl: Implementation, lab: Lab) -> str:
    with FaultProxy((lab.server.host, lab.server.port)) as proxy:
        pool = lab.pool(impl.ConnectionPool, port=proxy.port, protocol=3)
        pool.release(pool.get_connection())
        proxy.close_connections()
        try:
            return "a live connection" if is_answering(pool.get_connection()) else "unexpected"
        except redis.ConnectionError as error:
            return str(error)


PUSH = b">2\r\n$4\r\nnews\r\n$5\r\nhello\r\n"


@SCENARIOS.add(
    right="TimeoutError",
    wrong="it waits for ever",
    affected=REDIS_VERSION >= (8, 0),
    fixed="read_response(timeout=) came with redis-py 8.0",
)
def a_push_comes_while_a_reply_is_waited_for(impl: Implementation, lab: Lab) -> str:
    if REDIS_VERSION < (8, 0):
        return "TimeoutError"
    with FaultProxy((lab.server.host, lab.server.port)) as proxy:
        pool = lab.pool(
            impl.ConnectionPool,
            port=proxy.port,
            protocol=3,
            parser_class=_RESP3Parser,
            socket_timeout=None,
        )
        connection = pool.get_connection()
        proxy.replies.inject(PUSH)
        reader = Task(lambda: connection.read_response(timeout=0.2))
        try:
            reader.result(timeout_s=15 if impl.is_ours else 1.5)
        except TimeoutError:
            return "TimeoutError"
        except OSError:  # Task's own: it has not ended
            return "it waits for ever"
        finally:
            proxy.close_connections()
            reader.is_over(10)
    return "unexpected"


# -- Pools with a client-side cache ----------------------------------------------------------


def cached_client(impl: Implementation, lab: Lab) -> Any:
    return redis.Redis(
        connection_pool=lab.pool(
            impl.ConnectionPool,
            connection_class=that_may_be_cached(impl.Connection),
            protocol=3,
            cache_config=CacheConfig(),
        )
    )


@SCENARIOS.add(right="b'hello'", wrong="AttributeError")
def a_cached_client_subscribes(impl: Implementation, lab: Lab) -> str:
    client = cached_client(impl, lab)
    try:
        with client.pubsub(ignore_subscribe_messages=True) as pubsub:
            pubsub.subscribe("news")
            assert pubsub.get_message(timeout=10) is None  # the subscription itself
            with redis.Redis(port=lab.server.port) as other:
                other.publish("news", "hello")
            return repr(pubsub.get_message(timeout=10)["data"])
    except AttributeError:
        return "AttributeError"


@SCENARIOS.add(right="PING", wrong="AttributeError")
def a_cached_client_monitors(impl: Implementation, lab: Lab) -> str:
    client = cached_client(impl, lab)
    try:
        with client.monitor() as monitor, redis.Redis(port=lab.server.port) as other:
            other.ping()
            commands = (monitored["command"] for monitored in monitor.listen())
            return next(command for command in commands if command == "PING")
    except AttributeError:
        return "AttributeError"


# -- Options ----------------------------------------------------------------------------


@SCENARIOS.add(right="[TimeoutError, ConnectionError]", wrong="letters")
def a_url_names_errors_to_retry_on(impl: Implementation, lab: Lab) -> str:
    url = "redis://localhost?retry_on_error=TimeoutError,ConnectionError"
    errors = impl.ConnectionPool.from_url(url).connection_kwargs["retry_on_error"]
    if errors == [redis.TimeoutError, redis.ConnectionError]:
        return "[TimeoutError, ConnectionError]"
    return "letters" if "".join(errors) == "TimeoutError,ConnectionError" else "unexpected"


@SCENARIOS.add(right="b'value'", wrong="'value'")
def a_url_says_that_replies_are_not_to_be_decoded(impl: Implementation, lab: Lab) -> str:
    pool = impl.ConnectionPool.from_url(f"{lab.server.url}?decode_responses=False")
    with redis.Redis(connection_pool=pool) as client:
        client.set("key", "value")
        return repr(client.get("key"))


@SCENARIOS.add(
    right="the server was asked",
    wrong="KeyError: 'decode_responses'",
    affected=hasattr(redis.Redis, "vset"),
    fixed="the installed redis-py has no vector sets",
)
def a_raw_vector_is_asked_for(impl: Implementation, lab: Lab) -> str:
    if not hasattr(redis.Redis, "vset"):
        return "the server was asked"
    with redis.Redis(connection_pool=lab.pool(impl.ConnectionPool)) as client:
        try:
            client.vset().vemb("no such key", "element", raw=True)
        except redis.ResponseError:  # a server before 8.0
            pass
        except KeyError as error:
            return f"KeyError: {error}"
    return "the server was asked"


@pytest.fixture
def lab(redis_server: Any, make_pool: MakePool) -> Lab:
    """Give what the scenarios need."""
    return Lab(redis_server, make_pool)


@SCENARIOS.parametrize
def test_redis_py_shows_the_bug(scenario: Scenario, lab: Lab) -> None:
    check_theirs(scenario, lab)


@SCENARIOS.parametrize
def test_ours_is_right(scenario: Scenario, lab: Lab) -> None:
    check_ours(scenario, lab)


def test_a_url_with_an_error_nobody_knows_is_refused() -> None:
    import cpool

    with pytest.raises(ValueError, match="'retry_on_error'"):
        cpool.ConnectionPool.from_url("redis://localhost?retry_on_error=NoSuchError")


@pytest.mark.parametrize(
    ("text", "value"),
    [("True", True), ("yes", True), ("1", True), ("no", False), ("0", False), ("false", False)],
)
def test_decode_responses_in_a_url_is_a_yes_or_a_no(text: str, value: bool) -> None:
    import cpool

    pool = cpool.ConnectionPool.from_url(f"redis://localhost?decode_responses={text}")
    assert pool.connection_kwargs["decode_responses"] is value
    assert pool.get_encoder().decode_responses is value


def test_push_frames_between_checkouts_reach_their_handler(
    redis_server: Any, make_pool: MakePool
) -> None:
    import cpool

    told = []
    with FaultProxy((redis_server.host, redis_server.port)) as proxy:
        pool = make_pool(cpool.ConnectionPool, port=proxy.port, protocol=3)
        connection = pool.get_connection()
        connection._parser.set_pubsub_push_handler(told.append)
        pool.release(connection)
        proxy.replies.inject(PUSH)
        wait_for(lambda: connection.can_read(), "the push frame")
        assert pool.get_connection() is connection
        assert is_answering(connection)
        assert told == [[b"news", b"hello"]]
        assert pool.stats().replaced == 0
