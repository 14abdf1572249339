"""``python -m tests.sentinel``: how soon after a promotion every thread is served again.

Threads write through one client of a service's master while the master is killed, paused, or
a failover is asked for, with cpool's classes and with redis-py's. Each side runs in a fresh
process; the promotion is when a replica says that it is the master.

Exit status: 0 if with cpool every thread was served by the new master within a second of when
the first sentinel told of it, every reply was the caller's own and no slot was lost; 1 if not.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Sequence

from cpool.tools.sentinels import SentinelTopology
from cpool.tools.servers import find_binary, server_version
from cpool.tools.tables import print_table
from tests.sentinel.side import BAR_S, BOUND_S, Result, work

KINDS = ("kill_master", "pause_master", "failover")
TITLES = {"kill_master": "killed", "pause_master": "paused", "failover": "failover asked for"}
COLUMNS = (
    "what",
    "library",
    "served",
    "median ms",
    "slowest ms",
    "sentinels told ms",
    "to the old",
    "errors",
    "foreign",
    "slots",
)


def play(topology: SentinelTopology, kind: str, library: str, threads: int) -> Result:
    """Run one failover under one library's workload; the topology is whole again after it."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=work, args=(theirs, library, topology.addresses, threads)
    )
    process.start()
    theirs.close()  # so that its end is noticed here
    try:
        ours.recv()
        old = getattr(topology, kind)()
        promotion = topology.wait_promoted(old)
        told_s = topology.wait_told(promotion)
        ports = old.server.port, promotion.node.server.port
        ours.send((*ports, promotion.seen_at_s, told_s))
        result: Result = ours.recv()
    finally:
        process.join(BOUND_S)
        process.kill()
        topology.restart()
    return result


def row(kind: str, library: str, threads: int, result: Result) -> list[str]:
    """Return one line of the table."""
    waits_ms = [wait_s * 1e3 for wait_s in result.waits_s] or [float("nan")]
    return [
        TITLES[kind],
        library,
        f"{len(result.waits_s)}/{threads}",
        f"{waits_ms[len(waits_ms) // 2]:.0f}",
        f"{waits_ms[-1]:.0f}",
        f"{result.told_s * 1e3:.0f}",
        str(result.to_the_old),
        str(result.errors),
        str(result.foreign),
        {"cpool": "whole" if result.slots_are_whole else "LOST"}.get(library, ""),
    ]


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.sentinel",
        description="Measure how soon threads are served again after a failover.",
        epilog=f"Exit status: 0 if all of cpool's threads were served within {BAR_S:g} s of when a"
        " sentinel told of the new master, by it, and no slot was lost; 1 if not.",
    )
    parser.add_argument("--threads", type=int, default=16, help="threads (default: 16)")
    parser.add_argument("--binary", action="append", help="a server to run; may be repeated")
    parser.add_argument("--kind", action="append", choices=KINDS, help="default: all")
    parser.add_argument("--rounds", type=int, default=1, help="of each kind (default: 1)")
    options = parser.parse_args(argv)
    if options.threads < 1 or options.rounds < 1:
        parser.error("--threads and --rounds must be 1 or more")
    return options


def run_on(binary: str, options: argparse.Namespace) -> bool:
    """Play all kinds on one server's build, print them, and say whether the bar is met."""
    rows, good, problems = [], True, []
    with SentinelTopology(binary=binary) as topology:
        for kind in (options.kind or KINDS) * options.rounds:
            for library in ("redis-py", "cpool"):
                result = play(topology, kind, library, options.threads)
                rows.append(row(kind, library, options.threads, result))
                if library == "cpool":
                    good = good and result.holds(options.threads)
                    problems += result.problems
    print_table(
        f"{server_version(binary)}: served by the new master, after its promotion", COLUMNS, rows
    )
    print("\n".join(problems), end="\n" if problems else "")
    return good


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    options = parse_arguments(argv)
    results = [run_on(binary, options) for binary in options.binary or [find_binary().path]]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
