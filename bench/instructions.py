"""User-space instructions per GET, SET, command of a pipeline, checkout: counts by callgrind.

Method: a process under valgrind imports everything and forks children; each makes a client of
one side, warms it up on a real server and does a short or a long run of the same operation. The
difference of the two counts, divided by the difference of their lengths, is the cost of one
operation: starting, connecting and warming up cancel out. The least of three such processes is
taken, each with its objects elsewhere in memory: in about one of twenty two names fall on one
place of CPython's cache of methods, which adds 240 instructions to each lookup.
Sides: redis-py with hiredis; cpool: plain redis.Redis, only the pool replaced; cpool.Redis: our
client on our pool. A pipeline's count is that of one of its 100 GETs, building it included.
Counts repeat to within 1 %, whatever else the machine does, so they serve as a gate:
instructions.json keeps them per Python, redis-py, hiredis and CPU architecture, and a count of
ours more than 3 % above the kept one is a bar not met. --update writes the file. Another build
of Python compiles the same work to other counts: with a combination that is not in the file
--check passes with a note, and without it only the bars on a GET are judged.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from _common import (
    BENCH_DIR,
    KEY,
    OURS,
    PEER,
    VALUE,
    BenchmarkFailed,
    CannotRun,
    Report,
    Result,
    Task,
    call_worker,
    main,
    noise_run,
    open_client,
    open_pool,
    progress,
    side_module,
)
from _load import fast_path_counts
from _server import bench_server

STORE = BENCH_DIR / "instructions.json"
CLIENT = "cpool.Redis"
MEASURED, GATED = (PEER, OURS, CLIENT), (OURS, CLIENT)
GET_BAR, CLIENT_GET_BAR, TOLERANCE = 0.40, 8_000, 0.03
WARM_UP, PIPELINE, LAYOUTS = 100, 100, 3
OPERATIONS = {
    "get": "GET of 64 bytes",
    "set": "SET of 64 bytes",
    "pipeline100": "GET in a pipeline of 100",
    "checkout": "get_connection + release",
}
Counts = dict[str, dict[str, float]]


# ---- under valgrind -----------------------------------------------------------------------


def work(task: Task) -> Result:
    """Fork one child per run; return which process id did what."""
    moved = ["x" * size for size in range(task["layout"] * 37)]
    side_module(task["side"])
    gc.collect()
    gc.freeze()
    children = []
    for operation in OPERATIONS:
        for length in task["lengths"]:
            pid = fork_run(task, operation, length)
            children.append({"operation": operation, "length": length, "pid": pid})
    return {"children": children, "moved": len(moved)}


def fork_run(task: Task, operation: str, length: int) -> int:
    """Do one run in a child; return its process id once it has ended well."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            run_operation(task, operation, length)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    if status != 0:
        raise RuntimeError(f"the child for {operation} x {length} failed")
    return pid


def run_operation(task: Task, operation: str, length: int) -> None:
    client = open_measured(task["side"], task["url"])
    for _ in range(WARM_UP):
        client.get(KEY)
    repeat = REPEATS[operation]
    repeat(client, WARM_UP * (PIPELINE if operation == "pipeline100" else 1))
    repeat(client, length)
    if task["side"] == CLIENT and not noise_run():
        require_compiled_calls()


def open_measured(side: str, url: str) -> Any:
    import redis

    if side == CLIENT:
        return open_client(side, url)
    return redis.Redis(connection_pool=open_pool(side, url))


def require_compiled_calls() -> None:
    counts = fast_path_counts()
    if counts["refused"] or counts["taken"] < WARM_UP:
        raise RuntimeError(f"commands did not take the compiled path: {counts}")


def repeat_get(client: Any, count: int) -> None:
    get = client.get
    for _ in range(count):
        get(KEY)


def repeat_set(client: Any, count: int) -> None:
    set_value = client.set
    for _ in range(count):
        set_value(KEY, VALUE)


def repeat_pipeline(client: Any, count: int) -> None:
    """Send so many GETs, a hundred at a time."""
    for _ in range(count // PIPELINE):
        pipe = client.pipeline(transaction=False)
        for _ in range(PIPELINE):
            pipe.get(KEY)
        pipe.execute()


def repeat_checkout(client: Any, count: int) -> None:
    get_connection, release = client.connection_pool.get_connection, client.connection_pool.release
    for _ in range(count):
        release(get_connection())


REPEATS = {
    "get": repeat_get,
    "set": repeat_set,
    "pipeline100": repeat_pipeline,
    "checkout": repeat_checkout,
}


# ---- outside ------------------------------------------------------------------------------


def count_sides(args: argparse.Namespace, url: str, directory: Path) -> Counts:
    """Return the instructions per operation of each side, as many runs at a time as CPUs."""

    def count(side: str, layout: int) -> dict[str, float]:
        return count_layout(args, side, layout, url, directory)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = {
            side: [pool.submit(count, side, layout) for layout in range(LAYOUTS)]
            for side in MEASURED
        }
        return {
            side: {name: min(run.result()[name] for run in each) for name in OPERATIONS}
            for side, each in runs.items()
        }


def count_layout(
    args: argparse.Namespace, side: str, layout: int, url: str, directory: Path
) -> dict[str, float]:
    lengths = [200, 1200] if args.quick else [200, 2200]
    task = {"side": side, "url": url, "lengths": lengths, "layout": layout}
    out = directory / f"callgrind.{side}.{layout}.%p"
    valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
    result = call_worker(__file__, task, before=valgrind, env={"PYTHONHASHSEED": "0"})
    return {name: per_operation(result["children"], name, lengths, out) for name in OPERATIONS}


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


def run(args: argparse.Namespace, report: Report) -> None:
    if shutil.which("valgrind") is None:
        raise CannotRun("valgrind is not on PATH")
    if args.update and noise_run():
        raise CannotRun("--update keeps counts of cpool, not of a noise run")
    with bench_server(args) as server, kept_or_temporary(args.keep) as directory:
        report.on_machine(server.plain_url)
        progress("callgrind (some minutes)")
        counts = count_sides(args, server.url, Path(directory))
        progress("")
    report.raw = {"instructions": counts, "key": store_key(report)}
    kept = read_store().get(store_key(report))
    report_counts(report, counts, judged=kept is not None or not args.check)
    if args.update:
        update_store(store_key(report), counts)
    elif not noise_run():
        report_against_store(report, counts, kept)


def kept_or_temporary(keep: str | None) -> Any:
    if keep is None:
        return tempfile.TemporaryDirectory(prefix="cpool-callgrind-")
    Path(keep).mkdir(parents=True, exist_ok=True)
    return contextlib.nullcontext(keep)


def report_counts(report: Report, counts: Counts, *, judged: bool) -> None:
    rows = []
    for operation, name in OPERATIONS.items():
        theirs = counts[PEER][operation]
        cells = [f"{counts[side][operation]:,.0f}" for side in MEASURED]
        shares = [f"{counts[side][operation] / theirs:.1%}" for side in GATED]
        rows.append([name, *cells, *shares])
    columns = ("instructions per", *MEASURED, *(f"{side}, share" for side in GATED))
    report.table("user-space instructions", columns, rows)
    if judged:
        judge_get(report, counts)


def judge_get(report: Report, counts: Counts) -> None:
    share, count = counts[OURS]["get"] / counts[PEER]["get"], counts[CLIENT]["get"]
    bars = [
        (f"{OURS}: instructions per GET, share of redis-py's", share, GET_BAR),
        (f"{CLIENT}: instructions per GET", count, CLIENT_GET_BAR),
    ]
    rows = [[name, f"{value:,.3f}", report.bar(name, value, "<=", at)] for name, value, at in bars]
    report.table("bars", ("", "figure", "bar"), rows)


# ---- the gate -----------------------------------------------------------------------------


def store_key(report: Report) -> str:
    names = ("Python", "redis-py", "hiredis")
    versions = ", ".join(f"{name} {report.machine[name]}" for name in names)
    return f"{platform.python_implementation()}, {versions}, {platform.machine()}"


def read_store() -> dict[str, Counts]:
    return dict(json.loads(STORE.read_text())) if STORE.exists() else {}


def update_store(key: str, counts: Counts) -> None:
    rounded = {side: {k: round(v) for k, v in each.items()} for side, each in counts.items()}
    STORE.write_text(json.dumps({**read_store(), key: rounded}, indent=1, sort_keys=True) + "\n")
    print(f"{STORE.name}: kept the counts for {key}")


def report_against_store(report: Report, counts: Counts, kept: Counts | None) -> None:
    if kept is None:
        print(f"NO GATE: {STORE.name} has no counts for {store_key(report)}; --update keeps these")
        return
    rows = [
        gate_row(report, side, operation, counts, kept)
        for side in GATED
        for operation in OPERATIONS
        if operation in kept.get(side, {})
    ]
    columns = ("instructions per", "kept", "now", "now/kept", "bar", "redis-py's now/kept")
    report.table(f"against {STORE.name}", columns, rows)
    if any(abs(change(counts, kept, PEER, each) - 1) > TOLERANCE for each in kept[PEER]):
        print("redis-py's own counts moved too: another build of Python? Then --update.")


def gate_row(report: Report, side: str, operation: str, counts: Counts, kept: Counts) -> list[str]:
    name = f"{side}: {OPERATIONS[operation]}"
    now_to_kept = change(counts, kept, side, operation)
    bar = report.bar(f"instructions, {name}, against the kept", now_to_kept, "<=", 1 + TOLERANCE)
    cells = [f"{each[side][operation]:,.0f}" for each in (kept, counts)]
    theirs = change(counts, kept, PEER, operation)
    return [name, *cells, f"{now_to_kept:.3f}", bar, f"{theirs:.3f}"]


def change(counts: Counts, kept: Counts, side: str, operation: str) -> float:
    return counts[side][operation] / kept[side][operation]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--update", action="store_true", help=f"keep the counts in {STORE.name}")
    parser.add_argument("--keep", metavar="DIR", help="keep the callgrind files there")


if __name__ == "__main__":
    sys.exit(main(__file__, __doc__ or "", run, work, add_options))
