"""The reconnect storm: a server killed and restarted under many threads on one pool.

It measures and does not judge times: dials (connect and handshake) in all and at once, what
callers got to see, and how soon after the server's return each thread had a reply again.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

import cpool
from cpool.tools.servers import EmbeddedServer
from tests.proof.framework import (
    Report,
    add_common,
    count,
    positive,
    server_name,
    servers,
    watchdog,
)
from tests.support.servers import wait_until

SUMMARY = "kill and restart a server under many threads, and count the dials"
PAUSE_S = 0.005
SERVED_BOUND_S = 30.0
BACKOFF = ExponentialWithJitterBackoff(base=0.01, cap=0.5)
COLUMNS = (
    "pool",
    "dials before",
    "while down",
    "after",
    "at once",
    "errors",
    "first served",
    "median",
    "95 %",
    "last",
)
PHASES = ("before", "down", "after")


class Dials:
    """Counts dials: how many in each phase, and the most under way at once."""

    def __init__(self) -> None:
        self.phase = PHASES[0]
        self.total: Counter[str] = Counter()
        self.most = 0
        self._under_way = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.total[self.phase] += 1
            self._under_way += 1
            self.most = max(self.most, self._under_way)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._under_way -= 1


def counted(connection_class: Any, dials: Dials) -> Any:
    """Return a class of connections whose dials are counted."""

    class Counted(connection_class):
        def connect_check_health(self, *args: Any, **kwargs: Any) -> None:
            """Connect and shake hands, if that is still to be done."""
            if self._sock is not None:
                return
            with dials:
                super().connect_check_health(*args, **kwargs)

    return Counted


@dataclass(frozen=True)
class Side:
    """A pool and a client to measure. ours: it takes cpool's options."""

    name: str
    pool_class: Any
    connection_class: Any
    client_class: type[redis.Redis]
    ours: bool = True


SIDES = (
    Side("redis-py", redis.BlockingConnectionPool, redis.Connection, redis.Redis, ours=False),
    Side("cpool, pool only", cpool.BlockingConnectionPool, cpool.Connection, redis.Redis),
    Side("cpool.Redis", cpool.BlockingConnectionPool, cpool.Connection, cpool.Redis),
)


@dataclass
class Storm:
    """Threads on one client, before, during and after the crash of their server."""

    client: redis.Redis
    threads: int
    dials: Dials
    errors: Counter[str] = field(default_factory=Counter)
    served_s: dict[int, float] = field(default_factory=dict)  # by thread, in this phase
    wrong: int = 0
    back_s: float = 0.0  # when the new server was seen to answer

    def run(self, server: EmbeddedServer, down_s: float) -> None:
        """Do it. Raises TimeoutError if a thread is never served again."""
        over = threading.Event()
        args = (over,)
        workers = [threading.Thread(target=self._work, args=(n, *args)) for n in self._numbers()]
        for worker in workers:
            worker.start()
        try:
            self._wait_for_all("served at first")
            self._crash(server, down_s)
            self._wait_for_all("served again")
        finally:
            over.set()
            for worker in workers:
                worker.join()

    def _numbers(self) -> range:
        return range(self.threads)

    def _crash(self, server: EmbeddedServer, down_s: float) -> None:
        self.dials.phase = "down"
        server.kill()
        time.sleep(down_s)
        # Nobody answers: who is served from here on is served by the new server.
        self.dials.phase, self.served_s = "after", {}
        server.restart()
        self.back_s = time.monotonic()

    def _wait_for_all(self, what: str) -> None:
        wait_until(lambda: len(self.served_s) == self.threads, what, SERVED_BOUND_S)

    def _work(self, number: int, over: threading.Event) -> None:
        serial = 0
        while not over.is_set():
            serial += 1
            served = self.served_s
            try:
                self._ask(f"{number}:{serial}")
            except redis.RedisError as error:
                self.errors[type(error).__name__] += 1
                over.wait(PAUSE_S)
            else:
                # A reply of the phase before is noted there.
                served.setdefault(number, time.monotonic())

    def _ask(self, nonce: str) -> None:
        if self.client.echo(nonce) != nonce.encode():
            self.wrong += 1

    def delays_s(self) -> list[float]:
        """Return how many seconds after the server's return each thread was served, in order."""
        served_s = sorted(self.served_s.values())
        back_s = min(self.back_s, served_s[0])
        return [at_s - back_s for at_s in served_s]


def measure(side: Side, server: EmbeddedServer, options: argparse.Namespace) -> Storm:
    """Let one side go through it."""
    dials = Dials()
    extra: dict[str, Any] = {}
    if options.max_connecting and side.ours:
        extra["max_connecting"] = options.max_connecting
    if options.retries is not None:
        extra["retry"] = Retry(BACKOFF, options.retries)
    pool = side.pool_class(
        host=server.host,
        port=server.port,
        max_connections=options.connections or options.threads,
        timeout=options.timeout,
        socket_timeout=options.timeout,
        connection_class=counted(side.connection_class, dials),
        **extra,
    )
    storm = Storm(side.client_class(connection_pool=pool), options.threads, dials)
    try:
        storm.run(server, options.down)
    finally:
        pool.disconnect()
    return storm


def row_of(name: str, storm: Storm) -> list[str]:
    """Return a side's line of the table."""
    delays_s = storm.delays_s()
    errors = ", ".join(f"{error} {n}" for error, n in sorted(storm.errors.items()))
    quantiles = statistics.quantiles(delays_s, n=20) if len(delays_s) > 1 else delays_s * 20
    times_s = (delays_s[0], statistics.median(delays_s), quantiles[-1], delays_s[-1])
    dials = [str(storm.dials.total[phase]) for phase in PHASES]
    return [name, *dials, str(storm.dials.most), errors, *(f"{1e3 * s:.0f} ms" for s in times_s)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_common(parser)
    add = parser.add_argument
    add("--threads", type=count, default=200, help="(%(default)s)")
    add("--connections", type=count, help="max_connections of the pool (as many as threads)")
    add("--max-connecting", type=count, metavar="N", help="cpool's option (not given)")
    add("--retries", type=count, help="of the client, from 10 ms to 0.5 s apart (redis-py's own)")
    add("--down", type=positive, default=1.0, metavar="S", help="seconds (%(default)s)")
    add("--timeout", type=positive, default=20.0, metavar="S", help="for all waits (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    report = Report(options.plain)
    for path in servers(options.server):
        rows = [_play(side, path, options, report) for side in SIDES]
        title = f"{options.threads} threads, {server_name(path)} killed and back"
        report.table(title, COLUMNS, rows)
    return report.status()


def _play(side: Side, path: str, options: argparse.Namespace, report: Report) -> list[str]:
    with watchdog(4 * SERVED_BOUND_S), EmbeddedServer(path).start() as server:
        try:
            storm = measure(side, server, options)
        except TimeoutError as error:
            if side.ours:
                report.violation(f"{side.name}: {error}")
            return [f"{side.name}: {error}", *("" for _ in COLUMNS[1:])]
    if storm.wrong:
        report.violation(f"{side.name}: {storm.wrong} foreign replies")
    if side.ours and options.max_connecting and storm.dials.most > options.max_connecting:
        report.violation(f"{side.name}: {storm.dials.most} dials at once")
    return row_of(side.name, storm)
