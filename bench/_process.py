"""Fresh processes: each side of a comparison is measured in one of its own, round by round."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Task = dict[str, Any]
Result = dict[str, Any]

BENCH_DIR = Path(__file__).resolve().parent
KEY, VALUE = "bench:key64", b"x" * 64
CLUSTER_KEYS = tuple(f"{KEY}:{number}" for number in range(300))  # over all nodes
WORKER_LIMIT_S = 600.0


class CannotRun(Exception):
    """Say why something can't be measured here."""


class BenchmarkFailed(Exception):
    """Say what went wrong, or was wrong, with a measurement."""


def call_worker(
    script: str, task: Task, *, before: Sequence[str] = (), env: dict[str, str] | None = None
) -> Result:
    """Do one task in a fresh process of a script; `before` may name a wrapper as valgrind.

    The script reads the task as JSON from its standard input and prints its result as one
    line of JSON. Raises BenchmarkFailed with what it wrote to stderr.
    """
    command = [*before, sys.executable, str(BENCH_DIR / script)]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(task),
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=WORKER_LIMIT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchmarkFailed(f"a worker took more than {WORKER_LIMIT_S:g} s on {task}") from error
    if done.returncode != 0:
        raise BenchmarkFailed(f"a worker failed on {task}:\n{done.stderr.strip()[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def usable_cpus() -> list[int]:
    """Return the CPUs processes can be bound to here, an empty list if none can."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@contextlib.contextmanager
def bound_to(cpus: Sequence[int] | None, pids: Sequence[int] = (0,)) -> Iterator[None]:
    """Bind processes (0: this one and its children) to CPUs for a while; None leaves them free."""
    before = {pid: os.sched_getaffinity(pid) for pid in pids} if cpus else {}
    for pid in before:
        os.sched_setaffinity(pid, cpus or ())
    try:
        yield
    finally:
        for pid, allowed in before.items():
            os.sched_setaffinity(pid, allowed)
