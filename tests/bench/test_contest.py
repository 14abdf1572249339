"""The benchmarks' machinery: turns, replay, ratios, and that what is published was measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "bench"


@pytest.fixture(scope="module")
def contest() -> Iterator[ModuleType]:
    """The benchmarks' own modules are found beside them only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        import _contest

        yield _contest


@pytest.fixture
def measured(contest: ModuleType) -> Callable[..., Any]:
    def group_of(rounds: list[dict[str, float]], **options: Any) -> Any:
        group = contest.Group("a group", "redis-py", "s", options.pop("unit", "time"), **options)
        group.rounds = [{side: {"s": s} for side, s in one.items()} for one in rounds]
        return group

    return group_of


def test_every_second_round_is_measured_in_reverse_order(contest: ModuleType) -> None:
    order: list[str] = []

    def measure(side: str) -> dict[str, float]:
        order.append(side)
        return {"s": 1.0}

    group = contest.Group("a group", "a", "s", "time")
    contest.interleave(group, ["a", "b"], measure, 3, lambda text: None)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert group.sides == ["a", "b"]


def test_the_gain_is_the_median_of_the_rounds_own_ratios(measured: Callable[..., Any]) -> None:
    seconds = [(1.0, 0.5), (9.0, 3.0), (4.0, 1.0)]
    group = measured([{"redis-py": theirs, "cpool": ours} for theirs, ours in seconds])
    gain = group.gain("cpool")
    assert (gain.lowest, gain.median, gain.highest) == (2.0, 3.0, 4.0)


def test_without_its_base_a_group_has_no_gain(measured: Callable[..., Any]) -> None:
    assert measured([{"cpool": 1.0}]).gain("cpool") is None


@pytest.mark.parametrize(
    ("unit", "value", "text"),
    [
        ("time", 2.5e-6, "2.5 us"),
        ("time", 2.5e-7, "0.250 us"),
        ("time", 0.0125, "12.5 ms"),
        ("ops/s", 2e-5, "50,000/s"),
        ("MB/s", 0.001, "2,000 MB/s"),
        ("KiB", 26.44, "26.4 KiB"),
        ("round trips", 4.0, "4"),
    ],
)
def test_figures_are_shown_in_their_unit(
    measured: Callable[..., Any], unit: str, value: float, text: str
) -> None:
    assert measured([], unit=unit, bytes=2_000_000).shown(value) == text


def test_a_side_that_fails_fails_the_others_of_its_group_too(contest: ModuleType) -> None:
    contests, runs = contest.Contests(), []
    contests.select("key", "cpool")
    group = contest.Group("a group", "redis-py", "s", "time")

    def failing(group: Any, sides: list[str]) -> None:
        runs.append(sides)
        raise contest.BenchmarkFailed("a worker failed")

    for _ in range(2):
        with pytest.raises(contest.BenchmarkFailed, match="a worker failed"):
            contests.hold("key", group, failing)
    assert runs == [["cpool"]]


def run_bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", str(BENCH), *arguments]
    # pytest-benchmark does nothing in a worker of xdist, and knows it by the environment.
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)


def test_pytest_bench_compares_the_sides_of_a_group(tmp_path: Path) -> None:
    pytest.importorskip("pytest_benchmark")
    file = tmp_path / "run.json"
    short = ("--rounds", "2", "--seconds", "0.05", "--benchmark-json", str(file))
    done = run_bench("-k", "one_thread and CPU and (redis-py or cpool) and not pure", *short)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "benchmark 'GET, one thread, one CPU': 3 tests" in done.stdout
    run = json.loads(file.read_text())
    (group,) = run["groups"]
    assert [set(one) for one in group["rounds"]] == [{"redis-py", "cpool pool", "cpool"}] * 2
    for benchmark in run["benchmarks"]:
        recorded = [one[benchmark["name"]]["s"] for one in group["rounds"]]
        assert benchmark["stats"]["data"] == pytest.approx(recorded)


def test_pytest_bench_compares_cluster_clients(tmp_path: Path) -> None:
    pytest.importorskip("pytest_benchmark")
    file = tmp_path / "run.json"
    short = ("--rounds", "1", "--seconds", "0.05", "--benchmark-json", str(file))
    done = run_bench("-k", "cluster_pipeline and (redis-py or cpool)", *short)
    assert done.returncode == 0, done.stdout + done.stderr
    (group,) = json.loads(file.read_text())["groups"]
    assert group["name"] == "cluster: GET in a pipeline of 300"
    assert [set(one) for one in group["rounds"]] == [{"redis-py", "cpool pool", "cpool"}]


def test_without_a_server_it_says_so_and_measures_nothing() -> None:
    pytest.importorskip("pytest_benchmark")
    done = run_bench("-k", "checkout and cpool", "--server", "/no/such/server")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "no server" in done.stdout and "/no/such/server" in done.stdout


@pytest.mark.parametrize(("option", "value"), [("--rounds", "0"), ("--seconds", "nan")])
def test_an_option_out_of_range_is_refused(option: str, value: str) -> None:
    pytest.importorskip("pytest_benchmark")
    done = run_bench(option, value)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert option in done.stderr
    assert "at least" in done.stderr


def test_what_is_published_was_made_of_the_kept_run() -> None:
    command = [sys.executable, str(BENCH / "publish.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def a_run(**changes: Any) -> dict[str, Any]:
    """What the kept run would be as a run of its own."""
    kept = json.loads((BENCH / "results.json").read_text())
    options = {"rounds": 5, "seconds": 0.3, "noise": False} | changes.pop("options", {})
    run = {"datetime": kept["date"], "machine_info": kept["machine"], "groups": kept["groups"]}
    return run | {"commit_info": {}, "busy_percent": 0, "options": options} | changes


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"options": {"noise": True}}, "noise"),
        ({"options": {"rounds": 2}}, "rounds"),
        ({"busy_percent": 86}, "86 %"),
        ({"groups": []}, "no group"),
    ],
)
def test_a_run_that_is_not_to_be_trusted_is_not_published(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    before = (BENCH / "results.json").read_bytes()
    file = tmp_path / "run.json"
    file.write_text(json.dumps(a_run(**changes)))
    command = [sys.executable, str(BENCH / "publish.py"), str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert why in done.stderr and "Traceback" not in done.stderr
    assert (BENCH / "results.json").read_bytes() == before
