"""The servers the benchmarks talk to, started for the run: plain TCP, by TLS, and a cluster."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import redis
import trustme
from _process import CLUSTER_KEYS, KEY, VALUE, CannotRun, Task

from cpool.tools.machine import server_name
from cpool.tools.servers import EmbeddedServer, ServerError, free_port
from cpool.tools.topology import ClusterTopology

HOST = "127.0.0.1"
MASTERS, REPLICAS = 3, 1  # a replica for each master


@dataclass(frozen=True)
class Server:
    """Name where the measured clients connect; `ca_path` where that is by TLS.

    pids: of all processes that serve. is_cluster: it is one node of a cluster.
    """

    host: str
    port: int
    pids: tuple[int, ...]
    name: str
    ca_path: str | None = None
    is_cluster: bool = False

    def address(self) -> Task:
        """Return what a worker has to know."""
        where: Task = {"host": self.host, "port": self.port, "cluster": self.is_cluster}
        return where | ({"ca_path": self.ca_path} if self.ca_path else {})


@contextlib.contextmanager
def started_server(program: str | None = None, *, tls: bool = False) -> Iterator[Server]:
    """Start a server that holds the 64-byte value; raises CannotRun if there is none.

    program: None takes the one on PATH or an embedded one (cpool.tools.servers).
    """
    with tempfile.TemporaryDirectory(prefix="cpool-bench-") as directory:
        tls_port = free_port() if tls else 0
        options = tls_options(Path(directory), tls_port) if tls else []
        try:
            server = EmbeddedServer(program).start(args=options)
        except (ServerError, OSError) as error:
            raise CannotRun(f"no server{' with TLS' if tls else ''}: {error}") from error
        with server:
            with redis.Redis(HOST, server.port) as client:
                client.set(KEY, VALUE)
                name = server_name(client.info("server"))
            ca_path = f"{directory}/ca.pem" if tls else None
            yield Server(HOST, tls_port or server.port, (server.pid,), name, ca_path)


@contextlib.contextmanager
def started_cluster(program: str | None = None) -> Iterator[Server]:
    """Start three masters with a replica each; raises CannotRun as started_server() does."""
    try:
        topology = ClusterTopology(MASTERS, REPLICAS, program).start()
    except (ServerError, OSError) as error:
        raise CannotRun(f"no cluster: {error}") from error
    with topology:
        host, port = topology.startup[0]
        with redis.RedisCluster(host, port) as client:
            for key in (KEY, *CLUSTER_KEYS):
                client.set(key, VALUE)
            name = server_name(client.info("server", target_nodes=client.get_default_node()))
        pids = tuple(node.server.pid for node in topology.nodes)
        yield Server(host, port, pids, name, is_cluster=True)


def tls_options(directory: Path, tls_port: int) -> list[str]:
    """Write fresh certificates and return the server's options for them."""
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
