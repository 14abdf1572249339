"""GETs per second of 64 bytes by plain redis.Redis, only the pool replaced.

Method: one redis.Redis on one pool, shared by 1, 8 and 32 threads that each send GET for one
64-byte key as fast as they can. redis-py's side is redis.ConnectionPool with hiredis, ours
cpool.ConnectionPool, both with default options, on one server. Each round measures both sides
after each other, each in a fresh process (so neither inherits the other's heap, sockets or
luck; --together keeps both in one). Before the clock starts all threads run for a while, so
connections are open. Operations are divided by the time from the first thread's start to the
last one's end. The result is the median of the rounds' ratios, with the lowest and the highest.
One thread is measured twice: left to the scheduler, where the time to wake an idle CPU is most
of it and varies, and with client and server on one CPU, where work done is what counts.
Transports: tcp, unix, tls, gevent (TCP, everything monkey-patched, greenlets for threads).
redis-benchmark, if on PATH, shows what the server gives to a C client.
"""

from __future__ import annotations

import argparse
import sys

from _common import (
    OURS,
    PEER,
    SIDES,
    CannotRun,
    Pair,
    Report,
    Result,
    Task,
    bound_to,
    figures,
    gain,
    main,
    measurer,
    open_pool,
    paired_rounds,
    require_module,
)
from _floors import redis_benchmark
from _load import Load
from _server import Case, Server, bench_server, cases_of

TRANSPORTS = ("tcp", "unix", "tls", "gevent")
THREADS = (1, 8, 32)


def work(task: Task) -> Result:
    """Run one side's threads and count."""
    import redis

    pool = open_pool(task["side"], task["url"])
    client = redis.Redis(connection_pool=pool)
    try:
        load = Load(client, task["threads"])
        load.run(task["warm_s"])
        result = load.run(task["seconds"])
    finally:
        client.close()
        pool.disconnect()
    return {**result, "parser": redis.connection.DefaultParser.__name__}


def run(args: argparse.Namespace, report: Report) -> None:
    if args.transport == "gevent":
        require_module("gevent", "pip install gevent")
    rows = []
    with bench_server(args, "tcp" if args.transport == "gevent" else args.transport) as server:
        report.on_machine(server.plain_url)
        for case in cases_of(args, server):
            with bound_to(case.cpus, server.pid or 0):
                pairs = measure(args, server, case)
                with bound_to(case.cpus):
                    limit = c_limit(args, server, case)
            report.raw[case.name] = {"pairs": pairs, "redis_benchmark_ops_per_s": limit}
            rows.append(row(args, report, case, pairs, limit))
    columns = ["", "redis-py ops/s", "cpool ops/s", "cpool/redis-py", "bar"]
    columns += ["CPU us/op", "redis-benchmark"]
    report.table(f"GET of 64 bytes, {args.transport}: median (lowest-highest)", columns, rows)


def measure(args: argparse.Namespace, server: Server, case: Case) -> list[Pair]:
    """Measure one case; one thread gets more and shorter rounds, as its wake-ups vary most."""
    single = case.threads == 1
    rounds = args.rounds or (3 if args.quick else 7) * (2 if single else 1)
    task = {"url": server.url, "threads": case.threads, "warm_s": 0.1 if args.quick else 0.3}
    task["seconds"] = args.seconds or (0.4 if args.quick else 1.5) / (2 if single else 1)
    if case.cpus:
        task["cpus"] = case.cpus
    interpreter = ("-m", "gevent.monkey") if args.transport == "gevent" else ()
    one = measurer(args, __file__, work, task, interpreter)
    pairs = paired_rounds(one, rounds, f"{args.transport}, {case.name}")
    if "hiredis" not in pairs[0][PEER]["parser"].lower():
        raise CannotRun("redis-py is not using hiredis")
    return pairs


def row(
    args: argparse.Namespace, report: Report, case: Case, pairs: list[Pair], limit: float | None
) -> list[str]:
    ratio = gain(pairs, "ops_per_s")
    plain = args.transport in ("tcp", "unix")
    least, wanted = (2.0, 2.8) if plain and case.threads >= 8 else (1.0, None)
    name = f"throughput, {args.transport}, {case.name}, times redis-py's"
    cpu = " -> ".join(f"{figures(pairs, s, 'cpu_us_per_op').median:.1f}" for s in SIDES)
    return [
        case.name,
        f"{figures(pairs, PEER, 'ops_per_s').median:,.0f}",
        f"{figures(pairs, OURS, 'ops_per_s').median:,.0f}",
        ratio.text(),
        report.bar(name, ratio.median, ">=", least, wanted=wanted),
        cpu,
        "-" if limit is None else f"{limit:,.0f}",
    ]


def c_limit(args: argparse.Namespace, server: Server, case: Case) -> float | None:
    """Return redis-benchmark's ops/s, None where it can't run or measures something else."""
    if args.transport == "gevent":
        return None
    return redis_benchmark(server, case.threads, 5_000 if args.quick else 40_000)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--transport", choices=TRANSPORTS, default="tcp")
    parser.add_argument("--threads", type=int, nargs="+", default=list(THREADS))
    parser.add_argument("--seconds", type=float, help="length of one measurement")


if __name__ == "__main__":
    sys.exit(main(__file__, __doc__ or "", run, work, add_options))
