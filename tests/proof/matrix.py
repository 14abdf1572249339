"""The fault matrix: every fault at every byte of a call, then all of them under many threads.

The first part has one caller, so that each case is repeatable: see cases.py. The second is the
identity workload, with faults at random places.
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tests.proof.cases import Case, Verdict, cases_of, run_case
from tests.proof.framework import Clock, Report, add_common, positive, servers, watchdog
from tests.proof.many import Rounds, Setting, settings
from tests.proof.routes import Route, Sites, add_transport, transports_of

SUMMARY = "strike with every fault of the proxy at every byte of a call"
SINGLES_SHARE = 0.6  # of the time for the part with one caller


@dataclass
class Line:
    """What came of the cases of one fault on one transport."""

    cases: int = 0
    right: int = 0
    foreign: int = 0
    lost: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def count(self, verdict: Verdict) -> None:
        """Add a case."""
        self.cases += 1
        self.right += verdict.outcome.kind == "right"
        self.foreign += verdict.outcome.kind == "foreign"
        self.lost += verdict.lost_slots
        if verdict.outcome.kind == "failed":
            self.errors[verdict.outcome.error_name] += 1

    def row(self) -> list[str]:
        """Return the columns behind the name."""
        errors = ", ".join(f"{name} {n}" for name, n in sorted(self.errors.items()))
        return [*map(str, (self.cases, self.right)), errors, *map(str, (self.foreign, self.lost))]


class Singles:
    """The part with one caller."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._lines: dict[str, Line] = {}

    def play(self, cases: Iterable[Case], clock: Clock) -> None:
        """Run the cases until the time is up."""
        for case in cases:
            if clock.is_over:
                return
            with watchdog():
                verdict = run_case(case)
            name = f"{case.route.transport} {case.fault.name}"
            self._lines.setdefault(name, Line()).count(verdict)
            for problem in verdict.problems:
                self._report.violation(f"{case}: {problem}")

    def print(self) -> None:
        """Print the table."""
        columns = ("fault", "cases", "right", "errors", "foreign", "lost slots")
        rows = [[name, *line.row()] for name, line in sorted(self._lines.items())]
        self._report.table("one caller, a fault at every byte", columns, rows)


def shuffled(routes: list[Route], passes: int | None, seed: int) -> Iterator[Case]:
    """Yield every case of these routes, mixed, so many times; None: for ever."""
    for number in itertools.count() if passes is None else range(passes):
        cases = [case for route in routes for case in cases_of(route)]
        print(f"pass {number + 1}: {len(cases)} cases", flush=True)
        random.Random(seed + number).shuffle(cases)
        yield from cases


def play_rounds(rounds: Rounds, where: list[Setting], clock: Clock, seed: int, once: bool) -> None:
    """Play the settings in turn until the time is up, or once."""
    for number, setting in enumerate(where if once else itertools.cycle(where)):
        if clock.is_over:
            return
        rounds.play(setting, seed + number)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_common(parser)
    add = parser.add_argument
    add_transport(parser)
    add("--minutes", type=positive, help="repeat until then; without it all cases once")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    transports = transports_of(options)
    seconds = options.minutes and options.minutes * 60
    report, clock = Report(options.plain), Clock(seconds)
    singles, rounds = Singles(report), Rounds(report)
    with Sites() as stack:
        sites = [stack.start(path) for path in servers(options.server)]
        routes = [site.routes[transport] for site in sites for transport in transports]
        cases = shuffled(routes, None if seconds else 1, options.seed)
        singles.play(cases, Clock(seconds and seconds * SINGLES_SHARE))
        play_rounds(rounds, settings(sites, transports), clock, options.seed, not seconds)
    singles.print()
    rounds.print()
    return report.status()
