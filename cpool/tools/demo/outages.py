"""What the demo does to servers under load: a restart, or the loss of a cluster's master."""

from __future__ import annotations

import time
from typing import Protocol

from cpool.tools.cluster_node import Node
from cpool.tools.servers import EmbeddedServer
from cpool.tools.topology import ClusterTopology

DOWN_S = 0.3


class Outage(Protocol):
    """An interruption in three steps, and what to call it."""

    doing: str
    done: str

    def kill(self) -> None:
        """Begin it; what is answered from now on is answered by others, or not yet."""
        ...

    def wait(self) -> None:
        """Return when all is served again."""
        ...

    def mend(self) -> None:
        """Bring everything back that was lost."""
        ...


class Restart:
    """The server is killed, and comes back empty."""

    doing = "SIGKILL and restart of the server"
    done = "server killed under load and back"

    def __init__(self, server: EmbeddedServer) -> None:
        """Prepare. The server must not hold anything of value."""
        self._server = server

    def kill(self) -> None:
        """Kill the server."""
        self._server.kill()

    def wait(self) -> None:
        """Leave it dead for a while, then start it."""
        time.sleep(DOWN_S)
        self._server.restart()

    def mend(self) -> None:
        """Do nothing: the server is back."""


class Failover:
    """The master of a slot is killed, and its replica takes over."""

    doing = "SIGKILL of a master, failover to its replica"
    done = "a master killed under load and its replica promoted"

    def __init__(self, topology: ClusterTopology, slot: int) -> None:
        """Prepare. The cluster must not hold anything of value."""
        self._topology = topology
        self._slot = slot
        self._lost: Node | None = None

    def kill(self) -> None:
        """Kill the master that has the slot now."""
        index = self._topology.masters.index(self._topology.owner(self._slot))
        self._lost = self._topology.kill_master(index)

    def wait(self) -> None:
        """Wait until the cluster serves all slots again."""
        if self._lost is not None:
            self._topology.wait_failover(self._lost)

    def mend(self) -> None:
        """Start what was killed, as a replica."""
        if self._lost is not None:
            self._topology.restart(self._lost)
