"""What workers measure with: threads that send commands, repeated calls, CPU time, memory.

Everything here runs in the process whose side is measured; nothing knows which side that is.
"""

from __future__ import annotations

import resource
import statistics
import threading
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from _process import Result

JOIN_LIMIT_S = 120.0
FEWEST_CALLS = 3


class Load:
    """Call one client from many threads for a fixed time, each call clocked or only counted.

    call: takes a key, one after the other, and must return `reply`.
    """

    def __init__(
        self, call: Callable[[str], Any], reply: Any, keys: Sequence[str], threads: int
    ) -> None:
        self.call = call
        self.reply = reply
        self.keys = keys
        self.threads = threads

    def run(self, seconds: float, *, clocked: bool = False) -> Result:
        self.running = [True]
        self.spans: list[tuple[int, float, float]] = []
        self.command_ns: list[array[int]] = []
        self.start = threading.Barrier(self.threads + 1)
        loop = self.clocked_loop if clocked else self.counting_loop
        started = [
            threading.Thread(target=self.one_thread, args=[loop], daemon=True)
            for _ in range(self.threads)
        ]
        for thread in started:
            thread.start()
        before_s = cpu_time_s()
        self.start.wait()
        time.sleep(seconds)
        self.running.clear()
        for thread in started:
            thread.join(JOIN_LIMIT_S)
        if len(self.spans) != self.threads:
            raise RuntimeError("a thread failed or hung")
        times = latencies("command", self.command_ns) if clocked else {}
        return {**self.summary(cpu_time_s() - before_s), **times}

    def one_thread(self, loop: Callable[[], int]) -> None:
        self.start.wait()
        start_s = time.perf_counter()
        count = loop()
        end_s = time.perf_counter()
        if all(self.call(key) == self.reply for key in self.keys):
            self.spans.append((count, start_s, end_s))

    def counting_loop(self) -> int:
        call, running, count = self.call, self.running, 0
        for key in cycle(self.keys):
            if not running:
                break
            call(key)
            count += 1
        return count

    def clocked_loop(self) -> int:
        call, running, clock = self.call, self.running, time.perf_counter_ns
        times_ns = array("Q")
        keep = times_ns.append
        for key in cycle(self.keys):
            if not running:
                break
            start_ns = clock()
            call(key)
            keep(clock() - start_ns)
        self.command_ns.append(times_ns)
        return len(times_ns)

    def summary(self, cpu_s: float) -> Result:
        counts = [count for count, _, _ in self.spans]
        elapsed_s = max(end for _, _, end in self.spans) - min(s for _, s, _ in self.spans)
        total = sum(counts)
        return {
            "ops": total,
            "elapsed_s": elapsed_s,
            "ops_per_s": total / elapsed_s,
            "cpu_us_per_op": cpu_s / total * 1e6,
            "fewest": min(counts),
            "most": max(counts),
        }


def latencies(name: str, kept_ns: Iterable[Sequence[int]]) -> Result:
    """Sum up the times that all threads kept; none is left out."""
    ordered = sorted(value for times_ns in kept_ns for value in times_ns)
    percentiles_ns = statistics.quantiles(ordered, n=100, method="inclusive")
    return {
        f"{name}_p50_ms": percentiles_ns[49] / 1e6,
        f"{name}_p99_ms": percentiles_ns[98] / 1e6,
        f"{name}_longest_ms": ordered[-1] / 1e6,
        f"{name}_count": len(ordered),
    }


def repeat(call: Callable[[], Any], seconds: float) -> Result:
    """Repeat a call for some seconds after a warm-up; return what one of them takes."""
    call()
    call()
    count, cpu_start_s, start_s = 0, cpu_time_s(), time.perf_counter()
    while time.perf_counter() - start_s < seconds or count < FEWEST_CALLS:
        call()
        count += 1
    took_s, cpu_s = time.perf_counter() - start_s, cpu_time_s() - cpu_start_s
    return {"calls": count, "s_per_call": took_s / count, "cpu_s_per_call": cpu_s / count}


def cpu_time_s() -> float:
    """Return the CPU time, user's and system's, of all threads of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


# ---- memory (Linux) -----------------------------------------------------------------------


def memory_is_readable() -> bool:
    return Path("/proc/self/clear_refs").exists()


def reset_high_water() -> None:
    """Set VmHWM back to the present, see proc(5), clear_refs."""
    Path("/proc/self/clear_refs").write_text("5")


def memory_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
