"""What the benchmark found: tables, what they mean, and the same as data for JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

from cpool.tools.bench.rounds import Block, Plan, place
from cpool.tools.figures import Spread, paired_ratio
from cpool.tools.sides import CLIENT, REDIS_PY, SIDES, threads_text
from cpool.tools.tables import print_table

WIDTH = 99
JSON_FORMAT = 1  # to be raised when a reader of the file would have to change
UNKNOWN = "-"


@dataclass(frozen=True)
class Metric:
    """One figure that is compared."""

    name: str
    title: str
    digits: int
    more_is_better: bool = False


METRICS = (
    Metric("ops_per_s", "commands per second", 0, more_is_better=True),
    Metric("p50_ms", "p50 ms", 3),
    Metric("p99_ms", "p99 ms", 3),
    Metric("p999_ms", "p99.9 ms", 3),
    Metric("cpu_us_per_command", "CPU us per command", 1),
)
METRIC = {metric.name: metric for metric in METRICS}


def gain(block: Block, side: str, name: str) -> Spread | None:
    """Return how many times better than redis-py a side did; None if a round has no figure."""
    ours, theirs = block.figures(side, name), block.figures(REDIS_PY, name)
    if not ours or not theirs:
        return None
    pair = (ours, theirs) if METRIC[name].more_is_better else (theirs, ours)
    return paired_ratio(*pair)


def spread(block: Block, side: str, name: str) -> Spread | None:
    """Return a side's figure over the rounds; None if a round has none."""
    values = block.figures(side, name)
    return Spread.of(values) if values else None


@dataclass(frozen=True)
class Report:
    """All that was measured, on what, and what to think of it."""

    plan: Plan
    machine: dict[str, Any]
    server: str
    source: str
    blocks: list[Block]
    warnings: list[str]
    date: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat("T", "seconds"))
    """When it was made, in UTC."""

    def heading(self) -> str:
        """Name the server, the machine and the versions."""
        facts = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        return f"{self.server} at {place(self.plan.url)} ({self.source}); {facts}"

    def columns(self) -> list[str]:
        """Return the columns' names of each block's table."""
        others = [[side, "gain"] for side in self.plan.sides if side != REDIS_PY]
        return ["", REDIS_PY, *(name for pair in others for name in pair)]

    def rows(self, block: Block) -> Iterator[list[str]]:
        """Return the cells of a block's table."""
        for metric in METRICS:
            cells = [metric.title]
            for side in self.plan.sides:
                cells.append(_figure(spread(block, side, metric.name), metric.digits))
                if side != REDIS_PY:
                    cells.append(_gain_text(gain(block, side, metric.name)))
            yield cells

    def title(self, block: Block) -> str:
        """Say what a block's table is about."""
        plan = self.plan
        mix = ", ".join(f"{name} {weight}" for name, weight in plan.mix.items())
        words = [threads_text(block.threads), f"values of {plan.value_bytes:,} bytes", mix]
        if plan.connections:
            words.insert(1, f"at most {plan.connections} connections")
        if plan.depth > 1:
            words.append(f"pipelines of {plan.depth:,}")
        return ", ".join(words)

    def notes(self) -> Iterator[str]:
        """Return what the columns mean."""
        plan = self.plan
        call = f"one pipeline of {plan.depth:,} commands" if plan.depth > 1 else "one command"
        yield (
            f"gain: how many times better than redis-py in the same round; the median of"
            f" {plan.rounds} paired rounds (lowest-highest), each side and round in a process of"
            f" its own for {plan.slice_s:.2g} s. Other figures: medians of the rounds."
        )
        yield f"p50, p99, p99.9: time of {call}, as a thread sees it. CPU: the client process's."
        yield from (f"{side}: {SIDES[side]}" for side in plan.sides)
        if plan.connections and plan.connections < max(plan.threads):
            yield (
                f"Where the threads were more than the {plan.connections} connections, the pools"
                " were redis.BlockingConnectionPool and cpool.BlockingConnectionPool."
            )
        yield self._compiled()

    def _compiled(self) -> str:
        measured = [each[CLIENT] for block in self.blocks for each in block.rounds]
        calls = "pipelines" if self.plan.depth > 1 else "commands"
        compiled = sum(each.compiled or 0 for each in measured)
        refused = sum(sum(each.refused.values()) for each in measured)
        return f"{CLIENT}: {compiled:,} of {compiled + refused:,} {calls} were one compiled call"

    def errors(self) -> list[str]:
        """Return the errors of all sides with their numbers."""
        return [
            f"{threads_text(block.threads)}, {side}: {count:,} x {text}"
            for block in self.blocks
            for side in self.plan.sides
            for text, count in block.errors(side).items()
        ]


def _figure(value: Spread | None, digits: int) -> str:
    return UNKNOWN if value is None else f"{value.median:,.{digits}f}"


def _gain_text(value: Spread | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{value.median:.2f}x ({value.lowest:.2f}-{value.highest:.2f})"


def show(report: Report, plain: bool) -> None:
    """Print everything."""
    print(_wrapped(report.heading()))
    for block in report.blocks:
        rows = list(report.rows(block))
        print_table(report.title(block), report.columns(), rows, plain=plain)
    print()
    for note in report.notes():
        print(_wrapped(note))
    for warning in report.warnings:
        print(_wrapped(f"WARNING: {warning}"))
    for error in report.errors():
        print(_wrapped(f"ERROR: {error}"))


def _wrapped(line: str) -> str:
    return textwrap.fill(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


# -- JSON -------------------------------------------------------------------------------


def as_data(report: Report) -> dict[str, Any]:
    """Return everything as plain data, every round's figures included, no password."""
    plan = {name: value for name, value in asdict(report.plan).items() if name != "url"}
    return {
        "format": JSON_FORMAT,
        "date": report.date,
        "server": {
            "name": report.server,
            "place": place(report.plan.url),
            "source": report.source,
        },
        "machine": report.machine,
        "plan": {**plan, "slice_s": report.plan.slice_s},
        "blocks": [_block_data(report.plan, block) for block in report.blocks],
        "warnings": report.warnings,
        "errors": report.errors(),
    }


def _block_data(plan: Plan, block: Block) -> dict[str, Any]:
    return {
        "threads": block.threads,
        "sides": {side: _side_data(block, side) for side in plan.sides},
        "rounds": [
            {side: asdict(each) | each.figures() for side, each in one.items()}
            for one in block.rounds
        ],
    }


def _side_data(block: Block, side: str) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for metric in METRICS:
        of_side, against = spread(block, side, metric.name), gain(block, side, metric.name)
        data[metric.name] = asdict(of_side) if of_side else None
        if side != REDIS_PY:
            data[f"{metric.name}_gain"] = asdict(against) if against else None
    return data
