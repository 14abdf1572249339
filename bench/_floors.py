"""What a client in C gets from the same server: redis-benchmark, and a loop of send and recv.

They are sides of the rounds like the others, because a floor taken minutes later is the floor
of another moment.
"""

from __future__ import annotations

import csv
import functools
import json
import shutil
import subprocess
from pathlib import Path

from _process import BENCH_DIR, KEY, VALUE, BenchmarkFailed, CannotRun, Result
from _server import Server
from _sides import C_LOOP, GENERATOR

SOURCE = BENCH_DIR / "cloop.c"
LIMIT_S = 120
GENERATED_PER_S = {1: 30_000}  # GETs asked of redis-benchmark, by its clients
MANY_PER_S, PIPELINED_PER_S = 100_000, 1_000_000


def require_floor(side: str) -> None:
    """Raise CannotRun where a floor can't be measured."""
    if side == GENERATOR and generator() is None:
        raise CannotRun("neither redis-benchmark nor valkey-benchmark is on PATH")
    if side == C_LOOP and shutil.which("cc") is None:
        raise CannotRun(f"no C compiler for {SOURCE.name}")


def generator() -> str | None:
    return shutil.which("redis-benchmark") or shutil.which("valkey-benchmark")


def redis_benchmark(server: Server, clients: int, depth: int, seconds: float) -> Result:
    """Run the server's own load generator for about so long; return the seconds of one GET."""
    per_s = PIPELINED_PER_S if depth > 1 else GENERATED_PER_S.get(clients, MANY_PER_S)
    counts = ["-c", str(clients), "-P", str(depth), "-n", str(int(per_s * seconds))]
    done = run([str(generator()), "-p", str(server.port), *counts, "--csv", "GET", KEY])
    rows = [row for row in csv.reader(done.splitlines()) if row and row[0].startswith("GET")]
    if not rows:
        raise BenchmarkFailed("redis-benchmark printed no figure")
    return {"s": 1 / float(rows[-1][1])}


def loop_of_gets(program: Path, server: Server, seconds: float) -> Result:
    """Run the C loop for some seconds; return the seconds of one GET."""
    where = [server.host, str(server.port), KEY, str(len(VALUE)), f"{seconds}"]
    return {"s": 1 / float(json.loads(run([str(program), *where]))["ops_per_s"])}


@functools.cache
def compiled_loop(directory: Path) -> Path:
    """Compile cloop.c into a directory, once."""
    program = directory / "cloop"
    run(["cc", "-O2", "-o", str(program), str(SOURCE)])
    return program


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    if done.returncode != 0:
        raise BenchmarkFailed(f"{Path(command[0]).name} failed: {done.stderr.strip()[-2000:]}")
    return done.stdout
