"""Make the pairs of runs a command line asks for: baseline, swapped, and what failed again."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from . import compare, report, sources
from .cluster import ClusterSet, plan_cluster_ports
from .servers import ServerBinary, ServerSet, find_server, plan_ports, write_certificates
from .sources import SetupError
from .stage import MARKERS, StagePlan, StageResult, TestResult, run_stage

# A whole run that passes fewer tests than this in the baseline has no working server.
WHOLE_SUITE_MIN_PASSED = 800
# More differences than this are no accident, and running them again would take an hour.
MAX_RERUN_TESTS = 200
CACHE_FORMAT = 2
TESTS_PER_LINE = 500
PLANS: dict[str, Callable[[], ServerSet | ClusterSet]] = {
    "standalone": plan_ports,
    "cluster": plan_cluster_ports,
}
CONDITION_PACKAGES = ("pytest", "pytest-asyncio", "pytest-timeout", "hiredis", "numpy")


@dataclass(frozen=True)
class Variant:
    """One way to run the suite."""

    protocol: str
    hiredis: str
    topology: str

    def __str__(self) -> str:
        return f"{self.topology}, protocol {self.protocol}, hiredis {self.hiredis}"

    @property
    def slug(self) -> str:
        return f"{self.topology}-protocol-{self.protocol}-hiredis-{self.hiredis}"


@dataclass
class Runner:
    """One invocation: the sources, the server and the options all its runs share."""

    options: argparse.Namespace
    workdir: Path
    console: Console
    root: Path
    binary: ServerBinary
    servers: ServerSet | ClusterSet
    certificates: Path
    cpool_path: str
    notes_shown: int = 0

    @classmethod
    def set_up(cls, options: argparse.Namespace, workdir: Path, console: Console) -> Runner:
        """Find cpool and the server, and fetch redis-py; raise SetupError if one is missing."""
        cpool_path, binary = find_cpool(), find_server(options.server)
        cache = options.sdist_cache or sources.default_cache()
        root = sources.unpack(sources.fetch_sdist(options.redis_py, cache), workdir)
        certificates = write_certificates(root)
        servers = PLANS[options.topology]()
        console.print(f"server: {binary.label}; sources and logs: {workdir}")
        return cls(
            options, workdir, console, root, binary, servers, certificates, cpool_path
        )  # fmt: skip

    def run_all(self) -> list[str]:
        """Make every comparison; return why the whole has failed, if it has."""
        asked = self.options
        protocols = ("default", "2", "3") if asked.protocol == "all" else (asked.protocol,)
        hiredis = ("installed", "hidden") if asked.hiredis == "both" else (asked.hiredis,)
        why: list[str] = []
        variants = [Variant(p, h, asked.topology) for h in hiredis for p in protocols]
        for variant in variants:
            self.show_notes()
            why += [f"{variant}: {reason}" for reason in self.compare_runs(variant)]
        self.show_notes()
        return why

    def show_notes(self) -> None:
        """Print what the servers could not do as preferred, once."""
        for note in self.servers.notes[self.notes_shown :]:
            self.console.print(f"note: {note}")
        self.notes_shown = len(self.servers.notes)

    def compare_runs(self, variant: Variant) -> list[str]:
        """Make both runs of a variant, print them, and say why they fail if they do."""
        self.console.rule(f"redis-py {self.options.redis_py}, {variant}")
        whole = not self.options.only and not self.options.pytest_args
        baseline = self.baseline(variant)
        swapped = self.run(self.plan(variant, self.options.swap), len(baseline.results))
        outcome = compare.compare(baseline, swapped, self.allowed(variant), whole)
        self.rerun(outcome, variant)
        usage = compare.usage_of(swapped)
        floor = WHOLE_SUITE_MIN_PASSED if whole else 1
        why = report.failures_of(outcome, usage, len(baseline.passed_ids()), floor)
        report.print_comparison(self.console, baseline, swapped, outcome, usage)
        facts = {"swap": self.options.swap, "conditions": self.conditions(variant)}
        self.write(variant, report.as_json(facts, baseline, swapped, outcome, usage, why))
        return why

    def allowed(self, variant: Variant) -> list[compare.Allowed]:
        """Return the excuses that apply to this redis-py and this variant."""
        entries = compare.read_allowed(compare.ALLOWED_FILE)
        where = self.options.redis_py, variant.protocol, variant.hiredis, variant.topology
        return [entry for entry in entries if entry.applies_to(*where)]

    # -- runs --------------------------------------------------------------------------------

    def plan(self, variant: Variant, swap: str | None) -> StagePlan:
        """Make the plan of one run."""
        arguments = self.servers.pytest_options()
        if variant.protocol != "default":
            arguments.append(f"--protocol={variant.protocol}")
        return StagePlan(
            root=self.root,
            workdir=self.workdir,
            name=f"{variant.slug}-{swap or 'baseline'}",
            pytest_args=(*arguments, *self.options.pytest_args),
            markers=f"{MARKERS} and not {self.servers.not_for_these}",
            selection=tuple(pytest_selection(self.options.only)),
            swap=swap,
            cpool_path=self.cpool_path,
            without_hiredis=variant.hiredis == "hidden",
        )

    def run(self, plan: StagePlan, expected: int | None = None) -> StageResult:
        """Run a plan on servers of its own and check which redis-py it tested."""
        logs = self.workdir / "servers" / plan.name
        with (
            self.servers.up(self.binary, self.certificates, logs),
            progress_of(self.console, plan.name, expected) as progress,
        ):
            result = run_stage(plan, progress)
        if result.begin.get("redis") != self.options.redis_py:
            raise SetupError(f"the tests ran on another redis-py: {result.begin}")
        return result

    def rerun(self, outcome: compare.Comparison, variant: Variant) -> None:
        """Run what failed only swapped again, unswapped and swapped."""
        again = [item for item in outcome.differences if not item.allowed]
        if not again or len(again) > MAX_RERUN_TESTS:
            return
        times = compare.RERUNS
        self.console.print(f"running {len(again)} failed tests again, {times} times each way")
        ids = frozenset(item.test for item in again)
        runs: dict[str | None, list[Mapping[str, TestResult]]] = {None: [], self.options.swap: []}
        for number in range(times):
            for swap, results in runs.items():
                results.append(self.run(self.rerun_plan(variant, swap, ids, number)).results)
        compare.count_reruns(again, runs[None], runs[self.options.swap])

    def rerun_plan(
        self, variant: Variant, swap: str | None, ids: frozenset[str], number: int
    ) -> StagePlan:
        """Make the plan that repeats some tests and collects no more files than it has to."""
        plan = self.plan(variant, swap)
        files = tuple(sorted({test.split("::")[0] for test in ids}))
        return replace(plan, name=f"{plan.name}-again-{number + 1}", selection=files, select=ids)

    # -- what is kept ------------------------------------------------------------------------

    def baseline(self, variant: Variant) -> StageResult:
        """Return the unswapped run, from the cache if it was made under the same conditions."""
        path, conditions = self.cache_path(variant), self.conditions(variant)
        if path and path.exists():
            cached = json.loads(path.read_text(encoding="utf-8"))
            if cached["conditions"] == conditions:
                self.console.print(f"baseline taken from {path}")
                return StageResult.from_json(cached["result"])
        result = self.run(self.plan(variant, None))
        # Without sentinels or TLS, if they failed to start, it is another condition.
        if path and conditions == self.conditions(variant):
            report.write_json(path, {"conditions": conditions, "result": result.to_json()})
        return result

    def conditions(self, variant: Variant) -> dict[str, Any]:
        """Return everything a baseline depends on."""
        return {
            "format": CACHE_FORMAT,
            "redis_py": self.options.redis_py,
            "protocol": variant.protocol,
            "hiredis": variant.hiredis,
            "server": self.binary.label,
            "pytest_args": [*self.servers.pytest_options(), *self.options.pytest_args],
            "only": self.options.only,
            "python": platform.python_version(),
            "system": platform.platform(),
            "packages": {name: version_of(name) for name in CONDITION_PACKAGES},
        }

    def cache_path(self, variant: Variant) -> Path | None:
        """Return where the baseline of a variant is kept, or None without --baseline-cache."""
        if self.options.baseline_cache is None:
            return None
        text = json.dumps(self.conditions(variant), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        directory: Path = self.options.baseline_cache
        return directory / f"redis-py-{self.options.redis_py}-{variant.slug}-{digest}.json"

    def write(self, variant: Variant, data: dict[str, Any]) -> None:
        """Write one comparison to the working directory, and add it to --json."""
        report.write_json(self.workdir / f"comparison-{variant.slug}.json", data)
        if self.options.json:
            path: Path = self.options.json
            kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            name = f"redis-py {self.options.redis_py}, {variant}"
            report.write_json(path, {**kept, name: data})


def pytest_selection(only: list[str]) -> list[str]:
    """Turn the values of --only into pytest's arguments: paths, and one -k for the others."""
    paths, expressions = [], []
    for value in only:
        if value.startswith("tests/"):
            paths.append(value)
        elif ".py" in value:
            paths.append(f"tests/{value}")
        else:
            expressions.append(f"({value})")
    keyword = ["-k", " or ".join(expressions)] if expressions else []
    return (paths or ["tests"]) + keyword


def version_of(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def find_cpool() -> str:
    """Return the directory that holds the cpool package, so that the tests find it too."""
    spec = importlib.util.find_spec("cpool")
    if spec is None or not spec.origin:
        raise SetupError("cpool can't be imported; install it first: pip install -e .")
    return str(Path(spec.origin).parent.parent)


@contextmanager
def progress_of(
    console: Console, name: str, expected: int | None
) -> Iterator[Callable[[int, int | None], None]]:
    """Show how far a run is: on a terminal as a bar, elsewhere as a line now and then."""
    if not console.is_terminal:
        yield plain_progress(console, name, expected)
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task(name, total=expected)
        yield lambda done, total: bar.update(task, completed=done, total=expected or total)


def plain_progress(
    console: Console, name: str, expected: int | None
) -> Callable[[int, int | None], None]:
    """Print a line at the start and after some hundreds of tests."""
    shown = 0
    console.print(f"{name}: running")

    def show(done: int, total: int | None) -> None:
        nonlocal shown
        if done // TESTS_PER_LINE > shown:
            shown = done // TESTS_PER_LINE
            console.print(f"{name}: {done} of {expected or total or '?'} tests done")

    return show
