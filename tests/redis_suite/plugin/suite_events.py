"""Pytest plugin: write what happens to each test, one JSON object per line, while it happens.

Loaded with ``-p suite_events`` in every run of redis-py's suite, swapped or not. The file is
written as the run goes on, so a run that crashes or hangs still tells which test it was in.

Environment: ``REDIS_SUITE_EVENTS`` the file to append to; ``REDIS_SUITE_SKIP`` and
``REDIS_SUITE_SELECT`` files of test ids, one per line, to leave out or to keep alone;
``REDIS_SUITE_NO_HIREDIS`` set to hide hiredis from redis-py.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

_PID = os.getpid()
_RANK = {"passed": 0, "xpassed": 0, "xfailed": 1, "skipped": 1, "failed": 2, "error": 3}

if os.environ.get("REDIS_SUITE_NO_HIREDIS"):
    # None makes "import hiredis" fail; it has to happen before redis is imported.
    sys.modules["hiredis"] = None  # type: ignore[assignment]


def emit(event: str, **fields: Any) -> None:
    """Append one event to the file of events; forked children of a test write nothing."""
    path = os.environ.get("REDIS_SUITE_EVENTS")
    if path and os.getpid() == _PID:
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"event": event, **fields}) + "\n")


def first_line(text: str) -> str:
    """Return the first non-empty line of a text, cut to 300 characters."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:300] if lines else ""


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Say in one line why a report is not a pass."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        return f"{first_line(crash.message)} ({Path(crash.path).name}:{crash.lineno})"
    if isinstance(report.longrepr, tuple):
        return first_line(str(report.longrepr[2]))
    lines = [line for line in str(report.longrepr or "").splitlines() if line.strip()]
    return first_line(next((line for line in lines if line.startswith("E ")), "\n".join(lines)))


def outcome_of(report: pytest.TestReport) -> str:
    """Name the outcome of one phase of a test."""
    if hasattr(report, "wasxfail"):
        return "xpassed" if report.passed else "xfailed"
    if report.failed and report.when != "call":
        return "error"
    return report.outcome


def ids_in(variable: str) -> set[str] | None:
    """Read the file of test ids an environment variable names, or None if it names none."""
    path = os.environ.get(variable)
    return set(Path(path).read_text(encoding="utf-8").splitlines()) if path else None


class EventWriter:
    """Collects the phases of each test and emits its start and its end."""

    def __init__(self) -> None:
        self._outcome = "passed"
        self._reason = ""
        self._seconds = 0.0

    def pytest_sessionstart(self) -> None:
        import redis

        hiredis = sys.modules.get("hiredis")
        emit(
            "begin",
            redis=redis.__version__,
            redis_file=redis.__file__,
            hiredis=getattr(hiredis, "__version__", None),
        )

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        skip, select = ids_in("REDIS_SUITE_SKIP"), ids_in("REDIS_SUITE_SELECT")
        unwanted = [
            item
            for item in items
            if (skip and item.nodeid in skip) or (select is not None and item.nodeid not in select)
        ]
        if unwanted:
            config.hook.pytest_deselected(items=unwanted)
            gone = set(map(id, unwanted))
            items[:] = [item for item in items if id(item) not in gone]

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        emit("collected", ids=[item.nodeid for item in session.items])

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            emit("collect-error", id=report.nodeid, reason=reason_of(report))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._outcome, self._reason, self._seconds = "passed", "", 0.0
        emit("start", id=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcome = outcome_of(report)
        self._seconds += report.duration
        if _RANK[outcome] > _RANK[self._outcome] or outcome == "xpassed":
            self._outcome = outcome
            self._reason = "" if report.passed else reason_of(report)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        emit(
            "end",
            id=nodeid,
            outcome=self._outcome,
            reason=self._reason,
            seconds=round(self._seconds, 4),
        )

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, exitstatus: int) -> Generator[None, None, None]:
        yield
        emit("finish", status=int(exitstatus))


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(EventWriter(), "suite-event-writer")
