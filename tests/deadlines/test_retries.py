"""A deadline and redis-py's retries: none sleeps past it, and all else is as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import AbstractBackoff, ConstantBackoff, ExponentialBackoff, NoBackoff
from redis.retry import Retry

import cpool
from tests.connection.fakeserver import CLOSE, FakeServer
from tests.deadlines.conftest import SHORT_S, MakeClient, Struck, is_as_new
from tests.deadlines.slowserver import Silent
from tests.support.tls import Certificates

LONG_S = 100.0
# Where a deadline may strike while attempts follow each other without a pause.
ENDS = ("between retries", "dialling", "writing", "reading", "before it began")


@pytest.fixture
def closing_port() -> Iterator[int]:
    """Give the port of a server that closes the connection on which it is asked for a key."""
    with FakeServer({"GET": CLOSE}) as server:
        yield server.port


class Noted(AbstractBackoff):
    """A backoff that notes what it is asked."""

    def __init__(self, pause_s: float) -> None:
        self.pause_s = pause_s
        self.asked: list[Any] = []

    def reset(self) -> None:
        self.asked.append("reset")

    def compute(self, failures: int) -> float:
        self.asked.append(failures)
        return self.pause_s


def test_a_sleep_that_would_outlast_the_deadline_is_not_begun(
    closing_port: int, make_client: MakeClient, struck: Struck
) -> None:
    retry = Retry(ConstantBackoff(LONG_S), 3)
    client = make_client(cpool.ConnectionPool(port=closing_port, retry=retry))
    error = struck(lambda: client.get("key"))
    assert error.phase == "between retries"
    assert error.sleeping_s == 0
    assert error.dialling_s > 0
    assert isinstance(error.__cause__, redis.ConnectionError)
    assert is_as_new(client)


def test_sleeps_before_the_deadline_are_slept_and_told(
    closing_port: int, make_client: MakeClient, struck: Struck
) -> None:
    retry = Retry(ExponentialBackoff(cap=LONG_S, base=0.002), -1)
    client = make_client(cpool.ConnectionPool(port=closing_port, retry=retry))
    error = struck(lambda: client.get("key"))
    assert error.phase in ENDS
    assert error.sleeping_s > 0


def test_retries_without_a_sleep_end_too(
    closing_port: int, make_client: MakeClient, struck: Struck
) -> None:
    client = make_client(cpool.ConnectionPool(port=closing_port, retry=Retry(NoBackoff(), -1)))
    assert struck(lambda: client.get("key")).phase in ENDS


def test_the_backoff_is_asked_as_redis_py_asks_it(make_client: MakeClient) -> None:
    backoff = Noted(0)
    with FakeServer({"GET": CLOSE}) as server:
        pool = cpool.ConnectionPool(port=server.port, retry=Retry(backoff, 0))
        client = make_client(pool)
        pool.release(pool.get_connection())
        pool.set_retry(Retry(backoff, 2))
        backoff.asked.clear()
        with pytest.raises(redis.ConnectionError), cpool.deadline(LONG_S):
            client.get("key")
    assert [each for each in backoff.asked if each != "reset"] == [1, 2]
    assert backoff.asked[0] == "reset"


@pytest.mark.parametrize("transaction", [False, True])
def test_the_retries_of_pipelines(
    make_client: MakeClient, struck: Struck, transaction: bool
) -> None:
    with FakeServer({"GET": CLOSE, "MULTI": CLOSE}) as server:
        retry = Retry(ConstantBackoff(LONG_S), 3)
        client = make_client(cpool.ConnectionPool(port=server.port, retry=retry))
        error = struck(client.pipeline(transaction=transaction).get("key").execute)
    assert error.phase == "between retries"
    assert is_as_new(client)


def test_the_retries_of_a_subscriber(make_client: MakeClient, struck: Struck) -> None:
    with FakeServer({"SUBSCRIBE": CLOSE}) as server:
        retry = Retry(ConstantBackoff(LONG_S), 3)
        pool = cpool.ConnectionPool(port=server.port, retry=retry, protocol=3)
        with make_client(pool).pubsub() as pubsub:
            pubsub.subscribe("channel")
            assert struck(lambda: next(pubsub.listen())).phase == "between retries"


def test_sleeps_inside_a_dial_are_not_counted_as_dialling(
    tmp_path: Path, certificates: Certificates, struck: Struck
) -> None:
    """send_command() dials by itself, with retries of its own inside."""
    with Silent("tcp", tmp_path, certificates, full=True) as hole:
        conn = cpool.Connection(
            *hole.address,
            socket_connect_timeout=0.001,
            retry=Retry(ConstantBackoff(0.06), -1),
        )
        error = struck(lambda: conn.send_command("PING"))
    assert error.phase == "between retries"
    assert error.sleeping_s == 0.06
    assert 0 < error.dialling_s < SHORT_S - error.sleeping_s


def test_a_policy_that_retries_any_error_gives_the_deadlines_own(
    closing_port: int, make_client: MakeClient, struck: Struck
) -> None:
    retry = Retry(NoBackoff(), -1, supported_errors=(redis.RedisError,))
    client = make_client(cpool.ConnectionPool(port=closing_port, retry=retry))
    assert struck(lambda: client.get("key")).phase in ENDS


def test_somebodys_own_policy_is_stopped_at_the_next_attempt(
    closing_port: int, make_client: MakeClient, struck: Struck
) -> None:
    class Stubborn(Retry):
        def call_with_retry(self, do: Any, fail: Any, **options: Any) -> Any:
            count = (1,) if options.get("with_failure_count") else ()
            while True:
                try:
                    return do()
                except redis.ConnectionError as error:
                    fail(error, *count)

    pool = cpool.ConnectionPool(port=closing_port, retry=Stubborn(NoBackoff(), -1))
    client = make_client(pool)
    assert struck(lambda: client.get("key")).phase in ENDS
    assert is_as_new(client)


def test_the_policy_itself_is_left_as_it_was(
    closing_port: int, make_client: MakeClient, struck: Struck
) -> None:
    backoff = ConstantBackoff(LONG_S)
    retry = Retry(backoff, 3)
    client = make_client(cpool.ConnectionPool(port=closing_port, retry=retry))
    struck(lambda: client.get("key"))
    (conn,) = client.connection_pool._idle()
    assert conn.retry._backoff == backoff
    assert retry._backoff is backoff
