"""Work that many ask for at once is done once, whatever becomes of who does it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import CodeType
from typing import Any

import pytest

import cpool
from cpool import single_flight
from cpool.single_flight import SingleFlight
from tests.pool.interrupts import Interrupted, interrupt_at
from tests.support.servers import wait_until

BOUND_S = 20.0
MOST_PLACES = 2000


class Refused(Exception):
    """What work may raise."""


class Work:
    """Work that waits until it may end, and counts."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.count = self.most = self._now = 0
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.error = error

    def __call__(self) -> None:
        """Work."""
        self.count += 1
        self._now += 1
        self.most = max(self.most, self._now)
        self.begun.set()
        if not self.may_end.wait(BOUND_S):
            raise TimeoutError("the test has forgotten it")
        self._now -= 1
        if self.error is not None:
            raise self.error


class Asking:
    """Threads that ask, each with what came of it."""

    def __init__(self, ask: Callable[[], None], number: int = 1) -> None:
        self.results: list[Any] = []
        self.threads = [threading.Thread(target=self._run, args=(ask,)) for _ in range(number)]
        for thread in self.threads:
            thread.start()

    def _run(self, ask: Callable[[], None]) -> None:
        try:
            self.results.append(ask())
        except BaseException as error:
            self.results.append(error)

    def join(self) -> list[Any]:
        """Wait for them; return what came of it."""
        for thread in self.threads:
            thread.join(BOUND_S)
        assert not any(thread.is_alive() for thread in self.threads)
        return self.results


@pytest.fixture
def flights() -> SingleFlight:
    """Give one that needs no pause."""
    return SingleFlight(0, 0)


def joined(flights: SingleFlight, work: Work, number: int) -> tuple[Asking, Asking]:
    """Let one thread work, and others ask meanwhile."""
    first = Asking(lambda: flights.run(work))
    assert work.begun.wait(BOUND_S)
    others = Asking(lambda: flights.run(work), number)
    wait_until(lambda: waiting_in(others) == number, "they all wait")
    return first, others


def waiting_in(asking: Asking) -> int:
    """Count the threads that wait in single_flight.py."""
    frames = sys._current_frames()
    return sum(is_within(frames.get(thread.ident or 0)) for thread in asking.threads)


def is_within(frame: Any) -> bool:
    names = set()
    while frame is not None:
        names.add(frame.f_code.co_filename)
        frame = frame.f_back
    return single_flight.__file__ in names


def test_who_asks_meanwhile_shares_what_comes_of_it(flights: SingleFlight) -> None:
    work = Work()
    first, others = joined(flights, work, 200)
    work.may_end.set()
    assert first.join() + others.join() == [None] * 201
    assert (work.count, work.most, flights.count) == (1, 1, 1)


def test_who_asks_later_has_it_done_again(flights: SingleFlight) -> None:
    work = Work()
    work.may_end.set()
    flights.run(work)
    flights.run(work)
    assert (work.count, flights.count) == (2, 2)


def test_an_error_is_everybodys_each_has_one_of_his_own(flights: SingleFlight) -> None:
    work = Work(Refused("no", 1))
    first, others = joined(flights, work, 5)
    work.may_end.set()
    errors = first.join() + others.join()
    assert [(type(e), e.args) for e in errors] == [(Refused, ("no", 1))] * 6
    assert len(set(map(id, errors))) == 6
    assert work.count == 1 and not flights.is_under_way
    work.error = None
    flights.run(work)


class Odd(Exception):
    """An error that is not made of its `args`."""

    def __init__(self, what: str, number: int) -> None:
        super().__init__(f"{what}: {number}")


def test_an_error_that_can_not_be_made_again_is_shared_as_well(flights: SingleFlight) -> None:
    work = Work(Odd("no", 1))
    first, others = joined(flights, work, 2)
    work.may_end.set()
    errors = first.join() + others.join()
    assert [(type(e), str(e)) for e in errors] == [(Odd, "no: 1")] * 3


@pytest.mark.parametrize(
    "error",
    [Interrupted(), KeyboardInterrupt(), cpool.DeadlineExceededError(1.0, "reading")],
    ids=repr,
)
def test_an_interrupt_and_a_deadline_are_ones_own(
    flights: SingleFlight, error: BaseException
) -> None:
    work = Work(error)
    first, others = joined(flights, work, 5)

    def later() -> None:
        work.count += 1

    work.may_end.set()
    assert first.join() == [error]
    results = others.join()
    # One of the others has worked in turn, and met it as his own; the last of them too.
    assert all(result is error for result in results)
    assert work.most == 1 and work.count == 6
    flights.run(later)
    assert work.count == 7


def test_who_asks_in_the_midst_of_his_own_work_does_it_himself(flights: SingleFlight) -> None:
    done: list[str] = []

    def outer() -> None:
        flights.run(lambda: done.append("inner"))
        done.append("outer")

    flights.run(outer)
    assert done == ["inner", "outer"]


def test_ones_deadline_ends_ones_waiting_and_nobody_elses(flights: SingleFlight) -> None:
    work = Work()
    first, others = joined(flights, work, 2)
    with pytest.raises(cpool.DeadlineExceededError), cpool.deadline(0.01):
        flights.run(work)
    assert flights.is_under_way
    work.may_end.set()
    assert first.join() + others.join() == [None] * 3
    assert work.count == 1


def test_the_next_flight_waits_for_its_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[float] = []
    monkeypatch.setattr(single_flight, "pause", paused.append)
    flights = SingleFlight(10.0, 20.0)
    flights.run(lambda: None)
    assert paused == []
    flights.run(lambda: None)
    assert len(paused) == 1 and 9 < paused[0] <= 10


def test_a_deadline_ends_the_pause() -> None:
    flights = SingleFlight(60.0, 60.0)
    flights.run(lambda: None)
    with pytest.raises(cpool.DeadlineExceededError), cpool.deadline(0.01):
        flights.run(lambda: pytest.fail("the pause is over"))
    assert not flights.is_under_way


# -- in the background -------------------------------------------------------------------


def test_of_many_who_start_it_in_the_background_one_does(flights: SingleFlight) -> None:
    work = Work()
    Asking(lambda: flights.start(work), 200).join()
    assert work.begun.wait(BOUND_S)
    flights.start(work)
    work.may_end.set()
    wait_until(lambda: flights.count == 1, "it has landed")
    assert work.count == 1


def test_what_was_just_done_is_not_started_again() -> None:
    flights = SingleFlight(0, 60.0)
    flights.run(lambda: None)
    before = threading.active_count()
    flights.start(lambda: pytest.fail("too soon"))
    assert threading.active_count() == before


def test_an_error_in_the_background_is_logged_and_the_next_one_starts(
    flights: SingleFlight, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise Refused("redis://user:secret@host")

    with caplog.at_level("INFO", "cpool.cluster"):
        flights.start(fail)
        wait_until(lambda: "Refused" in caplog.text, "it is logged")
    assert "secret" not in caplog.text
    done = threading.Event()
    wait_until(lambda: flights.start(done.set) or done.is_set(), "the next one")


def test_no_room_for_a_thread_is_no_error(
    flights: SingleFlight, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        flights.start(lambda: None)
    done = threading.Event()
    flights.start(done.set)
    assert done.wait(BOUND_S)


# -- interrupts --------------------------------------------------------------------------


def in_it(code: CodeType) -> bool:
    """Whether it is code of the file that is tested."""
    return code.co_filename == single_flight.__file__


@pytest.mark.parametrize("is_first", [True, False])
def test_an_interrupt_at_any_place_leaves_nobody_waiting(is_first: bool) -> None:
    for n in range(1, MOST_PLACES):
        flights = SingleFlight(0, 0)
        if not is_first:
            flights.run(lambda: None)
        fired = interrupt_at(n, lambda f=flights: f.run(lambda: None), in_it)
        done: list[bool] = []
        # In another thread: the one that was interrupted may do it by itself.
        asking = Asking(lambda f=flights, d=done: f.run(lambda: d.append(True)))
        asking.threads[0].join(2)
        assert done == [True] and asking.results == [None], f"place {n}"
        if not fired:
            assert n > 5
            return
    raise AssertionError("it has no end")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_interrupted_start_does_not_prevent_the_next_one() -> None:
    for n in range(1, MOST_PLACES):
        flights = SingleFlight(0, 0)
        fired = interrupt_at(n, lambda f=flights: f.start(lambda: None), in_it)
        wait_until(lambda f=flights: not f.is_under_way, "the first one has landed")
        done = threading.Event()
        for _ in range(1000):
            flights.start(done.set)
            if done.wait(0.002):
                break
        assert done.is_set(), f"place {n}"
        if not fired:
            return
    raise AssertionError("it has no end")
