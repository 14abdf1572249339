"""Pipelines, large replies and big values: redis-py's client against cpool.Redis, one thread.

Method: redis.Redis with hiredis against cpool.Redis, each in a fresh process per round and row,
rounds interleaved, every second one in reverse order; the result is the median of the rounds'
ratios, with the lowest and the highest. A row repeats one call for a fixed time after a warm-up.
A pipeline's call is all of it: client.pipeline(), a method per command, execute(). Replies are
compared with what was written. CPU time is the client process's, user's and system's.
Memory: of a pipeline of 100,000 SETs, the commands are stacked, the high-water mark of resident
memory is set back, and execute() may raise it: the rise over the resident memory before it, the
list of results included (Linux only).
A run of cpool whose commands were not one compiled call (cpool.fast_path.stats()) is refused.
"""

from __future__ import annotations

import argparse
import functools
import gc
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
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
    noise_run,
    open_client,
    paired_rounds,
    ratio,
)
from _load import (
    fast_path_counts,
    memory_is_readable,
    memory_kib,
    repeat,
    require_fast_path,
    reset_high_water,
)
from _server import Server, bench_server

MIB = 1 << 20
PREFIX = "bench:commands"
COUNT, MANY = 1_000, 100_000
CPU_BAR = 0.70
Call = Callable[[], Any]


# ---- the calls: each makes its data, and returns the call and the reply it has to get ------


def gets_in_pipeline(client: Any, *, transaction: bool = False) -> tuple[Call, Any]:
    def call() -> Any:
        pipe = client.pipeline(transaction=transaction)
        for _ in range(100):
            pipe.get(KEY)
        return pipe.execute()

    return call, [VALUE] * 100


def sets_in_pipeline(client: Any, *, count: int = COUNT) -> tuple[Call, Any]:
    keys = some_keys(count)

    def call() -> Any:
        pipe = client.pipeline(transaction=False)
        for key in keys:
            pipe.set(key, VALUE)
        return pipe.execute()

    return call, [True] * count


def hgetall(client: Any, *, decoded: bool = False) -> tuple[Call, Any]:
    fields = {f"field:{number}": f"value:{number}" for number in range(COUNT)}
    client.hset(f"{PREFIX}:hash", mapping=fields)
    reply = fields if decoded else {k.encode(): v.encode() for k, v in fields.items()}
    return functools.partial(client.hgetall, f"{PREFIX}:hash"), reply


def mget(client: Any) -> tuple[Call, Any]:
    keys = some_keys(COUNT)
    client.mset(dict.fromkeys(keys, VALUE))
    return functools.partial(client.mget, keys), [VALUE] * COUNT


def lrange(client: Any) -> tuple[Call, Any]:
    values = [b"value:%d" % number for number in range(COUNT)]
    client.delete(f"{PREFIX}:list")
    client.rpush(f"{PREFIX}:list", *values)
    return functools.partial(client.lrange, f"{PREFIX}:list", 0, -1), values


def set_text(client: Any) -> tuple[Call, Any]:
    return functools.partial(client.set, f"{PREFIX}:text", VALUE.decode()), True


def set_big(client: Any, *, size: int) -> tuple[Call, Any]:
    return functools.partial(client.set, f"{PREFIX}:big", os.urandom(size)), True


def get_big(client: Any, *, size: int) -> tuple[Call, Any]:
    value = os.urandom(size)
    client.set(f"{PREFIX}:big", value)
    return functools.partial(client.get, f"{PREFIX}:big"), value


def some_keys(count: int) -> list[str]:
    return [f"{PREFIX}:key:{number}" for number in range(count)]


@dataclass(frozen=True)
class Row:
    """Name one call, how many commands it is, and how much faster it has to be."""

    make: Callable[[Any], tuple[Call, Any]]
    bar: float | None = None
    commands: int = 1
    bytes: int = 0
    cpu_bar: float | None = None
    decoded: bool = False


ROWS = {
    "pipeline of 100 GETs": Row(gets_in_pipeline, 3.0, 100),
    "pipeline of 1,000 SETs": Row(sets_in_pipeline, 1.7, COUNT),
    "HGETALL of 1,000 fields": Row(hgetall, 1.8),
    "MGET of 1,000 keys": Row(mget, 1.5),
    "SET of 1 MiB": Row(functools.partial(set_big, size=MIB), 4.0, bytes=MIB),
    "SET of 16 MiB": Row(functools.partial(set_big, size=16 * MIB), 2.5, bytes=16 * MIB),
    "GET of 1 MiB": Row(functools.partial(get_big, size=MIB), 1.0, bytes=MIB),
    "GET of 16 MiB": Row(
        functools.partial(get_big, size=16 * MIB), 1.0, bytes=16 * MIB, cpu_bar=CPU_BAR
    ),
    "transaction of 100 GETs": Row(
        functools.partial(gets_in_pipeline, transaction=True), commands=100
    ),
    "LRANGE of 1,000 elements": Row(lrange),
    "SET of a 64-byte str": Row(set_text),
    "HGETALL of 1,000 fields, decoded": Row(
        functools.partial(hgetall, decoded=True), decoded=True
    ),
    "pipeline of 100,000 SETs": Row(
        functools.partial(sets_in_pipeline, count=MANY), commands=MANY
    ),
}
MEMORY = "memory of a pipeline of 100,000 SETs"


# ---- in a side's process ------------------------------------------------------------------


def work(task: Task) -> Result:
    """Measure one row, or the memory of the long pipeline."""
    import redis

    row = ROWS.get(task["row"])
    options = {"decode_responses": True} if row is not None and row.decoded else {}
    with open_client(task["side"], task["url"], **options) as client:
        result = memory_of_pipeline(client) if row is None else time_of(row, client, task)
        client.delete(f"{PREFIX}:big")
    counts = {} if task["side"] == PEER or noise_run() else {"fast_path": fast_path_counts()}
    return {**result, **counts, "parser": redis.connection.DefaultParser.__name__}


def time_of(row: Row, client: Any, task: Task) -> Result:
    call, reply = row.make(client)
    if call() != reply:
        raise RuntimeError("a wrong reply")
    found = repeat(call, task["seconds"])
    if call() != reply:
        raise RuntimeError("a wrong reply at the end")
    return {**found, "calls_per_s": 1 / found["s_per_call"]}


def memory_of_pipeline(client: Any) -> Result:
    pipe = client.pipeline(transaction=False)
    for key in some_keys(MANY):
        pipe.set(key, VALUE)
    client.get(KEY)
    gc.collect()
    reset_high_water()
    before_kib = memory_kib("VmRSS")
    replies = pipe.execute()
    rise_kib = memory_kib("VmHWM") - before_kib
    if replies != [True] * MANY:
        raise RuntimeError("a wrong reply")
    return {"rise_mib": rise_kib / 1024, "calls": 1}


# ---- the report ---------------------------------------------------------------------------


def run(args: argparse.Namespace, report: Report) -> None:
    with bench_server(args) as server:
        report.on_machine(server.plain_url)
        lines, everything = [], []
        for name in args.only or ROWS:
            pairs = measure(args, report, server, name)
            require_fast_path(pairs, OURS, name, "calls")
            everything += pairs
            lines += time_lines(report, name, pairs)
        columns = ("", "redis-py", "cpool", "cpool/redis-py", "bar")
        report.table("one thread: median (lowest-highest)", columns, lines)
        if not args.only:
            report_memory(args, report, server)
    print("cpool.fast_path:", require_fast_path(everything, OURS, "all rows", "calls"))


def measure(args: argparse.Namespace, report: Report, server: Server, name: str) -> list[Pair]:
    task = {"url": server.url, "row": name, "seconds": 0.2 if args.quick else 0.7}
    one = measurer(args, __file__, work, task)
    pairs = paired_rounds(one, args.rounds or (2 if args.quick else 7), name)
    if "hiredis" not in pairs[0][PEER]["parser"].lower():
        raise CannotRun("redis-py is not using hiredis")
    report.raw[name] = pairs
    return pairs


def time_lines(report: Report, name: str, pairs: list[Pair]) -> list[list[str]]:
    """Return a row's throughput, and its CPU time where that has a bar."""
    row, gained = ROWS[name], gain(pairs, "calls_per_s")
    bar = ""
    if row.bar is not None:
        bar = report.bar(f"{name}, times redis-py's throughput", gained.median, ">=", row.bar)
    cells = [speed(row, figures(pairs, side, "calls_per_s").median) for side in (PEER, OURS)]
    lines = [[name, *cells, gained.text(), bar]]
    if row.cpu_bar is not None:
        lines.append(cpu_line(report, name, row.cpu_bar, pairs))
    return lines


def speed(row: Row, calls_per_s: float) -> str:
    """Show bytes per second, time per command of a pipeline, or time per call."""
    if row.bytes:
        return f"{calls_per_s * row.bytes / 1e6:,.0f} MB/s"
    each_us = 1e6 / calls_per_s / row.commands
    return f"{each_us:,.2f} us/command" if row.commands > 1 else f"{each_us:,.1f} us"


def cpu_line(report: Report, name: str, limit: float, pairs: list[Pair]) -> list[str]:
    share = ratio(pairs, "cpu_s_per_call", OURS)
    bar = report.bar(f"{name}, CPU time, share of redis-py's", share.median, "<=", limit)
    times_s = [figures(pairs, side, "cpu_s_per_call").median for side in (PEER, OURS)]
    return [f"{name}, CPU time", *(f"{s * 1e3:.2f} ms" for s in times_s), share.text(), bar]


def report_memory(args: argparse.Namespace, report: Report, server: Server) -> None:
    if not memory_is_readable():
        print(f"LEFT OUT: {MEMORY}: there is no /proc/self/clear_refs here")
        return
    # A high-water mark is a process's own: always fresh ones.
    fresh = argparse.Namespace(**{**vars(args), "together": False})
    one = measurer(fresh, __file__, work, {"url": server.url, "row": MEMORY})
    report.raw[MEMORY] = pairs = paired_rounds(one, 1 if args.quick else 3, MEMORY)
    require_fast_path(pairs, OURS, MEMORY, "calls")
    cells = [figures(pairs, side, "rise_mib").text() for side in (PEER, OURS)]
    columns = ("", "redis-py MiB", "cpool MiB")
    report.table(
        "memory beside the commands: median (lowest-highest)", columns, [[MEMORY, *cells]]
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only", nargs="+", choices=ROWS, metavar="ROW", help=f"some of: {', '.join(ROWS)}"
    )


if __name__ == "__main__":
    sys.exit(main(__file__, __doc__ or "", run, work, add_options))
