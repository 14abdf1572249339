"""Interrupt servers under load and see how pools recover."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis

from cpool.tools.demo.outages import Outage
from cpool.tools.demo.workload import Round, Tally, expected_batch, measure, run_batch, run_threads

RECOVERY_TIMEOUT_S = 5.0
RETRY_PAUSE_S = 0.005
LOAD_BEFORE_KILL_S = 0.3
PREFIX = "cpool-demo:crash"
# A cluster's client has exceptions of its own for a node that it has lost.
INTERRUPTIONS = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.exceptions.ClusterError,
    redis.exceptions.RedisClusterException,
)
BEFORE, DOWN, AFTER = range(3)


@dataclass(frozen=True)
class Recovery:
    """How a client came through an outage; times count from the kill."""

    outage: str
    failed: int
    retried: int
    down_s: float
    first_s: float
    all_s: float
    lost_slots: int
    stats: str
    after: Round
    problems: list[str]


class Persistent:
    """A client whose commands are tried again until they succeed; counts what failed."""

    def __init__(self, client: Any, tally: Tally, over: threading.Event) -> None:
        """Wrap a client for the thread of `tally`, until `over`."""
        self._client = client
        self._tally = tally
        self._over = over

    def __getattr__(self, name: str) -> Any:
        return functools.partial(self._persist, getattr(self._client, name))

    def _persist(self, command: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Send a command; raises only once the crash is over."""
        failed_before = self._tally.failed
        while True:
            try:
                reply = command(*args, **options)
            except INTERRUPTIONS:
                self._tally.failed += 1
                if self._over.wait(RETRY_PAUSE_S):
                    raise
            else:
                self._tally.retried += self._tally.failed > failed_before
                return reply


class Crash:
    """Interrupt the servers under the load of many threads on one client."""

    def __init__(
        self, outage: Outage, client: Any, pools: Callable[[], list[Any]], threads: int
    ) -> None:
        """Prepare; run() does it. pools: returns the client's pools."""
        self._over = threading.Event()
        self._killed_s = float("inf")
        self._outage = outage
        self._client = client
        self._pools = pools
        self._epoch = BEFORE
        self._down_s = 0.0
        self._tallies = [Tally() for _ in range(threads)]
        self._problems: list[str] = []

    def run(self) -> Recovery:
        """Do it and return what was seen, with a verified round of normal work after it."""
        load = threading.Thread(target=run_threads, args=(self._work, self._tallies))
        load.start()
        try:
            self._wait("run", lambda tally: tally.batches > 0)
            time.sleep(LOAD_BEFORE_KILL_S)
            self._interrupt()
            self._wait("recover", lambda tally: tally.back_s is not None)
        finally:
            self._over.set()
            load.join()
        return self._recovery()

    def _work(self, thread: int) -> None:
        tally, expected = self._tallies[thread], expected_batch(thread)
        client: Any = Persistent(self._client, tally, self._over)
        while not self._over.is_set():
            epoch, began_s = self._epoch, time.perf_counter()
            replies = run_batch(client, PREFIX, thread)
            # What was begun after the kill was surely answered by those who are left.
            if tally.back_s is None and began_s > self._killed_s:
                tally.back_s = time.perf_counter()
            # A batch that met the crash may have lost its data: its replies prove nothing.
            if epoch == self._epoch and epoch != DOWN:
                tally.judge(thread, replies, expected)

    def _interrupt(self) -> None:
        self._epoch = DOWN
        began_s = time.perf_counter()
        self._outage.kill()
        self._killed_s = time.perf_counter()
        self._outage.wait()
        self._down_s = time.perf_counter() - began_s
        self._epoch = AFTER

    def _wait(self, verb: str, done: Callable[[Tally], bool]) -> None:
        give_up_s = time.perf_counter() + RECOVERY_TIMEOUT_S
        while not all(done(tally) or tally.problems for tally in self._tallies):
            if time.perf_counter() > give_up_s:
                late = sum(not done(tally) for tally in self._tallies)
                self._problems.append(f"{late} threads did not {verb} in {RECOVERY_TIMEOUT_S} s")
                return
            time.sleep(RETRY_PAUSE_S)

    def _recovery(self) -> Recovery:
        stats = _stats_text(self._pools())
        self._outage.mend()
        lost = sum(map(lost_slots, self._pools()))
        if lost:
            self._problems.append(f"{lost} slots were lost")
        after = measure(self._client, len(self._tallies), LOAD_BEFORE_KILL_S)
        for tally in self._tallies:
            self._problems += tally.problems
        back = [t.back_s - self._killed_s for t in self._tallies if t.back_s is not None]
        return Recovery(
            outage=self._outage.done,
            failed=sum(tally.failed for tally in self._tallies),
            retried=sum(tally.retried for tally in self._tallies),
            down_s=self._down_s,
            first_s=min(back, default=float("nan")),
            all_s=max(back, default=float("nan")),
            lost_slots=lost,
            stats=stats,
            after=after,
            problems=self._problems + after.problems,
        )


def lost_slots(pool: Any) -> int:
    """Borrow `max_connections` at once, give them back; return how many were refused."""
    expected: int = pool.max_connections
    borrowed: list[Any] = []
    try:
        with contextlib.suppress(redis.ConnectionError):
            while len(borrowed) < expected:
                borrowed.append(pool.get_connection())
    finally:
        for connection in borrowed:
            pool.release(connection)
    return expected - len(borrowed)


def _stats_text(pools: list[Any]) -> str:
    """Return the pools' own figures, added up; nothing if they have none."""
    if not all(hasattr(pool, "stats") for pool in pools):
        return ""
    stats = [pool.stats() for pool in pools]
    fields = ("open", "idle", "in_use", "opening", "waiting", "max_connections")
    return ", ".join(f"{name}={sum(getattr(one, name) for one in stats)}" for name in fields)
