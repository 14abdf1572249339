"""What the commands share: arguments, a clock, a watchdog for hangs, and the report."""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from cpool.tools.servers import find_binary, server_version
from cpool.tools.tables import Rows, print_table

HANG_S = 120.0
SHOWN = 20  # of the violations


def positive(text: str) -> float:
    """Parse a number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return number


def count(text: str) -> int:
    """Parse a whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text!r}")
    return int(text)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add what every command understands."""
    add = parser.add_argument
    add("--server", nargs="+", action="extend", metavar="PATH", help="executable (found itself)")
    add("--seed", type=int, default=1, help="of all that is chosen at random (%(default)s)")
    add("--plain", action="store_true", help="no colours and frames")


def servers(paths: Sequence[str] | None) -> list[str]:
    """Return the server executables to use. Raises ServerError, SystemExit."""
    for path in paths or ():
        if server_version(path) is None:
            raise SystemExit(f"--server {path}: no server that runs here")
    return list(paths) if paths else [find_binary().path]


def server_name(path: str) -> str:
    """Return a server's name and version; its file's name if there are several builds."""
    return server_version(path) or Path(path).name


class Clock:
    """How long a command may run; without a limit until its work is done."""

    def __init__(self, seconds: float | None) -> None:
        self.began_s = time.monotonic()
        self._end_s = math.inf if seconds is None else self.began_s + seconds

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self._end_s

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began_s


@contextlib.contextmanager
def watchdog(seconds: float = HANG_S) -> Iterator[None]:
    """End the process with status 1 and the stacks of all threads if the block hangs."""
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


class Report:
    """What did not hold, and a table at the end."""

    def __init__(self, plain: bool = False, quiet: bool = False) -> None:
        self.violations: list[str] = []
        self._plain = plain
        self._shown = 0 if quiet else SHOWN

    def violation(self, text: str) -> None:
        """Note something that did not hold; tell the first ones at once."""
        self.violations.append(text)
        if len(self.violations) <= self._shown:
            print(f"VIOLATION: {text}", flush=True)

    def table(self, title: str, columns: Sequence[str], rows: Rows) -> None:
        """Print a table."""
        print_table(title, columns, rows, plain=self._plain or None)

    def status(self) -> int:
        """Say whether all held, and return the exit status."""
        n_violations = len(self.violations)
        print(f"\n{n_violations} violations" if n_violations else "\nall held", flush=True)
        return 1 if n_violations else 0
