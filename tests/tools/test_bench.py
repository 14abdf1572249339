"""`python -m cpool bench`: it runs, leaves no keys, tells no password, ends as it says."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

import cpool
from cpool.__main__ import main
from cpool.tools import servers
from cpool.tools.bench import caveats, command, plot, rounds
from cpool.tools.bench.report import METRICS
from cpool.tools.bench.rounds import Plan, RunFailed, call_worker
from cpool.tools.bench.worker import Driver, Measured, Task, make_client, measure
from cpool.tools.bench.workload import COMMANDS, Workload, check_replies, remove, schedule, seed
from cpool.tools.servers import EmbeddedServer
from cpool.tools.sides import CLIENT, CPOOL, REDIS_PY
from tests.support.servers import ACLServer, StartServer, TLSServer, wait_until

QUICK = ("bench", "--plain", "--duration", "0.1", "--rounds", "1", "--threads", "2")
ALL_COMMANDS = dict.fromkeys(COMMANDS, 1)

Clients = Callable[[str], redis.Redis]


@pytest.fixture
def connect() -> Iterator[Clients]:
    """Give a function that makes a client of a URL, closed after the test."""
    with contextlib.ExitStack() as stack:
        yield lambda url: stack.enter_context(contextlib.closing(redis.Redis.from_url(url)))


def a_load(**changes: Any) -> Workload:
    """All commands, on values of 20 bytes."""
    settings = dict(mix=ALL_COMMANDS, value_bytes=20, depth=1, prefix="test-bench", ttl_s=600)
    return Workload(**{**settings, **changes})


def a_task(url: str, side: str = CLIENT, load: Workload | None = None, **changes: Any) -> Task:
    """Two threads for a short time."""
    settings = dict(threads=2, connections=2, seconds=0.05, round=0, options={})
    return Task(url=url, side=side, load=load or a_load(), **{**settings, **changes})


# -- the whole command ------------------------------------------------------------------


def test_the_figures_of_all_sides_come_as_a_table_and_as_json(
    fresh_db: EmbeddedServer,
    connect: Clients,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    client, path = connect(fresh_db.url), tmp_path / "figures.json"
    client.set("mine", "untouched")
    options = ("--pool", "--mix", ",".join(COMMANDS), "--json", str(path))
    assert main([*QUICK, *options, "--url", fresh_db.url]) == 0
    shown = capsys.readouterr()
    assert all(metric.title in shown.out for metric in METRICS)
    assert "round 1 of 1, cpool.Redis" in shown.err, "progress is shown"
    assert client.keys() == [b"mine"]
    data = json.loads(path.read_text())
    (block,) = data["blocks"]
    for side in (REDIS_PY, CPOOL, CLIENT):
        for metric in METRICS:
            figure = block["sides"][side][metric.name]
            assert 0 < figure["lowest"] <= figure["median"] <= figure["highest"]
    assert block["sides"][CLIENT]["ops_per_s_gain"]["median"] > 0
    assert block["rounds"][0][CLIENT]["compiled"] == block["rounds"][0][CLIENT]["calls"]
    assert block["threads"] == 2 and data["errors"] == []
    assert data["machine"]["redis-py"] == redis.__version__


def test_without_a_url_a_server_is_started_for_the_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    assert main(list(QUICK)) == 0
    assert f"({servers.find_binary().source})" in capsys.readouterr().out


def test_the_url_may_come_from_the_environment_and_the_password_stays_hidden(
    acl_server: ACLServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REDIS_URL", acl_server.url)
    path = tmp_path / "figures.json"
    assert main([*QUICK, "--json", str(path)]) == 0
    shown = capsys.readouterr()
    assert "(REDIS_URL)" in shown.out
    assert acl_server.app_password not in shown.out + shown.err + path.read_text()


def test_a_server_with_tls_is_measured_as_its_url_says(
    tls_server: TLSServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUICK, "--url", tls_server.url]) == 0
    assert f"at {tls_server.host}:{tls_server.port} (--url)" in capsys.readouterr().out


@pytest.fixture
def heeded_interrupts() -> Iterator[None]:
    """A shell's background job ignores SIGINT, and its children would inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_ends_the_processes_and_removes_the_keys(
    start_server: StartServer, connect: Clients, heeded_interrupts: None
) -> None:
    server = start_server()
    client = connect(server.url)
    mix = ",".join(COMMANDS)
    command = [sys.executable, "-m", "cpool", *QUICK, "--mix", mix, "--url", server.url]
    command[command.index("0.1")] = "600"
    running = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        wait_until(lambda: counted(client), "a worker sends commands")
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to the worker, too
        told = running.communicate(timeout=30)[1].decode()
        assert running.returncode == 130 and "Traceback" not in told
    finally:
        running.kill()
        running.communicate()
    wait_until(lambda: len(client.client_list()) == 1, "the worker is gone")
    assert client.dbsize() == 0


def counted(client: redis.Redis) -> bool:
    """Whether a worker has increased a counter."""
    return any(int(client.get(key) or 0) for key in client.keys("*:counter:*"))


def test_errors_of_commands_are_counted_shown_and_end_in_status_1(
    acl_server: ACLServer, connect: Clients, capsys: pytest.CaptureFixture[str]
) -> None:
    admin = connect(f"redis://:{acl_server.password}@{acl_server.host}:{acl_server.port}")
    admin.acl_setuser(
        "half", enabled=True, passwords=["+half-pw"], keys=["*"], commands=["+@all", "-get"]
    )
    url = f"redis://half:half-pw@{acl_server.host}:{acl_server.port}"
    assert main([*QUICK, "--mix", "get", "--url", url]) == 1
    shown = capsys.readouterr().out
    assert "ERROR: 2 threads, redis-py:" in shown and "ERROR: 2 threads, cpool.Redis:" in shown
    assert "NoPermissionError" in shown
    rows = [line.split() for line in shown.splitlines() if line.startswith("p50 ms")]
    assert rows == [["p50", "ms", "-", "-", "-"]]
    assert admin.keys("*cpool-bench*") == []


def test_a_user_who_may_not_ask_info_gets_figures_all_the_same(
    acl_server: ACLServer, connect: Clients, capsys: pytest.CaptureFixture[str]
) -> None:
    admin = connect(f"redis://:{acl_server.password}@{acl_server.host}:{acl_server.port}")
    admin.acl_setuser(
        "blind", enabled=True, passwords=["+blind-pw"], keys=["*"], commands=["+@all", "-info"]
    )
    url = f"redis://blind:blind-pw@{acl_server.host}:{acl_server.port}"
    assert main([*QUICK, "--url", url]) == 0
    assert "may not read its CPU time" in " ".join(capsys.readouterr().out.split())


def test_a_server_that_dies_in_the_run_ends_in_status_1(
    start_server: StartServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = start_server()
    real = rounds.call_worker

    def killing(task: Task) -> Measured:
        measured = real(task)
        server.kill()
        return measured

    monkeypatch.setattr(rounds, "call_worker", killing)
    assert main([*QUICK, "--url", server.url]) == 1
    told = capsys.readouterr().err
    assert "bench: the server failed" in told
    assert "were left" in told and "they expire within" in told


def test_too_many_connections_for_the_server_are_told_with_a_remedy(
    start_server: StartServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """The two are the one that writes the keys and the first one of the pool."""
    server = start_server(args=("--maxclients", "2"))
    assert main([*QUICK, "--url", server.url]) == 1
    told = capsys.readouterr().err
    assert "its maxclients" in told and "lower --connections or --threads" in told


# -- what can't be run ------------------------------------------------------------------


@pytest.mark.parametrize(
    "url, told",
    [
        ("redis://:topsecret@127.0.0.1:1/0", "no usable server at 127.0.0.1:1"),
        ("redis://:top/secret@127.0.0.1:6379", "percent-encoded"),
        ("redis://:1#topsecret@127.0.0.1:6379", "percent-encoded"),
        ("http://:topsecret@127.0.0.1", "redis://..."),
        ("redis://127.0.0.1?max_connections=3&order=fifo", "max_connections, order"),
        ("redis://127.0.0.1?protocol=3", "given twice"),
        ("redis://127.0.0.1:1?nonsense=3", "nonsense"),
        ("", "no usable server"),
    ],
)
def test_a_url_that_cannot_be_used_ends_in_status_2_and_is_not_quoted(
    url: str, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    assert main([*QUICK, "--protocol", "2", "--url", url]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and told in shown.err
    assert "secret" not in shown.err


def test_a_wrong_password_ends_in_status_2_and_is_not_shown(
    acl_server: ACLServer, capsys: pytest.CaptureFixture[str]
) -> None:
    url = acl_server.url.replace(acl_server.app_password, "not%20this")
    assert main([*QUICK, "--url", url]) == 2
    told = capsys.readouterr().err
    assert "AuthenticationError" in told and "this" not in told


def test_a_server_that_takes_no_keys_ends_in_status_2(
    start_server: StartServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server = start_server(args=("--maxmemory", "1", "--maxmemory-policy", "noeviction"))
    assert main([*QUICK, "--url", server.url]) == 2
    assert "the benchmark's keys can't be written" in capsys.readouterr().err


def test_without_a_server_the_status_is_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setattr(servers, "_candidates", lambda: iter(()))
    assert main(list(QUICK)) == 2
    assert servers.INSTALL_HINT in capsys.readouterr().err


@pytest.mark.parametrize(
    "option, value, told",
    [
        ("--threads", "1,0", "from 1 to 500"),
        ("--threads", "two", "from 1 to 500"),
        ("--connections", "0", "from 1 to 500"),
        ("--value-size", "16777217", "from 1 to 16777216"),
        ("--pipeline", "0", "from 1 to 10000"),
        ("--rounds", "0", "from 1 to 1000"),
        ("--duration", "nan", "more than 0 seconds"),
        ("--duration", "x", "more than 0 seconds"),
        ("--mix", "get=90,fly=10", "none of the commands: ping, get,"),
        ("--mix", "get=0", "weight of get must be"),
        ("--mix", "get,get", "named twice"),
        ("--protocol", "4", "choose from"),
    ],
)
def test_senseless_options_are_refused_by_name(
    option: str, value: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", option, value])
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert f"argument {option}: " in shown and told in shown


def test_too_short_a_duration_is_refused(
    fresh_db: EmbeddedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--duration", "0.5", "--rounds", "50", "--url", fresh_db.url)
    assert main(["bench", *options]) == 2
    assert "it must be at least 6" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_a_file_that_cannot_be_written_is_refused_before_the_run(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUICK, option, str(tmp_path / "missing" / "x.svg")]) == 2
    assert f"{option}: " in capsys.readouterr().err


# -- the plot ---------------------------------------------------------------------------


def test_a_plot_without_matplotlib_is_refused_and_the_extra_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot, "can_plot", lambda: False)
    assert main([*QUICK, "--plot", str(tmp_path / "x.svg")]) == 2
    assert 'pip install "redis-cpool[plot]"' in capsys.readouterr().err


def test_a_plot_with_an_unknown_ending_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUICK, "--plot", str(tmp_path / "x.gif")]) == 2
    assert ".svg, .png, .pdf" in capsys.readouterr().err


@pytest.mark.filterwarnings("default")  # matplotlib's own dependencies may warn
def test_the_plot_is_drawn(fresh_db: EmbeddedServer, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "plot.svg"
    assert main([*QUICK, "--plot", str(path), "--url", fresh_db.url]) == 0
    assert "</svg>" in path.read_text()


# -- rounds and processes ---------------------------------------------------------------


def a_plan(url: str, **changes: Any) -> Plan:
    settings: dict[str, Any] = dict(
        threads=(1,), sides=(REDIS_PY, CLIENT), rounds=2, duration_s=1.0, mix={"ping": 1}
    )
    return Plan(url=url, value_bytes=8, depth=1, **{**settings, **changes})


def test_the_sides_take_turns_and_every_second_round_is_reversed(
    fresh_db: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[str, int]] = []

    def note(task: Task) -> Measured:
        called.append((task.side, task.round))
        return Measured(1, 1, 1.0, 1.0, {}, {}, None, None, None, None, {})

    monkeypatch.setattr(rounds, "call_worker", note)
    with rounds.prepared(a_plan(fresh_db.url), warn=pytest.fail) as prepared:
        prepared.blocks(lambda text: None)
    assert called == [(REDIS_PY, 0), (CLIENT, 0), (CLIENT, 1), (REDIS_PY, 1)]


def test_the_url_reaches_the_worker_by_stdin_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def note(command: list[str], **options: Any) -> Any:
        assert not any("hidden" in word for word in command)
        assert "hidden" in options["input"] and "env" not in options
        return subprocess.CompletedProcess(command, 1, "", "Traceback\nOops: hidden")

    monkeypatch.setattr(subprocess, "run", note)
    task = a_task("redis://:hidden@127.0.0.1")
    assert "hidden" not in repr(task) + repr(a_plan(task.url))
    with pytest.raises(RunFailed, match=r"cpool\.Redis failed: Oops: \*\*\*$"):
        call_worker(task)


def test_a_worker_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "WORKER_SPARE_S", 0.0)
    with pytest.raises(RunFailed, match="hung"):
        call_worker(a_task("redis://127.0.0.1:1", seconds=1e-6))


def test_a_worker_that_breaks_says_why(fresh_db: EmbeddedServer) -> None:
    with pytest.raises(RunFailed, match="TypeError"):
        call_worker(a_task(fresh_db.url, options={"nonsense": 1}))


def test_a_task_survives_json(fresh_db: EmbeddedServer) -> None:
    seed_and_forget = a_task(fresh_db.url, side=REDIS_PY, load=a_load(mix={"ping": 1}))
    measured = call_worker(seed_and_forget)
    assert measured.commands > 0 and measured.errors == {}


def test_compiled_calls_that_were_refused_are_told_with_the_reason(
    fresh_db: EmbeddedServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CPOOL_FAST_PATH", "0")
    assert main([*QUICK, "--url", fresh_db.url]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "cpool.Redis: 0 of " in shown
    assert "Not all calls were compiled ones" in shown and "(switched off: " in shown


def test_a_missing_hiredis_is_told(
    fresh_db: EmbeddedServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command, "HIREDIS_AVAILABLE", False)
    assert main([*QUICK, "--url", fresh_db.url]) == 0
    assert caveats.NO_HIREDIS in " ".join(capsys.readouterr().out.split())


# -- one measurement --------------------------------------------------------------------


@pytest.mark.parametrize(
    "side, depth, query",
    [
        (REDIS_PY, 1, ""),
        (REDIS_PY, 7, "?protocol=3"),
        (CPOOL, 1, "?protocol=2"),
        (CPOOL, 7, "?decode_responses=yes"),
        (CLIENT, 1, "?protocol=3"),
        (CLIENT, 7, ""),
        (CLIENT, 1, "?decode_responses=yes"),
    ],
)
def test_every_command_gets_the_reply_that_is_expected(
    fresh_db: EmbeddedServer, connect: Clients, side: str, depth: int, query: str
) -> None:
    load = a_load(depth=depth)
    client = connect(fresh_db.url)
    seed(client, load)
    task = a_task(fresh_db.url + query, side, load)
    with contextlib.closing(make_client(task)) as measured:
        driver = Driver(measured, task)
        for call in driver.schedule:
            method, arguments = driver._bound(call)
            replies = method(*arguments)
            check_replies(load, call, replies if depth > 1 else [replies])
        measured.connection_pool.disconnect()
    assert {name for call in driver.schedule for name, _ in call.operations} == set(COMMANDS)
    assert all(0 < client.ttl(key) <= load.ttl_s for key in client.keys())
    remove(client, load)
    assert client.dbsize() == 0


def test_a_measurement_counts_commands_time_and_the_servers_work(
    fresh_db: EmbeddedServer, connect: Clients
) -> None:
    load = a_load(depth=5)
    seed(connect(fresh_db.url), load)
    measured = measure(a_task(fresh_db.url, load=load))
    assert measured.commands == 5 * measured.calls > 0
    assert measured.compiled == measured.calls and measured.refused == {}
    assert measured.server_commands is not None
    assert measured.server_commands >= measured.commands
    assert measured.server_cpu_percent is not None and measured.server_cpu_percent > 0
    assert 0 < measured.latency_ms["p50_ms"] <= measured.latency_ms["p999_ms"]
    assert measured.elapsed_s >= 0.05 and measured.cpu_s > 0


def test_fewer_connections_than_threads_make_blocking_pools_on_all_sides() -> None:
    classes = {}
    for side in (REDIS_PY, CPOOL, CLIENT):
        for connections in (1, 2):
            client = make_client(a_task("redis://127.0.0.1", side, connections=connections))
            assert client.connection_pool.max_connections == connections
            classes[side, connections] = type(client.connection_pool), type(client)
    assert classes == {
        (REDIS_PY, 1): (redis.BlockingConnectionPool, redis.Redis),
        (REDIS_PY, 2): (redis.ConnectionPool, redis.Redis),
        (CPOOL, 1): (cpool.BlockingConnectionPool, redis.Redis),
        (CPOOL, 2): (cpool.ConnectionPool, redis.Redis),
        (CLIENT, 1): (cpool.BlockingConnectionPool, cpool.Redis),
        (CLIENT, 2): (cpool.ConnectionPool, cpool.Redis),
    }


class WrongClient:
    """A client whose replies are somebody else's."""

    def get(self, key: str) -> bytes:
        return b"somebody else's"


def test_wrong_replies_are_counted_and_not_quoted() -> None:
    driver = Driver(WrongClient(), a_task("", load=a_load(mix={"get": 1})))
    driver.run(0.01)
    assert driver.errors() == {"WrongReply: to GET, of type bytes": 4}, "first and last of both"


class BrokenClient:
    """A client whose calls fail, with a text of their own each."""

    calls = 0

    def ping(self) -> None:
        self.calls += 1
        raise ConnectionError(f"call {self.calls}")


def test_errors_that_differ_each_time_take_little_memory_and_no_calls_are_counted() -> None:
    client = BrokenClient()
    driver = Driver(client, a_task("", threads=1, load=a_load(mix={"ping": 1})))
    driver.run(0.01)
    assert len(driver.errors()) <= 6
    assert sum(driver.errors().values()) == client.calls
    assert driver.histogram().count == 0


def test_keys_written_again_meanwhile_are_removed_too(
    fresh_db: EmbeddedServer, connect: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, load = connect(fresh_db.url), a_load(mix={"incr": 1})
    seed(client, load)
    late = iter([load.key("counter", 1)])
    delete = client.delete

    def delete_and_write(*keys: str) -> Any:
        deleted = delete(*keys)
        for key in late if load.key("counter", 999) in keys else ():
            client.incr(key)
        return deleted

    monkeypatch.setattr(client, "delete", delete_and_write)
    remove(client, load)
    assert client.dbsize() == 0 and next(late, None) is None


@pytest.mark.parametrize("value_bytes", [1, 64, 1 << 20, 16 << 20])
def test_keys_and_bytes_are_bounded(value_bytes: int) -> None:
    load = a_load(value_bytes=value_bytes)
    for family in load.families():
        assert 1 <= load.key_count(family) <= 1000
    assert load.key_count("string") * len(load.value(0)) <= 16 << 20
    assert load.key_count("hash") * 10 * len(load.element(0)) <= max(16 << 20, 10_000)
    assert len(load.value(123)) == value_bytes


def test_equal_rounds_draw_equal_calls_and_others_differ() -> None:
    load = a_load()
    assert schedule(load, 1) == schedule(load, 1) != schedule(load, 2)


def test_the_password_of_a_mistyped_option_is_not_repeated(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "--ulr", "redis://user:p@ss@host:1/0"])
    shown = capsys.readouterr().err
    assert "--ulr redis://***@host:1/0" in shown
    assert "p@ss" not in shown
