"""Compare a swapped run with its baseline, test by test, and judge what differs.

Everything that passes in the baseline must pass swapped. What doesn't is run again, is excused
by an entry of allowed.toml, or is a regression.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from .sources import SetupError
from .stage import StageResult, TestResult

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ALLOWED_FILE = Path(__file__).parent / "allowed.toml"
RERUNS = 3
ABSENT = TestResult("missing", "the test was not run")


@dataclass(frozen=True)
class Allowed:
    """One excuse: the tests it covers (only * and ? are wild), where, and why."""

    id: str
    reason: str
    redis_py: str = ""
    protocols: tuple[str, ...] = ()
    hiredis: str = ""
    topology: str = ""

    def matches(self, test: str) -> bool:
        parts = (re.escape(part) for part in re.split(r"([*?])", self.id))
        pattern = "".join({r"\*": ".*", r"\?": "."}.get(part, part) for part in parts)
        return re.fullmatch(pattern, test) is not None

    def applies_to(self, redis_py: str, protocol: str, hiredis: str, topology: str) -> bool:
        in_range = SpecifierSet(self.redis_py).contains(redis_py, prereleases=True)
        in_protocols = not self.protocols or protocol in self.protocols
        here = self.hiredis in ("", hiredis) and self.topology in ("", topology)
        return in_range and in_protocols and here


@dataclass
class Difference:
    """A test that passed in the baseline and not in the swapped run."""

    test: str
    swapped: TestResult
    allowed: Allowed | None = None
    baseline_failures: int = 0
    swapped_failures: int = 0
    reruns: int = 0

    @property
    def verdict(self) -> str:
        """Judge: allowed, flaky, flaky-both (the baseline fails at times too) or regression.

        What brings the interpreter down is never put down to chance.
        """
        if self.allowed:
            return "allowed"
        if not self.reruns or self.swapped.outcome in ("crashed", "hung"):
            return "regression"
        if not self.swapped_failures:
            return "flaky"
        always = self.swapped_failures == self.reruns > self.baseline_failures
        return "regression" if always or not self.baseline_failures else "flaky-both"


@dataclass
class Comparison:
    """What a pair of runs says."""

    differences: list[Difference] = field(default_factory=list)
    fixed: dict[str, TestResult] = field(default_factory=dict)
    stale: list[Allowed] = field(default_factory=list)

    def having(self, verdict: str) -> list[Difference]:
        return [item for item in self.differences if item.verdict == verdict]


def read_allowed(path: Path) -> list[Allowed]:
    """Read the file of excuses; an entry needs an id and a reason."""
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8")).get("allowed", [])
        return [read_entry(entry) for entry in entries]
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise SetupError(f"{path}: {error!r}") from error


def read_entry(entry: dict[str, Any]) -> Allowed:
    """Turn one table of the file into an Allowed."""
    unknown = set(entry) - {"id", "reason", "redis-py", "protocols", "hiredis", "topology"}
    if unknown or not entry["reason"].strip():
        raise ValueError(f"{entry['id']}: unknown keys {sorted(unknown)} or empty reason")
    specifier = str(SpecifierSet(entry.get("redis-py", "")))
    protocols = tuple(entry.get("protocols", ()))
    places = entry.get("hiredis", ""), entry.get("topology", "")
    return Allowed(entry["id"], entry["reason"], specifier, protocols, *places)


def compare(
    baseline: StageResult, swapped: StageResult, allowed: Iterable[Allowed], whole_suite: bool
) -> Comparison:
    """Set a swapped run against its baseline; allowed has only what applies to this run."""
    allowed = list(allowed)
    outcome = Comparison()
    for test in sorted(baseline.passed_ids()):
        result = swapped.results.get(test, ABSENT)
        if not result.passed:
            excuse = next((entry for entry in allowed if entry.matches(test)), None)
            outcome.differences.append(Difference(test, result, excuse))
    for test in sorted(swapped.passed_ids() - baseline.passed_ids()):
        if test in baseline.results and baseline.results[test].outcome != "skipped":
            outcome.fixed[test] = baseline.results[test]
    used = {item.allowed for item in outcome.differences}
    outcome.stale = [
        entry for entry in allowed if entry not in used and is_stale(entry, baseline, whole_suite)
    ]
    return outcome


def is_stale(entry: Allowed, baseline: StageResult, whole_suite: bool) -> bool:
    """Tell whether an entry that excused nothing could have: a run of a part can't always say.

    A test that does not pass in the baseline on this server says nothing about its entry.
    """
    matched = [test for test in baseline.results if entry.matches(test)]
    if not matched:
        return whole_suite
    return any(baseline.results[test].passed for test in matched)


def count_reruns(
    differences: Iterable[Difference],
    baseline_runs: Sequence[Mapping[str, TestResult]],
    swapped_runs: Sequence[Mapping[str, TestResult]],
) -> None:
    """Enter how often each difference failed again, unswapped and swapped."""
    for item in differences:
        item.reruns = len(swapped_runs)
        item.baseline_failures = failures(item.test, baseline_runs)
        item.swapped_failures = failures(item.test, swapped_runs)


def failures(test: str, runs: Sequence[Mapping[str, TestResult]]) -> int:
    """Count the runs in which a test did not pass."""
    return sum(not run.get(test, ABSENT).passed for run in runs)


@dataclass(frozen=True)
class Usage:
    """The proof of a run, its processes added up."""

    checkouts: int
    made: dict[tuple[str, str, str], int]
    replaced: list[str]
    not_replaced: list[str]
    cpool: dict[str, str | None] = field(default_factory=dict)
    plain_pools: list[str] = field(default_factory=list)
    fast_path: dict[str, int] = field(default_factory=dict)

    def total(self, maker: str, role: str) -> int:
        return sum(n for (who, what, _), n in self.made.items() if (who, what) == (maker, role))

    def problems(self) -> list[str]:
        """Say why this is no proof that cpool's pools, and only they, were used."""
        found = []
        if not self.checkouts:
            found.append("no connection was checked out of cpool's pools")
        if "Redis" in self.replaced and not self.fast_path.get("taken"):
            found.append("no command was one compiled call")
        if plain := self.total("redis-py", "pool"):
            found.append(f"{plain} pools of redis-py's own classes were made")
        return found


def added_up(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add up counts by name."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(total)


def usage_of(swapped: StageResult) -> Usage:
    """Add up the proofs of a run's processes."""
    made: dict[tuple[str, str, str], int] = {}
    told = [proof for proof in swapped.proofs if proof]
    for proof in told:
        for who, what, name, count in proof["made"]:
            made[who, what, name] = made.get((who, what, name), 0) + count
    last: dict[str, Any] = told[-1] if told else {"replaced": [], "not_replaced": []}
    return Usage(
        checkouts=sum(proof["checkouts"] for proof in told),
        made=made,
        replaced=last["replaced"],
        not_replaced=last["not_replaced"],
        cpool=last.get("cpool", {}),
        plain_pools=[line for proof in told for line in proof.get("plain_pools", ())],
        fast_path=added_up(proof.get("fast_path", {}) for proof in told),
    )
