"""What is watched while the workload runs: refreshes, connections, sockets of dead nodes."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from cpool.tools.cluster_node import Node
from cpool.tools.topology import ClusterTopology

LOOK_EVERY_S = 0.05
LOOKS = 4  # a server may see a new connection before the end of the old one
GONE = ("06", "0A")  # TIME_WAIT, LISTEN: of nobody, and no connection


class Refreshes:
    """How many refreshes of the topology run at a time, at most, and how many there were."""

    def __init__(self, manager: Any) -> None:
        self.most = self.count = self._now = 0
        self._lock = threading.Lock()
        self._work = manager._refresh
        manager._refresh = self._counted

    def _counted(self, *args: Any, **kwargs: Any) -> None:
        with self._lock:
            self._now += 1
            self.count += 1
            self.most = max(self.most, self._now)
        try:
            self._work(*args, **kwargs)
        finally:
            with self._lock:
                self._now -= 1


class Connections:
    """How many connections each node has, as the pools and as the nodes say.

    limit: what a pool may open. A refresh has one more, which the nodes see.
    """

    def __init__(self, client: Any, cluster: ClusterTopology, name: str, limit: int) -> None:
        self.most = 0
        self.wrong: list[str] = []
        self._client = client
        self._cluster = cluster
        self._name = name
        self._limit = limit
        self._over = threading.Event()

    def look(self) -> None:
        """Look once."""
        for name, stats in self._client.node_pools.stats().nodes.items():
            self._check(f"the pool of {name}", stats.open + stats.opening, self._limit)
        for node in self._cluster.nodes:
            with contextlib.suppress(redis.RedisError):
                seen = min(self._seen_by(node) for _ in range(LOOKS))
                self._check(f"{node}", seen, self._limit + 1)

    def _check(self, who: str, number: int, limit: int) -> None:
        self.most = max(self.most, number)
        if number > limit:
            self.wrong.append(f"{who} has {number} connections, {limit} may be")

    def _seen_by(self, node: Node) -> int:
        text: str = node.call("CLIENT", "LIST").decode()
        return text.count(f" name={self._name} ")

    def _look_on(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            try:
                self.look()
            except Exception as error:  # nobody else would see it
                self.wrong.append(f"can't look at the connections: {error!r}")
                return

    @contextlib.contextmanager
    def watched(self) -> Iterator[Connections]:
        """Look again and again during the block."""
        thread = threading.Thread(target=self._look_on, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join()


def has_proc() -> bool:
    """Tell whether sockets_to() can be asked."""
    return Path("/proc/self/net/tcp").exists()


def sockets_to(port: int) -> int:
    """Count this process's sockets that are, were or will be connected to a port."""
    own = _own_sockets()
    found = 0
    for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        remote_port, state, inode = int(words[2].partition(":")[2], 16), words[3], words[9]
        found += remote_port == port and state not in GONE and inode in own
    return found


def _own_sockets() -> set[str]:
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile
            name = os.readlink(f"/proc/self/fd/{entry}")
            if name.startswith("socket:["):
                found.add(name[8:-1])
    return found
