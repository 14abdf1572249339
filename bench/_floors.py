"""What a client in C gets from the same server: redis-benchmark, and a loop of send and recv.

They are measured in the rounds, between the sides, because a floor taken minutes later is the
floor of another moment. Where one cannot run, it is None and left out.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from _common import BENCH_DIR, KEY, VALUE, BenchmarkFailed, Result
from _server import Server

SOURCE = BENCH_DIR / "cloop.c"
COMPILE_LIMIT_S, RUN_LIMIT_S = 60, 120


def redis_benchmark(server: Server, clients: int, count: int) -> float | None:
    """Return the ops/s of the C load generator with the same key, None where it can't run."""
    program = shutil.which("redis-benchmark") or shutil.which("valkey-benchmark")
    if program is None or server.pid is None or server.url.startswith("rediss:"):
        return None
    where = ["-s", server.unix_path] if server.unix_path else ["-p", str(server.port)]
    command = [program, *where, "-c", str(clients), "-n", str(count), "--csv", "GET", KEY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_LIMIT_S)
    rows = [r for r in csv.reader(done.stdout.splitlines()) if r and r[0].startswith("GET")]
    return float(rows[-1][1]) if rows else None


@contextmanager
def compiled_loop() -> Iterator[Path | None]:
    """Yield the program of cloop.c, None where there is no compiler."""
    compiler = shutil.which("cc")
    with tempfile.TemporaryDirectory(prefix="cpool-cloop-") as directory:
        program = Path(directory) / "cloop"
        if compiler is None:
            yield None
            return
        command = [compiler, "-O2", "-o", str(program), str(SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_LIMIT_S)
        if done.returncode != 0:
            raise BenchmarkFailed(f"{SOURCE.name} does not compile:\n{done.stderr[-2000:]}")
        yield program


def loop_of_gets(program: Path, server: Server, seconds: float) -> Result:
    """Run the C loop for some seconds; return its ops/s."""
    command = [str(program), server.host, str(server.port), KEY, str(len(VALUE)), f"{seconds}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_LIMIT_S)
    if done.returncode != 0:
        raise BenchmarkFailed(f"the C loop failed: {done.stderr.strip()}")
    return dict(json.loads(done.stdout))
