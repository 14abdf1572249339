"""Kill a server under load and see how a pool recovers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis

from cpool.tools.demo.workload import Round, Tally, expected_batch, measure, run_batch, run_threads
from cpool.tools.servers import EmbeddedServer

RECOVERY_TIMEOUT_S = 5.0
RETRY_PAUSE_S = 0.005
LOAD_BEFORE_KILL_S = 0.3
DOWN_S = 0.3
BEFORE, DOWN, AFTER = range(3)


@dataclass(frozen=True)
class Recovery:
    """How a pool came through a killed and restarted server; times count from the kill."""

    failed: int
    retried: int
    down_s: float
    first_s: float
    all_s: float
    lost_slots: int
    stats: str
    after: Round
    problems: list[str]


class Persistence:
    """Makes a client try a command again until it succeeds, and counts what failed."""

    _tally: Tally  # of the calling thread
    _crash: Crash

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command; raises only once the crash is over."""
        failed_before = self._tally.failed
        while True:
            began_s = time.perf_counter()
            try:
                reply = super().execute_command(*args, **options)  # type: ignore[misc]
            except (redis.ConnectionError, redis.TimeoutError):
                self._tally.failed += 1
                if self._crash.over.wait(RETRY_PAUSE_S):
                    raise
            else:
                self._tally.retried += self._tally.failed > failed_before
                # Only what was begun after the kill was surely answered by the new server.
                if self._tally.back_s is None and began_s > self._crash.killed_s:
                    self._tally.back_s = time.perf_counter()
                return reply


class Crash:
    """Kill and restart a server under the load of many threads on one pool."""

    def __init__(
        self,
        server: EmbeddedServer,
        pool: Any,
        threads: int,
        client_class: type[redis.Redis] = redis.Redis,
    ) -> None:
        """Prepare; run() does it. The server must not hold anything of value."""
        self._client_class = client_class
        self.over = threading.Event()
        self.killed_s = float("inf")
        self._server = server
        self._pool = pool
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
            self._kill_and_restart()
            self._wait("recover", lambda tally: tally.back_s is not None)
        finally:
            self.over.set()
            load.join()
        return self._recovery()

    def _work(self, thread: int) -> None:
        tally, expected = self._tallies[thread], expected_batch(thread)
        client = self._persistent_client(tally)
        while not self.over.is_set():
            epoch = self._epoch
            replies = run_batch(client, "cpool-demo:crash", thread)
            # A batch that met the crash may have lost its data: its replies prove nothing.
            if epoch == self._epoch and epoch != DOWN:
                tally.judge(thread, replies, expected)

    def _persistent_client(self, tally: Tally) -> Any:
        persistent: Any = type("PersistentClient", (Persistence, self._client_class), {})
        client = persistent(connection_pool=self._pool)
        client._tally, client._crash = tally, self
        return client

    def _kill_and_restart(self) -> None:
        self._epoch = DOWN
        began_s = time.perf_counter()
        self._server.kill()
        self.killed_s = time.perf_counter()
        time.sleep(DOWN_S)
        self._server.restart()
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
        stats = _stats_text(self._pool)
        lost = lost_slots(self._pool)
        if lost:
            self._problems.append(f"{lost} slots were lost")
        client = self._client_class(connection_pool=self._pool)
        after = measure(client, len(self._tallies), LOAD_BEFORE_KILL_S)
        for tally in self._tallies:
            self._problems += tally.problems
        back = [t.back_s - self.killed_s for t in self._tallies if t.back_s is not None]
        return Recovery(
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


def _stats_text(pool: Any) -> str:
    if not hasattr(pool, "stats"):
        return ""
    stats = pool.stats()
    fields = ("open", "idle", "in_use", "opening", "waiting", "max_connections")
    return ", ".join(f"{name}={getattr(stats, name)}" for name in fields)
