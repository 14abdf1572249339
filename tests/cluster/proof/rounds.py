"""One round on one server: a cluster, a client, many threads, and all that happens to them."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import redis.cluster
from redis.exceptions import RedisError

import cpool
from cpool.tools.topology import ClusterTopology
from tests.client.support import no_retry
from tests.cluster.proof.events import Events, Seen
from tests.cluster.proof.watch import Connections, Refreshes
from tests.cluster.proof.workload import ClusterWorkload
from tests.cluster.support import pools_of
from tests.identity.workload import BOUND_S, Tally, check_slots, spawn_thread
from tests.support.clusters import make_cluster

NAME = "proof"  # of our connections, as the nodes see it
WITHIN_S = 1.0  # of the servers' failover every worker is to be served again
MAX_CONNECTIONS = 12
RETRIES = 3

Choose = Callable[[Events], list[Callable[[], Seen]]]


@dataclass(frozen=True)
class Shape:
    """How large a round is. is_timed: to be served late is a violation."""

    threads: int = 32
    slots: int = 1000
    node_timeout_ms: int = 2000
    is_timed: bool = True


@dataclass
class Found:
    """What came of a round, and what did not hold."""

    seen: list[Seen] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    refreshes: int = 0
    most_refreshes: int = 0
    most_connections: int = 0
    wrong: list[str] = field(default_factory=list)


def make_client(cluster: ClusterTopology, **options: Any) -> cpool.RedisCluster:
    """Make a client that executes nothing twice."""
    (host, port), *_ = cluster.startup
    given = {"max_connections": MAX_CONNECTIONS, "timeout": BOUND_S, "socket_timeout": BOUND_S}
    return cpool.RedisCluster(
        **{"host": host, "port": port, "client_name": NAME, "retry_policy": "safe"},
        # Transactions wait between attempts, for 1 s and more unless told otherwise.
        retry=no_retry(RETRIES),
        **{**given, **options},
    )


def play(
    binary: str, seed: int, shape: Shape, choose: Choose = Events.all, **options: Any
) -> Found:
    """Run a round on clusters of this server. options: of the client."""
    timeout_ms = shape.node_timeout_ms
    with (
        make_cluster(binary=binary, node_timeout_ms=timeout_ms) as cluster,
        contextlib.closing(make_client(cluster, **options)) as client,
    ):
        return Round(cluster, client, seed, shape).play(choose)


class Round:
    """A round, on a cluster that runs."""

    def __init__(self, cluster: ClusterTopology, client: Any, seed: int, shape: Shape) -> None:
        self.found = Found()
        self._cluster = cluster
        self._client = client
        self._shape = shape
        self._workload = ClusterWorkload(client, seed)

    def play(self, choose: Choose) -> Found:
        """Let it happen; say what was found."""
        limit = pools_of(self._client)[0].max_connections
        refreshes = Refreshes(self._client.nodes_manager)
        connections = Connections(self._client, self._cluster, NAME, limit)
        with connections.watched(), self._running():
            for event in choose(Events(self._cluster, self._workload, self._shape.slots)):
                self._judge(event())
        found = self.found
        found.tally = self._workload.tally
        found.refreshes, found.most_refreshes = refreshes.count, refreshes.most
        found.most_connections = connections.most
        found.wrong += connections.wrong + self._workload.wrong
        found.wrong += [f"foreign reply: {pair}" for pair in found.tally.foreign]
        if refreshes.most > 1:
            found.wrong.append(f"{refreshes.most} refreshes at a time")
        self._compare_with_servers()
        self._check_pools()
        return found

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        self._workload.start(spawn_thread, self._shape.threads)
        try:
            yield
        finally:
            self._workload.stop()

    def _judge(self, seen: Seen) -> None:
        self.found.seen.append(seen)
        if seen.problem:
            self.found.wrong.append(seen.problem)
        elif self._shape.is_timed and seen.took_s is not None and seen.took_s > WITHIN_S:
            self.found.wrong.append(f"{seen.name}: served after {seen.took_s:.2f} s")
        if seen.left:
            self.found.wrong.append(f"{seen.name}: {seen.left} sockets are left to a dead node")

    def _compare_with_servers(self) -> None:
        (host, port), *_ = [(node.host, node.port) for node in self._cluster.living]
        with contextlib.closing(redis.cluster.RedisCluster(host, port)) as client:
            self.found.wrong += self._workload.compare(client.get)

    def _check_pools(self) -> None:
        """Every pool lends as many connections as it may: no slot is lost."""
        gc.collect()
        for pool in pools_of(self._client):
            pool.disconnect()
            try:
                check_slots(pool)
            except (AssertionError, RedisError) as error:
                self.found.wrong.append(f"slots of {pool.stats().name}: {error!r}")
