"""Waits for a connection when 32 threads share 16: redis-py's and our blocking pool.

Method: one redis.Redis on one BlockingConnectionPool(max_connections=16), default options
otherwise; 32 threads send GET for a 64-byte key without pause. Each side is measured twice per
round, in fresh processes, interleaved with the other side:
timed, for --seconds: each checkout's wait (the time inside get_connection, taken in a subclass
of the pool) and each whole command are clocked; no wait is left out, also not one that ends
after the others stopped; longest waits are the worst of all rounds;
plain, for a third of that: nothing clocked, operations counted: the throughput.
The throughput's result is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from array import array
from typing import Any

from _common import (
    OURS,
    PEER,
    SIDES,
    Pair,
    Report,
    Result,
    Task,
    figures,
    gain,
    main,
    measurer,
    paired_rounds,
    side_module,
)
from _load import Load, latencies
from _server import bench_server

KIND = "BlockingConnectionPool"
LONGEST_MS, LEAST_GAIN = 50.0, 2.3
PERCENTS = ("p50", "p99")
WHAT = {"wait": "checkout's wait", "command": "whole command"}


class Waits(threading.local):
    """Hold one thread's waits in nanoseconds; `kept` has those of all threads."""

    def __init__(self, kept: list[array[int]]) -> None:
        self.ns = array("Q")
        kept.append(self.ns)


def timed_class(base: Any, waits: Waits) -> Any:
    """Return the pool class with each checkout clocked."""

    class TimedPool(base):  # type: ignore[misc]
        def get_connection(self, *args: Any, **options: Any) -> Any:
            start_ns = time.perf_counter_ns()
            connection = super().get_connection(*args, **options)
            waits.ns.append(time.perf_counter_ns() - start_ns)
            return connection

    return TimedPool


def work(task: Task) -> Result:
    """Run the threads of one side, clocked or only counted."""
    import redis

    kept: list[array[int]] = []
    base = getattr(side_module(task["side"]), KIND)
    pool_class = timed_class(base, Waits(kept)) if task["timed"] else base
    pool = pool_class.from_url(task["url"], max_connections=task["connections"])
    client = redis.Redis(connection_pool=pool)
    try:
        load = Load(client, task["threads"])
        load.run(task["warm_s"])
        kept.clear()
        result = load.run(task["seconds"], clocked=task["timed"])
        return {**result, **(latencies("wait", kept) if task["timed"] else {})}
    finally:
        client.close()
        pool.disconnect()


def run(args: argparse.Namespace, report: Report) -> None:
    seconds = args.seconds or (2.0 if args.quick else 10.0)
    rounds = args.rounds or (1 if args.quick else 3)
    with bench_server(args) as server:
        report.on_machine(server.plain_url)
        task = {"url": server.url, "threads": args.threads, "connections": args.connections}
        task |= {"warm_s": 0.3, "seconds": seconds, "timed": True}
        timed = paired_rounds(measurer(args, __file__, work, task), rounds, "timed")
        task |= {"seconds": seconds / 3, "timed": False}
        plain = paired_rounds(measurer(args, __file__, work, task), rounds, "plain")
    report.raw = {"timed": timed, "plain": plain}
    report_waits(report, timed)
    report_throughput(report, plain)


def report_waits(report: Report, pairs: list[Pair]) -> None:
    rows = []
    for side in SIDES:
        for what in ("wait", "command"):
            longest = max(pair[side][f"{what}_longest_ms"] for pair in pairs)
            judged = side == OURS and what == "wait"
            bar = judged and report.bar("longest wait", longest, "<=", LONGEST_MS, " ms")
            middle = [f"{figures(pairs, side, f'{what}_{p}_ms').median:.3f}" for p in PERCENTS]
            spread = f"{min(p[side]['fewest'] for p in pairs):,}"
            spread += f" / {max(p[side]['most'] for p in pairs):,}"
            rows.append([f"{side}, {WHAT[what]}", *middle, f"{longest:,.1f}", bar or "", spread])
    columns = ("", "p50 ms", "p99 ms", "longest ms", "bar", "fewest / most ops of a thread")
    report.table("waits, clocked runs", columns, rows)


def report_throughput(report: Report, pairs: list[Pair]) -> None:
    ratio = gain(pairs, "ops_per_s")
    name = "blocking pool's throughput, times redis-py's"
    bar = report.bar(name, ratio.median, ">=", LEAST_GAIN)
    cells = [f"{figures(pairs, side, 'ops_per_s').median:,.0f}" for side in (PEER, OURS)]
    columns = ("", "redis-py ops/s", "cpool ops/s", "cpool/redis-py", "bar")
    report.table("throughput, plain runs", columns, [["GET", *cells, ratio.text(), bar]])


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, help="length of a clocked run (10)")
    parser.add_argument("--threads", type=int, default=32)
    parser.add_argument("--connections", type=int, default=16)


if __name__ == "__main__":
    sys.exit(main(__file__, __doc__ or "", run, work, add_options))
