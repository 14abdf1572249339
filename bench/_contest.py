"""Contests: all sides of a group measured in interleaved rounds, then given to pytest-benchmark.

pytest-benchmark runs one benchmark after the other, in one process. Ours need the opposite: the
sides of a group take turns, each in a fresh process. So the first benchmark of a group measures
all that were selected, and each one then replays its rounds on a clock that shows what they took.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from _process import BenchmarkFailed, Result, Task

from cpool.tools.figures import Spread, paired_ratio

ROUNDS, SECONDS = 5, 0.3  # of a run, unless it is told others
Measure = Callable[[str], Result]
Progress = Callable[[str], None]


@dataclass
class Group:
    """Hold what one comparison is, and its rounds: a result of each side, all taken together.

    metric: what is compared, the smaller the better: "s" (of one operation), "kib", "trips".
    unit: how it is shown: "ops/s", "time", "MB/s" (of `bytes`), "KiB", "round trips".
    """

    name: str
    base: str
    metric: str
    unit: str
    bytes: int = 0
    rounds: list[dict[str, Result]] = field(default_factory=list)

    @property
    def sides(self) -> list[str]:
        """Return the sides in the order they were first measured in."""
        return list(self.rounds[0]) if self.rounds else []

    def values(self, side: str, metric: str | None = None) -> list[float]:
        """Return one side's figure in each round."""
        return [float(one[side][metric or self.metric]) for one in self.rounds]

    def spread(self, side: str, metric: str | None = None) -> Spread:
        """Return one side's figure over all rounds."""
        return Spread.of(self.values(side, metric))

    def gain(self, side: str) -> Spread | None:
        """Return how many times better than the base a side was; None without the base."""
        if self.base not in self.sides:
            return None
        return paired_ratio(self.values(self.base), self.values(side))

    def shown(self, value: float) -> str:
        """Return a figure as people read it."""
        return SHOWN[self.unit](value, self.bytes)


def shown_time(seconds: float, _: int) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:,.{3 if unit == 's' else 1}f} {unit}"
    return f"{seconds * 1e6:.3f} us"


SHOWN: dict[str, Callable[[float, int], str]] = {
    "ops/s": lambda seconds, _: f"{1 / seconds:,.0f}/s",
    "time": shown_time,
    "MB/s": lambda seconds, size: f"{size / seconds / 1e6:,.0f} MB/s",
    "KiB": lambda kib, _: f"{kib:,.1f} KiB",
    "round trips": lambda trips, _: f"{trips:.0f}",
}


def interleave(
    group: Group,
    sides: Sequence[str],
    measure: Measure,
    rounds: int,
    progress: Callable[[str], None],
) -> None:
    """Measure the sides in turn; every second round in reverse order, so drift cancels out."""
    for number in range(rounds):
        results = {}
        for side in sides if number % 2 == 0 else tuple(reversed(sides)):
            progress(f"{group.name}: round {number + 1}/{rounds}, {side}")
            results[side] = measure(side)
        group.rounds.append({side: results[side] for side in sides})
    progress("")


class ReplayClock:
    """Show the seconds of recorded rounds to somebody who times calls of `advance`."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.durations_s: Iterator[float] = iter(())

    def read(self) -> float:
        """Return the time; the timer that pytest-benchmark is given."""
        return self.now_s

    def advance(self) -> None:
        """Let one recorded round pass; pytest-benchmark makes one call more than rounds."""
        self.now_s += next(self.durations_s, 0.0)


CLOCK = ReplayClock()


def replay(benchmark: Any, group: Group, side: str) -> None:
    """Give one side's rounds to pytest-benchmark as those of its own."""
    values = group.values(side)
    CLOCK.now_s, CLOCK.durations_s = 0.0, iter(values)
    benchmark.name = side
    benchmark.group = group.name
    metrics = [name for name, value in group.rounds[0][side].items() if name != group.metric]
    benchmark.extra_info = {name: group.spread(side, name).median for name in metrics}
    gain = group.gain(side)
    if gain is not None:
        benchmark.extra_info[f"times {group.base}"] = gain.text()
    benchmark.pedantic(CLOCK.advance, rounds=len(values), iterations=1)


class Contests:
    """Measure each group once, with all the sides that the run selected."""

    def __init__(self) -> None:
        self.selected: dict[str, list[str]] = {}
        self.groups: dict[str, Group] = {}
        self.failures: dict[str, BenchmarkFailed] = {}

    def select(self, key: str, side: str) -> None:
        """Note that a side of the group with this key is to be measured."""
        self.selected.setdefault(key, []).append(side)

    def hold(self, key: str, group: Group, contest: Callable[[Group, list[str]], None]) -> Group:
        """Return the measured group; what failed once fails for each of its sides."""
        if key in self.failures:
            raise self.failures[key]
        if key not in self.groups:
            try:
                contest(group, self.selected[key])
            except BenchmarkFailed as error:
                self.failures[key] = error
                raise
            self.groups[key] = group
        return self.groups[key]


def task_of(work: str, side: str, more: Task) -> Task:
    """Return what the worker process of a side is told."""
    return {"work": work, "side": side, **more}
