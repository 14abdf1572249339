"""The server the benchmarks talk to: plain TCP, unix socket or TLS, one per run.

A server named by --url is used as it is. Else a server program (--server, or redis-server or
valkey-server on PATH, or an embedded one) runs in a directory of its own and ends with the
benchmark.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from _common import (
    KEY,
    VALUE,
    CannotRun,
    bound_to,
    client_cpus,
    require_module,
    usable_cpus,
)

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Server:
    """Name where the measured clients connect, and a plain address of the same server.

    pid is that of a server of our own, None for one that was running before.
    """

    url: str
    plain_url: str
    host: str
    port: int
    unix_path: str | None = None
    pid: int | None = None


@dataclass(frozen=True)
class Case:
    """Name a number of threads and, for one thread, where it and the server run."""

    threads: int
    one_cpu: int | None = None

    @property
    def name(self) -> str:
        threads = f"{self.threads} thread" + ("s" if self.threads > 1 else "")
        return threads if self.one_cpu is None else f"{threads}, one CPU"

    @property
    def cpus(self) -> list[int] | None:
        return None if self.one_cpu is None else [self.one_cpu]


def cases_of(args: argparse.Namespace, server: Server) -> list[Case]:
    """List the cases; one thread is also measured on the server's CPU if the server is ours."""
    cases = []
    for threads in args.threads:
        cases.append(Case(threads))
        if threads == 1 and server.pid is not None and usable_cpus():
            cases.append(Case(threads, usable_cpus()[-1]))
    return cases


@contextlib.contextmanager
def bench_server(args: argparse.Namespace, transport: str = "tcp") -> Iterator[Server]:
    """Yield a server that holds the benchmark's 64-byte value; stop it if it was ours."""
    given = running_server(args.url) if args.url else started_server(args.server, transport)
    with given as server, bound_to(server_cpus(server) if args.pin else None, server.pid or 0):
        store_value(server.plain_url)
        yield server


def server_cpus(server: Server) -> list[int]:
    """Return the last CPU, for --pin; raise CannotRun where that makes no sense."""
    if server.pid is None or client_cpus() is None:
        raise CannotRun("--pin needs two CPUs, an affinity call and a server of our own")
    return usable_cpus()[-1:]


@contextlib.contextmanager
def running_server(url: str) -> Iterator[Server]:
    import redis

    options = redis.ConnectionPool.from_url(url).connection_kwargs
    host, port = options.get("host", ""), int(options.get("port", 0))
    yield Server(url, url, host, port, options.get("path"))


@contextlib.contextmanager
def started_server(program: str | None, transport: str) -> Iterator[Server]:
    """Start a server; plain TCP and a unix socket are open in any case."""
    servers = require_module("cpool.tools.servers", "use --url")
    with tempfile.TemporaryDirectory(prefix="cpool-bench-") as directory:
        try:
            tls_port = servers.free_port() if transport == "tls" else 0
            options = tls_options(Path(directory), tls_port) if tls_port else []
            server = servers.EmbeddedServer(program).start(args=options)
        except (servers.ServerError, OSError) as error:
            raise CannotRun(str(error)) from error
        with server:
            yield Server(
                {
                    "tcp": server.url,
                    "unix": f"unix://{server.unixsocket}",
                    "tls": f"rediss://{HOST}:{tls_port}?ssl_ca_certs={directory}/ca.pem",
                }[transport],
                server.url,
                HOST,
                server.port,
                server.unixsocket if transport == "unix" else None,
                server.pid,
            )


def tls_options(directory: Path, tls_port: int) -> list[str]:
    """Write fresh certificates and return the server's options for them."""
    trustme = require_module("trustme", "pip install trustme")
    authority = trustme.CA()
    issued = authority.issue_cert(HOST, "localhost")
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    issued.cert_chain_pems[0].write_to_path(str(directory / "server.pem"))
    issued.private_key_pem.write_to_path(str(directory / "server.key"))
    files = {"cert": "server.pem", "key": "server.key", "ca-cert": "ca.pem"}
    options = ["--tls-port", str(tls_port), "--tls-auth-clients", "no"]
    for name, file in files.items():
        options += [f"--tls-{name}-file", str(directory / file)]
    return options


def store_value(url: str) -> None:
    import redis

    try:
        with redis.Redis.from_url(url) as client:
            client.set(KEY, VALUE)
    except redis.RedisError as error:
        raise CannotRun(f"the server cannot be used: {error}") from error
