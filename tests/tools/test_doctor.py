"""cpool.tools.doctor.examine(): each planted fault is found and its fix named; health is not.

What can be had for real is planted for real. An interpreter without the GIL and a full
server are described to the checks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import redis
import redis.asyncio
import redis.retry
from redis.sentinel import Sentinel

import cpool
from cpool import unusable
from cpool.tools.doctor import (
    Diagnosis,
    Finding,
    examine,
    process_checks,
    server_checks,
    subject_checks,
)
from cpool.tools.doctor.evidence import Evidence
from cpool.tools.doctor.examination import CHECKS, diagnose
from cpool.tools.doctor.process import (
    PACKAGE,
    Green,
    Interpreter,
    Module,
    Process,
    compiled_modules,
)
from cpool.tools.doctor.server import Server
from cpool.tools.doctor.subject import Probe, Subject
from cpool.tools.servers import EmbeddedServer
from tests.connection.fakeserver import CLOSE, FakeServer
from tests.support.servers import ACLServer, StartServer, TLSServer

ROOT = Path(__file__).parents[2]
OF_THE_INSTALLATION = {"other-copy-installed"}
HELLO_UNKNOWN = b"-ERR unknown command 'HELLO'\r\n"
HAS_RESP3_BY_DEFAULT = redis.VERSION >= (8,)

Add = Callable[[Any], Any]


@pytest.fixture
def add() -> Iterator[Add]:
    """Give a function that takes a client or pool to be closed after the test."""
    with contextlib.ExitStack() as stack:

        def add(made: Any) -> Any:
            pool = getattr(made, "connection_pool", made)
            stack.callback(pool.disconnect)
            return made

        yield add


@pytest.fixture
def client(fresh_db: EmbeddedServer, add: Add) -> cpool.Redis:
    """Give a client with nothing wrong."""
    found: cpool.Redis = add(cpool.Redis.from_url(fresh_db.url, max_connections=4))
    return found


def ids(diagnosis: Diagnosis, level: str | None = None) -> set[str]:
    return {each.id for each in diagnosis.findings if level in (None, each.level)}


def found(diagnosis: Diagnosis, id: str) -> Finding:
    """Return the one finding of that id."""
    (finding,) = (each for each in diagnosis.findings if each.id == id)
    return finding


def findings_of(process: Process, **evidence: Any) -> Diagnosis:
    return diagnose(Evidence(process, **evidence))


def a_process(**changes: Any) -> Process:
    """This process, without what other tests may have left in it."""
    clean: dict[str, Any] = {"green": (), "wrapped": (), "refused": {}, "taken": 0}
    return dataclasses.replace(Process.look(), **(clean | changes))


def a_server(**changes: Any) -> Server:
    """A server with nothing wrong."""
    info = {"redis_version": "7.0.15", "maxclients": "10000", "connected_clients": "3"}
    fields: dict[str, Any] = {"protocol_chosen": False, "protocol_asked": 3, "protocol": 3}
    fields |= {"info": info | changes.pop("info", {}), "round_trips_s": (1e-4,) * 100}
    return Server(**(fields | changes))


def of_server(**changes: Any) -> Diagnosis:
    subject = Subject.of(cpool.ConnectionPool(max_connections=3))
    return findings_of(a_process(), subject=subject, server=a_server(**changes))


def of_stats(**changes: int | float) -> Diagnosis:
    subject = Subject.of(cpool.ConnectionPool(max_connections=3))
    assert subject.stats is not None
    stats = dataclasses.replace(subject.stats, **changes)  # type: ignore[arg-type]
    return findings_of(a_process(), subject=dataclasses.replace(subject, stats=stats))


# -- healthy ----------------------------------------------------------------------------


def test_a_healthy_client_has_no_problem_and_takes_the_compiled_call(client: cpool.Redis) -> None:
    diagnosis = examine(client)
    assert diagnosis.problems == ()
    assert diagnosis.facts["client"]["compiled_pings"] == 5
    assert diagnosis.facts["server"]["reachable"] is True
    assert diagnosis.facts["server"]["connected_clients"] >= 1
    assert 0 < diagnosis.facts["server"]["round_trip_p50_ms"] < 1000


def test_without_a_client_the_process_is_examined() -> None:
    diagnosis = examine()
    assert set(diagnosis.facts) == {"process"}
    assert diagnosis.facts["process"]["compiled_modules"][0] == "_client"
    assert diagnosis.problems == ()


def test_a_pool_alone_is_examined(fresh_db: EmbeddedServer, add: Add) -> None:
    diagnosis = examine(add(cpool.ConnectionPool.from_url(fresh_db.url, max_connections=2)))
    assert diagnosis.problems == ()
    assert diagnosis.facts["client"]["compiled_pings"] == 5


def test_the_examined_pool_keeps_its_connections(client: cpool.Redis) -> None:
    examine(client)
    stats = client.connection_pool.stats()
    assert (stats.open, stats.in_use, stats.created) == (1, 0, 1)


def test_decoded_replies_are_read_as_well(fresh_db: EmbeddedServer, add: Add) -> None:
    client = add(cpool.Redis.from_url(fresh_db.url, decode_responses=True))
    facts = examine(client).facts["server"]
    assert facts["server"] != "Redis ?" and facts["timeout"] == 0


def test_the_server_is_only_asked_what_changes_nothing(add: Add) -> None:
    with FakeServer({"INFO": b"$0\r\n\r\n", "CONFIG": b"*0\r\n"}) as server:
        examine(add(cpool.Redis(host=server.host, port=server.port, protocol=3)))
        asked = {
            words[0]
            for connection in server.connections
            for batch in connection
            for words in batch
        }
    assert asked <= {b"HELLO", b"CLIENT", b"PING", b"INFO", b"CONFIG"}


def test_all_levels_can_be_shown_and_written_as_json(client: cpool.Redis) -> None:
    diagnosis = diagnose(
        Evidence(a_process(fast_path_enabled=False), Subject.of(client), a_server())
    )
    text = diagnosis.text()
    assert "PROBLEM" in text and "fix:" in text and "[fast-path-off]" in text
    assert diagnosis.as_dict()["findings"][0]["id"] == "fast-path-off"
    assert text.splitlines()[-1].startswith("1 problem, ")


@pytest.mark.parametrize(
    "given",
    [
        redis.asyncio.Redis(),
        redis.asyncio.ConnectionPool(),
        redis.Redis().pipeline(),
        cpool.Redis().pubsub(),
        redis.Redis,
        1,
    ],
    ids=["asyncio", "asyncio's pool", "pipeline", "pubsub", "class", "int"],
)
def test_what_is_no_client_and_no_pool_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match="client_or_pool must be"):
        examine(given)


# -- the process ------------------------------------------------------------------------


def test_hiredis_on_a_python_without_the_gil_is_found() -> None:
    python = Interpreter(free_threaded=True, gil_enabled=True)
    diagnosis = findings_of(a_process(interpreter=python, hiredis="3.5.0"))
    finding = found(diagnosis, "gil-enabled-by-hiredis")
    assert finding.level == "problem" and "pip uninstall hiredis" in finding.fix
    assert "cpool switches the GIL on as well" in finding.fix
    assert found(diagnosis, "gil-enabled-by-cpool").level == "problem"


def test_a_hiredis_younger_than_those_that_are_known_is_not_blamed_for_the_gil() -> None:
    python = Interpreter(free_threaded=True, gil_enabled=True)
    diagnosis = findings_of(a_process(interpreter=python, hiredis="3.9.0"))
    assert "gil-enabled-by-hiredis" not in ids(diagnosis)


def test_nobody_is_blamed_for_a_gil_that_was_asked_for() -> None:
    python = Interpreter(free_threaded=True, gil_enabled=True, gil_asked="1")
    diagnosis = findings_of(
        a_process(interpreter=python, hiredis="3.5.0", other_extensions=("theirs",))
    )
    assert {each for each in ids(diagnosis) if each.startswith("gil-")} == {"gil-forced-on"}


def test_without_hiredis_only_cpool_has_switched_the_gil_on() -> None:
    python = Interpreter(free_threaded=True, gil_enabled=True)
    diagnosis = findings_of(a_process(interpreter=python, hiredis=None, other_extensions=()))
    assert ids(diagnosis) - OF_THE_INSTALLATION == {"gil-enabled-by-cpool"}


@pytest.mark.parametrize("asked, id", [("1", "gil-forced-on"), ("0", "gil-forced-off")])
def test_a_gil_that_was_asked_for_is_told(asked: str, id: str) -> None:
    python = Interpreter(free_threaded=True, gil_enabled=asked == "1", gil_asked=asked)
    assert "PYTHON_GIL" in found(findings_of(a_process(interpreter=python)), id).fix


def test_the_probes_of_the_gil_are_asked_at_each_examination() -> None:
    with (
        mock.patch("sys._is_gil_enabled", lambda: True, create=True),
        mock.patch("sysconfig.get_config_var", {"Py_GIL_DISABLED": 1}.get),
    ):
        assert Interpreter.here() == Interpreter(True, True, None)


@pytest.mark.parametrize(
    "changes, id",
    [
        ({"modules": (Module("_pool", ".so", str(PACKAGE), True),)}, "modules-stale"),
        ({"modules": (Module("_pool", ".so", "/elsewhere"),)}, "modules-elsewhere"),
        ({"installed_in": "/elsewhere"}, "other-copy-installed"),
        ({"stranger": True}, "stranger-installed"),
        ({"redis_py": "6.2.0"}, "redis-py-unsupported"),
        ({"redis_py": "9.0.0"}, "redis-py-unsupported"),
        ({"green": (Green("gevent", True, True, True),)}, "patched-late"),
        ({"green": (Green("gevent", True, False, False),)}, "locks-not-patched"),
        ({"green": (Green("eventlet", True, False, True),)}, "patched"),
        ({"green": (Green("gevent", True, None, True),)}, "patched"),
        ({"green": (Green("gevent", False, None, False),)}, "not-patched"),
        ({"metrics_on": True}, "metrics-on"),
        ({"fast_path_enabled": False}, "fast-path-off"),
        ({"refused": {"health check due": 200}}, "fast-path-refused-before"),
    ],
)
def test_a_fault_of_the_process_is_found(changes: dict[str, Any], id: str) -> None:
    assert found(findings_of(a_process(**changes)), id).fix


@pytest.mark.parametrize("version", ["6.4.0", "7.4.1", "8.1.0", "8.99"])
def test_supported_versions_of_redis_py_are_no_fault(version: str) -> None:
    assert "redis-py-unsupported" not in ids(findings_of(a_process(redis_py=version)))


def test_the_supported_versions_are_those_of_the_package() -> None:
    assert process_checks.SUPPORTED_REDIS_PY == unusable.SUPPORTED_REDIS_PY
    lowest, below = unusable.SUPPORTED_REDIS_PY
    assert f'"redis>={lowest},<{below}"' in (ROOT / "pyproject.toml").read_text()


def test_the_compiled_modules_of_this_process_are_found_and_match_it() -> None:
    process = Process.look()
    names = {module.name for module in process.modules}
    assert names == {path.name.partition(".")[0] for path in PACKAGE.glob("_*.so")}
    assert "modules-elsewhere" not in ids(findings_of(process))


@pytest.mark.parametrize(
    "name, stale",
    [
        ("_pool.pyx", {"_pool"}),
        ("_pool.pxd", {each.name for each in Process.look().modules}),
        ("cp_buf.c", {each.name for each in Process.look().modules}),
    ],
)
def test_a_source_younger_than_what_is_built_of_it_is_found(
    tmp_path: Path, name: str, stale: set[str]
) -> None:
    source = tmp_path / "src" / "cpool" / name
    source.parent.mkdir(parents=True)
    source.touch()
    os.utime(source, (0, 0))
    assert not any(each.is_stale for each in compiled_modules(tmp_path / "cpool"))
    in_future_s = time.time() + 3600
    os.utime(source, (in_future_s, in_future_s))
    assert {each.name for each in compiled_modules(tmp_path / "cpool") if each.is_stale} == stale


def test_a_switched_off_fast_path_is_found(client: cpool.Redis) -> None:
    cpool.fast_path.disable()
    try:
        diagnosis = examine(client)
    finally:
        cpool.fast_path.enable()
    assert ids(diagnosis, "problem") == {"fast-path-off"}
    assert "cpool.fast_path.enable()" in found(diagnosis, "fast-path-off").fix


def test_a_wrapper_above_the_compiled_call_is_told_as_harmless(client: cpool.Redis) -> None:
    def watched(self: Any, *args: Any, **options: Any) -> Any:
        return original(self, *args, **options)

    original = redis.Redis.execute_command
    with mock.patch.object(redis.Redis, "execute_command", watched):
        diagnosis = examine(client)
    assert diagnosis.problems == ()
    assert f"Redis.execute_command by {__name__}" in found(diagnosis, "instrumented").seen


def test_a_wrapper_below_is_found_and_named(client: cpool.Redis) -> None:
    def watched(self: Any, *args: Any, **options: Any) -> Any:
        return original(self, *args, **options)

    original = redis.Connection.send_command
    with mock.patch.object(redis.Connection, "send_command", watched):
        diagnosis = examine(client)
    assert ids(diagnosis, "problem") == {"instrumented-below"}
    assert "Connection.send_command" in found(diagnosis, "instrumented-below").seen


# -- whose client, pool and connections -------------------------------------------------


class ForeignConnection(redis.Connection):
    """A connection of somebody's, as redis-py's."""


class OwnConnection(cpool.Connection):
    def send_command(self, *args: Any, **options: Any) -> None:
        super().send_command(*args, **options)


class OwnClient(cpool.Redis):
    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        return super().parse_response(connection, command_name, **options)


class OwnPool(cpool.ConnectionPool):
    def release(self, connection: Any) -> None:
        super().release(connection)


class OwnRetry(redis.retry.Retry):
    """A retry policy of somebody's."""


def test_a_foreign_connection_class_is_found_and_named(fresh_db: EmbeddedServer, add: Add) -> None:
    pool = cpool.ConnectionPool.from_url(fresh_db.url, connection_class=ForeignConnection)
    diagnosis = examine(add(cpool.Redis(connection_pool=pool)))
    assert ids(diagnosis, "problem") == {"foreign-connection-class"}
    finding = found(diagnosis, "foreign-connection-class")
    assert "ForeignConnection" in finding.seen and "cpool.Connection" in finding.fix


@pytest.mark.parametrize(
    "make, id, method, fix",
    [
        (
            lambda url: OwnClient.from_url(url),
            "own-client-methods",
            "OwnClient.parse_response",
            "Override execute_command",
        ),
        (
            lambda url: cpool.Redis(connection_pool=OwnPool.from_url(url)),
            "own-pool-methods",
            "OwnPool.release",
            "without a get_connection() or release()",
        ),
        (
            lambda url: cpool.Redis(
                connection_pool=cpool.ConnectionPool.from_url(url, connection_class=OwnConnection)
            ),
            "own-connection-methods",
            "OwnConnection.send_command",
            "Override execute_command",
        ),
    ],
)
def test_overridden_methods_are_found_and_named(
    fresh_db: EmbeddedServer, add: Add, make: Callable[[str], Any], id: str, method: str, fix: str
) -> None:
    diagnosis = examine(add(make(fresh_db.url)))
    assert ids(diagnosis, "problem") == {id}
    assert method in found(diagnosis, id).seen
    assert fix in found(diagnosis, id).fix


def test_a_method_put_on_the_client_itself_is_found(client: cpool.Redis) -> None:
    client.parse_response = client.parse_response  # type: ignore[method-assign]
    finding = found(examine(client), "own-client-methods")
    assert "Redis.parse_response by the instance itself" in finding.seen


def test_a_connection_that_was_patched_at_run_time_is_found(client: cpool.Redis) -> None:
    connection = client.connection_pool.get_connection()
    connection.can_read = lambda timeout=0: False
    client.connection_pool.release(connection)
    finding = found(examine(client), "fast-path-refused")
    assert "connection overridden" in finding.seen
    assert subject_checks.REASONS["connection overridden"] in finding.fix


def test_every_reason_of_the_fast_path_has_a_fix() -> None:
    assert subject_checks.REASONS.keys() == cpool.fast_path.stats().refused.keys()


def test_a_retry_class_of_ones_own_is_found(fresh_db: EmbeddedServer, add: Add) -> None:
    retry = OwnRetry(redis.backoff.NoBackoff(), 1)
    diagnosis = examine(add(cpool.Redis.from_url(fresh_db.url, retry=retry)))
    assert ids(diagnosis, "problem") == {"own-retry"}
    assert "OwnRetry" in found(diagnosis, "own-retry").seen


def test_redis_pys_client_on_its_own_pool_is_told(fresh_db: EmbeddedServer, add: Add) -> None:
    finding = found(examine(add(redis.Redis.from_url(fresh_db.url))), "not-cpool")
    assert finding.level == "problem" and "cpool.install()" in finding.fix


def test_redis_pys_client_on_our_pool_is_told(fresh_db: EmbeddedServer, add: Add) -> None:
    pool = cpool.ConnectionPool.from_url(fresh_db.url, max_connections=3)
    finding = found(examine(add(redis.Redis(connection_pool=pool))), "pool-only")
    assert finding.level == "warning" and "cpool.Redis" in finding.fix


@pytest.mark.parametrize(
    "pool_class, id", [(cpool.ConnectionPool, "pool-only"), (redis.ConnectionPool, "not-cpool")]
)
def test_for_a_client_of_a_clusters_node_the_fix_is_install(pool_class: Any, id: str) -> None:
    cluster = redis.RedisCluster.__new__(redis.RedisCluster)  # there is none to connect to
    pool = pool_class(redis_connect_func=cluster.on_connect, max_connections=3)
    subject = Subject.of(redis.Redis(connection_pool=pool))
    server = a_server(info={"redis_mode": "cluster"})
    diagnosis = findings_of(a_process(), subject=subject, server=server)
    fix = found(diagnosis, id).fix
    assert "cpool.RedisCluster" in fix and "cpool.install() before the RedisCluster" in fix
    assert "server-is-cluster-node" not in ids(diagnosis)


def test_our_client_on_redis_pys_pool_is_found(fresh_db: EmbeddedServer, add: Add) -> None:
    pool = redis.ConnectionPool.from_url(fresh_db.url)
    diagnosis = examine(add(cpool.Redis(connection_pool=pool)))
    assert ids(diagnosis, "problem") == {"foreign-pool"}
    assert "cpool.ConnectionPool" in found(diagnosis, "foreign-pool").fix


def test_a_client_of_install_is_known_as_ours(fresh_db: EmbeddedServer, add: Add) -> None:
    before = add(redis.Redis.from_url(fresh_db.url))
    cpool.install()
    try:
        made = add(redis.Redis.from_url(fresh_db.url, max_connections=3))
        assert examine(made).problems == ()
        assert "what was made before" in found(examine(before), "not-cpool").fix
    finally:
        cpool.uninstall()


@pytest.mark.parametrize(
    "options, id",
    [
        ({"single_connection_client": True}, "single-connection"),
        ({"health_check_interval": 1}, "health-checks"),
        ({"protocol": 2}, "resp2-asked"),
    ],
)
def test_options_worth_knowing_are_notes(
    fresh_db: EmbeddedServer, add: Add, options: dict[str, Any], id: str
) -> None:
    client = add(cpool.Redis.from_url(fresh_db.url, **options))
    diagnosis = examine(client)
    client.close()
    assert diagnosis.problems == ()
    assert found(diagnosis, id).level == "note"


def test_a_client_side_cache_is_told(add: Add) -> None:
    config = redis.cache.CacheConfig()
    client = add(cpool.Redis(protocol=3, cache_config=config))
    diagnosis = findings_of(a_process(), subject=Subject.of(client))
    assert found(diagnosis, "client-side-cache").level == "note"


def test_of_a_client_behind_sentinels_there_is_nothing_to_say() -> None:
    subject = Subject.of(cpool.Sentinel([]).master_for("my-service"))
    probed = dataclasses.replace(subject, probe=Probe(1, ()))
    assert findings_of(a_process(), subject=probed).problems == ()


def test_what_redis_py_raises_for_a_client_is_told_without_passwords(client: cpool.Redis) -> None:
    class Refused(cpool.Redis):
        def execute_command(self, *args: Any, **options: Any) -> Any:
            raise redis.ConnectionError("no caching here, said pass-word")

    client.connection_pool.connection_kwargs["password"] = "pass-word"
    subject = Subject.of(Refused(connection_pool=client.connection_pool)).probed()
    finding = found(findings_of(a_process(), subject=subject), "ping-failed")
    assert "ConnectionError: no caching here, said ***" in finding.seen


def test_a_client_that_raises_is_found(client: cpool.Redis) -> None:
    class Strange(cpool.Redis):
        def execute_command(self, *args: Any, **options: Any) -> Any:
            raise KeyError("secret of theirs")

    strange = Strange(connection_pool=client.connection_pool)
    finding = found(examine(strange), "ping-failed")
    assert "KeyError" in finding.seen and "theirs" not in finding.seen


def test_a_cache_that_the_server_is_too_old_for_is_told(client: cpool.Redis) -> None:
    said = "client-side caching is supported by Redis 7.4 or later"
    client.connection_pool.cache = mock.Mock()
    subject = dataclasses.replace(Subject.of(client), probe=Probe(error=said))
    finding = found(findings_of(a_process(), subject=subject), "ping-failed")
    assert "Leave out cache" in finding.fix


class Vault(redis.CredentialProvider):
    """A credential provider that raises what it is given."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def get_credentials(self) -> tuple[str]:
        raise self.error


class VaultError(OSError):
    """An error of somebody's, as those of HTTP clients are."""


@pytest.mark.parametrize(
    "error",
    [RuntimeError("token=pass-word"), TypeError("token=pass-word"), VaultError("pass-word")],
    ids=lambda error: type(error).__name__,
)
def test_texts_of_a_credential_providers_errors_are_not_shown(
    fresh_db: EmbeddedServer, add: Add, error: Exception
) -> None:
    client = add(cpool.Redis.from_url(fresh_db.url, credential_provider=Vault(error)))
    diagnosis = examine(client)
    assert type(error).__name__ in found(diagnosis, "server-unreachable").seen
    probed = findings_of(a_process(), subject=Subject.of(client).probed())
    assert type(error).__name__ in found(probed, "ping-failed").seen
    for each in (diagnosis, probed):
        assert "pass-word" not in str(each.as_dict()) + each.text()


# -- the pool ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda url: cpool.ConnectionPool.from_url(url, max_connections=2),
        lambda url: cpool.BlockingConnectionPool.from_url(url, max_connections=2, timeout=None),
        lambda url: redis.ConnectionPool.from_url(url, max_connections=2),
        lambda url: redis.BlockingConnectionPool.from_url(url, max_connections=2, timeout=None),
    ],
    ids=["cpool", "cpool-blocking", "redis", "redis-blocking"],
)
def test_an_exhausted_pool_is_found_without_waiting_for_it(
    fresh_db: EmbeddedServer, add: Add, make: Callable[[str], Any]
) -> None:
    pool = add(make(fresh_db.url))
    lent = [pool.get_connection(), pool.get_connection()]
    try:
        diagnosis = examine(cpool.Redis(connection_pool=pool))
    finally:
        for connection in lent:
            pool.release(connection)
    finding = found(diagnosis, "pool-exhausted")
    assert finding.level == "problem" and "2 of max_connections=2" in finding.seen
    assert "max_connections" in finding.fix and "release()" in finding.fix
    assert "ping-failed" not in ids(diagnosis)
    assert diagnosis.facts["server"]["reachable"] is True


def test_the_fix_of_an_exhausted_pool_that_does_not_wait_is_to_wait(
    fresh_db: EmbeddedServer, add: Add
) -> None:
    pool = add(cpool.ConnectionPool.from_url(fresh_db.url, max_connections=1))
    lent = pool.get_connection()
    assert "timeout=0.5" in found(examine(pool), "pool-exhausted").fix
    pool.release(lent)
    pool.timeout = 1
    lent = pool.get_connection()
    assert "timeout=0.5" not in found(examine(pool), "pool-exhausted").fix
    pool.release(lent)


@pytest.mark.parametrize(
    "pool_class, options, fate",
    [
        (redis.ConnectionPool, {}, "gets MaxConnectionsError"),
        (redis.BlockingConnectionPool, {}, "waits up to 20 s"),
        (redis.BlockingConnectionPool, {"timeout": 3}, "then gets ConnectionError"),
        (redis.BlockingConnectionPool, {"timeout": None}, "waits until one comes back"),
        (cpool.ConnectionPool, {}, "gets MaxConnectionsError"),
        (cpool.ConnectionPool, {"timeout": 3}, "then gets ConnectionPoolTimeoutError"),
        (cpool.BlockingConnectionPool, {"timeout": None}, "waits until one comes back"),
    ],
)
def test_what_becomes_of_the_next_caller_of_an_exhausted_pool_is_told(
    pool_class: Any, options: dict[str, Any], fate: str
) -> None:
    subject = Subject.of(pool_class(max_connections=3, **options))
    full = dataclasses.replace(subject, in_use=3)
    finding = found(findings_of(a_process(), subject=full), "pool-exhausted")
    assert fate in finding.matters
    assert ("let callers wait" in finding.fix) == ("MaxConnectionsError" in fate)


def test_those_who_waited_in_vain_are_among_the_callers() -> None:
    diagnosis = of_stats(checkouts=1, waits=3, timeouts=2, longest_wait_s=0.2)
    assert "3 of 3 callers waited" in found(diagnosis, "pool-waits").seen


@pytest.mark.parametrize(
    "changes, id",
    [
        ({"timeouts": 1}, "pool-refusals"),
        ({"refused": 1}, "pool-refusals"),
        ({"waits": 1, "longest_wait_s": 0.2}, "pool-waits"),
        ({"reclaimed": 1}, "pool-leaks"),
        ({"discarded": 1}, "pool-discards"),
        ({"checkouts": 1000, "replaced": 10}, "pool-replacements"),
    ],
)
def test_what_a_pool_has_counted_is_judged(changes: dict[str, Any], id: str) -> None:
    assert found(of_stats(**changes), id).level == "warning"


def test_what_examinations_have_sent_is_not_passed_off_as_the_programs() -> None:
    diagnosis = findings_of(a_process(refused={"health check due": 200}))
    assert "PINGs of earlier examinations" in found(diagnosis, "fast-path-refused-before").seen


def test_what_tls_costs_is_not_said_to_be_a_lock_of_the_encryption() -> None:
    matters = found(of_server(transport="TLS"), "tls").matters
    assert "one thread at a time" not in matters and "under the GIL" in matters


def test_few_replaced_connections_are_no_fault() -> None:
    assert "pool-replacements" not in ids(of_stats(checkouts=10_000, replaced=10))


# -- the server -------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_found(add: Add) -> None:
    diagnosis = examine(add(cpool.Redis(port=1, password="pass-word")))
    finding = found(diagnosis, "server-unreachable")
    assert finding.level == "problem" and "Check host and port" in finding.fix
    assert "pass-word" not in str(diagnosis.as_dict()) + diagnosis.text()


def test_a_server_that_refuses_the_password_is_found(acl_server: ACLServer, add: Add) -> None:
    client = add(cpool.Redis(port=acl_server.port, username="app", password="not-it"))
    diagnosis = examine(client)
    assert "password" in found(diagnosis, "server-unreachable").fix
    assert "not-it" not in str(diagnosis.as_dict()) + diagnosis.text()


def test_a_service_that_no_sentinel_knows_is_found(add: Add) -> None:
    sentinel = Sentinel([("localhost", 1)])
    client = sentinel.master_for(
        "my-service", redis_class=cpool.Redis, connection_pool_class=cpool.SentinelConnectionPool
    )
    finding = found(examine(add(client)), "server-unreachable")
    assert "sentinels' my-service" in finding.seen and "SENTINEL MASTERS" in finding.fix


def test_a_refused_password_of_sentinels_is_found(acl_server: ACLServer, add: Add) -> None:
    sentinel = Sentinel(
        [("localhost", acl_server.port)] * 2, sentinel_kwargs={"password": "pass-word"}
    )
    client = sentinel.master_for(
        "my-service", redis_class=cpool.Redis, connection_pool_class=cpool.SentinelConnectionPool
    )
    diagnosis = examine(add(client))
    finding = found(diagnosis, "server-unreachable")
    assert "AuthenticationError" in finding.seen and "sentinel_kwargs" in finding.fix
    assert "pass-word" not in str(diagnosis.as_dict()) + diagnosis.text()


def test_a_certificate_file_that_is_not_there_is_found(tls_server: TLSServer, add: Add) -> None:
    url = f"rediss://{tls_server.host}:{tls_server.port}?ssl_ca_certs=/no/such/file"
    assert "ssl_ca_certs" in found(examine(add(cpool.from_url(url))), "server-unreachable").fix


def test_a_unix_socket_that_is_not_there_is_found(tmp_path: Path, add: Add) -> None:
    client = add(cpool.from_url(f"unix://{tmp_path}/no.sock"))
    assert "unixsocket" in found(examine(client), "server-unreachable").fix


def test_a_tls_port_that_is_taken_for_a_plain_one_is_found(
    tls_server: TLSServer, add: Add
) -> None:
    client = add(cpool.Redis(host=tls_server.host, port=tls_server.port))
    assert "rediss://" in found(examine(client), "server-unreachable").fix


def test_an_option_that_connections_do_not_know_is_found(add: Add) -> None:
    finding = found(examine(add(cpool.from_url("redis://h/?speed=9"))), "server-unreachable")
    assert "'speed'" in finding.seen and "Take that option out" in finding.fix


def test_a_server_that_says_nothing_is_found(add: Add) -> None:
    with FakeServer({"HELLO": lambda words: b"", "CLIENT": lambda words: b""}) as server:
        client = add(cpool.Redis(port=server.port, protocol=3, socket_timeout=0.05))
        assert "firewalls" in found(examine(client), "server-unreachable").fix


def test_a_handshake_that_fails_is_not_tried_as_often_as_the_client_would(add: Add) -> None:
    retry = redis.retry.Retry(redis.backoff.NoBackoff(), 9)
    with FakeServer({"HELLO": CLOSE, "CLIENT": CLOSE}) as server:
        client = add(cpool.Redis(port=server.port, protocol=3, retry=retry))
        assert "server-unreachable" in ids(examine(client))
        assert len(server.connections) <= 2


def test_a_server_without_resp3_is_found_and_examined_all_the_same(add: Add) -> None:
    replies = {"HELLO": HELLO_UNKNOWN, "INFO": b"$22\r\nredis_version:5.0.14\r\n\r\n"}
    with FakeServer({**replies, "CONFIG": b"*0\r\n"}) as server:
        diagnosis = examine(add(cpool.Redis(port=server.port, protocol=3)))
    finding = found(diagnosis, "resp3-refused")
    assert finding.level == "problem" and "protocol=2" in finding.fix
    assert diagnosis.facts["server"]["resp_spoken"] == 2
    assert "6.2" in found(diagnosis, "server-old").fix


def test_a_password_that_a_server_quotes_is_not_shown(add: Add) -> None:
    def quote(words: tuple[bytes, ...]) -> bytes:
        quoted = b" ".join(b"`%s`" % word for word in words[1:])
        return b"-ERR unknown command `HELLO`, with args beginning with: %s\r\n" % quoted

    provider = redis.UsernamePasswordCredentialProvider("user", "pass-word")
    replies = {"HELLO": quote, "AUTH": b"-ERR invalid password\r\n"}
    with FakeServer(replies) as server:
        options = {"port": server.port, "protocol": 3}
        by_provider = examine(add(cpool.Redis(credential_provider=provider, **options)))
        by_password = examine(add(cpool.Redis(password="pass-word", **options)))
    for diagnosis in (by_provider, by_password):
        assert "unknown command" in found(diagnosis, "resp3-refused").seen
        assert "pass-word" not in str(diagnosis.as_dict()) + diagnosis.text()


@pytest.mark.skipif(not HAS_RESP3_BY_DEFAULT, reason="this redis-py asks for RESP2 by default")
def test_a_real_server_without_hello_is_found(start_server: StartServer, add: Add) -> None:
    server = start_server(config='rename-command HELLO ""\n')
    finding = found(examine(add(cpool.Redis.from_url(server.url))), "resp3-refused")
    assert "redis-py's default" in finding.seen


def test_a_user_with_few_rights_gets_a_note(acl_server: ACLServer, add: Add) -> None:
    with contextlib.closing(redis.Redis(port=acl_server.port, password=acl_server.password)) as r:
        r.acl_setuser("few", enabled=True, passwords=["+few"], commands=["+@connection"])
        client = add(cpool.Redis(port=acl_server.port, username="few", password="few"))
        diagnosis = examine(client)
        r.acl_deluser("few")
    assert diagnosis.problems == ()
    assert "INFO, CONFIG GET" in found(diagnosis, "not-permitted").seen


def test_a_server_that_closes_idle_connections_is_told(
    start_server: StartServer, add: Add
) -> None:
    server = start_server(args=("--timeout", "100", "--tcp-keepalive", "0"))
    diagnosis = examine(add(cpool.Redis.from_url(server.url)))
    assert found(diagnosis, "server-closes-idle").level == "warning"
    assert "tcp-keepalive 300" in found(diagnosis, "no-tcp-keepalive").fix


def test_more_connections_than_the_server_takes_are_told(client: cpool.Redis) -> None:
    assert "more-than-maxclients" not in ids(examine(client))
    finding = found(examine(client, processes=5000), "more-than-maxclients")
    assert "20,000 connections" in finding.seen


@pytest.mark.parametrize(
    "changes, id, level",
    [
        ({"info": {"redis_version": "6.0.9"}}, "server-old", "warning"),
        ({"info": {"valkey_version": "7.2.5"}}, "server-old", "warning"),
        ({"info": {"connected_clients": "9900"}}, "clients-nearly-full", "problem"),
        ({"info": {"role": "slave"}}, "server-is-replica", "note"),
        ({"info": {"redis_mode": "cluster"}}, "server-is-cluster-node", "note"),
        ({"transport": "TLS"}, "tls", "note"),
        ({"round_trips_s": (2e-3,) * 10}, "server-far", "note"),
        ({"round_trips_s": (1e-4,) * 95 + (2e-2,) * 5}, "server-jitter", "note"),
        ({"config": {"timeout": "600"}}, "server-closes-idle", "note"),
    ],
)
def test_a_fault_of_the_server_is_found(changes: dict[str, Any], id: str, level: str) -> None:
    assert found(of_server(**changes), id).level == level


@pytest.mark.parametrize("policy, level", [("noeviction", "problem"), ("allkeys-lru", "note")])
def test_a_full_memory_is_judged_by_the_policy(policy: str, level: str) -> None:
    info = {"used_memory": "95", "maxmemory": "100", "maxmemory_policy": policy}
    assert found(of_server(info=info), "memory-full").level == level


def test_the_unlimited_pools_of_older_redis_pys_are_told() -> None:
    subject = Subject.of(cpool.ConnectionPool(max_connections=2**31))
    assert found(findings_of(a_process(), subject=subject), "no-limit").level == "note"


def test_tls_and_unix_sockets_are_told_apart(
    tls_server: TLSServer, unix_server: EmbeddedServer, add: Add
) -> None:
    by_tls = examine(add(cpool.Redis.from_url(tls_server.url)))
    assert by_tls.problems == () and by_tls.facts["server"]["transport"] == "TLS"
    by_unix = examine(add(cpool.Redis.from_url(unix_server.url)))
    assert by_unix.problems == () and by_unix.facts["server"]["transport"] == "unix socket"


# -- the table of checks ----------------------------------------------------------------


def test_every_check_is_in_the_table() -> None:
    modules = (process_checks, subject_checks, server_checks)
    written = {
        each
        for module in modules
        for each in vars(module).values()
        if getattr(each, "__module__", None) == module.__name__
        and getattr(each, "__annotations__", {}).get("return") == "Finding | None"
    }
    assert set(CHECKS) == written and len(CHECKS) == len(written)
