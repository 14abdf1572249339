"""Questions to sentinels: who is asked, for how long, whose answer counts, and for whom."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError, ResponseError
from redis.sentinel import MasterNotFoundError

import cpool
from cpool.discovery import Answers
from cpool.tools.sentinels import SentinelTopology
from tests.pool.support import Task, run_in_child, wait_for

pytest_plugins = ["tests.support.sentinels"]

NAME = SentinelTopology.name
OLD, NEW = ("10.0.0.1", 6379), ("10.0.0.2", 6379)
UP = {"is_master": True, "is_sdown": False, "is_odown": False, "num-other-sentinels": 2}


class Silence:
    """A port that takes connections and never says anything."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self._listener.setblocking(False)
        self._taken: list[socket.socket] = []

    def connections(self) -> int:
        """Return how many have connected so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._taken.append(self._listener.accept()[0])
        return len(self._taken)

    def close(self) -> None:
        """End it, and the connections."""
        self.connections()
        for each in [self._listener, *self._taken]:
            each.close()


@pytest.fixture
def silence() -> Iterator[Silence]:
    """Give a sentinel that hangs."""
    silent = Silence()
    yield silent
    silent.close()


@pytest.fixture
def nobody() -> Iterator[tuple[str, int]]:
    """Give an address at which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()


def addresses_of(sentinel: cpool.Sentinel) -> list[tuple[str, int]]:
    """Return the sentinels in the order in which they will be asked."""
    kwargs = [each.connection_pool.connection_kwargs for each in sentinel.sentinels]
    return [(each["host"], each["port"]) for each in kwargs]


# -- Real sentinels, dead ones and silent ones ----------------------------------------------------


def test_sentinels_that_do_not_answer_are_asked_last_from_then_on(
    topology: SentinelTopology, silence: Silence, nobody: tuple[str, int]
) -> None:
    addresses = [silence.address, nobody, *topology.addresses]
    with cpool.Sentinel(addresses, socket_timeout=60) as sentinel:
        assert sentinel.discover_master(NAME) == topology.master.address
        order = addresses_of(sentinel)
        assert order[0] == topology.addresses[0]
        assert set(order[-2:]) == {silence.address, nobody}
        assert silence.connections() == 1
        assert sentinel.discover_master(NAME) == topology.master.address
        assert silence.connections() == 1


def test_the_replicas_are_found_past_sentinels_that_do_not_answer(
    topology: SentinelTopology, silence: Silence, nobody: tuple[str, int]
) -> None:
    addresses = [silence.address, nobody, *topology.addresses]
    with cpool.Sentinel(addresses, socket_timeout=60) as sentinel:
        expected = {replica.address for replica in topology.replicas}
        assert set(sentinel.discover_slaves(NAME)) == expected
        assert sentinel.discover_slaves("no such service") == []


def test_a_silent_sentinel_is_not_waited_for_where_another_says_that_there_is_no_master(
    topology: SentinelTopology, silence: Silence
) -> None:
    addresses = [silence.address, *topology.addresses]
    with cpool.Sentinel(addresses, socket_timeout=3600) as sentinel:
        with pytest.raises(MasterNotFoundError, match="- no answer in time$"):
            sentinel.discover_master("other")
        assert addresses_of(sentinel)[-1] == silence.address


def test_a_deadline_bounds_the_questions(silence: Silence) -> None:
    with cpool.Sentinel([silence.address] * 2, socket_timeout=60) as sentinel:
        with pytest.raises(cpool.DeadlineExceededError) as caught, cpool.deadline(0.05):
            sentinel.discover_master(NAME)
        assert caught.value.seconds == 0.05


def test_a_deadline_bounds_a_command_behind_sentinels_that_hang(silence: Silence) -> None:
    with cpool.Sentinel([silence.address], socket_timeout=60) as sentinel:
        client = sentinel.master_for(NAME)
        with pytest.raises(cpool.DeadlineExceededError), cpool.deadline(0.05):
            client.get("key")
        assert client.connection_pool.stats().in_use == 0


def test_a_silent_sentinel_is_given_up_by_its_own_timeout_at_last(silence: Silence) -> None:
    with cpool.Sentinel([silence.address], socket_timeout=0.02) as sentinel:
        with pytest.raises(MasterNotFoundError, match="Timeout"):
            sentinel.discover_master(NAME)


def test_an_error_says_which_sentinels_failed_and_no_password(nobody: tuple[str, int]) -> None:
    kwargs = {"password": "pass-word", "username": "who"}
    with cpool.Sentinel([nobody], sentinel_kwargs=kwargs) as sentinel:
        with pytest.raises(MasterNotFoundError) as caught:
            sentinel.discover_master(NAME)
    text = str(caught.value)
    assert f"No master found for '{NAME}' : {nobody[0]}:{nobody[1]} - ConnectionError(" in text
    assert "pass-word" not in text and "who" not in text


def test_a_service_that_nobody_knows_is_no_master(topology: SentinelTopology) -> None:
    with cpool.Sentinel(topology.addresses) as sentinel:
        with pytest.raises(MasterNotFoundError, match="^No master found for 'other'$"):
            sentinel.discover_master("other")


# -- Whose answer counts ----------------------------------------------------------------------


class Told:
    """Stands in for a sentinel's client: says what the test wants it to."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.masters: dict[str, dict[str, Any]] = {}
        self.by_name: tuple[bytes, bytes] | None = None
        self.asked = 0

    def says(self, address: tuple[str, int], epoch: int, **more: Any) -> None:
        """Let it name a master that is up."""
        ip, port = address
        self.masters[NAME] = {**UP, "ip": ip, "port": port, "config-epoch": epoch, **more}

    def sentinel_masters(self) -> dict[str, dict[str, Any]]:
        """Do as redis-py's."""
        self.asked += 1
        return self.masters

    def execute_command(self, *command: str) -> tuple[bytes, bytes] | None:
        """Do as redis-py's."""
        assert command == ("SENTINEL GET-MASTER-ADDR-BY-NAME", NAME)
        return self.by_name


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> cpool.Sentinel:
    """Give a Sentinel with two stand-ins, both of which name the old master."""
    monkeypatch.setattr(redis.sentinel, "Redis", Told)
    sentinel = cpool.Sentinel([("a", 1), ("b", 2)])
    for each in sentinel.sentinels:
        each.says(OLD, epoch=1)
    return sentinel


def test_an_answer_older_than_the_last_one_is_passed_over(told: cpool.Sentinel) -> None:
    late, early = told.sentinels
    assert told.discover_master(NAME) == OLD
    early.says(NEW, epoch=2)
    told.sentinels[:] = [early, late]
    assert told.discover_master(NAME) == NEW
    told.sentinels[:] = [late, early]
    assert told.discover_master(NAME) == NEW
    assert told.sentinels[0] is early


def test_an_older_answer_is_better_than_none(told: cpool.Sentinel) -> None:
    for each in told.sentinels:
        each.says(NEW, epoch=7)
    assert told.discover_master(NAME) == NEW
    for each in told.sentinels:  # they were set up anew
        each.says(OLD, epoch=0)
    assert told.discover_master(NAME) == OLD


@pytest.mark.parametrize("kind", [str, set])
def test_the_promoted_server_is_the_master_before_the_failover_has_ended(
    told: cpool.Sentinel, kind: type
) -> None:
    leader = told.sentinels[0]
    flags = {"master", "o_down", "failover_in_progress"}
    leader.by_name = OLD[0].encode(), b"6379"
    leader.says(OLD, 1, is_odown=True, flags=",".join(flags) if kind is str else flags)
    told.sentinels[1].masters.clear()
    with pytest.raises(MasterNotFoundError):
        told.discover_master(NAME)
    leader.by_name = NEW[0].encode(), b"6379"
    assert told.discover_master(NAME) == NEW


def test_a_master_that_is_down_is_none(told: cpool.Sentinel) -> None:
    for each in told.sentinels:
        each.says(OLD, 1, is_sdown=True)
    with pytest.raises(MasterNotFoundError):
        told.discover_master(NAME)


def test_an_address_may_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis.sentinel, "Redis", Told)
    sentinel = cpool.Sentinel([("a", 1)], force_master_ip="127.0.0.9")
    sentinel.sentinels[0].says(OLD, 1)
    assert sentinel.discover_master(NAME) == ("127.0.0.9", OLD[1])


# -- For whom ---------------------------------------------------------------------------------


class CountedLock:
    """A lock that counts who has come to it."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self.comers = 0
        self.release = lock.release

    def acquire(self, *args: Any) -> Any:
        """Take the lock."""
        self.comers += 1
        return self._lock.acquire(*args)


class Asking:
    """A question whose first answer waits until the test lets it go."""

    def __init__(self, answers: Answers, outcome: Any = "answer") -> None:
        self.answers = answers
        self.asked = 0
        self._outcome = outcome
        self._begun, self._go = threading.Event(), threading.Event()
        self._first = Task(self.find)
        assert self._begun.wait(30)
        (self._sought,) = answers._sought.values()
        self._sought.lock = self._lock = CountedLock(self._sought.lock)

    def find(self) -> Any:
        """Ask as a thread does."""
        return self.answers.find("what", self._ask)

    def _ask(self) -> Any:
        self.asked += 1
        if self.asked > 1:
            return "another answer"
        self._begun.set()
        assert self._go.wait(30)
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._outcome

    def join(self, threads: int) -> list[Task]:
        """Let more threads ask; return when they all wait."""
        tasks = [Task(self.find) for _ in range(threads)]
        wait_for(lambda: self._lock.comers == threads, "the others")
        return tasks

    def go(self) -> Task:
        """Let the first answer come, or the error; return who has asked for it."""
        self._go.set()
        return self._first


def test_one_question_serves_all_who_ask_at_the_same_moment() -> None:
    asking = Asking(Answers())
    others = asking.join(15)
    first = asking.go()
    assert [task.result() for task in [first, *others]] == ["answer"] * 16
    assert asking.asked == 1
    assert asking.find() == "another answer"  # who comes later asks anew


def test_an_error_is_everybodys() -> None:
    asking = Asking(Answers(), MasterNotFoundError("none"))
    others = asking.join(3)
    for task in [asking.go(), *others]:
        with pytest.raises(MasterNotFoundError, match="none"):
            task.result()
    assert asking.asked == 1


@pytest.mark.parametrize(
    "outcome", [KeyboardInterrupt(), cpool.DeadlineExceededError(1, "reading")]
)
def test_what_has_stopped_one_thread_does_not_stop_the_others(outcome: BaseException) -> None:
    asking = Asking(Answers(), outcome)
    others = asking.join(3)
    with pytest.raises(type(outcome)):
        asking.go().result()
    assert [task.result() for task in others] == ["another answer"] * 3
    assert asking.asked == 2


def test_a_deadline_bounds_the_wait_for_another_threads_answer() -> None:
    asking = Asking(Answers())
    with pytest.raises(cpool.DeadlineExceededError), cpool.deadline(0.02):
        asking.find()
    assert asking.go().result() == "answer"


def test_a_thread_that_asks_while_it_asks_does_not_wait_for_itself() -> None:
    answers = Answers()
    assert answers.find("what", lambda: answers.find("what", lambda: "inner")) == "inner"


def test_a_child_process_does_not_wait_for_a_thread_of_its_parent() -> None:
    asking = Asking(Answers())
    assert run_in_child(asking.find) == "another answer"
    assert asking.go().result() == "answer"


def test_an_answer_of_a_question_is_not_given_to_another_one() -> None:
    answers = Answers()
    assert answers.find("a", lambda: answers.find("b", lambda: 1) + 1) == 2


def test_errors_that_are_no_answer_of_the_sentinels_are_raised_as_they_are() -> None:
    answers, errors = Answers(), [ResponseError("no"), ValueError("bug")]

    def fail() -> None:
        raise errors[0]

    for error in list(errors):
        with pytest.raises(type(error)) as caught:
            answers.find("what", fail)
        assert caught.value is error
        errors.pop(0)
    assert answers.find("what", lambda: 1) == 1


# -- What Sentinel makes ------------------------------------------------------------------------


def test_the_clients_of_the_sentinels_are_ours_and_do_not_retry() -> None:
    sentinel = cpool.Sentinel([("localhost", 1)], socket_timeout=0.5, max_connections=3)
    (client,) = sentinel.sentinels
    assert type(client) is cpool.Redis
    assert client.get_retry().get_retries() == 0
    assert client.connection_pool.connection_kwargs["socket_timeout"] == 0.5
    assert client.connection_pool.max_connections != 3


def test_the_clients_of_the_sentinels_retry_if_told_to() -> None:
    kwargs = {"retry": redis.retry.Retry(redis.backoff.NoBackoff(), 4), "max_connections": 2}
    (client,) = cpool.Sentinel([("localhost", 1)], sentinel_kwargs=kwargs).sentinels
    assert client.get_retry().get_retries() == 4
    assert client.connection_pool.max_connections == 2


@pytest.mark.parametrize("make", ["master_for", "slave_for", "replica_for"])
def test_every_option_reaches_the_pools_of_a_services_clients(make: str) -> None:
    sentinel = cpool.Sentinel([("localhost", 1)], max_connections=3, order="fifo", timeout=9)
    client = getattr(sentinel, make)(NAME, timeout=1.5, name="web", max_bulk_bytes=10_000)
    assert type(client) is cpool.Redis
    pool = client.connection_pool
    assert type(pool) is cpool.SentinelConnectionPool
    assert (pool.max_connections, pool.timeout, pool.name, pool._order) == (3, 1.5, "web", "fifo")
    assert pool.connection_kwargs["max_bulk_bytes"] == 10_000
    assert pool.is_master == (make == "master_for")


def test_somebodys_own_classes_are_used_if_they_are_named() -> None:
    sentinel = cpool.Sentinel([("localhost", 1)])
    pool_class = redis.sentinel.SentinelConnectionPool
    client = sentinel.master_for(NAME, redis_class=redis.Redis, connection_pool_class=pool_class)
    assert type(client) is redis.Redis and type(client.connection_pool) is pool_class


@pytest.mark.parametrize("wrong", [0, -1, "1", True])
def test_a_wrong_interval_is_an_error_that_names_it(wrong: Any) -> None:
    with pytest.raises(ValueError, match='"master_check_interval" must be a number of seconds'):
        cpool.Sentinel([]).master_for(NAME, master_check_interval=wrong)


def test_without_sentinels_there_is_no_master() -> None:
    with pytest.raises(ConnectionError):
        cpool.Sentinel([]).master_for(NAME).ping()
