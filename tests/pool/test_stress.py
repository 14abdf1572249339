"""Many threads do anything to one pool, at random: no connection is lent twice, none is lost.

CPOOL_STRESS_SEED and CPOOL_STRESS_STEPS choose another run and another length.
"""

from __future__ import annotations

import gc
import os
import random
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

import cpool
from tests.pool.conftest import MakePool
from tests.pool.support import PATIENCE_S, Task, assert_whole, wait_for

SEED = int(os.environ.get("CPOOL_STRESS_SEED", "20"))
STEPS = int(os.environ.get("CPOOL_STRESS_STEPS", "100"))
SLOW_STEPS = int(os.environ.get("CPOOL_STRESS_SLOW_STEPS", "3000"))
THREADS = 8
SLOTS = 5

# Which object of a cycle ends first is the collector's choice: it may be the socket.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

# What a thread may meet because of what another one has done.
EXPECTED = (redis.ConnectionError, redis.TimeoutError, OSError)


class Ledger:
    """Who has which connection, kept beside the pool."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.epoch = 0
        self._lock = threading.Lock()
        self._holders: dict[int, str] = {}

    def take(self, connection: Any) -> None:
        """Note that the calling thread has got a connection. Raises AssertionError."""
        me = threading.current_thread().name
        with self._lock:
            holder = self._holders.setdefault(id(connection), me)
            assert holder is me, f"{me} got the connection that {holder} has"

    def put(self, connection: Any) -> None:
        """Note that it is about to give it up."""
        with self._lock:
            assert self._holders.pop(id(connection)) is threading.current_thread().name

    def check_counts(self) -> None:
        """Assert that no more slots are taken than there are."""
        stats = self.pool.stats()
        assert stats.idle + stats.in_use + stats.opening <= stats.max_connections, stats
        assert stats.open == stats.idle + stats.in_use, stats


class Actor:
    """One thread's part: it holds up to two connections and does things to them."""

    def __init__(self, ledger: Ledger, seed: int, may_reset: bool) -> None:
        self.ledger = ledger
        self.pool = ledger.pool
        self.random = random.Random(seed)
        self.held: list[Any] = []
        self.lent = 0
        actions: list[tuple[int, Callable[[], None]]] = [
            (10, self.borrow),
            (10, self.give_back),
            (4, self.use),
            (2, self.drop),
            (2, self.leave_a_reply),
            (1, self.kill),
            (1, self.close_all),
            (1, self.close_idle),
            (1, self.drain),
            (1, self.collect),
        ]
        if may_reset:
            actions.append((1, self.pool.reset))
        self._weights, self._actions = zip(*actions, strict=True)

    def run(self, steps: int) -> int:
        """Do so many things; return how many connections were lent."""
        for _ in range(steps):
            (action,) = self.random.choices(self._actions, self._weights)
            action()
            self.ledger.check_counts()
        while self.held:
            self.give_back()
        return self.lent

    def borrow(self) -> None:
        if len(self.held) == 2:
            return self.give_back()
        try:
            connection = self.pool.get_connection()
        except EXPECTED:
            return None
        self.ledger.take(connection)
        self.held.append(connection)
        self.lent += 1
        return self.use()

    def use(self) -> None:
        """Ask for an echo: a connection two threads have would mix the replies."""
        if not self.held:
            return
        connection, word = self.random.choice(self.held), self.random.randbytes(6).hex()
        try:
            connection.send_command("ECHO", word)
            reply = connection.read_response()
        except EXPECTED:
            return
        assert reply == word.encode()

    def give_back(self) -> None:
        if self.held:
            connection = self.held.pop()
            self.ledger.put(connection)
            self.pool.release(connection)

    def drop(self) -> None:
        if self.held:
            self.ledger.put(self.held[-1])
            del self.held[-1]

    def leave_a_reply(self) -> None:
        if self.held:
            try:
                self.held[-1].send_command("ECHO", "stale")
            except EXPECTED:
                pass
            self.give_back()

    def kill(self) -> None:
        sock = self.held[-1]._sock if self.held else None
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close_all(self) -> None:
        self.pool.disconnect()

    def close_idle(self) -> None:
        self.pool.disconnect(inuse_connections=False)

    def drain(self) -> None:
        self.pool.drain()

    def collect(self) -> None:
        gc.collect()


@pytest.fixture(autouse=True)
def quick_collections() -> Iterator[None]:
    """Hide from the garbage collector what was there before, so that it may run often."""
    gc.freeze()
    yield
    gc.unfreeze()


def stress(pool: Any, seed: int, steps: int, may_reset: bool) -> None:
    """Let all threads loose on a pool, then look whether it is whole."""
    ledger = Ledger(pool)
    actors = [Actor(ledger, seed * 100 + i, may_reset) for i in range(THREADS)]
    tasks = [Task(actor.run, steps) for actor in actors]
    lent = sum(task.result(PATIENCE_S + steps / 10) for task in tasks)
    assert lent > 2 * THREADS
    del tasks, actors
    gc.collect()
    assert_whole(pool, SLOTS)
    wait_for(lambda: open_sockets(pool) == SLOTS, "the end of all other sockets")


def open_sockets(pool: Any) -> int:
    """How many connections with the pool's client name the server has."""
    with redis.Redis(port=pool.connection_kwargs["port"]) as other:
        names = [client["name"] for client in other.client_list()]
    return names.count(pool.connection_kwargs["client_name"])


def make_stressed_pool(make_pool: MakePool, order: str, waiting: bool, protocol: int) -> Any:
    return make_pool(
        cpool.BlockingConnectionPool if waiting else cpool.ConnectionPool,
        max_connections=SLOTS,
        timeout=0.05 if waiting else 0,
        order=order,
        protocol=protocol,
        client_name=f"stress-{uuid.uuid4().hex}",
        socket_timeout=PATIENCE_S,
    )


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("waiting", [False, True], ids=["raising", "waiting"])
@pytest.mark.parametrize("order", ["lifo", "fifo"])
def test_threads_that_do_anything_lose_and_share_no_connection(
    make_pool: MakePool, order: str, waiting: bool, protocol: int
) -> None:
    pool = make_stressed_pool(make_pool, order, waiting, protocol)
    stress(pool, SEED, STEPS, may_reset=False)


@pytest.mark.parametrize("order", ["lifo", "fifo"])
def test_a_pool_may_be_reset_meanwhile(make_pool: MakePool, order: str) -> None:
    pool = make_stressed_pool(make_pool, order, True, 2)
    stress(pool, SEED + 1, STEPS, may_reset=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("order", ["lifo", "fifo"])
def test_threads_that_do_anything_for_long_lose_and_share_no_connection(
    make_pool: MakePool, order: str, seed: int
) -> None:
    pool = make_stressed_pool(make_pool, order, waiting=seed != 1, protocol=2 + seed % 2)
    stress(pool, SEED + 10 + seed, SLOW_STEPS, may_reset=seed == 2)
