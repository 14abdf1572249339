"""The soak: the identity workload under faults for a long time, with ceilings.

Servers, transports and clients take turns, a round each. After the first turn, which warms
up, every round must leave as many open files as the first turn did, and no more memory but
for a small allowance. With the planted bug the same workload must find foreign replies.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cpool
from tests.identity.workload import Trusting
from tests.proof.framework import Clock, Report, add_common, positive, servers
from tests.proof.many import Rounds, Setting, settings
from tests.proof.routes import Sites, add_transport, transports_of

SUMMARY = "run the identity workload under faults for long, with ceilings"
FILES = next((path for path in ("/proc/self/fd", "/dev/fd") if Path(path).is_dir()), None)
MIB = 2**20


def open_files() -> int:
    """Count the file descriptors of this process."""
    if FILES is None:
        raise SystemExit("soak: neither /proc/self/fd nor /dev/fd is here")
    return len(os.listdir(FILES))


def memory_bytes() -> int:
    """Return the memory in use (RSS); where there is no /proc, the most there was so far."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@dataclass
class Ceilings:
    """What a round may leave behind."""

    files: int
    memory_bytes: int
    most_files: int = 0
    most_memory_bytes: int = 0

    def check(self) -> list[str]:
        """Measure, and return what is above a ceiling."""
        files, memory = open_files(), memory_bytes()
        self.most_files = max(self.most_files, files)
        self.most_memory_bytes = max(self.most_memory_bytes, memory)
        problems = []
        if files > self.files:
            problems.append(f"{files} files are open, {self.files} may be")
        if memory > self.memory_bytes:
            problems.append(
                f"{memory / MIB:.1f} MiB, at most {self.memory_bytes / MIB:.1f} may be"
            )
        return problems

    def __str__(self) -> str:
        return (
            f"open files: {self.most_files} at most, ceiling {self.files}; "
            f"memory: {self.most_memory_bytes / MIB:.1f} MiB at most, "
            f"ceiling {self.memory_bytes / MIB:.1f} MiB"
        )


class Soak:
    """Rounds in turn until the time is up or `enough` says so."""

    def __init__(self, where: list[Setting], rounds: Rounds, report: Report) -> None:
        self.ceilings: Ceilings | None = None
        self._where = where
        self._rounds = rounds
        self._report = report

    def play(self, clock: Clock, seed: int, allowance_bytes: float) -> None:
        """Play; the first turn is played whole, and one round more."""
        turn = len(self._where)
        for number, setting in enumerate(itertools.cycle(self._where)):
            if clock.is_over and number > turn:
                return
            self._rounds.play(setting, seed + number)
            if self.ceilings is not None:
                for problem in self.ceilings.check():
                    self._report.violation(f"{setting} round {number}: {problem}")
            elif number + 1 == turn:
                most = int(memory_bytes() + allowance_bytes)
                self.ceilings = Ceilings(open_files(), most)

    def play_until(self, enough: Callable[[], bool], clock: Clock, seed: int) -> None:
        """Play without ceilings."""
        for number, setting in enumerate(itertools.cycle(self._where)):
            if clock.is_over or enough():
                return
            self._rounds.play(setting, seed + number)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_common(parser)
    add = parser.add_argument
    add_transport(parser)
    add("--minutes", type=positive, default=10.0, help="how long (%(default)s)")
    add("--memory", type=positive, default=16.0, metavar="MIB", help="allowance (%(default)s)")
    add("--planted-bug", action="store_true", help="without the ledger: must find foreign replies")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    return _run_planted(options) if options.planted_bug else _run_soak(options)


def _run_soak(options: argparse.Namespace) -> int:
    report = Report(options.plain)
    rounds = Rounds(report, cpool.BlockingConnectionPool)
    with Sites() as stack:
        sites = [stack.start(path) for path in servers(options.server)]
        soak = Soak(settings(sites, transports_of(options)), rounds, report)
        soak.play(Clock(options.minutes * 60), options.seed, options.memory * MIB)
    rounds.print()
    print(f"\n{soak.ceilings}")
    return report.status()


def _run_planted(options: argparse.Namespace) -> int:
    report = Report(options.plain, quiet=True)
    rounds = Rounds(report, Trusting, kinds=("delay",))

    def found() -> list[Any]:
        return rounds.total.foreign

    with Sites() as stack:
        sites = [stack.start(path) for path in servers(options.server)]
        soak = Soak(settings(sites, transports_of(options)), rounds, report)
        soak.play_until(lambda: bool(found()), Clock(options.minutes * 60), options.seed)
    rounds.print()
    print(f"\nthe planted bug was {'found' if found() else 'NOT found'}")
    return 0 if found() else 1
