"""The cluster that redis-py's tests expect: three masters with a replica each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from cpool.tools.servers import ServerError
from cpool.tools.topology import ClusterTopology

from .servers import (
    MAIN_PORT,
    NO_MODULES,
    SECOND_PORT,
    ServerBinary,
    ServerSet,
    choose_port,
    debug_switches,
    server_set,
)
from .sources import SetupError

FIRST_PORT = 16379  # of redis-py's own set-up
NODES = 6


@dataclass
class ClusterSet:
    """The addresses of the cluster's nodes; the tests are pointed at the first.

    beside: the servers whose ports some tests have in their text, cluster or not.
    """

    ports: tuple[int, ...]
    beside: ServerSet
    notes: list[str] = field(default_factory=list)
    not_for_these: ClassVar[str] = "onlynoncluster"

    def pytest_options(self) -> list[str]:
        """Return the options of redis-py's conftest that point to the cluster."""
        url = f"--redis-url=redis://localhost:{self.ports[0]}/0"
        # Nobody listens for TLS here.
        return [url, NO_MODULES, "--redis-ssl-url=rediss://localhost:1"]

    @contextmanager
    def up(self, binary: ServerBinary, certificates: Path, logs: Path) -> Iterator[None]:
        """Run the cluster of one stage. Raises SetupError."""
        args = debug_switches(binary)
        try:
            topology = ClusterTopology(binary=binary.path, args=args, ports=self.ports).start()
        except ServerError as error:
            raise SetupError(f"the cluster did not start: {error}") from error
        with topology, server_set(binary, self.beside, certificates, logs):
            yield


def plan_cluster_ports() -> ClusterSet:
    """Choose the ports of a run, once, so that baseline and swapped run use the same."""
    notes: list[str] = []
    taken: set[int] = set()
    port = choose_port(MAIN_PORT, taken, notes, "the server beside it")
    second = choose_port(SECOND_PORT, taken, notes, "the second server beside it")
    ports = tuple(
        choose_port(FIRST_PORT + i, taken, notes, f"node {i + 1} of the cluster")
        for i in range(NODES)
    )
    return ClusterSet(ports, ServerSet(port, second_port=second), notes)
