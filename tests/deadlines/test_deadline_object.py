"""`cpool.deadline()`: what it takes, what it tells, how blocks nest, and what it leaves behind."""

from __future__ import annotations

import contextvars
import math
from decimal import Decimal
from typing import Any

import pytest

import cpool
from cpool import _deadline

LONG_S = 100.0


@pytest.mark.parametrize(
    "seconds", [-1, -0.001, math.nan, -math.inf, True, False, "1", None, Decimal(1), [1]]
)
def test_what_is_no_time_is_refused_by_name(seconds: Any) -> None:
    with pytest.raises(ValueError, match='"seconds" of a deadline must be a number'):
        cpool.deadline(seconds)


@pytest.mark.parametrize("seconds", [0, 0.0, 1, 0.2, 10**12, math.inf])
def test_the_seconds_are_told_as_given(seconds: float) -> None:
    with cpool.deadline(seconds) as deadline:
        assert deadline.seconds == seconds
        assert 0 <= deadline.remaining_s


def test_a_time_that_no_clock_can_hold_is_no_limit(client: Any) -> None:
    with cpool.deadline(10**400) as deadline:
        assert deadline.remaining_s == math.inf
        assert client.ping()


def test_before_its_block_a_deadline_has_all_its_time() -> None:
    deadline = cpool.deadline(LONG_S)
    assert deadline.remaining_s == LONG_S
    with deadline:
        assert 0 < deadline.remaining_s < LONG_S


def test_after_its_block_nothing_is_bounded_any_more(client: Any) -> None:
    with cpool.deadline(0):
        pass
    assert client.ping()


def test_an_exception_leaves_the_block_as_it_is() -> None:
    with pytest.raises(KeyError), cpool.deadline(LONG_S):
        raise KeyError
    assert _deadline_in_force() is False


def test_a_deadline_is_entered_once() -> None:
    deadline = cpool.deadline(LONG_S)
    with deadline, pytest.raises(RuntimeError, match="entered once"), deadline:
        pass
    with pytest.raises(RuntimeError, match="entered once"), deadline:
        pass
    assert _deadline_in_force() is False


def test_leaving_what_was_never_entered_changes_nothing() -> None:
    cpool.deadline(0).__exit__(None, None, None)
    assert _deadline_in_force() is False


def test_an_inner_deadline_shortens() -> None:
    with cpool.deadline(LONG_S) as outer, cpool.deadline(LONG_S / 2) as inner:
        assert inner.remaining_s < LONG_S / 2 < outer.remaining_s


def test_an_inner_deadline_does_not_lengthen(client: Any) -> None:
    with cpool.deadline(0), cpool.deadline(LONG_S) as inner:
        assert inner.remaining_s == 0
        with pytest.raises(cpool.DeadlineExceededError) as caught:
            client.ping()
    assert caught.value.seconds == 0


def test_no_limit_inside_a_limit_is_the_limit() -> None:
    with cpool.deadline(LONG_S), cpool.deadline(math.inf) as inner:
        assert inner.remaining_s < LONG_S


def test_the_outer_deadline_holds_again_after_the_inner(client: Any) -> None:
    with cpool.deadline(LONG_S):
        with cpool.deadline(0), pytest.raises(cpool.DeadlineExceededError):
            client.ping()
        assert client.ping()


def test_a_copied_context_that_outlives_the_block_is_not_bounded(client: Any) -> None:
    with cpool.deadline(0):
        copied = contextvars.copy_context()
        with pytest.raises(cpool.DeadlineExceededError):
            copied.run(client.ping)
    assert copied.run(client.ping)


def test_blocks_that_end_in_another_order_than_they_began_leave_nothing(client: Any) -> None:
    first, second = cpool.deadline(LONG_S), cpool.deadline(0)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    with pytest.raises(cpool.DeadlineExceededError):
        client.ping()
    second.__exit__(None, None, None)
    assert client.ping()
    assert _deadline_in_force() is False


def test_a_deadline_is_left_in_another_context_than_it_was_entered_in(client: Any) -> None:
    deadline = cpool.deadline(0)
    contextvars.copy_context().run(deadline.__enter__)
    assert client.ping()
    deadline.__exit__(None, None, None)
    assert _deadline_in_force() is False


def test_its_repr_tells_the_time() -> None:
    assert repr(cpool.deadline(2)).startswith("<cpool.deadline of 2 s, 2.000 s left")


def _deadline_in_force() -> bool:
    """Whether a command would pay for deadlines at this moment."""
    return _deadline.is_any_in_force()
