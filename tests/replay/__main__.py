"""Print how often INCRs were executed under lost replies: python -m tests.replay --faults 1000.

The exit code is 1 if the safe policy has executed one twice.
"""

from __future__ import annotations

import argparse
import sys

from cpool.tools.tables import print_table
from tests.replay.lost_replies import SAFE, SIDES, count
from tests.support.servers import start


def main() -> int:
    """Count on all sides, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.replay", description=__doc__)
    parser.add_argument("--faults", type=int, default=1000, help="INCRs, each with a fault")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with start() as server:
        tallies = {side: count(side, server, args.faults, args.seed) for side in SIDES}
    rows = [
        [side, *(str(tally.counts[times]) for times in (0, 1, 2)), str(errors_of(tally.seen))]
        for side, tally in tallies.items()
    ]
    columns = ("side, policy", "not executed", "once", "twice", "errors")
    print_table(f"{args.faults} INCRs, each with a fault", columns, rows)
    return int(any(max(tallies[side].executed) > 1 for side in SAFE))


def errors_of(seen: list[str]) -> int:
    """Count the outcomes that are no number."""
    return sum(not outcome.isdigit() for outcome in seen)


if __name__ == "__main__":
    sys.exit(main())
