"""What every benchmark shares: options, fresh processes, paired rounds, tables and bars.

A benchmark is a file with a `run(args, report)` that measures and a `work(task)` that does
one measured piece and returns plain data. `main(...)` ties them to the command line. The
same file started with `--worker TASK` only does that piece: this is how each side of a
comparison gets a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import operator
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from cpool.tools.figures import Spread, paired_ratio
from cpool.tools.machine import machine_facts, server_name
from cpool.tools.tables import print_table

Task = dict[str, Any]
Result = dict[str, Any]
Pair = dict[str, Result]
Work = Callable[[Task], Result]

BENCH_DIR = Path(__file__).resolve().parent
PEER, OURS = "redis-py", "cpool"
SIDES = (PEER, OURS)
KEY, VALUE = "bench:key64", b"x" * 64
EXIT_OK, EXIT_BAR_MISSED, EXIT_CANNOT_RUN, EXIT_FAILED = 0, 1, 2, 3
WORKER_LIMIT_S = 600.0
BUSY_LIMIT_PERCENT = 10
NOISE_VARIABLE = "CPOOL_BENCH_NOISE"
SENSES: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
}


class CannotRun(Exception):
    """Say why a benchmark cannot be run here; the process then ends with exit code 2."""


class BenchmarkFailed(Exception):
    """Say what went wrong or was wrong; the process then ends with exit code 3."""


# ---- the two sides ------------------------------------------------------------------------


def noise_run() -> bool:
    """Tell whether redis-py stands on both sides, to learn how far equals differ here."""
    return bool(os.environ.get(NOISE_VARIABLE))


def side_module(side: str) -> ModuleType:
    """Return the module whose pool classes the given side uses."""
    name = "redis" if side == PEER or noise_run() else "cpool"
    return importlib.import_module(name)


def open_pool(side: str, url: str, kind: str = "ConnectionPool", **options: Any) -> Any:
    """Make a pool of one side from a URL, everything not named left at its default."""
    return getattr(side_module(side), kind).from_url(url, **options)


def open_client(side: str, url: str, **options: Any) -> Any:
    """Make a whole client of one side from a URL, everything not named left at its default."""
    return side_module(side).Redis.from_url(url, **options)


def require_sides() -> None:
    """Raise CannotRun unless redis-py, hiredis and cpool can be imported."""
    require_module("redis", "pip install redis")
    require_module("hiredis", "redis-py is measured with its fastest parser: pip install hiredis")
    require_module("cpool", "build and install it first: pip install -e '.[bench]'")


def require_module(name: str, remedy: str) -> ModuleType:
    """Import a module or raise CannotRun with the reason and the remedy."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # a stale build fails in many ways
        reason = f"{type(error).__name__}: {error}"
        raise CannotRun(f"{name} is not importable ({reason}); {remedy}") from error


# ---- statistics ---------------------------------------------------------------------------


def figures(pairs: Sequence[Pair], side: str, metric: str) -> Spread:
    """Return one side's figure over all rounds."""
    return Spread.of([pair[side][metric] for pair in pairs])


def gain(pairs: Sequence[Pair], metric: str, *, smaller_is_better: bool = False) -> Spread:
    """Return how many times better cpool did, one ratio per round, then their median."""
    over, under = (PEER, OURS) if smaller_is_better else (OURS, PEER)
    return ratio(pairs, metric, over, under)


def ratio(pairs: Sequence[Pair], metric: str, over: str, under: str = PEER) -> Spread:
    """Return one side's figure in terms of another's, one ratio per round, then their median."""
    sides = ([float(pair[side][metric]) for pair in pairs] for side in (over, under))
    return paired_ratio(*sides)


# ---- processes and rounds -----------------------------------------------------------------


def call_worker(
    script: str,
    task: Task,
    *,
    before: Sequence[str] = (),
    interpreter: Sequence[str] = (),
    env: dict[str, str] | None = None,
) -> Result:
    """Do one task in a fresh process of the script; `before` may name a wrapper as valgrind."""
    command = [*before, sys.executable, *interpreter, script, "--worker", json.dumps(task)]
    path = os.pathsep.join(p for p in (str(BENCH_DIR), os.environ.get("PYTHONPATH", "")) if p)
    full_env = {**os.environ, "PYTHONPATH": path, **(env or {})}
    try:
        done = subprocess.run(
            command, env=full_env, capture_output=True, text=True, timeout=WORKER_LIMIT_S
        )
    except subprocess.TimeoutExpired as error:
        raise BenchmarkFailed(f"a worker took more than {WORKER_LIMIT_S:g} s on {task}") from error
    if done.returncode != 0:
        raise BenchmarkFailed(f"a worker failed on {task}:\n{done.stderr.strip()[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def paired_rounds(
    measure: Callable[[str], Result], rounds: int, label: str, sides: Sequence[str] = SIDES
) -> list[Pair]:
    """Measure the sides in turn; every second round in reverse order, so drift cancels out."""
    pairs = []
    for number in range(rounds):
        pair = {}
        for side in sides if number % 2 == 0 else tuple(reversed(sides)):
            progress(f"{label}: round {number + 1}/{rounds}, {side}")
            pair[side] = measure(side)
        pairs.append(pair)
    progress("")
    return pairs


def measurer(
    args: argparse.Namespace, script: str, work: Work, task: Task, interpreter: Sequence[str] = ()
) -> Callable[[str], Result]:
    """Return the function that measures one side, in a fresh process unless --together."""

    cpus = client_cpus() if args.pin else None

    def measure(side: str) -> Result:
        full = {"cpus": cpus, **task, "side": side}
        if args.together and not interpreter:
            with bound_to(full["cpus"]):
                return work(full)
        return call_worker(script, full, interpreter=interpreter)

    return measure


def progress(text: str) -> None:
    """Show on a terminal's stderr what is going on."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


# ---- pinning ------------------------------------------------------------------------------


def client_cpus() -> list[int] | None:
    """Return all CPUs but the last, which --pin leaves to the server; None with only one."""
    return usable_cpus()[:-1] or None


def usable_cpus() -> list[int]:
    """Return the CPUs processes can be bound to here, an empty list if none can."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@contextlib.contextmanager
def bound_to(cpus: Sequence[int] | None, pid: int = 0) -> Iterator[None]:
    """Bind a process (0: this one) to some CPUs for a while; None leaves it free."""
    if not cpus:
        yield
        return
    before = os.sched_getaffinity(pid)
    os.sched_setaffinity(pid, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(pid, before)


# ---- the report ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """Compare one figure with the limit it has to keep."""

    name: str
    value: float
    sense: str
    limit: float
    unit: str = ""
    wanted: float | None = None

    @property
    def met(self) -> bool:
        return SENSES[self.sense](self.value, self.limit)

    def verdict(self) -> str:
        met = "met" if self.met else "NOT MET"
        short_of = self.wanted is not None and self.met and self.value < self.wanted
        return f"{met}, wanted {self.wanted:g}" if short_of else met

    def text(self) -> str:
        return f"{self.sense} {self.limit:g}{self.unit} {self.verdict()}"

    def figure(self) -> str:
        digits = 0 if abs(self.value) >= 100 else 3
        return f"{self.value:,.{digits}f}{self.unit}"


@dataclass
class Report:
    """Collect what a benchmark found, print it as it comes, write it as JSON at the end."""

    name: str
    method: str
    options: dict[str, Any]
    machine: dict[str, Any] = field(default_factory=dict)
    bars: list[Bar] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)

    def head(self) -> None:
        print(f"== {self.name}\n{self.method.strip()}\n", flush=True)
        if noise_run():
            print("NOISE RUN: redis-py's classes stand on both sides, in cpool's place too\n")

    def on_machine(self, url: str | None) -> None:
        self.machine = machine(url)
        print(", ".join(f"{name} {value}" for name, value in self.machine.items()), flush=True)
        if self.machine["busy %"] > BUSY_LIMIT_PERCENT:
            print("WARNING: other work is running; ratios of times are not to be trusted")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        print_table(title, columns, rows)

    def bar(
        self,
        name: str,
        value: float,
        sense: str,
        limit: float,
        unit: str = "",
        wanted: float | None = None,
    ) -> str:
        """Note a bar and return it as the text of a table's cell."""
        self.bars.append(Bar(name, value, sense, limit, unit, wanted))
        return self.bars[-1].text()

    def finish(self, args: argparse.Namespace) -> int:
        met = sum(bar.met for bar in self.bars)
        print(f"bars met: {met} of {len(self.bars)}\n", flush=True)
        if args.json:
            Path(args.json).write_text(json.dumps(self.as_data(), indent=1) + "\n")
        return EXIT_BAR_MISSED if args.check and met < len(self.bars) else EXIT_OK

    def as_data(self) -> dict[str, Any]:
        return {
            "benchmark": self.name,
            "method": self.method,
            "options": self.options,
            "machine": self.machine,
            "bars": [{**asdict(bar), "met": bar.met} for bar in self.bars],
            "raw": self.raw,
        }


def machine(url: str | None) -> dict[str, Any]:
    """Describe what the figures were measured on."""
    import redis

    facts = machine_facts()
    if url is not None:
        with redis.Redis.from_url(url) as client:
            facts["server"] = server_name(client.info("server"))
    return facts


# ---- the command line ---------------------------------------------------------------------


OPTIONS: dict[str, dict[str, Any]] = {
    "--quick": {"action": "store_true", "help": "few and short rounds: a look, not a result"},
    "--json": {"metavar": "FILE", "help": "write all raw figures there"},
    "--check": {"action": "store_true", "help": "exit with 1 if a bar is not met"},
    "--rounds": {"type": int, "help": "number of paired rounds"},
    "--server": {"metavar": "PATH", "help": "server program to start"},
    "--url": {"help": "use a server that is already running"},
    "--together": {
        "action": "store_true",
        "help": "both sides in this process, not in fresh ones",
    },
    "--noise": {
        "action": "store_true",
        "help": "measure redis-py against itself instead of cpool",
    },
    "--pin": {
        "action": "store_true",
        "help": "bind the server to the last CPU, clients to the rest",
    },
}


def common_options(doc: str, *names: str) -> argparse.ArgumentParser:
    """Return a parser of these options, or of all of them."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in names or OPTIONS:
        parser.add_argument(name, **OPTIONS[name])
    return parser


def main(
    script: str,
    doc: str,
    run: Callable[[argparse.Namespace, Report], None],
    work: Work,
    add_options: Callable[[argparse.ArgumentParser], None] | None = None,
) -> int:
    """Run a benchmark from the command line, or one piece of it for `--worker`."""
    if sys.argv[1:2] == ["--worker"]:
        return main_worker(work, json.loads(sys.argv[2]))
    parser = common_options(doc)
    if add_options is not None:
        add_options(parser)
    args = parser.parse_args()
    if args.noise:
        os.environ[NOISE_VARIABLE] = "1"
    report = Report(Path(script).stem, doc, vars(args))
    try:
        require_sides()
        report.head()
        started_s = time.monotonic()
        run(args, report)
        report.raw["took_s"] = round(time.monotonic() - started_s, 1)
    except (CannotRun, BenchmarkFailed) as error:
        progress("")
        cannot = isinstance(error, CannotRun)
        print(f"{report.name} {'cannot run' if cannot else 'failed'}: {error}", file=sys.stderr)
        return EXIT_CANNOT_RUN if cannot else EXIT_FAILED
    return report.finish(args)


def main_worker(work: Work, task: Task) -> int:
    with bound_to(task.get("cpus")):
        print(json.dumps(work(task)))
    return EXIT_OK
