"""redis-py's own metrics: our pools report to its recorder what its pools report."""

from __future__ import annotations

import contextlib
import gc
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError

from tests.pool.conftest import MakePool
from tests.pool.support import CPOOL, REDIS_PY, StubConnection, all_lent

recorder = pytest.importorskip(
    "redis.observability.recorder", reason="metrics came with redis-py 7.2"
)
UNKNOWN = "unknown_pool"
TIMES = ("record_connection_create_time", "record_connection_wait_time")


class Collector:
    """Stands in for redis-py's collector of OpenTelemetry metrics; keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: self.note(name, **kwargs)

    def note(self, name: str, connection_pool: Any = None, **told: Any) -> None:
        """Keep a call, but no pool alive."""
        if connection_pool is not None:
            told["pool_name"] = name_of(connection_pool)
        self.calls.append((name, told))

    def counts(self, pool_name: str) -> dict[str, int]:
        """Return how many idle and used connections a pool has by what was told."""
        sums: Counter[str] = Counter()
        for name, told in self.calls:
            if name == "record_connection_count" and told["pool_name"] == pool_name:
                sums[told["connection_state"].value] += told["counter"]
        return {state: n for state, n in sums.items() if n}

    def summary(self, pool_name: str) -> dict[Any, int]:
        """Count the calls about a pool by kind and by what they say, durations left out."""
        summary: Counter[Any] = Counter()
        for name, told in self.calls:
            if name in TIMES and pool_name == told["pool_name"]:
                summary[name] += 1
            elif name == "record_connection_count" and told["pool_name"] in (pool_name, UNKNOWN):
                known = told["pool_name"] == pool_name
                summary[name, known, told["connection_state"].value, told["counter"]] += 1
        return dict(summary)


@contextlib.contextmanager
def collected(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """Switch metrics on and give what is reported."""
    with monkeypatch.context() as patch:
        collector = Collector()
        patch.setattr(recorder, "_metrics_collector", collector)
        yield collector


def name_of(pool: Any) -> str:
    from redis.observability.attributes import get_pool_name

    return str(get_pool_name(pool))


def borrow(pool: Any) -> None:
    pool.release(pool.get_connection())


def lend_two(pool: Any) -> None:
    with all_lent(pool, 2):
        pass


def borrow_again(pool: Any) -> None:
    borrow(pool)
    borrow(pool)


def fail_to_connect(pool: Any) -> None:
    pool.connection_kwargs["port"] = 1
    with pytest.raises(ConnectionError):
        pool.get_connection()


def exhaust(pool: Any) -> None:
    with all_lent(pool, 2), pytest.raises(ConnectionError):
        pool.get_connection()


def reset(pool: Any) -> None:
    borrow(pool)
    with all_lent(pool, 2):
        pool.reset()


def disconnect(pool: Any) -> None:
    lend_two(pool)
    pool.disconnect()
    borrow(pool)


def disown(pool: Any) -> None:
    connection = pool.get_connection()
    connection.pid -= 1
    pool.release(connection)


def use_a_client(pool: Any) -> None:
    client = redis.Redis(connection_pool=pool)
    for _ in range(3):
        client.ping()
    with client.pipeline() as pipe:
        pipe.ping().execute()


ACTIONS = [
    *(borrow, borrow_again, lend_two, fail_to_connect, exhaust),
    *(reset, disconnect, disown, use_a_client),
]


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("pool_name", ["ConnectionPool", "BlockingConnectionPool"])
def test_the_recorder_is_told_the_same(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch, pool_name: str, action: Any
) -> None:
    told = []
    for impl in (REDIS_PY, CPOOL):
        waits = {"timeout": 0.01} if "Blocking" in pool_name else {}
        with collected(monkeypatch) as collector:
            pool = make_pool(getattr(impl, pool_name), max_connections=2, **waits)
            action(pool)
            name = name_of(pool)
            told.append((collector.summary(name), collector.counts(name)))
    theirs, ours = told
    assert ours == theirs


@pytest.mark.parametrize("name", ["ConnectionPool", "BlockingConnectionPool"])
def test_a_pool_that_is_dropped_takes_its_connections_off_the_count(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for impl in (REDIS_PY, CPOOL):
        with collected(monkeypatch) as collector:
            pool = getattr(impl, name)(connection_class=StubConnection, max_connections=3)
            pool_name = name_of(pool)
            lent = pool.get_connection()
            borrow(pool)
            assert collector.counts(pool_name) == {"idle": 1, "used": 1}
            del pool
            gc.collect()
            assert collector.counts(pool_name) == {}
            assert lent.is_open


def test_a_vanished_borrower_is_taken_off_the_count(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collected(monkeypatch) as collector:
        pool = make_pool(CPOOL.ConnectionPool, protocol=2)
        connection = pool.get_connection()
        assert collector.counts(name_of(pool)) == {"used": 1}
        del connection
        gc.collect()
        assert pool.stats().reclaimed == 1
        assert collector.counts(name_of(pool)) == {}


def test_metrics_may_be_switched_on_while_connections_are_lent(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(CPOOL.ConnectionPool)
    connection = pool.get_connection()
    with collected(monkeypatch) as collector:
        pool.release(connection)
        assert collector.counts(name_of(pool)) == {"idle": 1, "used": -1}
        with all_lent(pool, 1) as (again,):
            assert again is connection
            assert collector.counts(name_of(pool)) == {}
