"""Tests of the servers that the other tests and the demo rely on."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import redis
import redis.sentinel

from cpool.tools import servers as tools
from cpool.tools.servers import EmbeddedServer, ServerError, ServerNotFoundError
from tests.support import servers
from tests.support.servers import ACLServer, SentinelSetup, StartServer, TLSServer, wait_until
from tests.support.tls import Certificates, TLSProxy


def client_of(server: EmbeddedServer, **options: object) -> contextlib.closing[redis.Redis]:
    return contextlib.closing(redis.Redis.from_url(server.url, **options))


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A killed child of somebody else may be left to be reaped: it is dead all the same.
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


# -- finding a server -------------------------------------------------------------------


def test_a_given_url_is_chosen_before_redis_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://from.environment:1")
    assert tools.find_server("redis://given:2").url == "redis://given:2"
    assert tools.find_server().url == "redis://from.environment:1"


def test_without_a_url_an_installed_binary_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    choice = tools.find_server()
    assert choice.url is None
    assert choice.binary is not None and tools.server_version(choice.binary.path)


def test_path_comes_before_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "valkey-server"
    fake.write_text("#!/bin/sh\necho Valkey server v=1.2.3\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = tools.find_binary()
    assert (found.path, found.version) == (str(fake), "Valkey 1.2.3")


def test_a_binary_that_cannot_run_here_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "redis-server"
    broken.write_text("not a program")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(tools, "_PACKAGES", ())
    with pytest.raises(ServerNotFoundError):
        tools.find_binary()


def test_packages_are_searched_when_path_has_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "somelite"
    (package / "bin").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    binary = package / "bin" / "redis-server"
    binary.write_text("#!/bin/sh\necho Redis server v=9.9.9\n")
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(tools, "_PACKAGES", ("not_installed_at_all", "somelite"))
    assert tools.find_binary().path == str(binary)


def test_no_server_at_all_names_the_command_to_install_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(tools, "_PACKAGES", ())
    with pytest.raises(ServerNotFoundError, match=r'pip install "redis-cpool\[demo\]"'):
        tools.find_server()


def test_a_free_port_is_below_the_ephemeral_range() -> None:
    port = tools.free_port()
    assert 10000 <= port < tools._first_ephemeral_port()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", port))


# -- running one ------------------------------------------------------------------------


def test_a_killed_server_comes_back_on_its_port_and_empty(start_server: StartServer) -> None:
    server = start_server()
    port, pid = server.port, server.pid
    with client_of(server) as client:
        client.set("key", "value")
    server.kill()
    assert not is_running(pid)
    with pytest.raises(ServerError, match="not running"):
        _ = server.pid
    server.restart()
    assert server.port == port and server.pid != pid
    with client_of(server) as client:
        assert client.get("key") is None


def test_stop_ends_the_process_and_removes_its_directory(start_server: StartServer) -> None:
    server = start_server()
    pid, directory = server.pid, server.directory
    server.stop()
    server.stop()
    assert not is_running(pid) and not directory.exists()


def test_a_suspended_server_can_be_stopped(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "_STOP_TIMEOUT_S", 0.1)
    server = start_server()
    pid = server.pid
    os.kill(pid, signal.SIGSTOP)
    server.stop()
    assert not is_running(pid)


def test_a_server_that_cannot_start_tells_its_log_and_leaves_nothing(tmp_path: Path) -> None:
    server = EmbeddedServer(servers.chosen_binary())
    with pytest.raises(ServerError, match="no-such-option"):
        server.start(args=("--no-such-option", "1"))
    assert server._directory is None and server._process is None


def test_a_taken_port_is_an_error_if_it_was_asked_for(start_server: StartServer) -> None:
    taken = start_server().port
    with pytest.raises(ServerError, match="already in use"):
        start_server(port=taken)


def test_a_port_lost_to_a_race_is_replaced(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, free = start_server().port, tools.free_port()
    offers = iter([taken, taken, free])
    monkeypatch.setattr(tools, "free_port", lambda: next(offers))
    assert start_server().port == free


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_the_server_ends_when_its_owner_is_killed(sig: signal.Signals) -> None:
    code = (
        "import sys, time; from cpool.tools.servers import EmbeddedServer\n"
        "server = EmbeddedServer(sys.argv[1]).start()\n"
        "print(server.pid, server.directory, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, servers.chosen_binary()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid, directory = owner.stdout.readline().split()
        assert is_running(int(pid))
        owner.send_signal(sig)
    wait_until(lambda: not is_running(int(pid)), "the orphan has ended")
    wait_until(lambda: not os.path.exists(directory), "its directory is gone")


def test_a_forked_child_leaves_the_server_running(start_server: StartServer) -> None:
    server = start_server()
    child = os.fork()
    if child == 0:
        try:
            server.stop()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    with client_of(server) as client:
        assert client.ping()


# -- the fixtures -----------------------------------------------------------------------


def test_the_standalone_server_allows_debug(redis_server: EmbeddedServer) -> None:
    with client_of(redis_server) as client:
        assert client.execute_command("DEBUG", "SLEEP", "0") == b"OK"


def test_a_fresh_db_is_empty(fresh_db: EmbeddedServer) -> None:
    with client_of(fresh_db) as client:
        client.set("left", "over")
        servers.flush(fresh_db)
        assert client.dbsize() == 0


def test_the_unix_server_has_no_tcp_port(unix_server: EmbeddedServer) -> None:
    assert unix_server.url.startswith("unix:///")
    with client_of(unix_server) as client:
        assert client.config_get("port") == {"port": "0"}
        assert client.connection_pool.connection_class is redis.UnixDomainSocketConnection


def test_the_acl_server_knows_app_and_refuses_others(acl_server: ACLServer) -> None:
    with contextlib.closing(redis.Redis.from_url(acl_server.url)) as client:
        assert client.acl_whoami() == "app"
    with client_of(acl_server.server, password=acl_server.password) as client:
        assert client.acl_whoami() == "default"
    with client_of(acl_server.server) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    with client_of(acl_server.server, username="app", password="wrong") as client:
        with pytest.raises(redis.AuthenticationError):
            client.ping()


def test_the_tls_server_shows_a_certificate_of_the_authority(tls_server: TLSServer) -> None:
    with contextlib.closing(redis.Redis.from_url(tls_server.url)) as client:
        assert client.echo("x" * 100_000) == b"x" * 100_000


def test_the_tls_server_is_refused_by_who_does_not_know_the_authority(
    tls_server: TLSServer,
) -> None:
    url = f"rediss://{tls_server.host}:{tls_server.port}/0"
    with contextlib.closing(redis.Redis.from_url(url)) as client:
        with pytest.raises(redis.ConnectionError, match="certificate"):
            client.ping()


def test_the_tls_port_answers_nothing_in_the_clear(tls_server: TLSServer) -> None:
    assert not tools.ping((tls_server.host, tls_server.port))


def test_a_tls_proxy_serves_a_server_without_tls(
    redis_server: EmbeddedServer, certificates: Certificates
) -> None:
    address, context = (redis_server.host, redis_server.port), certificates.server_context()
    with TLSProxy(address, context) as proxy:
        served = TLSServer(redis_server, proxy.port, certificates, native=False)
        with contextlib.closing(redis.Redis.from_url(served.url)) as client:
            assert client.echo("x" * 1_000_000) == b"x" * 1_000_000
    with socket.socket() as sock, pytest.raises(ConnectionRefusedError):
        sock.connect((proxy.host, proxy.port))


def test_a_tls_proxy_says_why_it_cannot_start(
    redis_server: EmbeddedServer, certificates: Certificates
) -> None:
    address = (redis_server.host, redis_server.port)
    with pytest.raises(OSError, match="in use"):
        with TLSProxy(address, certificates.server_context(), port=redis_server.port):
            pass


def test_a_failover_promotes_the_replica_and_leaves_a_complete_setup(
    sentinel_setup: SentinelSetup,
) -> None:
    old, new = sentinel_setup.master, sentinel_setup.replica
    sentinel = redis.sentinel.Sentinel(sentinel_setup.addresses)
    assert sentinel.discover_master(sentinel_setup.name) == (old.host, old.port)
    sentinel_setup.failover()
    assert (sentinel_setup.master, sentinel_setup.replica) == (new, old)
    assert sentinel.discover_master(sentinel_setup.name) == (new.host, new.port)
    assert sentinel.discover_slaves(sentinel_setup.name) == [(old.host, old.port)]
    with client_of(new) as client:
        client.set("after", "failover")
        assert client.wait(1, 5000) == 1


@pytest.mark.slow
def test_a_second_failover_works_as_the_first(sentinel_setup: SentinelSetup) -> None:
    for _ in range(2):
        expected = sentinel_setup.replica
        sentinel_setup.failover()
        assert sentinel_setup.master is expected


def test_waiting_in_vain_is_an_error() -> None:
    with pytest.raises(TimeoutError, match="pigs fly"):
        wait_until(lambda: False, "pigs fly", timeout_s=0.05)


def test_a_wrong_cpool_test_server_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(servers.SERVER_VARIABLE, "/nowhere/redis-server")
    with pytest.raises(ServerError, match="/nowhere/redis-server"):
        servers.chosen_binary.__wrapped__()
