"""Cost of get_connection() + release() on a warm pool, one thread.

Method: a pool with one open connection, borrowed and given back in a loop, nothing sent in
between. redis-py's pool and ours include the look at the socket (a stray byte? closed by the
peer?) that a checkout has to make; that it is made is proved in the same process: the server
kills the idle connection, and the next checkout has to hand out one that works. One figure is
the median of blocks of the loop, the loop itself (about 0.03 us) included on both sides. Each
round measures both sides in fresh processes; the result is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from itertools import repeat
from typing import Any

from _common import (
    OURS,
    PEER,
    BenchmarkFailed,
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
from _server import bench_server

BAR = 10.0


def work(task: Task) -> Result:
    """Time blocks of checkout and return, then prove that a checkout looks at the socket."""
    pool = open_pool(task["side"], task["url"])
    try:
        time_block(pool, task["loops"])
        blocks = [time_block(pool, task["loops"]) for _ in range(task["blocks"])]
        sees_dead = replaces_killed_connection(pool, task["url"])
    finally:
        pool.disconnect()
    return {"us": statistics.median(blocks), "blocks_us": blocks, "sees_dead": sees_dead}


def time_block(pool: Any, loops: int) -> float:
    """Return the microseconds of one checkout and return."""
    get_connection, release = pool.get_connection, pool.release
    start_ns = time.perf_counter_ns()
    for _ in repeat(None, loops):
        release(get_connection())
    return (time.perf_counter_ns() - start_ns) / loops / 1000


def replaces_killed_connection(pool: Any, url: str) -> bool:
    """Kill the pool's idle connection; True if the next checkout gives a working one."""
    import redis

    killed = pool.get_connection()
    before = ask(killed, "CLIENT", "ID")
    pool.release(killed)
    with redis.Redis.from_url(url) as other:
        other.client_kill_filter(_id=str(before))
        while other.client_list(client_id=[str(before)]):
            time.sleep(0.001)
    connection = pool.get_connection()
    try:
        return bool(ask(connection, "CLIENT", "ID") != before)
    except redis.ConnectionError:
        return False
    finally:
        pool.release(connection)


def ask(connection: Any, *command: str) -> Any:
    connection.send_command(*command)
    return connection.read_response()


def run(args: argparse.Namespace, report: Report) -> None:
    with bench_server(args) as server:
        report.on_machine(server.plain_url)
        task = {"url": server.url, "loops": 2_000, "blocks": 5 if args.quick else 15}
        one = measurer(args, __file__, work, task)
        pairs = paired_rounds(one, args.rounds or (3 if args.quick else 9), "checkout")
    report.raw = {"pairs": pairs}
    if not all(result["sees_dead"] for pair in pairs for result in pair.values()):
        raise BenchmarkFailed("a checkout handed out a connection that the server had closed")
    report_figures(report, pairs)


def report_figures(report: Report, pairs: list[dict[str, Result]]) -> None:
    faster = gain(pairs, "us", smaller_is_better=True)
    bar = report.bar("checkout + return, times faster", faster.median, ">=", BAR)
    cells = [figures(pairs, PEER, "us").text(), figures(pairs, OURS, "us").text()]
    columns = ("", "redis-py us", "cpool us", "times faster", "bar")
    row = ["get_connection + release", *cells, faster.text(1), bar]
    report.table("checkout and return, peek included: median (lowest-highest)", columns, [row])


if __name__ == "__main__":
    sys.exit(main(__file__, __doc__ or "", run, work))
