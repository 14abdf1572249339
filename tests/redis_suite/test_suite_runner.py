"""Test the runner itself: the judging, the survival of crashes, the swapping and the counting."""

from __future__ import annotations

import socket
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from . import compare
from .plugin import redis_swap
from .runner import pytest_selection
from .servers import choose_port
from .sources import SetupError
from .stage import StagePlan, StageResult, TestResult, run_stage

PASSED, FAILED = TestResult("passed"), TestResult("failed", "AssertionError: no")


def stage(**outcomes: str) -> StageResult:
    return StageResult({f"tests/t.py::{name}": TestResult(o) for name, o in outcomes.items()})


def judge(
    baseline: StageResult, swapped: StageResult, *allowed: compare.Allowed, whole: bool = True
) -> compare.Comparison:
    return compare.compare(baseline, swapped, allowed, whole)


# -- judging ---------------------------------------------------------------------------------


@pytest.mark.parametrize("swapped", ["failed", "error", "skipped", "crashed", "hung"])
def test_what_passes_only_unswapped_is_a_regression(swapped: str) -> None:
    outcome = judge(stage(a="passed", b="passed"), stage(a="passed", b=swapped))
    assert [item.test for item in outcome.having("regression")] == ["tests/t.py::b"]


def test_a_test_that_was_not_run_swapped_is_a_regression() -> None:
    outcome = judge(stage(a="passed"), stage())
    assert [item.swapped.outcome for item in outcome.having("regression")] == ["missing"]


def test_what_fails_with_both_is_no_difference_and_what_is_better_is_fixed() -> None:
    outcome = judge(stage(a="failed", b="failed"), stage(a="failed", b="passed"))
    assert not outcome.differences
    assert list(outcome.fixed) == ["tests/t.py::b"]


@pytest.mark.parametrize(
    ("baseline_failures", "swapped_failures", "verdict"),
    [
        (0, 0, "flaky"),
        (0, 1, "regression"),
        (0, 3, "regression"),
        (1, 3, "regression"),
        (1, 1, "flaky-both"),
        (3, 3, "flaky-both"),
    ],
)
def test_reruns_tell_regressions_from_flaky_tests(
    baseline_failures: int, swapped_failures: int, verdict: str
) -> None:
    item = compare.Difference("t", FAILED)
    unswapped = [{"t": FAILED if n < baseline_failures else PASSED} for n in range(3)]
    swapped = [{"t": FAILED if n < swapped_failures else PASSED} for n in range(3)]
    compare.count_reruns([item], unswapped, swapped)
    assert item.verdict == verdict


@pytest.mark.parametrize("outcome", ["crashed", "hung"])
def test_a_crash_is_a_regression_even_if_it_does_not_come_back(outcome: str) -> None:
    item = compare.Difference("t", TestResult(outcome))
    compare.count_reruns([item], [{"t": PASSED}] * 3, [{"t": PASSED}] * 3)
    assert item.verdict == "regression"


def test_an_allowed_test_is_no_regression_and_its_entry_is_not_stale() -> None:
    entry = compare.Allowed("tests/t.py::b", "why")
    outcome = judge(stage(a="passed", b="passed"), stage(a="passed", b="failed"), entry)
    assert [item.verdict for item in outcome.differences] == ["allowed"]
    assert not outcome.stale


def test_an_entry_whose_tests_pass_is_stale() -> None:
    entry = compare.Allowed("tests/t.py::*", "why")
    assert judge(stage(a="passed"), stage(a="passed"), entry).stale == [entry]


def test_an_entry_is_not_stale_where_the_baseline_fails() -> None:
    entry = compare.Allowed("tests/t.py::a", "why")
    assert not judge(stage(a="failed"), stage(a="failed"), entry).stale


@pytest.mark.parametrize("whole", [True, False])
def test_an_entry_that_names_no_test_is_stale_only_in_a_whole_run(whole: bool) -> None:
    entry = compare.Allowed("tests/gone.py::a", "why")
    outcome = judge(stage(a="passed"), stage(a="passed"), entry, whole=whole)
    assert outcome.stale == ([entry] if whole else [])


def test_brackets_in_an_allowed_id_are_no_wildcards() -> None:
    entry = compare.Allowed("tests/t.py::a[1-*]", "why")
    assert entry.matches("tests/t.py::a[1-x]")
    assert not entry.matches("tests/t.py::a1")


def test_an_entry_applies_to_its_versions_and_protocols_only() -> None:
    entry = compare.Allowed("x", "why", ">=8.0,<9", ("3",))
    assert entry.applies_to("8.1.0", "3", "hidden", "cluster")
    assert not entry.applies_to("6.4.0", "3", "hidden", "cluster")
    assert not entry.applies_to("8.1.0", "2", "hidden", "cluster")
    here = "8.1.0", "3", "hidden", "cluster"
    assert not replace(entry, topology="standalone").applies_to(*here)
    assert not replace(entry, hiredis="installed").applies_to("8.1.0", "3", "hidden", "cluster")


@pytest.mark.parametrize("line", ["", 'reason = " "', 'reason = "x"\nversions = "1"', "= ="])
def test_a_malformed_entry_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "allowed.toml"
    path.write_text(f'[[allowed]]\nid = "tests/t.py::a"\n{line}\n')
    with pytest.raises(SetupError):
        compare.read_allowed(path)


def test_the_committed_list_can_be_read() -> None:
    for entry in compare.read_allowed(compare.ALLOWED_FILE):
        assert entry.id.startswith("tests/")


def proof(checkouts: int, **pools: int) -> dict[str, Any]:
    made = [[maker.replace("_", "-"), "pool", "P", count] for maker, count in pools.items()]
    return {"checkouts": checkouts, "made": made, "replaced": [], "not_replaced": []}


@pytest.mark.parametrize(
    ("proofs", "problems"),
    [
        ([proof(3, cpool=2), {}, proof(0, cpool=1)], 0),
        ([proof(0, cpool=2)], 1),
        ([proof(3, cpool=2, redis_py=1)], 1),
        ([{}], 1),
        ([], 1),
    ],
)
def test_a_run_without_checkouts_or_with_plain_pools_proves_nothing(
    proofs: list[dict[str, Any]], problems: int
) -> None:
    assert len(compare.usage_of(StageResult(proofs=proofs)).problems()) == problems


# -- running ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_test_that_kills_the_process_costs_only_itself(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(
        "import os\n"
        "def test_first(): pass\n"
        "def test_second(): os.abort()\n"
        "def test_third(): assert False, 'third'\n"
    )
    plan = StagePlan(root=tmp_path, workdir=tmp_path, name="run", pytest_args=())
    result = run_stage(plan, lambda done, total: None)
    outcomes = {test.split("::")[1]: r.outcome for test, r in result.results.items()}
    assert outcomes == {"test_first": "passed", "test_second": "crashed", "test_third": "failed"}
    assert "SIGABRT" in result.results["tests/test_it.py::test_second"].reason
    assert "third" in result.results["tests/test_it.py::test_third"].reason
    assert StageResult.from_json(result.to_json()) == result


@pytest.mark.slow
def test_a_test_no_signal_reaches_is_ended_as_hung(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(
        "import signal, time\n"
        "def test_first():\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})\n"
        "    time.sleep(600)\n"
        "def test_second(): pass\n"
    )
    plan = StagePlan(tmp_path, tmp_path, "run", pytest_args=(), silence_timeout_s=3)
    result = run_stage(plan, lambda done, total: None)
    assert [r.outcome for r in result.results.values()] == ["hung", "passed"]
    assert "Fatal Python error: Aborted" in plan.file("pytest.log").read_text()


def test_a_suite_that_cannot_start_is_a_setup_error(tmp_path: Path) -> None:
    plan = StagePlan(root=tmp_path, workdir=tmp_path, name="run", pytest_args=("--no-such",))
    with pytest.raises(SetupError, match="no-such"):
        run_stage(plan, lambda done, total: None)


def test_only_takes_paths_and_expressions() -> None:
    assert pytest_selection([]) == ["tests"]
    given = ["tests/test_ssl.py", "test_lock.py::TestLock", "pool", "not slow"]
    assert pytest_selection(given) == [
        *("tests/test_ssl.py", "tests/test_lock.py::TestLock"),
        *("-k", "(pool) or (not slow)"),
    ]


def test_a_taken_port_is_passed_over_and_noted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        notes: list[str] = []
        if port > 32000:
            with pytest.raises(SetupError):
                choose_port(32768, set(), notes, "it")
            return
        assert choose_port(port, set(), notes, "it") > port
        assert len(notes) == 1


# -- swapping and counting -------------------------------------------------------------------


class Original:
    pass


class Replacement(Original):
    pass


PAIRS: dict[type, type] = {Original: Replacement}


def redis_module() -> types.ModuleType:
    """Make a module that holds an original in each of the ways redis-py's modules do."""
    module = types.ModuleType("redis.made_up")
    source = (
        "import dataclasses, functools\n"
        "def plain(cls=Original, *, other=Original, third=int): return cls, other, third\n"
        "@functools.wraps(plain)\n"
        "def decorated(*args, **kwargs): return plain(*args, **kwargs)\n"
        "class Holder:\n"
        "    made_of = Original\n"
        "    def method(self, cls=Original): return cls\n"
        "    @classmethod\n"
        "    def of(cls, made_of=Original): return made_of\n"
        "@dataclasses.dataclass\n"
        "class Config:\n"
        "    pool: type = Original\n"
    )
    module.__dict__["Original"] = Original
    # dataclass looks its module up by name.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        exec(source, module.__dict__)
    return module


def test_every_binding_in_a_module_is_replaced() -> None:
    module = redis_module()
    assert redis_swap.rewrite_module(module, PAIRS) == 1
    assert module.Original is Replacement
    assert module.plain() == module.decorated() == (Replacement, Replacement, int)
    assert module.Holder.made_of is module.Holder().method() is module.Holder.of() is Replacement
    assert module.Config().pool is Replacement


def test_only_the_sync_side_of_redis_py_is_touched() -> None:
    assert redis_swap.is_sync_redis("redis") and redis_swap.is_sync_redis("redis.client")
    assert not redis_swap.is_sync_redis("redis.asyncio.client")
    assert not redis_swap.is_sync_redis("redis_entraid")
    assert not redis_swap.is_sync_redis("cpool.pool")


def test_a_reexported_original_is_no_replacement() -> None:
    provider = types.ModuleType("made_up")
    provider.__dict__["Original"] = Original
    assert redis_swap.find_replacement(Original, [provider]) is None


def test_a_replacement_has_to_be_a_subclass() -> None:
    provider = types.ModuleType("made_up")
    provider.__dict__["Original"] = type("Original", (), {})
    with pytest.raises(redis_swap.SwapError):
        redis_swap.find_replacement(Original, [provider])


def watched() -> tuple[redis_swap.Proof, type, type]:
    """Make fresh classes under the eyes of a proof."""

    class Plain(Original):
        def __init__(self) -> None:
            super().__init__()

    class Ours(Plain):
        checkouts = 2

        def __init__(self) -> None:
            super().__init__()

        def stats(self) -> types.SimpleNamespace:
            return types.SimpleNamespace(checkouts=self.checkouts)

    proof_ = redis_swap.Proof({Plain: Ours}, [])
    for cls in (Plain, Ours):
        proof_.watch(cls, "pool")
    return proof_, Plain, Ours


def test_an_object_is_counted_once_however_many_constructors_run() -> None:
    proof_, original, replacement = watched()
    replacement()
    assert (proof_.total("cpool", "pool"), proof_.total("redis-py", "pool")) == (1, 0)
    original()
    assert (proof_.total("cpool", "pool"), proof_.total("redis-py", "pool")) == (1, 1)
    assert [Path(__file__).name in line for line in proof_.plain_pools] == [True]


def test_checkouts_of_pools_that_are_gone_still_count() -> None:
    proof_, _, replacement = watched()
    gone, alive = replacement(), replacement()
    proof_.sample()
    del gone
    alive.checkouts = 5
    proof_.sample()
    assert proof_.checkouts == 2 + 5
