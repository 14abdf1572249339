"""Print a comparison as tables, and write it down as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .compare import Comparison, Difference, Usage
from .stage import StageResult, TestResult

OUTCOMES = ("passed", "failed", "error", "skipped", "xfailed", "xpassed", "crashed", "hung")
MAX_FIXED_SHOWN = 20


def failures_of(outcome: Comparison, usage: Usage, passed: int, min_passed: int) -> list[str]:
    """List the reasons for which the run as a whole has failed; empty if it has not."""
    found = usage.problems()
    if regressions := outcome.having("regression"):
        found.append(f"{len(regressions)} regressions")
    if outcome.stale:
        found.append(f"{len(outcome.stale)} stale entries in allowed.toml")
    if passed < min_passed:
        found.append(f"only {passed} tests passed in the baseline, {min_passed} are expected")
    return found


def print_counts(console: Console, baseline: StageResult, swapped: StageResult) -> None:
    """Print the outcomes of both runs side by side."""
    table = Table("outcome", title_justify="left")
    table.add_column("redis-py's classes", justify="right")
    table.add_column("cpool's classes", justify="right")
    counts = baseline.counts(), swapped.counts()
    for outcome in OUTCOMES:
        if any(count[outcome] for count in counts) or outcome in OUTCOMES[:4]:
            table.add_row(outcome, *(str(count[outcome]) for count in counts))
    table.add_row(
        "modules not collected", *(str(len(r.collect_errors)) for r in (baseline, swapped))
    )
    table.add_row("seconds", *(f"{r.seconds:.0f}" for r in (baseline, swapped)))
    console.print(table)


def print_differences(console: Console, title: str, items: list[Difference]) -> None:
    """Print tests that pass with redis-py's classes and not with cpool's."""
    if not items:
        return
    table = Table(title=title, title_justify="left", show_lines=True)
    for heading, ratio in (("test", 5), ("outcome", 1), ("failed again", 2), ("reason", 5)):
        table.add_column(heading, ratio=ratio, overflow="fold")
    for item in items:
        again = "not tried"
        if item.reruns:
            again = (
                f"{item.swapped_failures} of {item.reruns}\n"
                f"unswapped {item.baseline_failures} of {item.reruns}"
            )
        why = item.allowed.reason if item.allowed else item.swapped.reason
        table.add_row(escape(item.test), item.swapped.outcome, again, escape(why))
    console.print(table)


def print_fixed(console: Console, fixed: dict[str, TestResult]) -> None:
    """Print tests that fail with redis-py's classes and pass with cpool's."""
    if not fixed:
        return
    table = Table("test", "with redis-py's classes", title="passing only with cpool's classes")
    for test, result in list(fixed.items())[:MAX_FIXED_SHOWN]:
        table.add_row(escape(test), escape(f"{result.outcome}: {result.reason}"))
    if len(fixed) > MAX_FIXED_SHOWN:
        table.add_row(f"... and {len(fixed) - MAX_FIXED_SHOWN} more", "")
    console.print(table)


def print_usage(console: Console, usage: Usage) -> None:
    """Print the proof that cpool's pools were used, and no others."""
    table = Table("objects made", title="who was used", title_justify="left")
    for side in ("cpool", "redis-py"):
        table.add_column(side, justify="right")
    for role in sorted({what for _, what, _ in usage.made} | {"pool", "connection"}):
        table.add_row(
            f"{role}s", *(str(usage.total(side, role)) for side in ("cpool", "redis-py"))
        )
    table.add_row("checkouts, at least", str(usage.checkouts), "")
    for name, count in usage.fast_path.items():
        if "Redis" in usage.replaced and count:
            table.add_row(f"compiled calls: {name}", str(count), "")
    console.print(table)
    for line in usage.plain_pools:
        console.print(f"pool of redis-py's own made in {escape(line)}")
    if usage.cpool:
        console.print(f"cpool {usage.cpool['__version__']} from {usage.cpool['__file__']}")
    if usage.not_replaced:
        console.print(f"left as redis-py's: {', '.join(usage.not_replaced)}")


def print_comparison(
    console: Console,
    baseline: StageResult,
    swapped: StageResult,
    outcome: Comparison,
    usage: Usage,
) -> None:
    """Print everything a pair of runs told."""
    print_counts(console, baseline, swapped)
    print_usage(console, usage)
    titles = {
        "regression": "regressions",
        "flaky": "flaky: failed once, passed when run again",
        "flaky-both": "fails at times with redis-py's classes too",
        "allowed": "allowed to fail",
    }
    for verdict, title in titles.items():
        print_differences(console, title, outcome.having(verdict))
    print_fixed(console, outcome.fixed)
    for entry in outcome.stale:
        console.print(f"[bold]stale in allowed.toml:[/] {escape(entry.id)}")


def as_json(
    facts: dict[str, Any],
    baseline: StageResult,
    swapped: StageResult,
    outcome: Comparison,
    usage: Usage,
    failed_because: list[str],
) -> dict[str, Any]:
    """Return a comparison as plain JSON values."""
    return {
        **facts,
        "failed_because": failed_because,
        "baseline": dict(baseline.counts()),
        "swapped": dict(swapped.counts()),
        "differences": [{"verdict": d.verdict, **asdict(d)} for d in outcome.differences],
        "fixed": {test: asdict(result) for test, result in outcome.fixed.items()},
        "stale": [entry.id for entry in outcome.stale],
        "usage": {
            "cpool": usage.cpool,
            "plain_pools": usage.plain_pools,
            "checkouts": usage.checkouts,
            "fast_path": usage.fast_path,
            "made": [[*key, count] for key, count in sorted(usage.made.items())],
            "replaced": usage.replaced,
            "not_replaced": usage.not_replaced,
        },
    }


def write_json(path: Path, data: Any) -> None:
    """Write a value as readable JSON, creating the directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="utf-8")
