"""User-space instructions per GET, SET, command of a pipeline, checkout: counts by callgrind.

Method: a process under valgrind imports everything and forks children; each makes a client of
one side, warms it up on a real server and does a short or a long run of the same operation. The
difference of the two counts, divided by the difference of their lengths, is the cost of one
operation: starting, connecting and warming up cancel out. The least of three such processes is
taken, each with its objects elsewhere in memory: in about one of twenty two names fall on one
place of CPython's cache of methods, which adds 240 instructions to each lookup.
Sides: redis-py with hiredis; cpool pool: plain redis.Redis, only the pool replaced; cpool:
cpool.Redis. A pipeline's count is that of one of its GETs, building it included. On a cluster
of three masters redis.RedisCluster and cpool.RedisCluster are counted.
Counts repeat to within 1 %, whatever else the machine does, so they serve as a gate:
instructions.json keeps them per Python, redis-py, hiredis and CPU architecture, and a count of
ours more than 3 % above the kept one is a bar not met. --update writes the file. Another build
of Python compiles the same work to other counts: with a combination that is not in the file
--check passes with a note, and without it only the bars are judged.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _counted import CLUSTER_OPERATIONS, OPERATIONS, lengths_of
from _process import (
    BENCH_DIR,
    BenchmarkFailed,
    CannotRun,
    Result,
    Task,
    call_worker,
)
from _server import started_cluster, started_server
from _sides import CPOOL, POOL, REDIS_PY, require_side

from cpool.tools.machine import machine_facts
from cpool.tools.tables import print_table

STORE = BENCH_DIR / "instructions.json"
GET_BAR, CLIENT_GET_BAR, CLUSTER_GET_BAR, TOLERANCE = 0.40, 8_000, 0.10, 0.03
LAYOUTS = 3
EXIT_OK, EXIT_NOT_MET, EXIT_CANNOT_RUN = 0, 1, 2
Counts = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Section:
    """Say who is counted doing what; each side goes by its name and `suffix` in the counts."""

    operations: dict[str, str]
    sides: Sequence[str]
    suffix: str = ""

    @property
    def base(self) -> str:
        return f"{REDIS_PY}{self.suffix}"

    @property
    def ours(self) -> list[str]:
        return [f"{side}{self.suffix}" for side in self.sides if side != REDIS_PY]


ONE_SERVER = Section(OPERATIONS, (REDIS_PY, POOL, CPOOL))
CLUSTER = Section(CLUSTER_OPERATIONS, (REDIS_PY, CPOOL), ", cluster")
SECTIONS = (ONE_SERVER, CLUSTER)


def count_sides(
    args: argparse.Namespace, section: Section, address: Task, directory: Path
) -> Counts:
    """Return the instructions per operation of each side, as many runs at a time as CPUs."""

    def count(side: str, layout: int) -> dict[str, float]:
        task = {
            "work": "counted",
            "side": side,
            "layout": layout,
            "lengths": [200, 1200 if args.quick else 2200],
        }
        return count_layout({**task, **address}, section, directory)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = {
            side: [pool.submit(count, side, layout) for layout in range(LAYOUTS)]
            for side in section.sides
        }
        return {
            f"{side}{section.suffix}": {
                name: min(run.result()[name] for run in each) for name in section.operations
            }
            for side, each in runs.items()
        }


def count_layout(task: Task, section: Section, directory: Path) -> dict[str, float]:
    name = f"{task['side']}{section.suffix}".replace(" ", "-")
    out = directory / f"callgrind.{name}.{task['layout']}.%p"
    valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
    result = call_worker("_work.py", task, before=valgrind, env={"PYTHONHASHSEED": "0"})
    children = result["children"]
    return {
        each: per_operation(children, each, lengths_of(task, each), out)
        for each in section.operations
    }


def per_operation(children: list[Result], operation: str, lengths: list[int], out: Path) -> float:
    total = {
        child["length"]: total_in(Path(str(out).replace("%p", str(child["pid"]))))
        for child in children
        if child["operation"] == operation
    }
    short, long = lengths
    return (total[long] - total[short]) / (long - short)


def total_in(path: Path) -> int:
    """Read the instructions of a whole process from its callgrind file."""
    for line in path.read_text().splitlines():
        if line.startswith("totals:"):
            return int(line.split()[1])
    raise BenchmarkFailed(f"no totals in {path.name}: was the process killed?")


def run(args: argparse.Namespace) -> bool:
    """Count, print the tables, keep the counts if asked to; tell whether all bars are met."""
    for side in ONE_SERVER.sides:
        require_side(side)
    if shutil.which("valgrind") is None:
        raise CannotRun("valgrind is not on PATH")
    with kept_or_temporary(args.keep) as directory:
        with started_server(args.server) as server:
            print(f"callgrind, some minutes; {server.name}; {store_key()}", flush=True)
            counts = count_sides(args, ONE_SERVER, server.address(), Path(directory))
        with started_cluster(args.server) as server:
            counts |= count_sides(args, CLUSTER, server.address(), Path(directory))
    kept = read_store().get(store_key())
    met = report_counts(counts, judged=kept is not None or not args.check)
    if args.update:
        update_store(counts)
        return met
    return report_against_store(counts, kept) and met


def kept_or_temporary(keep: str | None) -> Any:
    if keep is None:
        return tempfile.TemporaryDirectory(prefix="cpool-callgrind-")
    Path(keep).mkdir(parents=True, exist_ok=True)
    return contextlib.nullcontext(keep)


def report_counts(counts: Counts, *, judged: bool) -> bool:
    for section in SECTIONS:
        report_section(counts, section)
    return not judged or judge_get(counts)


def report_section(counts: Counts, section: Section) -> None:
    rows = []
    for operation, name in section.operations.items():
        theirs = counts[section.base][operation]
        cells = [f"{counts[side][operation]:,.0f}" for side in (section.base, *section.ours)]
        shares = [f"{counts[side][operation] / theirs:.1%}" for side in section.ours]
        rows.append([name, *cells, *shares])
    sides = (section.base, *section.ours, *(f"{side}, share" for side in section.ours))
    print_table("user-space instructions", ("instructions per", *sides), rows)


def judge_get(counts: Counts) -> bool:
    pool, client = (counts[side]["get"] for side in (POOL, CPOOL))
    cluster = counts[CLUSTER.ours[0]]["get"] / counts[CLUSTER.base]["get"]
    bars = [
        (f"{POOL}: share of redis-py's", pool / counts[REDIS_PY]["get"], GET_BAR),
        (f"{CPOOL}: instructions", client, CLIENT_GET_BAR),
        (f"{CLUSTER.ours[0]}: share of redis-py's", cluster, CLUSTER_GET_BAR),
    ]
    rows = [[name, f"{value:,.3f}", verdict(value, bar)] for name, value, bar in bars]
    print_table("a GET", ("", "figure", "bar"), rows)
    return all(value <= bar for _, value, bar in bars)


def verdict(value: float, bar: float) -> str:
    return f"<= {bar:g} {'met' if value <= bar else 'NOT MET'}"


# ---- the gate -----------------------------------------------------------------------------


def store_key() -> str:
    facts = machine_facts()
    versions = ", ".join(f"{name} {facts[name]}" for name in ("Python", "redis-py", "hiredis"))
    return f"{platform.python_implementation()}, {versions}, {platform.machine()}"


def read_store() -> dict[str, Counts]:
    return dict(json.loads(STORE.read_text())) if STORE.exists() else {}


def update_store(counts: Counts) -> None:
    rounded = {side: {k: round(v) for k, v in each.items()} for side, each in counts.items()}
    kept = {**read_store(), store_key(): rounded}
    STORE.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    print(f"{STORE.name}: kept the counts for {store_key()}")


def report_against_store(counts: Counts, kept: Counts | None) -> bool:
    if kept is None:
        print(f"NO GATE: {STORE.name} has no counts for {store_key()}; --update keeps these")
        return True
    gated = [(side, section) for section in SECTIONS for side in section.ours]
    changes = {(s, o): change(counts, kept, s, o) for s, of in gated for o in of.operations}
    rows = [
        gate_row(counts, kept, section, side, o)
        for side, section in gated
        for o in section.operations
    ]
    columns = ("instructions per", "kept", "now", "now/kept", "bar", "redis-py's now/kept")
    print_table(f"against {STORE.name}", columns, rows)
    theirs = [change(counts, kept, of.base, each) for of in SECTIONS for each in of.operations]
    if any(abs(each - 1) > TOLERANCE for each in theirs):
        print("redis-py's own counts moved too: another build of Python? Then --update.")
    return all(value <= 1 + TOLERANCE for value in changes.values())


def gate_row(
    counts: Counts, kept: Counts, section: Section, side: str, operation: str
) -> list[str]:
    cells = [f"{each[side][operation]:,.0f}" for each in (kept, counts)]
    now_to_kept = change(counts, kept, side, operation)
    theirs = change(counts, kept, section.base, operation)
    bar = verdict(now_to_kept, 1 + TOLERANCE)
    name = f"{side}: {section.operations[operation]}"
    return [name, *cells, f"{now_to_kept:.3f}", bar, f"{theirs:.3f}"]


def change(counts: Counts, kept: Counts, side: str, operation: str) -> float:
    return counts[side][operation] / kept[side][operation]


def main() -> int:
    """Run from the command line: 0 done, 1 with --check a bar is not met, 2 cannot run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is not met")
    parser.add_argument("--update", action="store_true", help=f"keep the counts in {STORE.name}")
    parser.add_argument("--quick", action="store_true", help="shorter runs")
    parser.add_argument("--keep", metavar="DIR", help="keep the callgrind files there")
    parser.add_argument("--server", metavar="PATH", help="server program to start")
    args = parser.parse_args()
    try:
        met = run(args)
    except CannotRun as error:
        print(f"cannot run: {error}", file=sys.stderr)
        return EXIT_CANNOT_RUN
    return EXIT_NOT_MET if args.check and not met else EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
