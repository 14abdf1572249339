"""Big values and memory: SET and GET of 1 and 16 MiB, the peak of a 64 MiB GET, idle connections.

Method: plain redis.Redis, only the pool replaced, one thread, each side in a fresh process per
round, rounds interleaved; results are medians of the rounds' ratios.
Throughput: SETs, then GETs of one value, repeated for a fixed time after a warm-up; MB/s count
the value's bytes (1 MB = 1,000,000 bytes). The value read is compared with the one written.
Peak: the process reads a small value, its high-water mark of resident memory is set back, then
it reads 64 MiB once; the rise over the resident memory before, divided by the value's size.
Idle connections: 1,000 (fewer if `ulimit -n` is low), each opened, used for one small GET and
given back; the growth of resident memory per connection, and, in a second process, of what
tracemalloc sees (Python's own allocations; memory of C libraries escapes it). Kernel memory is
not counted. Linux only for the memory part.
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import sys
import tracemalloc
from typing import Any

from _common import (
    KEY,
    OURS,
    PEER,
    VALUE,
    CannotRun,
    Pair,
    Report,
    Result,
    Task,
    figures,
    gain,
    main,
    measurer,
    open_pool,
    paired_rounds,
)
from _load import memory_is_readable, memory_kib, repeat, reset_high_water
from _server import Server, bench_server

MIB = 1 << 20
BIG_KEY = "bench:big"
PEAK_SIZE = 64 * MIB
SPARE_FDS = 64
WARM_CONNECTIONS = 10
SET_1_MIB_BAR, GET_BAR, PEAK_BAR, IDLE_BAR = 4.0, 1.0, 1.2, 1.0


def work(task: Task) -> Result:
    return PIECES[task["piece"]](task)


# ---- throughput ---------------------------------------------------------------------------


def work_throughput(task: Task) -> Result:
    """Write, then read, one value of the task's size."""
    import redis

    value = os.urandom(task["size"])
    pool = open_pool(task["side"], task["url"])
    client = redis.Redis(connection_pool=pool)
    try:
        set_s = repeat(lambda: client.set(BIG_KEY, value), task["seconds"])["s_per_call"]
        get_s = repeat(lambda: client.get(BIG_KEY), task["seconds"])["s_per_call"]
        if client.get(BIG_KEY) != value:
            raise RuntimeError("the value read is not the one written")
    finally:
        client.delete(BIG_KEY)
        client.close()
        pool.disconnect()
    return {"set_mb_per_s": len(value) / set_s / 1e6, "get_mb_per_s": len(value) / get_s / 1e6}


# ---- memory -------------------------------------------------------------------------------


def work_peak(task: Task) -> Result:
    """Read one value of 64 MiB; return the rise of the high-water mark over its size."""
    import redis

    pool = open_pool(task["side"], task["url"])
    client = redis.Redis(connection_pool=pool)
    try:
        client.get(KEY)
        gc.collect()
        reset_high_water()
        before = memory_kib("VmRSS")
        value = client.get(BIG_KEY)
        rise = (memory_kib("VmHWM") - before) * 1024
        if not isinstance(value, bytes) or len(value) != PEAK_SIZE:
            raise RuntimeError("the big value was not read")
    finally:
        client.close()
        pool.disconnect()
    return {"peak_ratio": rise / PEAK_SIZE, "rise_bytes": rise}


def work_idle(task: Task) -> Result:
    """Open connections, use each once, give them back; return the memory one of them costs."""
    count = task["connections"]
    pool = open_pool(task["side"], task["url"], max_connections=count + WARM_CONNECTIONS)
    use_and_release(pool, WARM_CONNECTIONS)
    if task["traced"]:
        tracemalloc.start()
    gc.collect()
    before = used_bytes(task["traced"])
    use_and_release(pool, count + WARM_CONNECTIONS)
    gc.collect()
    each = (used_bytes(task["traced"]) - before) / count
    pool.disconnect()
    return {"traced_kib" if task["traced"] else "rss_kib": each / 1024}


def used_bytes(traced: bool) -> int:
    return tracemalloc.get_traced_memory()[0] if traced else memory_kib("VmRSS") * 1024


def use_and_release(pool: Any, count: int) -> None:
    borrowed = [pool.get_connection() for _ in range(count)]
    for connection in borrowed:
        connection.send_command("GET", KEY)
        if connection.read_response() != VALUE:
            raise RuntimeError("a wrong reply")
    for connection in borrowed:
        pool.release(connection)


PIECES = {"throughput": work_throughput, "peak": work_peak, "idle": work_idle}


# ---- the report ---------------------------------------------------------------------------


def run(args: argparse.Namespace, report: Report) -> None:
    with bench_server(args) as server:
        report.on_machine(server.plain_url)
        if args.only != "memory":
            run_throughput(args, report, server)
        if args.only != "throughput":
            if not memory_is_readable():
                raise CannotRun("the memory part reads /proc; use --only throughput")
            rows = [run_peak(args, report, server), *run_idle(args, report, server)]
            columns = ("", "redis-py", "cpool", "cpool/redis-py", "bar")
            report.table("memory: median (lowest-highest)", columns, rows)


def measure(args: argparse.Namespace, report: Report, rounds: int, name: str, task: Task) -> Any:
    one = measurer(argparse.Namespace(**{**vars(args), "together": False}), __file__, work, task)
    pairs = paired_rounds(one, args.rounds or rounds, name)
    report.raw[name] = pairs
    return pairs


def run_throughput(args: argparse.Namespace, report: Report, server: Server) -> None:
    rows = []
    for mib in (1, 16):
        task = {"piece": "throughput", "url": server.url, "size": mib * MIB}
        task["seconds"] = 0.2 if args.quick else 0.7
        pairs = measure(args, report, 3 if args.quick else 7, f"{mib} MiB", task)
        rows += [throughput_row(report, pairs, verb, mib) for verb in ("set", "get")]
    columns = ("", "redis-py MB/s", "cpool MB/s", "cpool/redis-py", "bar")
    report.table("throughput of big values: median (lowest-highest)", columns, rows)


def throughput_row(report: Report, pairs: list[Pair], verb: str, mib: int) -> list[str]:
    metric, name = f"{verb}_mb_per_s", f"{verb.upper()} of {mib} MiB"
    ratio = gain(pairs, metric)
    limit = SET_1_MIB_BAR if (verb, mib) == ("set", 1) else GET_BAR
    cells = [f"{figures(pairs, side, metric).median:,.0f}" for side in (PEER, OURS)]
    bar = report.bar(f"{name}, times redis-py's throughput", ratio.median, ">=", limit)
    return [name, *cells, ratio.text(), bar]


def run_peak(args: argparse.Namespace, report: Report, server: Server) -> list[str]:
    import redis

    with redis.Redis.from_url(server.plain_url) as client:
        client.set(BIG_KEY, os.urandom(PEAK_SIZE))
        task = {"piece": "peak", "url": server.url}
        pairs = measure(args, report, 1 if args.quick else 3, "peak", task)
        client.delete(BIG_KEY)
    ratio = gain(pairs, "peak_ratio")
    ours = figures(pairs, OURS, "peak_ratio")
    bar = report.bar("peak of a 64 MiB GET, times the value", ours.highest, "<=", PEAK_BAR)
    cells = [figures(pairs, PEER, "peak_ratio").text(), ours.text(), ratio.text()]
    return ["peak of a 64 MiB GET, times the value", *cells, bar]


def run_idle(args: argparse.Namespace, report: Report, server: Server) -> list[list[str]]:
    rows = []
    task: Task = {"piece": "idle", "url": server.url, "connections": affordable_connections()}
    for traced, metric, name in (
        (False, "rss_kib", "idle connection, resident KiB"),
        (True, "traced_kib", "idle connection, tracemalloc KiB"),
    ):
        rounds = 1 if args.quick else 3
        pairs = measure(args, report, rounds, name, {**task, "traced": traced})
        ratio = gain(pairs, metric)
        bar = report.bar(f"{name}, times redis-py's", ratio.median, "<=", IDLE_BAR)
        cells = [figures(pairs, side, metric).text(1) for side in (PEER, OURS)]
        rows.append([name, *cells, ratio.text(), bar])
    return rows


def affordable_connections() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = 1000 if soft == resource.RLIM_INFINITY else soft - SPARE_FDS
    if room < 100:
        raise CannotRun("ulimit -n is too low to open 100 connections")
    return min(1000, room - WARM_CONNECTIONS)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", choices=("throughput", "memory"))


if __name__ == "__main__":
    sys.exit(main(__file__, __doc__ or "", run, work, add_options))
