"""`pytest bench`: options, the servers, and the fixtures by which benchmarks compare sides."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from _contest import CLOCK, ROUNDS, SECONDS, Contests, Group, interleave, replay, task_of
from _floors import compiled_loop, loop_of_gets, redis_benchmark, require_floor
from _process import CannotRun, Result, bound_to, call_worker, usable_cpus
from _report import COLUMNS, facts_text, overview, warnings_of
from _server import Server, started_cluster, started_server
from _sides import C_LOOP, GENERATOR, NOISE_VARIABLE, REDIS_PY, noise_run, require_side

from cpool.tools.machine import machine_facts, version_of
from cpool.tools.tables import print_table

OVERVIEW_WIDTH = 172
KEY_OF_CONTESTS = pytest.StashKey[Contests]()
KEY_OF_FACTS = pytest.StashKey[dict[str, Any]]()
KEY_OF_BUSY = pytest.StashKey[int]()
PEERS = {"valkey-py": "valkey", "libvalkey": "libvalkey", "valkey-glide": "valkey-glide-sync"}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cpool's benchmarks")
    group.addoption("--rounds", type=at_least(1, int), default=ROUNDS, help="rounds of a group")
    group.addoption(
        "--seconds", type=at_least(0.01, float), default=SECONDS, help="length of a measurement"
    )
    group.addoption("--server", metavar="PATH", help="server program to start")
    group.addoption(
        "--noise", action="store_true", help="measure redis-py in the place of cpool as well"
    )


def at_least(least: float, kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def number(text: str) -> Any:
        value = kind(text)
        if not least <= value < math.inf:
            raise ValueError
        return value

    number.__name__ = f"number (at least {least:g})"
    return number


def pytest_configure(config: pytest.Config) -> None:
    config.stash[KEY_OF_CONTESTS] = Contests()
    facts = machine_facts() | {name: version_of(package) for name, package in PEERS.items()}
    config.stash[KEY_OF_BUSY] = facts.pop("busy %")
    config.stash[KEY_OF_FACTS] = facts
    if config.getoption("--noise"):
        os.environ[NOISE_VARIABLE] = "1"  # for the workers


# ---- which sides a group has --------------------------------------------------------------


def key_of(item: pytest.Item) -> str:
    """Return what the benchmarks of one group have in common."""
    params = {k: v for k, v in item.callspec.params.items() if k != "side"}  # type: ignore[attr-defined]
    return f"{item.location[0]}::{item.originalname}{params}"  # type: ignore[attr-defined]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.benchmark(timer=CLOCK.read))


def pytest_collection_finish(session: pytest.Session) -> None:
    for item in session.items:
        side = item.callspec.params["side"]  # type: ignore[attr-defined]
        with contextlib.suppress(CannotRun):
            require(side)
            session.config.stash[KEY_OF_CONTESTS].select(key_of(item), side)


def require(side: str) -> None:
    require_side(side)
    require_floor(side)


# ---- fixtures -----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def server(pytestconfig: pytest.Config) -> Iterator[Server]:
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(started_server(pytestconfig.getoption("--server")))
        except CannotRun as error:
            pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)
        pytestconfig.stash[KEY_OF_FACTS]["server"] = server.name
        yield server


@pytest.fixture(scope="session")
def tls_server(pytestconfig: pytest.Config) -> Iterator[Server]:
    try:
        with started_server(pytestconfig.getoption("--server"), tls=True) as server:
            yield server
    except CannotRun as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Iterator[Server]:
    try:
        with started_cluster(pytestconfig.getoption("--server")) as server:
            pytestconfig.stash[KEY_OF_FACTS].setdefault("server", server.name)
            yield server
    except CannotRun as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def c_loop() -> Iterator[Callable[[], Path]]:
    with tempfile.TemporaryDirectory(prefix="cpool-cloop-") as directory:
        yield lambda: compiled_loop(Path(directory))


@pytest.fixture
def measure(request: pytest.FixtureRequest, c_loop: Callable[[], Path]) -> Callable[..., Group]:
    """Return what measures the group of this benchmark, unless one of its sides did already."""
    side = request.node.callspec.params["side"]
    try:
        require(side)
    except CannotRun as error:
        pytest.skip(str(error))
    contests = request.config.stash[KEY_OF_CONTESTS]
    seconds = request.config.getoption("--seconds")

    def one(server: Server, work: str, more: dict[str, Any], side: str) -> Result:
        if side == GENERATOR:
            return redis_benchmark(server, more.get("threads", 1), more.get("per", 1), seconds)
        if side == C_LOOP:
            return loop_of_gets(c_loop(), server, seconds)
        task = {"seconds": seconds, **server.address(), **more}
        return call_worker("_work.py", task_of(work, side, task))

    def measured(
        name: str,
        work: str,
        server: Server,
        *,
        base: str = REDIS_PY,
        metric: str = "s",
        unit: str = "time",
        one_cpu: bool = False,
        by: Callable[[str], Result] | None = None,
        **more: Any,
    ) -> Group:
        def contest(group: Group, sides: list[str]) -> None:
            cpus = usable_cpus()[-1:] if one_cpu else None
            measure_side = by or functools.partial(one, server, work, more)
            with bound_to(cpus, (0, *server.pids)), uncaptured(request.config):
                rounds = request.config.getoption("--rounds")
                interleave(group, sides, measure_side, rounds, progress)

        group = Group(name, base, metric, unit, more.get("bytes", 0))
        return contests.hold(key_of(request.node), group, contest)

    return measured


@pytest.fixture
def compare(
    request: pytest.FixtureRequest, measure: Callable[..., Group], benchmark: Any
) -> Callable[..., None]:
    """Return what measures the group and gives this side's rounds to pytest-benchmark."""

    def compared(*args: Any, **options: Any) -> None:
        group = measure(*args, **options)
        replay(benchmark, group, request.node.callspec.params["side"])

    return compared


# ---- the report ---------------------------------------------------------------------------


@contextlib.contextmanager
def uncaptured(config: pytest.Config) -> Iterator[None]:
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
        yield


def progress(text: str) -> None:
    """Show on a terminal's stderr what is going on."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(config: pytest.Config) -> Generator[None, None, None]:
    """Print the overview below pytest-benchmark's tables, also where those end in an error."""
    try:
        return (yield)
    finally:
        print_overview(config)


def print_overview(config: pytest.Config) -> None:
    groups = config.stash[KEY_OF_CONTESTS].groups.values()
    if not groups:
        return
    title = "All groups: median; times better than the first column's, paired by rounds (spread)"
    print_table(title, ("", *COLUMNS), overview(groups), width=OVERVIEW_WIDTH)
    print(facts_text(config.stash[KEY_OF_FACTS]))
    print(*warnings_of(config.stash[KEY_OF_BUSY], noise_run()), sep="\n")


def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, Any]:
    return config.stash[KEY_OF_FACTS]


def pytest_benchmark_update_commit_info(commit_info: dict[str, Any]) -> None:
    commit_info["project"] = "cpool"  # not the name of a folder here


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Keep the rounds as they were taken: publish.py makes the tables and the plot of them."""
    groups = config.stash[KEY_OF_CONTESTS].groups.values()
    output_json["groups"] = [dataclasses.asdict(group) for group in groups]
    options = {name: config.getoption(name) for name in ("rounds", "seconds", "noise")}
    output_json["options"] = options
    output_json["busy_percent"] = config.stash[KEY_OF_BUSY]
