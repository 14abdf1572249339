"""``python -m tests.cluster``: many threads on a cluster that is being broken; see --help."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tests.cluster.proof.rounds import Found, Shape, play
from tests.proof.framework import (
    Clock,
    Report,
    add_common,
    count,
    positive,
    server_name,
    servers,
    watchdog,
)

HANG_S = 600.0
COLUMNS = (
    *("server", "event", "served again", "left open", "right", "errors", "foreign"),
    *("refreshes", "connections"),
)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster",
        description="Move slots, kill and promote nodes under many threads; judge every reply.",
        epilog="Exit status: 0 if all held, 1 if something did not.",
    )
    add_common(parser)
    add = parser.add_argument
    add("--threads", type=count, default=32, help="on one client (%(default)s)")
    add("--slots", type=count, default=1000, help="to move, and to take down (%(default)s)")
    add("--minutes", type=positive, default=1.0, help="no round begins later (%(default)s)")
    return parser.parse_args(argv)


def rows(name: str, found: Found) -> list[list[str]]:
    """Return a line for each event, and one for the round."""
    lines = []
    for seen in found.seen:
        took = "never" if seen.took_s is None else f"{seen.took_s * 1000:.0f} ms"
        lines.append([name, seen.name, took, str(seen.left), *[""] * 5])
    tally = found.tally
    errors = ", ".join(f"{kind} {n}" for kind, n in sorted(tally.errors.items()))
    numbers = [f"{tally.right:,}", errors, str(len(tally.foreign))]
    refreshes = f"{found.refreshes}, {found.most_refreshes} at a time"
    return [*lines, [name, "all", "", "", *numbers, refreshes, str(found.most_connections)]]


def main(argv: Sequence[str]) -> int:
    """Run rounds on each server in turn, one each at least; return the exit status."""
    options = parse_arguments(argv)
    report, clock = Report(options.plain), Clock(options.minutes * 60)
    shape = Shape(options.threads, options.slots)
    seed, table = options.seed, []
    while seed == options.seed or not clock.is_over:
        for path in servers(options.server):
            with watchdog(HANG_S):
                found = play(path, seed, shape)
            table += rows(server_name(path), found)
            for problem in found.wrong:
                report.violation(f"{server_name(path)} seed {seed}: {problem}")
        seed += 1
    report.table("a cluster under load", COLUMNS, table)
    return report.status()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
