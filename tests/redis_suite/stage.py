"""Run redis-py's tests once in a subprocess and follow the events its plugin writes.

A test that kills or hangs the process costs only itself: it is recorded as "crashed" or
"hung", and the rest goes on in a new process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .sources import SetupError

PLUGINS = Path(__file__).parent / "plugin"
TEST_TIMEOUT_S = 20
# A test past its own timeout that still says nothing can't be reached by a signal any more.
SILENCE_TIMEOUT_S = 120.0
COLLECTION_TIMEOUT_S = 300.0
MAX_PROCESSES = 30
POLL_S = 0.2
# Enterprise databases, a credentials service, and the asyncio side, which is not swapped.
IGNORED = ("tests/test_asyncio", "tests/test_scenario", "tests/test_credentials.py")
MARKERS = "not redismod and not multidb_integration and not cp_integration"


@dataclass(frozen=True)
class TestResult:
    """What became of one test: passed, failed, error, skipped, xfailed, xpassed, crashed, hung."""

    __test__ = False

    outcome: str
    reason: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return self.outcome in ("passed", "xpassed")


@dataclass
class StageResult:
    """Everything a run told: results by test id, and the proof of a swapped run."""

    results: dict[str, TestResult] = field(default_factory=dict)
    collect_errors: dict[str, str] = field(default_factory=dict)
    begin: dict[str, Any] = field(default_factory=dict)
    proofs: list[dict[str, Any]] = field(default_factory=list)
    processes: int = 0
    seconds: float = 0.0

    def counts(self) -> Counter[str]:
        return Counter(result.outcome for result in self.results.values())

    def passed_ids(self) -> set[str]:
        return {test for test, result in self.results.items() if result.passed}

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> StageResult:
        results = {test: TestResult(**value) for test, value in data["results"].items()}
        return cls(**{**data, "results": results})


@dataclass(frozen=True)
class StagePlan:
    """What to run: the sources, options for pytest, and the swap (None for the baseline)."""

    root: Path
    workdir: Path
    name: str
    pytest_args: tuple[str, ...]
    markers: str = MARKERS
    selection: tuple[str, ...] = ("tests",)
    swap: str | None = None
    cpool_path: str | None = None
    without_hiredis: bool = False
    select: frozenset[str] | None = None
    silence_timeout_s: float = SILENCE_TIMEOUT_S

    def command(self) -> list[str]:
        plugins = ["-p", "suite_events"] + (["-p", "redis_swap"] if self.swap else [])
        return [
            *(sys.executable, "-m", "pytest", *plugins, "-p", "no:cacheprovider", "-q"),
            *(f"--timeout={TEST_TIMEOUT_S}", "--timeout-method=signal"),
            *("--continue-on-collection-errors", "-m", self.markers),
            *(f"--ignore={path}" for path in IGNORED),
            *self.pytest_args,
            *self.selection,
        ]

    def environment(self) -> dict[str, str]:
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith(("REDIS_SUITE_", "PYTEST"))
        }
        paths = [str(PLUGINS), str(self.root), *filter(None, [os.environ.get("PYTHONPATH")])]
        extra = {
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONFAULTHANDLER": "1",
            "REDIS_SUITE_EVENTS": str(self.file("events.jsonl")),
        }
        if self.swap:
            extra["REDIS_SUITE_SWAP"] = self.swap
            extra["REDIS_SUITE_CPOOL_PATH"] = self.cpool_path or ""
        if self.without_hiredis:
            extra["REDIS_SUITE_NO_HIREDIS"] = "1"
        return {**kept, **extra}

    def file(self, suffix: str) -> Path:
        return self.workdir / f"{self.name}-{suffix}"


class EventReader:
    """Reads the events of one process as they are appended."""

    def __init__(self, path: Path, result: StageResult) -> None:
        self._path = path
        self._result = result
        self._offset = path.stat().st_size if path.exists() else 0
        self._done_before = len(result.results)
        self.collected: list[str] | None = None
        self.current: str | None = None

    @property
    def total(self) -> int | None:
        """The number of tests of the whole run, once it is known."""
        return None if self.collected is None else self._done_before + len(self.collected)

    def read_new(self) -> int:
        """Take in the complete lines written since the last call; return their number."""
        if not self._path.exists():
            return 0
        with open(self._path, "rb") as stream:
            stream.seek(self._offset)
            data = stream.read()
        complete = data[: data.rfind(b"\n") + 1]
        self._offset += len(complete)
        lines = complete.splitlines()
        for line in lines:
            self._take(json.loads(line))
        return len(lines)

    def _take(self, event: dict[str, Any]) -> None:
        kind = event.pop("event")
        if kind == "start":
            self.current = event["id"]
        elif kind == "end":
            test = event.pop("id")
            self._result.results[test] = TestResult(**event)
            self.current = None
        elif kind == "collected":
            self.collected = event["ids"]
        elif kind == "collect-error":
            self._result.collect_errors[event["id"]] = event["reason"]
        elif kind == "begin":
            self._result.begin = event
        elif kind == "proof":
            self._result.proofs[-1] = event


def run_stage(plan: StagePlan, progress: Callable[[int, int | None], None]) -> StageResult:
    """Run a plan to its end, in as many processes as crashes make necessary.

    progress is called with the number of tests done and the number collected, or None.
    """
    result = StageResult()
    started = time.monotonic()
    for kept in ("events.jsonl", "pytest.log"):
        plan.file(kept).unlink(missing_ok=True)
    for _ in range(MAX_PROCESSES):
        done_before = len(result.results)
        reader, ended = run_process(plan, result, progress)
        if reader.collected is None:
            raise SetupError(f"pytest did not get as far as the tests: {log_tail(plan)}")
        if reader.current:
            result.results[reader.current] = ended
        left = set(reader.collected) - set(result.results)
        if not left or len(result.results) == done_before:
            break
    result.seconds = round(time.monotonic() - started, 1)
    return result


def run_process(
    plan: StagePlan, result: StageResult, progress: Callable[[int, int | None], None]
) -> tuple[EventReader, TestResult]:
    """Run one pytest process over the tests not yet done; say how it ended."""
    environment = plan.environment()
    write_ids(plan, environment, "REDIS_SUITE_SKIP", result.results)
    write_ids(plan, environment, "REDIS_SUITE_SELECT", plan.select)
    result.processes += 1
    result.proofs.append({})
    reader = EventReader(plan.file("events.jsonl"), result)
    with open(plan.file("pytest.log"), "ab") as log:
        process = subprocess.Popen(
            plan.command(), cwd=plan.root, env=environment, stdout=log, stderr=log,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    hung = False
    try:
        hung = follow(process, reader, plan, lambda: progress(len(result.results), reader.total))
    finally:
        end_group(process, grace_s=5.0 if hung else 0.0)
    reader.read_new()
    return reader, describe_end(process.returncode, plan.silence_timeout_s if hung else None)


def write_ids(
    plan: StagePlan, environment: dict[str, str], variable: str, ids: Iterable[str] | None
) -> None:
    """Hand a list of test ids to the plugin by a file, if there is one."""
    if ids is not None:
        path = plan.file(f"{variable.lower()}.txt")
        path.write_text("\n".join(ids), encoding="utf-8")
        environment[variable] = str(path)


def follow(
    process: subprocess.Popen[bytes],
    reader: EventReader,
    plan: StagePlan,
    progress: Callable[[], None],
) -> bool:
    """Read events until the process ends; return True if it had to be ended as hung."""
    last_event = time.monotonic()
    while True:
        ended = process.poll() is not None
        if reader.read_new():
            last_event = time.monotonic()
            progress()
        if ended:
            return False
        limit_s = plan.silence_timeout_s if reader.current else COLLECTION_TIMEOUT_S
        if time.monotonic() - last_event > limit_s:
            # SIGABRT makes faulthandler write the stacks of all threads to the log.
            process.send_signal(signal.SIGABRT)
            return True
        time.sleep(POLL_S)


def end_group(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """End a process and the children its tests may have left in its process group."""
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    process.wait()


def describe_end(returncode: int, silent_for_s: float | None) -> TestResult:
    """Say as a test's result how a process ended while that test was running."""
    if silent_for_s is not None:
        return TestResult("hung", f"no sign of life for {silent_for_s:.0f} s")
    if returncode < 0:
        return TestResult("crashed", f"the process died of {signal.Signals(-returncode).name}")
    return TestResult("crashed", f"the process ended with status {returncode}")


def log_tail(plan: StagePlan) -> str:
    """Return the end of what pytest printed."""
    path = plan.file("pytest.log")
    return "\n" + "\n".join(path.read_text(errors="replace").splitlines()[-15:])
