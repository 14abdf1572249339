"""`DeadlineExceededError`: what it is, what it says, and what it survives."""

from __future__ import annotations

import copy
import pickle

import pytest
from redis.exceptions import ConnectionError, RedisError, TimeoutError

import cpool
from cpool import errors

FIGURES = (0.001, 0.002, 0.003, 0.1, 0.005)
SPENT = (
    "(waiting for a connection 1.0 ms, dialling 2.0 ms, writing 3.0 ms, reading 100.0 ms,"
    " between retries 5.0 ms)"
)


def made(phase: str, received: int = 0) -> cpool.DeadlineExceededError:
    return cpool.DeadlineExceededError(0.2, phase, *FIGURES, received)


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        ("waiting for a connection", "while waiting for a connection"),
        ("dialling", "while dialling"),
        ("writing", "while writing"),
        ("reading", "while reading: 7 bytes of the reply had come"),
        ("between retries", "between retries"),
        ("before it began", "before the command began"),
    ],
)
def test_the_text_says_where_the_time_went(phase: str, words: str) -> None:
    assert str(made(phase, 7)) == f"deadline of 0.2 s exceeded {words} {SPENT}"


def test_one_byte_is_no_bytes() -> None:
    assert "1 byte of the reply had come" in str(made("reading", 1))


def test_redis_pys_retry_would_not_try_it_again() -> None:
    error = made("reading")
    assert isinstance(error, RedisError)
    assert not isinstance(error, (ConnectionError, TimeoutError, OSError))


@pytest.mark.parametrize(
    "error", [made("reading", 7), errors.DeadlineExceededInCleanup(1, "dialling", *FIGURES)]
)
def test_it_survives_pickling_and_copying(error: cpool.DeadlineExceededError) -> None:
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)


def test_what_ends_a_watch_is_told_by_both_classes() -> None:
    assert issubclass(errors.DeadlineExceededInCleanup, ConnectionError)
    assert issubclass(errors.DeadlineExceededInCleanup, cpool.DeadlineExceededError)
