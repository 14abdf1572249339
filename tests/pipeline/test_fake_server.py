"""Servers that say what a test wants: pushes amid replies, errors that end a connection,
replies in the wrong number, HIMPORT."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.connection.fakeserver import FakeServer, Words
from tests.pipeline.support import KINDS, make_client, outcome, state_of
from tests.wire.peer import bulk, silent

INVALIDATE = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nkey\r\n"
N_COMMANDS = 4


def told(
    kind: str,
    replies: Any,
    scenario: Callable[[Any, Any], Any],
    transaction: bool = False,
    retries: int = 0,
    **options: Any,
) -> Any:
    """Run a scenario with a server of its own; tell what came of it and what was asked."""
    with FakeServer(replies() if callable(replies) else replies) as server:
        address = {"host": server.host, "port": server.port, "retry": Retry(NoBackoff(), retries)}
        options = {**address, "socket_timeout": 5, **silent(), **options}
        with contextlib.closing(make_client(kind, options)) as client:
            client.ping()
            pipe = client.pipeline(transaction=transaction)
            value = outcome(lambda: scenario(client, pipe))
            state = state_of(pipe)
            after = outcome(lambda: client.echo("after"))
            asked = [
                [word for batch in connection for words in batch for word in words]
                for connection in server.connections
            ]
    return value, state, after, asked


def agree(*args: Any, **options: Any) -> Any:
    """Let the three kinds of client agree on what told() tells; return redis-py's value."""
    theirs, *ours = (told(kind, *args, **options) for kind in KINDS)
    for one in ours:
        assert one == theirs
    return theirs[0]


def echoes(at: int, extra: bytes, instead: bool = False) -> dict[str, Any]:
    """Answer ECHO; before the `at`-th reply comes something else, or in its place."""

    def answer(words: Words) -> bytes:
        if words[1] == b"%d" % at:
            return extra if instead else extra + bulk(words[1])
        return bulk(words[1])

    return {"ECHO": answer}


def in_transaction(at: int, extra: bytes, instead: bool = False) -> dict[str, Any]:
    """The same in a transaction: at 0 is MULTI, behind the commands comes EXEC."""
    seen: list[Words] = []

    def answer(words: Words) -> bytes:
        if words == (b"ECHO", b"after"):
            return bulk(b"after")
        seen.append(words)
        name = words[0]
        if name == b"MULTI":
            reply = b"+OK\r\n"
        elif name == b"EXEC":
            reply = b"*%d\r\n" % N_COMMANDS + b":1\r\n" * N_COMMANDS
        else:
            reply = b"+QUEUED\r\n"
        return (extra + reply * (not instead)) if len(seen) == at + 1 else reply

    return {"MULTI": answer, "EXEC": answer, "ECHO": answer}


def echo_all(_: Any, pipe: Any) -> Any:
    for i in range(N_COMMANDS):
        pipe.echo(i)
    return pipe.execute(raise_on_error=False)


# -- Pushes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_pushes_may_come_before_any_reply(transaction: bool, count: int) -> None:
    for place in range(N_COMMANDS + 2 if transaction else N_COMMANDS):
        replies = in_transaction if transaction else echoes

        def run(client: Any, pipe: Any) -> Any:
            pushes: list[Any] = []
            connection = client.connection_pool.get_connection()
            connection._parser.set_invalidation_push_handler(pushes.append)
            client.connection_pool.release(connection)
            return echo_all(client, pipe), pushes

        _, (results, pushes) = agree(
            lambda at=place, made=replies: made(at, INVALIDATE * count),
            run,
            transaction=transaction,
            protocol=3,
        )
        assert len(pushes[1]) == count and len(results[1]) == N_COMMANDS


@pytest.mark.parametrize("transaction", [False, True])
def test_a_push_handler_that_fails_ends_the_pipeline(transaction: bool) -> None:
    def run(client: Any, pipe: Any) -> Any:
        def fail(_: Any) -> None:
            raise ValueError("mine")

        connection = client.connection_pool.get_connection()
        connection._parser.set_invalidation_push_handler(fail)
        client.connection_pool.release(connection)
        return echo_all(client, pipe)

    replies = in_transaction if transaction else echoes
    agree(lambda: replies(2, INVALIDATE), run, transaction=transaction, protocol=3)


# -- Errors that end a connection --------------------------------------------------------------

FATAL = [
    b"-LOADING Redis is loading the dataset in memory\r\n",
    b"-NOAUTH Authentication required.\r\n",
    b"-ERR max number of clients reached\r\n",
    b"-MASTERDOWN Link with MASTER is down\r\n",
    b"-NOSCRIPT No matching script.\r\n",
    b"-ERR invalid password\r\n",
    b"-\r\n",
    b"*1\r\n-LOADING inside\r\n",
    b"*2\r\n-ERR inside\r\n:1\r\n",
]
READ_ONLY = b"-READONLY You can't write against a read only replica.\r\n"
ODD = [b"nonsense\r\n", b"$x\r\n", b"*-7\r\n", b"$3\r\nabcd\r\n"]


@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("reply", FATAL)
def test_error_replies_of_every_class_are_told_alike(transaction: bool, reply: bytes) -> None:
    for place in (0, 2) if not transaction else (0, 2, N_COMMANDS + 1):
        replies = in_transaction if transaction else echoes
        for retries in (0, 1):
            agree(
                lambda at=place, made=replies: made(at, reply, True),
                echo_all,
                transaction=transaction,
                retries=retries,
            )


@pytest.mark.parametrize("transaction", [False, True])
def test_after_read_only_the_next_command_goes_by_a_new_connection(transaction: bool) -> None:
    """What should be the master is none: redis-py goes on to ask it, our pool dials anew."""
    replies = in_transaction if transaction else echoes
    theirs, *ours = (
        told(kind, lambda: replies(2, READ_ONLY, True), echo_all, transaction=transaction)
        for kind in KINDS
    )
    for one in ours:
        assert one[:3] == theirs[:3]
        (*before, after), together = one[3], theirs[3]
        assert after[-2:] == [b"ECHO", b"after"]
        if not transaction:  # a transaction that was refused is not asked for again
            assert [word for words in (*before, after) for word in words] == together[0]


@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("reply", ODD)
def test_bytes_that_are_no_resp_end_the_pipeline(transaction: bool, reply: bytes) -> None:
    """redis-py words each malformed reply in its own way, and believes some."""
    replies = in_transaction if transaction else echoes
    theirs, ours = (
        told(kind, lambda: replies(2, reply, True), echo_all, transaction=transaction)
        for kind in KINDS[1:]
    )
    assert ours == theirs
    assert ours[0][0] == "raised" and ours[0][1][0] is redis.InvalidResponse


@pytest.mark.parametrize("results", [N_COMMANDS - 1, N_COMMANDS + 1, 0])
def test_an_exec_with_another_number_of_results(results: int) -> None:
    reply = b"*%d\r\n" % results + b":1\r\n" * results
    value = agree(lambda: in_transaction(N_COMMANDS + 1, reply, True), echo_all, transaction=True)
    assert value[1][0] is redis.ResponseError


@pytest.mark.parametrize(
    "reply", [b"*-1\r\n", b"_\r\n", b"+OK\r\n", b":4\r\n", b"-EXECABORT no\r\n", b"$4\r\nabcd\r\n"]
)
def test_an_exec_that_is_answered_by_no_list(reply: bytes) -> None:
    agree(lambda: in_transaction(N_COMMANDS + 1, reply, True), echo_all, transaction=True)


@pytest.mark.parametrize("place", range(N_COMMANDS))
def test_errors_at_queueing_and_a_transaction_that_passes_all_the_same(place: int) -> None:
    reply = b"-ERR not queued\r\n"
    agree(lambda: in_transaction(place, reply, True), echo_all, transaction=True)


@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_reply_that_cannot_be_decoded(transaction: bool, place: int) -> None:
    replies = in_transaction if transaction else echoes
    reply = b"$2\r\n\xff\xfe\r\n"
    agree(
        lambda: replies(place, reply, True),
        echo_all,
        transaction=transaction,
        decode_responses=True,
    )


@pytest.mark.parametrize("transaction", [False, True])
def test_a_connection_that_is_closed_amid_the_replies(transaction: bool) -> None:
    for place in range(N_COMMANDS):
        for retries in (0, 1):
            replies = dict(
                in_transaction(99, b"") if transaction else echoes(99, b""), PING=b"+PONG\r\n"
            )
            answer = replies["ECHO"]

            def close_once(words: Words, left: list[int], at: int, answer: Any) -> Any:
                if left and words[1] == b"%d" % at:
                    return left.pop()
                return answer(words)

            def made(at: int = place, answer: Any = answer, replies: Any = replies) -> Any:
                left: list[Any] = [None]
                return {**replies, "ECHO": lambda words: close_once(words, left, at, answer)}

            if transaction and retries:
                continue  # the scripted transaction can be told once
            value = agree(made, echo_all, transaction=transaction, retries=retries)
            assert (value[0] == "raised") is (retries == 0)


# -- HIMPORT -------------------------------------------------------------------------------------

needs_himport = pytest.mark.skipif(
    not hasattr(redis.Redis, "himport_set"), reason="this redis-py has no HIMPORT"
)
ANSWERS = {"MULTI": b"+OK\r\n", "EXEC": b"*2\r\n:1\r\n:2\r\n", "HIMPORT": b"+OK\r\n"}


@needs_himport
@pytest.mark.parametrize("transaction", [False, True])
def test_himport_in_a_pipeline_is_prepared_as_by_redis_py(transaction: bool) -> None:
    def run(client: Any, pipe: Any) -> Any:
        client.himport_prepare("fields", ["a", "b"])
        made = client.pipeline(transaction=transaction)
        made.himport_set("key", "fields", [1, 2])
        made.get("key")
        return outcome(made.execute)

    agree(ANSWERS, run, transaction=transaction)


@needs_himport
@pytest.mark.parametrize("transaction", [False, True])
def test_pending_himport_discards_go_before_a_pipeline(transaction: bool) -> None:
    def run(client: Any, pipe: Any) -> Any:
        client.himport_prepare("fields", ["a", "b"])
        client.himport_set("key", "fields", [1, 2])
        client.himport_discard("fields")
        return outcome(lambda: pipe.get("a").get("b").execute())

    agree(ANSWERS, run, transaction=transaction)
