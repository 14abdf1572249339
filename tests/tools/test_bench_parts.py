"""The parts of `python -m cpool bench` that need no server."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpool.tools.bench import caveats as warned
from cpool.tools.bench import report
from cpool.tools.bench.histogram import RELATIVE_ERROR, Histogram
from cpool.tools.bench.report import Report, as_data, gain
from cpool.tools.bench.rounds import Block, Plan, is_local, masked, place, so_far
from cpool.tools.bench.worker import Measured, ServerWatch
from cpool.tools.bench.workload import parse_mix
from cpool.tools.figures import percentile
from cpool.tools.sides import CLIENT, REDIS_PY

PERCENTS = (0, 50, 99, 99.9, 100)
TIMES_NS = st.integers(min_value=0, max_value=2**62)

# -- the histogram ----------------------------------------------------------------------


def histogram_of(times_ns: list[int]) -> Histogram:
    histogram = Histogram()
    for time_ns in times_ns:
        histogram.record(time_ns)
    return histogram


@settings(deadline=None)  # other work may share the processors
@given(st.lists(TIMES_NS, min_size=1), st.sampled_from(PERCENTS))
def test_a_percentile_is_off_by_one_percent_at_most(times_ns: list[int], percent: float) -> None:
    exact = max(1.0, percentile(sorted(times_ns), percent))
    found = histogram_of(times_ns).percentile_ns(percent)
    assert math.isclose(found, exact, rel_tol=RELATIVE_ERROR * 1.0001)


@settings(deadline=None)
@given(st.lists(TIMES_NS, max_size=20), st.lists(TIMES_NS, max_size=20))
def test_merged_histograms_are_that_of_all_times(ours: list[int], theirs: list[int]) -> None:
    merged = Histogram.merged([histogram_of(ours), histogram_of(theirs)])
    assert merged.buckets == histogram_of(ours + theirs).buckets
    assert merged.count == len(ours) + len(theirs)


def test_memory_does_not_grow_with_the_times() -> None:
    histogram = Histogram()
    before = len(histogram.buckets)
    for time_ns in (0, 1, 10**6, 2**63 - 1):
        histogram.record(time_ns)
    assert len(histogram.buckets) == before < 3000


def test_without_times_there_is_no_percentile() -> None:
    with pytest.raises(ValueError, match="no times"):
        Histogram().percentile_ns(50)


# -- options and URLs -------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, mix",
    [
        ("get=90,set=10", {"get": 90, "set": 10}),
        (" GET = 1 , mget ", {"get": 1, "mget": 1}),
        ("lmove=1000000", {"lmove": 1_000_000}),
    ],
)
def test_a_mix_is_names_with_weights(text: str, mix: dict[str, int]) -> None:
    assert parse_mix(text) == mix


@pytest.mark.parametrize("text", ["", "get=", "get=-1", "get=1.5", "get=9999999", "get,,set"])
def test_a_senseless_mix_is_refused(text: str) -> None:
    with pytest.raises(Exception, match="none of the commands|from 1 to 1000000"):
        parse_mix(text)


@pytest.mark.parametrize(
    "url, shown, local",
    [
        ("redis://u:p@db.example:7000/3?db=1", "db.example:7000", False),
        ("rediss://10.1.2.3", "10.1.2.3:6379", False),
        ("redis://127.8.9.1", "127.8.9.1:6379", True),
        ("redis://[::1]:1", "[::1]:1", True),
        ("redis://", "localhost:6379", True),
        ("unix://:p@/run/redis/p.sock", "a unix socket", True),
    ],
)
def test_a_url_is_shown_as_a_place(url: str, shown: str, local: bool) -> None:
    assert place(url) == shown
    assert is_local(url) is local


@pytest.mark.parametrize(
    "url", ["redis://u:p%40ss@h", "redis://h?password=p%40ss", "unix://:p%40ss@/sock"]
)
def test_passwords_are_blotted_out_as_written_and_as_meant(url: str) -> None:
    assert masked("bad p@ss, bad p%40ss", url) == "bad ***, bad ***"
    assert masked("bad", "redis://h") == "bad"
    assert masked("except x, extra", "redis://:x@h") == "except ***, extra"


# -- what is made of the rounds ---------------------------------------------------------


def measured(**changes: Any) -> Measured:
    """Ten thousand commands in a second, nothing to complain of."""
    latencies = {"p50_ms": 1.0, "p99_ms": 2.0, "p999_ms": 4.0}
    settings: dict[str, Any] = dict(
        commands=10_000,
        calls=10_000,
        elapsed_s=1.0,
        cpu_s=0.5,
        latency_ms=latencies,
        errors={},
        busy_percent=50,
        server_cpu_percent=40.0,
        server_commands=10_010,
        compiled=10_000,
        refused={},
    )
    return Measured(**{**settings, **changes})


def a_plan(**changes: Any) -> Plan:
    settings: dict[str, Any] = dict(
        url="redis://user:hidden@db.example:7000/0",
        threads=(4,),
        sides=(REDIS_PY, CLIENT),
        rounds=3,
        duration_s=6.0,
        mix={"get": 1},
        value_bytes=64,
        depth=1,
    )
    return Plan(**{**settings, **changes})


def a_block(threads: int = 4, **changes: Any) -> Block:
    """Three rounds; `changes` are cpool's figures in all of them."""
    ours = measured(**changes)
    return Block(threads, [{REDIS_PY: measured(), CLIENT: ours} for _ in range(3)])


def warnings_of(*blocks: Block) -> list[str]:
    return list(warned.of_the_rounds(a_plan(), blocks))


def test_where_nothing_is_wrong_nothing_is_warned_of() -> None:
    assert warnings_of(a_block()) == []
    assert list(warned.before_the_run(a_plan(), {"busy %": 10}, has_hiredis=True)) == []


@pytest.mark.parametrize(
    "changes, warning, seen",
    [
        ({"busy_percent": 95}, warned.CLIENT_MACHINE, "95 %"),
        ({"cpu_s": 0.97}, warned.CLIENT_PROCESS, "97 %"),
        ({"server_cpu_percent": 90.2}, warned.SERVER, "90 %"),
        ({"server_cpu_percent": None}, warned.SERVER_UNKNOWN, "no figures"),
        ({"server_commands": 15_000}, warned.OTHERS, "5,000 commands per second"),
        ({"calls": 999}, warned.FEW_CALLS, "999"),
        ({"refused": {"metrics on": 200}}, warned.NOT_COMPILED, "metrics on: 600"),
    ],
)
def test_a_planted_limit_is_warned_of_once_with_its_place(
    changes: dict[str, Any], warning: str, seen: str
) -> None:
    found = warnings_of(a_block(), a_block(8, **changes), a_block(32, **changes))
    place = f"cpool.Redis ({seen})"
    assert found == [f"{warning} Seen with 8 threads: {place}; 32 threads: {place}."]


@pytest.mark.parametrize(
    "changes",
    [
        {"busy_percent": 94},
        {"busy_percent": None},
        {"cpu_s": 0.94},
        {"server_cpu_percent": 89.9},
        {"server_commands": 10_900},
        {"server_commands": None},
        {"calls": 1000},
        {"refused": {"command": 3}},
    ],
)
def test_what_is_just_within_the_limits_is_not_warned_of(changes: dict[str, Any]) -> None:
    assert warnings_of(a_block(**changes)) == []


def test_a_busy_machine_is_told_rather_than_the_busy_process() -> None:
    (only,) = warnings_of(a_block(busy_percent=100, cpu_s=0.99))
    assert only.startswith(warned.CLIENT_MACHINE)


def test_one_disturbed_round_is_no_limit() -> None:
    block = a_block()
    block.rounds[1][CLIENT] = measured(busy_percent=100, server_cpu_percent=100.0)
    assert warnings_of(block) == []


def test_without_a_gil_a_whole_cpu_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warned, "_gil_enabled", lambda: False)
    assert warnings_of(a_block(cpu_s=1.8)) == []


def test_rounds_that_differ_much_are_warned_of() -> None:
    block = a_block()
    block.rounds[0][CLIENT] = measured(elapsed_s=0.4)
    assert warnings_of(block) == [f"{warned.ROUNDS_DIFFER} Seen with 4 threads: 1.00 (1.00-2.50)."]


def test_a_busy_machine_a_missing_hiredis_and_a_local_server_are_warned_of() -> None:
    local = a_plan(url="redis://localhost")
    found = list(warned.before_the_run(local, {"busy %": 11}, has_hiredis=False))
    assert found == [warned.BUSY_BEFORE.format(11), warned.NO_HIREDIS, warned.LOCAL_SERVER]


def test_a_gain_is_above_one_where_cpool_is_better_whatever_the_figure() -> None:
    faster = {"p50_ms": 0.5, "p99_ms": 0.5, "p999_ms": 0.5}
    block = a_block(elapsed_s=0.5, latency_ms=faster, cpu_s=0.1)
    found = {m.name: gain(block, CLIENT, m.name) for m in report.METRICS}
    assert {name: spread and spread.median for name, spread in found.items()} == {
        "ops_per_s": 2.0,
        "p50_ms": 2.0,
        "p99_ms": 4.0,
        "p999_ms": 8.0,
        "cpu_us_per_command": 5.0,
    }


def test_a_gain_is_the_median_of_the_rounds_own_ratios() -> None:
    rounds = [
        {REDIS_PY: measured(elapsed_s=theirs), CLIENT: measured(elapsed_s=ours)}
        for theirs, ours in ((1.0, 0.5), (9.0, 3.0), (4.0, 1.0))
    ]
    spread = gain(Block(1, rounds), CLIENT, "ops_per_s")
    assert spread is not None
    assert (spread.lowest, spread.median, spread.highest) == (2.0, 3.0, 4.0)
    assert so_far(rounds) == " (so far 3.00x redis-py's ops/s)"
    assert so_far([]) == ""


# -- the report -------------------------------------------------------------------------


def a_report(block: Block, **plan: Any) -> Report:
    machine = {"CPUs": 2, "busy %": 1}
    return Report(a_plan(**plan), machine, "Redis 8.0", "--url", [block], ["Beware."])


def test_the_table_holds_each_figure_and_its_gain() -> None:
    report = a_report(a_block(elapsed_s=0.5))
    assert report.columns() == ["", REDIS_PY, CLIENT, "gain"]
    rows = {row[0]: row[1:] for row in report.rows(report.blocks[0])}
    assert rows["commands per second"] == ["10,000", "20,000", "2.00x (2.00-2.00)"]
    assert rows["p99.9 ms"] == ["4.000", "4.000", "1.00x (1.00-1.00)"]
    assert rows["CPU us per command"] == ["50.0", "50.0", "1.00x (1.00-1.00)"]


def test_the_title_tells_the_work() -> None:
    report = a_report(a_block(), connections=2, depth=100)
    title = report.title(report.blocks[0])
    assert title == "4 threads, at most 2 connections, values of 64 bytes, get 1, pipelines of 100"


def test_blocking_pools_are_told_where_there_were_any() -> None:
    scarce, plenty = a_report(a_block(), connections=3), a_report(a_block(), connections=4)
    assert "cpool.BlockingConnectionPool" in "".join(scarce.notes())
    assert "cpool.BlockingConnectionPool" not in "".join(plenty.notes())


def test_a_round_without_a_success_leaves_the_figures_out() -> None:
    report = a_report(a_block(commands=0, calls=0, latency_ms={}, errors={"Oops: no": 7}))
    assert all(row[2:] == ["-", "-"] for row in report.rows(report.blocks[0]))
    assert report.errors() == ["4 threads, cpool.Redis: 21 x Oops: no"]
    side = as_data(report)["blocks"][0]["sides"][CLIENT]
    assert side["ops_per_s"] is None and side["ops_per_s_gain"] is None


def test_the_data_are_json_with_every_rounds_figures_and_without_the_url() -> None:
    text = json.dumps(as_data(a_report(a_block())))
    assert "hidden" not in text and "user" not in text
    data = json.loads(text)
    assert data["format"] == 1
    assert data["server"] == {"name": "Redis 8.0", "place": "db.example:7000", "source": "--url"}
    assert data["plan"]["slice_s"] == 1.0 and data["plan"]["threads"] == [4]
    assert data["warnings"] == ["Beware."] and data["errors"] == []
    (block,) = data["blocks"]
    assert len(block["rounds"]) == 3
    assert block["rounds"][0][REDIS_PY]["ops_per_s"] == 10_000.0
    assert block["rounds"][0][REDIS_PY]["cpu_us_per_command"] == pytest.approx(50.0)


@pytest.mark.parametrize("plain", [True, False])
def test_table_notes_and_warnings_are_shown_without_the_password(
    plain: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    report.show(a_report(a_block(errors={"Oops: no": 1})), plain=plain)
    shown = capsys.readouterr().out
    assert "Redis 8.0 at db.example:7000 (--url)" in shown
    assert "WARNING: Beware." in shown
    assert "ERROR: 4 threads, cpool.Redis: 3 x Oops: no" in shown
    assert "1.00x (1.00-1.00)" in shown and "30,000 of 30,000 commands" in shown
    assert "hidden" not in shown


# -- the server's counters --------------------------------------------------------------


class Told:
    """A client whose INFO tells what it was given."""

    def __init__(self, *infos: dict[str, float]) -> None:
        self.infos = list(infos)

    def info(self) -> dict[str, float]:
        return self.infos.pop(0)


def test_of_a_server_with_threads_the_one_that_runs_commands_counts() -> None:
    first = {"used_cpu_user": 50.0, "used_cpu_sys": 50.0}
    first |= {"used_cpu_user_main_thread": 1.0, "used_cpu_sys_main_thread": 1.0}
    second = dict(first, used_cpu_user=1e9, total_commands_processed=5)
    watch = ServerWatch(Told(first, second))  # type: ignore[arg-type]
    assert watch.since() == (0.0, None)


def test_an_older_server_tells_of_all_its_threads() -> None:
    first = {"used_cpu_user": 1.0, "used_cpu_sys": 2.0, "total_commands_processed": 5}
    second = {"used_cpu_user": 2.0, "used_cpu_sys": 3.0, "total_commands_processed": 9}
    cpu_percent, commands = ServerWatch(Told(first, second)).since()  # type: ignore[arg-type]
    assert cpu_percent is not None and cpu_percent > 0 and commands == 4
