"""The demo's report: one table, what it means, and whether all results agree."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cpool.tools.demo.crash import RETRY_PAUSE_S, Recovery
from cpool.tools.demo.workload import REPLIES_PER_BATCH, Round
from cpool.tools.sides import CPOOL, NO_POOL, REDIS_PY, threads_text
from cpool.tools.tables import plain_table

SHOWN_PROBLEMS = 10
PLAIN_WIDTH = 99

Results = dict[tuple[str, int], list[Round]]


def ratio(results: Results, side: str, threads: int) -> float:
    """Return the median of a side's rate over redis-py's in the same round."""
    rounds, base = results[side, threads], results[REDIS_PY, threads]
    if len(rounds) == 2:
        base = [base[0], base[-1]]
    return statistics.median(a.rate / b.rate for a, b in zip(rounds, base, strict=True))


@dataclass
class Report:
    """All that was measured, and what is wrong with it."""

    title: str
    sides: Mapping[str, str]
    threads: int
    results: Results
    recoveries: dict[str, Recovery]

    def header(self) -> list[str]:
        """Return the names of the columns."""
        names = [""]
        for n in self.settings():
            names += [threads_text(n), "ratio"]
        if self.recoveries:
            names += ["failed", "back in", "lost"]
        return [*names, "checksum"]

    def rows(self) -> Iterator[list[str]]:
        """Return the cells, one list a side."""
        for side in self.sides:
            cells = [side]
            for n in self.settings():
                rate = statistics.median(one.rate for one in self.results[side, n])
                cells += [f"{rate:,.0f}/s", f"{ratio(self.results, side, n):.2f}x"]
            if self.recoveries:
                cells += self._recovery_cells(side)
            yield [*cells, f"{self.results[side, self.threads][0].checksum:08x}"]

    def _recovery_cells(self, side: str) -> list[str]:
        seen = self.recoveries.get(side)
        if seen is None:
            return ["-", "-", "-"]
        return [str(seen.failed), f"{seen.first_s * 1000:.0f} ms", str(seen.lost_slots)]

    def settings(self) -> list[int]:
        """Return the numbers of threads that were measured."""
        return sorted({1, self.threads})

    def rounds(self) -> list[Round]:
        """Return every round that was verified."""
        measured = [one for rounds in self.results.values() for one in rounds]
        return measured + [seen.after for seen in self.recoveries.values()]

    def problems(self) -> list[str]:
        """Return why the results can't be trusted; empty if they agree."""
        found: list[str] = []
        for (side, n), rounds in self.results.items():
            found += [f"{side}, {threads_text(n)}: {p}" for r in rounds for p in r.problems]
        for side, seen in self.recoveries.items():
            found += [f"{side}, after the kill: {problem}" for problem in seen.problems]
        for n in self.settings():
            sums = self._checksums(n)
            if len(sums) != 1:
                found.append(f"{threads_text(n)}: the checksums differ: {sorted(sums)}")
        return found

    def _checksums(self, threads: int) -> set[int]:
        sums = {one.checksum for side in self.sides for one in self.results[side, threads]}
        if threads == self.threads:
            sums |= {seen.after.checksum for seen in self.recoveries.values()}
        return sums

    def notes(self) -> Iterator[str]:
        """Return the lines below the table."""
        for side, meaning in self.sides.items():
            yield f"{side}: {meaning}"
        yield (
            "n threads: commands per second; ratio: to redis-py, the median of"
            f" {len(self.results[CPOOL, 1])} interleaved rounds{self._fewer_rounds()}"
        )
        if not self.recoveries:
            yield "The server was given by URL: it was not killed, so no recovery is shown."
        for side, seen in self.recoveries.items():
            yield from _recovery_notes(side, seen)

    def _fewer_rounds(self) -> str:
        rounds = self.results.get((NO_POOL, 1))
        return f" ({NO_POOL}: {len(rounds)})" if rounds else ""

    def verdict(self) -> Iterator[str]:
        """Return what was checked, or what is wrong."""
        problems = self.problems()
        if problems:
            yield f"RESULTS DISAGREE ({len(problems)}):"
            yield from (f"  {problem}" for problem in problems[:SHOWN_PROBLEMS])
            return
        replies = sum(one.batches for one in self.rounds()) * REPLIES_PER_BATCH
        yield (
            f"All results agree: {replies:,} replies as they must be, checksums equal,"
            f" {sum(one.counted for one in self.rounds()):,} shared increments counted and found."
        )


def _recovery_notes(side: str, seen: Recovery) -> Iterator[str]:
    yield (
        f"{side}, {seen.outage} after {seen.down_s * 1000:.0f} ms:"
        f" {seen.failed} attempts failed, of {seen.retried} commands, tried again each"
        f" {RETRY_PAUSE_S * 1000:.0f} ms until they succeeded; first thread back at work"
        f" {seen.first_s * 1000:.0f} ms, all threads {seen.all_s * 1000:.0f} ms after the kill"
    )
    if seen.stats:
        yield f"  pool.stats() then: {seen.stats}"


def print_plain(report: Report) -> None:
    """Print the report as plain text."""
    print(_wrapped(report.title), "", sep="\n")
    print(plain_table(report.header(), list(report.rows())), "", sep="\n")
    print(*map(_wrapped, report.notes()), "", *report.verdict(), sep="\n")


def _wrapped(line: str) -> str:
    return textwrap.fill(line, PLAIN_WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def print_rich(report: Report) -> None:
    """Print the report as a rich table."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(report.title, markup=False)
    console.print()
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for i, name in enumerate(report.header()):
        table.add_column(name, justify="right" if i else "left")
    for cells in report.rows():
        table.add_row(*cells, style="bold" if cells[0] == list(report.sides)[-1] else None)
    console.print(table)
    console.print()
    console.print(*report.notes(), sep="\n", style="dim", markup=False)
    style = "bold red" if report.problems() else "green"
    console.print(*report.verdict(), sep="\n", style=style, markup=False)
