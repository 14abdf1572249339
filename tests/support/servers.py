"""Real servers for the tests: each is started when first asked for, once per session.

Load it with `pytest_plugins = ["tests.support.servers"]`. The server is the executable named
by `$CPOOL_TEST_SERVER`, else the first that cpool.tools.servers finds; never one that is
running already, because tests flush and kill. Without a server the tests fail.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest
import redis

from cpool.tools.sentinels import SentinelTopology
from cpool.tools.servers import (
    EmbeddedServer,
    ServerError,
    find_binary,
    free_port,
    server_version,
)
from tests.support.tls import Certificates, TLSProxy

SERVER_VARIABLE = "CPOOL_TEST_SERVER"
WAIT_TIMEOUT_S = 30.0

DEFAULT_PASSWORD = "default-secret"
APP_USER, APP_PASSWORD = "app", "app-secret"
ACL_CONFIG = f"""
requirepass {DEFAULT_PASSWORD}
user {APP_USER} on >{APP_PASSWORD} ~* &* +@all
"""

# A sentinel lets 1 s pass between two attempts to connect to "the master", whoever that is.
# With less than that and some, it may take a master just promoted for dead.
DOWN_AFTER_MS = 1500
_NO_TLS_LOGS = ("Bad directive", "connection type tls", "TLS support")

StartServer = Callable[..., EmbeddedServer]


def wait_until(done: Callable[[], object], what: str, timeout_s: float = WAIT_TIMEOUT_S) -> None:
    """Poll until `done()` is true; a redis error counts as not yet. Raises TimeoutError."""
    give_up_s = time.monotonic() + timeout_s
    while time.monotonic() < give_up_s:
        with contextlib.suppress(redis.RedisError):
            if done():
                return
        time.sleep(0.02)
    raise TimeoutError(f"not in {timeout_s} s: {what}")


@functools.cache
def chosen_binary() -> str:
    """Return the server executable to test with. Raises ServerError."""
    path = os.environ.get(SERVER_VARIABLE)
    if path is None:
        return find_binary().path
    if server_version(path) is None:
        raise ServerError(f"{SERVER_VARIABLE}={path} is no server that runs here")
    return path


@functools.cache
def debug_args(binary: str) -> tuple[str, ...]:
    """Return the options that allow DEBUG; before version 7 it needs none and rejects these."""
    args = ("--enable-debug-command", "local")
    try:
        with EmbeddedServer(binary).start(port=0, args=args):
            return args
    except ServerError as error:
        if "Bad directive" not in str(error):
            raise
        return ()


def start(
    port: int | None = None,
    args: Sequence[str] = (),
    config: str = "",
    binary: str | None = None,
) -> EmbeddedServer:
    """Start a server that allows DEBUG; the caller stops it."""
    binary = binary or chosen_binary()
    return EmbeddedServer(binary).start(
        port=port, args=(*debug_args(binary), *args), config=config
    )


def flush(server: EmbeddedServer) -> None:
    """Remove all data and leave no client connected but those in use."""
    with contextlib.closing(redis.Redis.from_url(server.url)) as client:
        client.flushall()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedServer]:
    """Give a standalone server on a TCP port, without a password, with DEBUG."""
    with start() as server:
        yield server


@pytest.fixture
def fresh_db(redis_server: EmbeddedServer) -> EmbeddedServer:
    """Give `redis_server`, empty."""
    flush(redis_server)
    return redis_server


@pytest.fixture(scope="session")
def unix_server() -> Iterator[EmbeddedServer]:
    """Give a server that listens on a unix socket only (`unixsocket`)."""
    with start(port=0) as server:
        yield server


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Give a function that starts a server of the test's own, to kill or to reconfigure.

    It takes start()'s arguments; the servers are stopped after the test.
    """
    with contextlib.ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(start(*args, **kwargs))


# -- ACL --------------------------------------------------------------------------------


@dataclass(frozen=True)
class ACLServer:
    """A server that wants a password from everybody, and knows the user "app"."""

    server: EmbeddedServer
    password: str = DEFAULT_PASSWORD
    app_user: str = APP_USER
    app_password: str = APP_PASSWORD

    @property
    def host(self) -> str:
        """The address to connect to."""
        return self.server.host

    @property
    def port(self) -> int:
        """The TCP port."""
        return self.server.port

    @property
    def url(self) -> str:
        """The URL of the user "app"."""
        return f"redis://{self.app_user}:{self.app_password}@{self.host}:{self.port}/0"


@pytest.fixture(scope="session")
def acl_server() -> Iterator[ACLServer]:
    """Give a server with a password for the default user and one for the user "app"."""
    with start(config=ACL_CONFIG) as server:
        yield ACLServer(server)


# -- TLS --------------------------------------------------------------------------------


@dataclass(frozen=True)
class TLSServer:
    """A TLS port; `native` says whether the server itself speaks TLS, or a proxy for it."""

    server: EmbeddedServer
    port: int
    certificates: Certificates
    native: bool
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        """A URL that checks the server's certificate."""
        return f"rediss://{self.host}:{self.port}/0?ssl_ca_certs={self.certificates.ca}"


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Give certificates of an authority made for this session."""
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def tls_server(certificates: Certificates) -> Iterator[TLSServer]:
    """Give a server with a TLS port, which asks for no client certificate."""
    with contextlib.ExitStack() as stack:
        yield start_tls(stack, certificates)


def start_tls(
    stack: contextlib.ExitStack, certificates: Certificates, binary: str | None = None
) -> TLSServer:
    """Start a server with a TLS port beside the plain one; `stack` stops it."""
    port = free_port()
    try:
        tls_args = _tls_args(certificates, port)
        server = stack.enter_context(start(args=tls_args, binary=binary))
        return TLSServer(server, port, certificates, native=True)
    except ServerError as error:
        if not any(text in str(error) for text in _NO_TLS_LOGS):
            raise
    server = stack.enter_context(start(binary=binary))
    proxy = TLSProxy((server.host, server.port), certificates.server_context())
    return TLSServer(server, stack.enter_context(proxy).port, certificates, native=False)


def _tls_args(certificates: Certificates, port: int) -> Sequence[str]:
    return (
        *("--tls-port", str(port), "--tls-auth-clients", "no"),
        *("--tls-cert-file", certificates.cert, "--tls-key-file", certificates.key),
        *("--tls-ca-cert-file", certificates.ca),
    )


# -- Sentinel ---------------------------------------------------------------------------


class SentinelSetup:
    """A master, a replica and three sentinels, with the shortest delays that are reliable."""

    name = SentinelTopology.name

    def __init__(self, stack: contextlib.ExitStack) -> None:
        """Start the processes; `stack` stops them."""
        binary = chosen_binary()
        self._topology = stack.enter_context(
            SentinelTopology(
                1, binary=binary, down_after_ms=DOWN_AFTER_MS, args=debug_args(binary)
            )
        )
        self._see()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The sentinels, as redis.sentinel.Sentinel takes them."""
        return self._topology.addresses

    def failover(self) -> None:
        """Kill the master; return when all sentinels agree on the new one and its replica.

        `master` and `replica` have changed places then.
        """
        self._topology.wait_promoted(self._topology.kill_master())
        self._topology.restart()
        self._see()

    def _see(self) -> None:
        self.master = self._topology.master.server
        (replica,) = self._topology.replicas
        self.replica = replica.server


@pytest.fixture(scope="session")
def sentinel_setup() -> Iterator[SentinelSetup]:
    """Give a master with a replica under three sentinels; tests may call failover()."""
    with contextlib.ExitStack() as stack:
        yield SentinelSetup(stack)
