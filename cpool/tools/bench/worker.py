"""One side's process: it measures one client for a while and says what it saw.

Started as `python -m cpool.tools.bench.worker`. The task comes by stdin, because a command
line, and with it a password, can be read by everybody on the machine; the result leaves as
JSON by stdout.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import resource
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import redis

from cpool.tools.bench.histogram import Histogram
from cpool.tools.bench.workload import Operation, Scheduled, Workload, check_replies, schedule
from cpool.tools.machine import busy_between, cpu_ticks
from cpool.tools.sides import CLIENT, REDIS_PY, client_class

WARM_UP_SHARE = 0.1
MOST_ERROR_TEXTS = 5
OTHER_ERRORS = "other errors"
Call = tuple[Callable[..., Any], tuple[Any, ...]]
PERCENTILES = {"p50_ms": 50, "p99_ms": 99, "p999_ms": 99.9}


@dataclass(frozen=True)
class Task:
    """What one process is to measure.

    connections: the pool's; options: more of them; round: which calls are drawn.
    """

    url: str = field(repr=False)
    side: str
    threads: int
    connections: int
    seconds: float
    round: int
    options: dict[str, Any]
    load: Workload

    @classmethod
    def from_json(cls, text: str) -> Task:
        """Read what asdict() and json.dumps() have written."""
        data = json.loads(text)
        return cls(**{**data, "load": Workload(**data["load"])})


@dataclass(frozen=True)
class Measured:
    """What one process saw. What is None could not be learnt here.

    cpu_s: CPU time of the process; busy_percent: of all CPUs of the machine;
    server_cpu_percent: of one CPU; server_commands: all clients'; compiled, refused:
    calls that were one compiled call, and those that were not by reason.
    """

    commands: int
    calls: int
    elapsed_s: float
    cpu_s: float
    latency_ms: dict[str, float]
    errors: dict[str, int]
    busy_percent: int | None
    server_cpu_percent: float | None
    server_commands: int | None
    compiled: int | None
    refused: dict[str, int]

    def figures(self) -> dict[str, float]:
        """Return what is compared; nothing if no call succeeded."""
        if not self.commands:
            return {}
        rate = self.commands / self.elapsed_s
        cpu_us = self.cpu_s / self.commands * 1e6
        return {"ops_per_s": rate, **self.latency_ms, "cpu_us_per_command": cpu_us}


def make_client(task: Task) -> redis.Redis:
    """Make the client of a side; only the classes differ."""
    import cpool

    blocking = task.connections < task.threads
    module = redis if task.side == REDIS_PY else cpool
    pool_class = getattr(module, "BlockingConnectionPool" if blocking else "ConnectionPool")
    pool = pool_class.from_url(task.url, max_connections=task.connections, **task.options)
    return client_class(task.side)(connection_pool=pool)


class Tally:
    """What one thread did; written by that thread only."""

    def __init__(self) -> None:
        self.histogram = Histogram()
        self.errors: Counter[str] = Counter()
        self.began_s = 0.0
        self.ended_s = 0.0

    def note(self, text: str) -> None:
        """Count an error; texts that differ each time must not fill the memory."""
        known = text in self.errors or len(self.errors) < MOST_ERROR_TEXTS
        self.errors[text if known else OTHER_ERRORS] += 1


class Driver:
    """Repeat the scheduled calls on some threads that share a client."""

    def __init__(self, client: Any, task: Task) -> None:
        self.client = client
        self.load = task.load
        self.threads = task.threads
        self.schedule = schedule(task.load, task.round)
        self.tallies: list[Tally] = []
        self.cpu_s = 0.0

    def run(self, seconds: float) -> None:
        """Call for some seconds; the figures are those of this run then."""
        self.tallies = [Tally() for _ in range(self.threads)]
        self.running = [True]
        self.start = threading.Barrier(self.threads + 1)
        workers = [
            threading.Thread(target=self._one_thread, args=[number], daemon=True)
            for number in range(self.threads)
        ]
        for worker in workers:
            worker.start()
        cpu_before_s = cpu_time_s()
        self.start.wait()
        time.sleep(seconds)
        self.running.clear()
        for worker in workers:
            worker.join()
        self.cpu_s = cpu_time_s() - cpu_before_s

    def elapsed_s(self) -> float:
        """Return the time from the first call of any thread to the last one's end.

        The main thread's clock won't do: it may wait long for the GIL after the start.
        """
        began_s = min(tally.began_s for tally in self.tallies)
        return max(tally.ended_s for tally in self.tallies) - began_s

    def errors(self) -> Counter[str]:
        """Return the errors of all threads."""
        return sum((tally.errors for tally in self.tallies), Counter())

    def histogram(self) -> Histogram:
        """Return the times of all calls that succeeded."""
        return Histogram.merged(tally.histogram for tally in self.tallies)

    def _one_thread(self, number: int) -> None:
        tally = self.tallies[number]
        first = number * len(self.schedule) // self.threads  # not all in step
        scheduled = self.schedule[first:] + self.schedule[:first]
        calls = [self._bound(each) for each in scheduled]
        self.start.wait()
        tally.began_s = time.perf_counter()
        self._check(scheduled[0], calls[0], tally)
        self._clock(calls, tally)
        self._check(scheduled[0], calls[0], tally)
        tally.ended_s = time.perf_counter()

    def _bound(self, scheduled: Scheduled) -> Call:
        if self.load.depth > 1:
            return self._pipeline, (scheduled.operations,)
        name, arguments = scheduled.operations[0]
        return getattr(self.client, name), arguments

    def _pipeline(self, operations: tuple[Operation, ...]) -> Any:
        pipe = self.client.pipeline(transaction=False)
        for name, arguments in operations:
            getattr(pipe, name)(*arguments)
        return pipe.execute()

    def _clock(self, calls: list[Call], tally: Tally) -> None:
        clock, record, running = time.perf_counter_ns, tally.histogram.record, self.running
        for call, arguments in itertools.cycle(calls):
            start_ns = clock()
            try:
                call(*arguments)
            except Exception as error:
                tally.note(f"{type(error).__name__}: {error}")
            else:
                record(clock() - start_ns)
            if not running:
                break

    def _check(self, scheduled: Scheduled, bound: Call, tally: Tally) -> None:
        """Make one call, clocked as the others, and look at its replies."""
        call, arguments = bound
        start_ns = time.perf_counter_ns()
        try:
            reply = call(*arguments)
            tally.histogram.record(time.perf_counter_ns() - start_ns)
            replies = reply if self.load.depth > 1 else [reply]
            check_replies(self.load, scheduled, replies)
        except Exception as error:
            tally.note(f"{type(error).__name__}: {error}")


# -- what else is looked at ---------------------------------------------------------------


class ServerWatch:
    """Ask a server twice for its CPU time and its count of commands."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.before = self._look()

    def since(self) -> tuple[float | None, int | None]:
        """Return the percentage of one CPU, and the commands, since the beginning."""
        now = self._look()
        passed = {name: now[name] - self.before[name] for name in now.keys() & self.before.keys()}
        cpu_s, commands = passed.get("cpu_s"), passed.get("commands")
        percent = None if cpu_s is None else 100 * cpu_s / passed["taken_s"]
        return percent, None if commands is None else int(commands)

    def _look(self) -> dict[str, float]:
        seen = {"taken_s": time.perf_counter()}
        try:
            return seen | _server_counters(self.client.info())
        except redis.ResponseError:  # not everybody is allowed to ask
            return seen


def _server_counters(info: Mapping[str, Any]) -> dict[str, float]:
    """Take the CPU time of the thread that runs commands, where it is told apart."""
    found = {}
    for ending in ("_main_thread", ""):
        names = [f"used_cpu_user{ending}", f"used_cpu_sys{ending}"]
        if "cpu_s" not in found and all(name in info for name in names):
            found["cpu_s"] = float(sum(info[name] for name in names))
    if "total_commands_processed" in info:
        found["commands"] = float(info["total_commands_processed"])
    return found


def cpu_time_s() -> float:
    """Return the CPU time, user's and system's, of all threads of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def ticks_if_any() -> list[int] | None:
    """Return cpu_ticks(), None where there are none."""
    try:
        return cpu_ticks()
    except OSError:
        return None


def measure(task: Task) -> Measured:
    """Warm up, then measure."""
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(contextlib.closing(make_client(task)))
        stack.callback(client.connection_pool.disconnect)
        observer = redis.Redis.from_url(task.url, **task.options)
        driver = Driver(client, task)
        driver.run(task.seconds * WARM_UP_SHARE)
        early_errors = driver.errors()
        gc.collect()
        watch = ServerWatch(stack.enter_context(contextlib.closing(observer)))
        return _measured(task, driver, watch, early_errors)


def _measured(
    task: Task, driver: Driver, watch: ServerWatch, early_errors: Counter[str]
) -> Measured:
    import cpool

    cpool.fast_path.reset_stats()
    ticks = ticks_if_any()
    driver.run(task.seconds)
    ticks_after = ticks_if_any()
    cpu_percent, commands = watch.since()
    paths = cpool.fast_path.stats()
    is_ours = task.side == CLIENT
    histogram = driver.histogram()
    return Measured(
        commands=histogram.count * task.load.depth,
        calls=histogram.count,
        elapsed_s=driver.elapsed_s(),
        cpu_s=driver.cpu_s,
        latency_ms=_latencies(histogram),
        errors=dict(early_errors + driver.errors()),
        busy_percent=busy_between(ticks, ticks_after) if ticks and ticks_after else None,
        server_cpu_percent=cpu_percent,
        server_commands=commands,
        compiled=paths.taken if is_ours else None,
        refused={why: n for why, n in paths.refused.items() if n} if is_ours else {},
    )


def _latencies(histogram: Histogram) -> dict[str, float]:
    if not histogram.count:
        return {}
    return {name: histogram.percentile_ns(p) / 1e6 for name, p in PERCENTILES.items()}


def main() -> int:
    """Measure the task on stdin and print the result."""
    # Ctrl-C reaches all processes of the terminal; the one that started us ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print(json.dumps(asdict(measure(Task.from_json(sys.stdin.read())))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
