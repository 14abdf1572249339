"""`python -m cpool demo`: it runs, tells the truth, and fails when results disagree."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from cpool.__main__ import main
from cpool.tools import servers
from cpool.tools.demo import report, setups, workload
from cpool.tools.demo.crash import INTERRUPTIONS, Crash, Persistent, Recovery, lost_slots
from cpool.tools.demo.outages import Restart
from cpool.tools.demo.report import Report
from cpool.tools.demo.workload import Round, Tally
from cpool.tools.servers import EmbeddedServer
from cpool.tools.sides import CLIENT, CPOOL, NO_POOL, REDIS_PY, SIDES
from cpool.tools.topology import ClusterTopology
from tests.support.servers import ACLServer, StartServer

QUICK = ("demo", "--plain", "--seconds", "0.3", "--threads", "3")

AddPool = Callable[[redis.ConnectionPool], redis.ConnectionPool]


@pytest.fixture
def add_pool() -> Iterator[AddPool]:
    """Give a function that takes a pool to be closed after the test, and returns it."""
    with contextlib.ExitStack() as stack:

        def add(pool: redis.ConnectionPool) -> redis.ConnectionPool:
            stack.callback(pool.disconnect)
            return pool

        yield add


def a_round(rate: float, checksum: int = 7, problems: tuple[str, ...] = ()) -> Round:
    """A round of one second at `rate`."""
    batches = rate / workload.COMMANDS_PER_BATCH
    return Round(batches, 1.0, checksum, 1, 1, list(problems))  # type: ignore[arg-type]


def a_report(**changes: Any) -> Report:
    """A report on one thread, all well; `changes` are rounds of a side."""
    rounds = {
        NO_POOL: [a_round(10), a_round(30)],
        REDIS_PY: [a_round(100), a_round(200), a_round(300)],
        CPOOL: [a_round(300), a_round(400), a_round(300)],
        CLIENT: [a_round(600), a_round(800), a_round(900)],
    }
    rounds.update(changes)
    recovery = Recovery("server killed", 4, 2, 0.3, 0.31, 0.32, 0, "open=1", a_round(50), [])
    results = {(side, 1): of_side for side, of_side in rounds.items()}
    return Report("a title", SIDES, 1, results, {CPOOL: recovery})


def crash(server: EmbeddedServer, pool: redis.ConnectionPool, threads: int) -> Crash:
    """Prepare the restart of a server under the load of a client on `pool`."""
    return Crash(Restart(server), redis.Redis(connection_pool=pool), lambda: [pool], threads)


# -- the whole command ------------------------------------------------------------------


def test_the_demo_runs_kills_recovers_and_agrees() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "REDIS_URL"}
    command = [sys.executable, "-m", "cpool", *QUICK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All results agree" in done.stdout
    rows = {line.split("  ")[0].strip(): line.split() for line in done.stdout.splitlines()}
    assert rows[REDIS_PY][2] == "1.00x" and rows[REDIS_PY][4] == "1.00x"
    assert rows[CLIENT][-1] == rows[CPOOL][-1] == rows[REDIS_PY][-1] == rows[NO_POOL][-1]
    assert rows[CLIENT][-2] == rows[CPOOL][-2] == "0", "slots lost"
    assert "in_use=0" in done.stdout and "waiting=0" in done.stdout
    assert "SIGKILL" in done.stderr, "progress is shown"


def test_a_server_given_by_url_is_left_as_it_was(
    fresh_db: EmbeddedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    pid = fresh_db.pid
    with contextlib.closing(redis.Redis.from_url(fresh_db.url)) as client:
        client.set("mine", "untouched")
        assert main([*QUICK, "--url", fresh_db.url]) == 0
        assert client.keys() == [b"mine"]
    assert fresh_db.pid == pid
    assert "not killed" in capsys.readouterr().out


@pytest.mark.slow
def test_the_demo_runs_on_a_cluster_and_survives_a_failover(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    assert main([*QUICK, "--cluster"]) == 0
    shown = capsys.readouterr()
    assert "in a cluster of 6" in shown.out and "All results agree" in shown.out
    rows = {line.split("  ")[0].strip(): line.split() for line in shown.out.splitlines()}
    assert rows[CPOOL][-1] == rows[REDIS_PY][-1]
    assert rows[CPOOL][-2] == rows[REDIS_PY][-2] == "0", "slots lost"
    assert "its replica promoted" in shown.out and "in_use=0" in shown.out


def test_a_cluster_given_by_url_is_left_as_it_was(
    fresh_cluster: ClusterTopology, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUICK, "--cluster", "--url", fresh_cluster.url]) == 0
    assert [node.call("DBSIZE") for node in fresh_cluster.masters] == [0, 0, 0]
    assert all(node.is_alive for node in fresh_cluster.nodes)
    assert "not killed" in capsys.readouterr().out


def test_a_server_that_is_no_cluster_ends_in_status_2(
    fresh_db: EmbeddedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUICK, "--cluster", "--url", fresh_db.url]) == 2
    assert "Cluster mode is not enabled" in capsys.readouterr().err


def test_a_password_in_the_url_is_not_shown(
    acl_server: ACLServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUICK, "--url", acl_server.url]) == 0
    shown = capsys.readouterr()
    assert acl_server.app_password not in shown.out + shown.err


def test_wrong_replies_end_in_status_1(
    fresh_db: EmbeddedServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make = setups.make_pool

    def make_wrong(side: str, url: str, max_connections: int) -> Any:
        url += "?decode_responses=yes" if side == CPOOL else ""
        return make(side, url, max_connections)

    monkeypatch.setattr(setups, "make_pool", make_wrong)
    assert main([*QUICK, "--url", fresh_db.url]) == 1
    shown = capsys.readouterr().out
    assert "RESULTS DISAGREE" in shown and "All results agree" not in shown
    assert "cpool pool, 1 thread: thread 0: reply 1 is 'thread 0" in shown


def test_without_a_server_the_status_is_2_and_the_message_helps(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(servers, "_PACKAGES", ())
    assert main(list(QUICK)) == 2
    assert servers.INSTALL_HINT in capsys.readouterr().err


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "nonsense://127.0.0.1:1"])
def test_an_unusable_url_ends_in_status_2(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK, "--url", url]) == 2
    assert capsys.readouterr().err.startswith("demo: ")


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "demo" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [("--threads", "0"), ("--seconds", "0"), ("--seconds", "x")])
def test_senseless_options_are_refused(arguments: tuple[str, str]) -> None:
    with pytest.raises(SystemExit):
        main(["demo", *arguments])


def test_a_terminal_without_rich_gets_plain_text_and_is_told(
    fresh_db: EmbeddedServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setitem(sys.modules, "rich", None)
    status = main(["demo", "--seconds", "0.2", "--threads", "1", "--url", fresh_db.url])
    shown = capsys.readouterr()
    assert status == 0
    assert "rich is not installed" in shown.err and servers.INSTALL_HINT in shown.err


# -- the parts --------------------------------------------------------------------------


def test_a_wrong_reply_is_noted_with_its_place() -> None:
    tally, expected = Tally(), workload.expected_batch(0)
    replies = list(expected)
    replies[3] = b"somebody else's"
    tally.judge(0, replies, expected)
    assert len(tally.problems) == 1 and "reply 3" in tally.problems[0]
    assert workload.checksum(replies) != workload.checksum(expected)


def test_an_increment_too_many_is_noted() -> None:
    tally = Tally(batches=2)
    counted = 2 * workload.STEPS_PER_BATCH
    assert workload._make_round([tally], counted).problems == []
    assert "increments" in workload._make_round([tally], counted + 1).problems[0]


def test_what_a_thread_raises_is_noted(add_pool: AddPool) -> None:
    pool = add_pool(redis.ConnectionPool(port=1, max_connections=2))
    tallies = [Tally(), Tally()]
    client = redis.Redis(connection_pool=pool)
    workload.run_threads(lambda thread: client.ping(), tallies)
    assert all("ConnectionError" in tally.problems[0] for tally in tallies)


def test_a_borrowed_slot_is_seen_as_lost(fresh_db: EmbeddedServer, add_pool: AddPool) -> None:
    pool = add_pool(redis.ConnectionPool.from_url(fresh_db.url, max_connections=3))
    assert lost_slots(pool) == 0
    kept = pool.get_connection()
    assert lost_slots(pool) == 1
    pool.release(kept)
    assert lost_slots(pool) == 0


def test_a_slot_lost_in_the_crash_is_a_problem(
    start_server: StartServer, add_pool: AddPool
) -> None:
    server = start_server()
    pool = add_pool(redis.ConnectionPool.from_url(server.url, max_connections=3))
    kept = pool.get_connection()
    seen = crash(server, pool, 2).run()
    pool.release(kept)
    assert seen.lost_slots == 1
    assert "1 slots were lost" in seen.problems


def test_a_pool_without_a_fault_comes_through_the_crash(
    start_server: StartServer, add_pool: AddPool
) -> None:
    server = start_server()
    pool = add_pool(redis.ConnectionPool.from_url(server.url, max_connections=4))
    seen = crash(server, pool, 4).run()
    assert seen.problems == [] and seen.lost_slots == 0
    assert seen.failed >= seen.retried >= 1
    assert 0 < seen.first_s <= seen.all_s
    assert seen.after.counted == seen.after.counter > 0


def test_a_command_that_fails_is_counted_and_sent_again() -> None:
    errors = [error("lost") for error in INTERRUPTIONS]

    class Client:
        def get(self, key: str) -> str:
            if errors:
                raise errors.pop()
            return key

    tally = Tally()
    client = Persistent(Client(), tally, threading.Event())
    assert client.get("key") == client.get("key") == "key"
    assert (tally.failed, tally.retried) == (len(INTERRUPTIONS), 1)


def test_ratios_are_medians_of_rounds_side_by_side() -> None:
    results = a_report().results
    assert report.ratio(results, REDIS_PY, 1) == 1.0
    assert report.ratio(results, CPOOL, 1) == pytest.approx(2.0)
    assert report.ratio(results, NO_POOL, 1) == pytest.approx(0.1)


def test_a_report_without_a_fault_has_no_problem() -> None:
    good = a_report()
    assert good.problems() == []
    assert "All results agree" in "".join(good.verdict())


@pytest.mark.parametrize("checksum, problems", [(8, ()), (7, ("reply 3 is wrong",))])
def test_a_checksum_or_a_problem_of_one_round_spoils_the_report(
    checksum: int, problems: tuple[str, ...]
) -> None:
    rounds = [a_round(1), a_round(1, checksum, problems), a_round(1)]
    bad = a_report(**{CPOOL: rounds})
    assert len(bad.problems()) == 1
    assert "DISAGREE" in "".join(bad.verdict())


@pytest.mark.parametrize("show", [report.print_plain, report.print_rich])
def test_both_tables_show_the_same_cells(
    show: Callable[[Report], None], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = a_report()
    show(shown)
    lines = capsys.readouterr().out.splitlines()
    for cells in [shown.header(), *shown.rows()]:
        assert any(line.split() == " ".join(cells).split() for line in lines), cells
