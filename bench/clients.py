"""GETs per second of whole clients: redis-py, cpool, valkey-py, valkey-glide, and what C gets.

Method: one client object, shared by 1, 8 and 32 threads that each send GET for one 64-byte key
as fast as they can. Sides, each as fast as its defaults allow: redis-py (redis.Redis, hiredis),
cpool (cpool.Redis), with --all "cpool pool" (redis.Redis on cpool.ConnectionPool), valkey-py
(libvalkey) and valkey-glide (the sync client, one multiplexed connection). A peer that isn't
installed is left out and named. Each round measures all sides after each other, each in a fresh
process, every second round in reverse order, and between them the floors: redis-benchmark with
as many clients and, for one thread, a loop of send and recv in C (cloop.c). Results are medians
of the rounds' ratios, with the lowest and the highest.
Latencies are from further rounds in which each GET is clocked, so the clock costs the
throughput nothing. CPU time is the client process's, user's and system's, all its threads.
One thread is measured twice: left to the scheduler, and with client and server on one CPU. Its
bar is what a client adds to the C loop: (cpool's time per GET - the loop's) / (redis-py's - the
loop's), judged on one CPU.
Blocking: 32 threads on BlockingConnectionPool(max_connections=16), redis.Redis on redis-py's
against cpool.Redis on ours; clocked runs give the longest whole command, which no wait for a
connection can exceed, and pool.stats() of all our runs the longest wait itself.
A run of cpool whose commands were not one compiled call (cpool.fast_path.stats()) is refused.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from _common import (
    OURS,
    PEER,
    CannotRun,
    Pair,
    Report,
    Result,
    Spread,
    Task,
    bound_to,
    client_cpus,
    figures,
    main,
    measurer,
    noise_run,
    open_client,
    open_pool,
    paired_rounds,
    ratio,
    require_module,
    side_module,
)
from _floors import compiled_loop, loop_of_gets, redis_benchmark
from _load import Load, fast_path_counts, require_fast_path
from _server import Case, Server, bench_server, cases_of

POOL, VALKEY, GLIDE = "cpool pool", "valkey-py", "valkey-glide"
C_LOOP, GENERATOR = "C loop", "redis-benchmark"
PEERS = {
    VALKEY: (("valkey", "libvalkey"), ("valkey", "libvalkey")),
    GLIDE: (("glide_sync",), ("valkey-glide-sync",)),
}
BLOCKING = "BlockingConnectionPool"
THREADS = (1, 8, 32)
PARTS = ("clients", "blocking")
BLOCKING_THREADS, BLOCKING_CONNECTIONS = 32, 16
GENERATED_PER_S = {False: 100_000, True: 30_000}  # GETs asked of redis-benchmark; True: one thread
GLIDE_LIMIT_MS = 10_000  # the default of 250 ms would end a run on a busy machine
ABOVE_LOOP_BAR, GAIN_BAR, GENERATOR_BAR, P99_BAR = 0.20, 5.5, 0.90, 0.25
BLOCKING_BAR, LONGEST_MS = 8.0, 50.0


# ---- in a side's process ------------------------------------------------------------------


def work(task: Task) -> Result:
    """Run one side's threads, clocked or only counted."""
    with contextlib.closing(OPENERS[task["side"]](task)) as client:
        load = Load(client, task["threads"])
        load.run(task["warm_s"])
        result = load.run(task["seconds"], clocked=task["clocked"])
        return {**result, **TELLERS.get(task["side"], parser_of)(client)}


def open_side(task: Task) -> Any:
    """Open redis-py's or our client, on a blocking pool if the task names its size."""
    if "connections" not in task:
        return open_client(task["side"], task["url"])
    pool = open_pool(task["side"], task["url"], BLOCKING, max_connections=task["connections"])
    # All open before anybody waits: a wait for a dial is no wait for a connection.
    for connection in [pool.get_connection() for _ in range(task["connections"])]:
        pool.release(connection)
    return side_module(task["side"]).Redis(connection_pool=pool)


def open_on_our_pool(task: Task) -> Any:
    import redis

    return redis.Redis(connection_pool=open_pool(OURS, task["url"]))


def open_valkey(task: Task) -> Any:
    return require_module("valkey", "").Valkey(host=task["host"], port=task["port"])


def open_glide(task: Task) -> Any:
    glide = require_module("glide_sync", "")
    address = glide.NodeAddress(task["host"], task["port"])
    return glide.GlideClient.create(
        glide.GlideClientConfiguration([address], request_timeout=GLIDE_LIMIT_MS)
    )


def parser_of(client: Any) -> Result:
    import redis

    return {"parser": redis.connection.DefaultParser.__name__}


def parser_of_valkey(client: Any) -> Result:
    return {"parser": require_module("valkey.connection", "").DefaultParser.__name__}


def compiled_calls(client: Any) -> Result:
    """Return how commands went and, in milliseconds, the longest wait for a connection."""
    if noise_run():
        return {"longest_wait_ms": 0.0}
    longest_s = client.connection_pool.stats().longest_wait_s
    return {"fast_path": fast_path_counts(), "longest_wait_ms": longest_s * 1e3}


OPENERS: dict[str, Callable[[Task], Any]] = {
    PEER: open_side,
    OURS: open_side,
    POOL: open_on_our_pool,
    VALKEY: open_valkey,
    GLIDE: open_glide,
}
TELLERS: dict[str, Callable[[Any], Result]] = {
    OURS: compiled_calls,
    VALKEY: parser_of_valkey,
    GLIDE: lambda client: {},
}


# ---- what is measured ---------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """Hold what all cases share."""

    args: argparse.Namespace
    report: Report
    server: Server
    sides: tuple[str, ...]
    c_loop: Path | None

    def rounds(self, number: int, quick: int) -> int:
        return self.args.rounds or (quick if self.args.quick else number)

    def seconds(self, number: float, quick: float) -> float:
        return self.args.seconds or (quick if self.args.quick else number)

    def task(self, threads: int) -> Task:
        where = {"url": self.server.url, "host": self.server.host, "port": self.server.port}
        return {**where, "threads": threads, "warm_s": 0.1 if self.args.quick else 0.3}


def sides_here(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the clients that can be measured here; print versions, and who is left out."""
    sides = [PEER, OURS, *([POOL] if args.all else [])]
    for side, (modules, packages) in PEERS.items():
        try:
            if args.url:
                raise CannotRun("measured only on a server of our own")
            for module in modules:
                require_module(module, f"pip install {' '.join(packages)}")
        except CannotRun as error:
            print(f"LEFT OUT: {side}: {error}")
        else:
            sides.append(side)
            print(f"{side}:", ", ".join(f"{name} {metadata.version(name)}" for name in packages))
    return tuple(sides)


def run(args: argparse.Namespace, report: Report) -> None:
    with bench_server(args) as server, compiled_loop() as c_loop:
        report.on_machine(server.plain_url)
        bench = Bench(args, report, server, sides_here(args), c_loop)
        if args.only != "blocking":
            for case in cases_of(args, server):
                run_case(bench, case)
        if args.only != "clients":
            run_blocking(bench)


def run_case(bench: Bench, case: Case) -> None:
    with bound_to(case.cpus, bench.server.pid or 0):
        pairs = measure_throughput(bench, case)
        clocked = measure_latency(bench, case)
    bench.report.raw[case.name] = {"plain": pairs, "clocked": clocked}
    calls = [require_fast_path(each, OURS, case.name) for each in (pairs, clocked)]
    rows = [side_row(bench, side, pairs, clocked) for side in pairs[0]]
    columns = ["", "ops/s", "times redis-py's", "CPU us/op", "p50 us", "p99 us"]
    title = f"GET of 64 bytes, {case.name}: median (lowest-highest)"
    bench.report.table(title, [*columns, "p99, share of redis-py's"], rows)
    print(f"cpool.fast_path: {calls[0]}; when clocked {calls[1]}")
    bars = case_bars(bench, case, pairs, clocked)
    bench.report.table(f"{case.name}: bars", ("", "figure", "bar"), bars)


def measure_throughput(bench: Bench, case: Case) -> list[Pair]:
    """Measure sides and floors; one thread gets more and shorter rounds: its wake-ups vary."""
    single = case.threads == 1
    seconds = bench.seconds(1.2, 0.4) / (2 if single else 1)
    one = client_measurer(bench, case, {"seconds": seconds, "clocked": False})
    floors = floors_of(bench, case, seconds)

    def measure(side: str) -> Result:
        if side not in floors:
            return one(side)
        with bound_to(case.cpus or (client_cpus() if bench.args.pin else None)):
            return floors[side]()

    rounds = bench.rounds(7, 2) * (2 if single else 1)
    pairs = paired_rounds(measure, rounds, case.name, (*bench.sides, *floors))
    check_parsers(pairs[0])
    return pairs


def measure_latency(bench: Bench, case: Case) -> list[Pair]:
    one = client_measurer(bench, case, {"seconds": bench.seconds(1.2, 0.4), "clocked": True})
    return paired_rounds(one, bench.rounds(5, 1), f"{case.name}, clocked", bench.sides)


def client_measurer(bench: Bench, case: Case, more: Task) -> Callable[[str], Result]:
    task = {**bench.task(case.threads), **more}
    if case.cpus:
        task["cpus"] = case.cpus
    return measurer(bench.args, __file__, work, task)


def floors_of(bench: Bench, case: Case, seconds: float) -> dict[str, Callable[[], Result]]:
    """Return the floors that can be measured here."""
    server, loop = bench.server, bench.c_loop
    count = int(seconds * GENERATED_PER_S[case.threads == 1])
    floors: dict[str, Callable[[], Result]] = {}
    if redis_benchmark(server, case.threads, case.threads) is not None:
        floors[GENERATOR] = lambda: {"ops_per_s": redis_benchmark(server, case.threads, count)}
    if case.threads == 1 and loop is not None and server.pid is not None:
        floors[C_LOOP] = lambda: loop_of_gets(loop, server, seconds)
    return floors


def check_parsers(pair: Pair) -> None:
    if "hiredis" not in pair[PEER]["parser"].lower():
        raise CannotRun("redis-py is not using hiredis")
    if VALKEY in pair and "libvalkey" not in pair[VALKEY]["parser"].lower():
        raise CannotRun("valkey-py is not using libvalkey")


# ---- the report ---------------------------------------------------------------------------


def side_row(bench: Bench, side: str, pairs: list[Pair], clocked: list[Pair]) -> list[str]:
    row = [side, figures(pairs, side, "ops_per_s").text(0), ratio(pairs, "ops_per_s", side).text()]
    if side not in bench.sides:
        return [*row, "", "", "", ""]
    percents = [figures(clocked, side, f"command_{p}_ms").median * 1e3 for p in ("p50", "p99")]
    cpu = f"{figures(pairs, side, 'cpu_us_per_op').median:.1f}"
    share = ratio(clocked, "command_p99_ms", side).text(3)
    return [*row, cpu, *(f"{value:,.1f}" for value in percents), share]


def case_bars(bench: Bench, case: Case, pairs: list[Pair], clocked: list[Pair]) -> list[list[str]]:
    """Judge our side of one case."""
    rows = [above_loop_row(bench, case, pairs)] if C_LOOP in pairs[0] else []

    def judge(name: str, spread: Spread, sense: str, limit: float) -> None:
        bar = bench.report.bar(f"GET, {case.name}, {name}", spread.median, sense, limit)
        rows.append([name, spread.text(3), bar])

    for side in (VALKEY, GLIDE):
        if side in pairs[0]:
            judge(f"times {side}'s throughput", ratio(pairs, "ops_per_s", OURS, side), ">", 1.0)
    if case.threads >= 8:
        judge("times redis-py's throughput", ratio(pairs, "ops_per_s", OURS), ">=", GAIN_BAR)
        if GENERATOR in pairs[0]:
            spread = ratio(pairs, "ops_per_s", OURS, GENERATOR)
            judge("share of redis-benchmark's throughput", spread, ">=", GENERATOR_BAR)
    if case.threads >= 32:
        judge("p99, share of redis-py's", ratio(clocked, "command_p99_ms", OURS), "<=", P99_BAR)
    return rows


def above_loop_row(bench: Bench, case: Case, pairs: list[Pair]) -> list[str]:
    """Compare what both clients add to the C loop; judged on one CPU, else only shown."""
    name = "time above the C loop, share of redis-py's"
    spread = Spread.of([share_above_loop(pair) for pair in pairs])
    bar = "judged on one CPU"
    if case.cpus:
        full = f"GET, {case.name}, {name}"
        bar = bench.report.bar(full, spread.median, "<=", ABOVE_LOOP_BAR)
    return [name, spread.text(3), bar]


def share_above_loop(pair: Pair) -> float:
    """Return infinity for a round in which other work made the loop slower than redis-py."""
    loop, theirs, ours = (1 / float(pair[side]["ops_per_s"]) for side in (C_LOOP, PEER, OURS))
    return (ours - loop) / (theirs - loop) if theirs > loop else math.inf


# ---- 32 threads on 16 connections ---------------------------------------------------------


def run_blocking(bench: Bench) -> None:
    task = {**bench.task(BLOCKING_THREADS), "connections": BLOCKING_CONNECTIONS}
    name = f"{BLOCKING_THREADS} threads on {BLOCKING_CONNECTIONS} connections"
    found = {}
    for clocked, seconds in ((False, bench.seconds(3.0, 0.5)), (True, bench.seconds(10.0, 1.0))):
        one = measurer(
            bench.args, __file__, work, {**task, "seconds": seconds, "clocked": clocked}
        )
        label = f"{name}, clocked" if clocked else name
        found[clocked] = paired_rounds(one, bench.rounds(3, 1), label)
        print(f"cpool.fast_path, {label}: {require_fast_path(found[clocked], OURS, label)}")
    bench.report.raw[name] = {"plain": found[False], "clocked": found[True]}
    report_blocking(bench.report, name, found[False], found[True])


def report_blocking(report: Report, name: str, pairs: list[Pair], clocked: list[Pair]) -> None:
    rows = [blocking_row(side, pairs, clocked) for side in (PEER, OURS)]
    columns = ("", "ops/s", "times redis-py's", "p50 ms", "p99 ms", "longest ms")
    report.table(f"{name}: median (lowest-highest), times of whole commands", columns, rows)
    gained = ratio(pairs, "ops_per_s", OURS)
    command = max(pair[OURS]["command_longest_ms"] for pair in clocked)
    wait = max(pair[OURS]["longest_wait_ms"] for pair in (*pairs, *clocked))
    bars = [
        ("times redis-py's throughput", gained.median, ">=", BLOCKING_BAR, ""),
        ("longest whole command", command, "<=", LONGEST_MS, " ms"),
        ("longest wait, pool.stats()", wait, "<=", LONGEST_MS, " ms"),
    ]
    cells = [[b[0], f"{b[1]:,.2f}{b[4]}", report.bar(f"{name}, {b[0]}", *b[1:])] for b in bars]
    report.table(f"{name}: bars", ("", "figure", "bar"), cells)


def blocking_row(side: str, pairs: list[Pair], clocked: list[Pair]) -> list[str]:
    middle = [f"{figures(clocked, side, f'command_{p}_ms').median:.3f}" for p in ("p50", "p99")]
    longest = max(pair[side]["command_longest_ms"] for pair in clocked)
    speed = figures(pairs, side, "ops_per_s").text(0)
    return [side, speed, ratio(pairs, "ops_per_s", side).text(), *middle, f"{longest:,.1f}"]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help='also "cpool pool" under redis.Redis')
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--threads", type=int, nargs="+", default=list(THREADS))
    parser.add_argument("--seconds", type=float, help="length of one measurement")


if __name__ == "__main__":
    sys.exit(main(__file__, __doc__ or "", run, work, add_options))
