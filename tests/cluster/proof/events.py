"""What happens to a cluster while the workload runs."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import redis

from cpool.tools.cluster_node import Node
from cpool.tools.topology import ClusterTopology
from tests.cluster.proof.watch import has_proc, sockets_to
from tests.cluster.proof.workload import ClusterWorkload, Recovery
from tests.support.servers import wait_until

PAUSE_MS = 10_000
FAILURES = 5  # of commands, while slots are down
DEAD_S = 5.0  # until no socket may be left to a dead node
RECOVERY_BOUND_S = 30.0


@dataclass
class Seen:
    """What came of an event. took_s: seconds until all workers were served again, once the
    servers could; left: sockets to the dead node."""

    name: str
    took_s: float | None = None
    left: int = 0
    problem: str = ""


class Events:
    """What can happen. slots: how many of them move and go down."""

    def __init__(self, cluster: ClusterTopology, workload: ClusterWorkload, slots: int) -> None:
        self._cluster = cluster
        self._workload = workload
        self._slots = slots
        self._chance = random.Random(workload.seed)
        self._lost: Node | None = None

    def all(self) -> list[Callable[[], Seen]]:
        """Return the events, in the order they are to happen."""
        return [self.migrate, self.kill, self.come_back, self.promote, self.take_down]

    def migrate(self) -> Seen:
        """Move slots with their keys from one master to another while they are used."""
        source, target = self._chance.sample(self._cluster.masters, 2)
        slots = sorted(self._slots_of(source))[: self._slots]
        self._cluster.migrate_slots(slots, source, target)
        return self._recovered(f"{len(slots)} slots moved", frozenset(slots))

    def kill(self) -> Seen:
        """Kill a master whose replica has all that was acknowledged; it takes over."""
        masters = self._cluster.masters
        lost = self._chance.choice([m for m in masters if self._cluster.replicas_of(m)])
        slots = frozenset(self._slots_of(lost))
        self._let_replicas_catch_up(lost)
        lost.kill()
        died_s = time.monotonic()
        self._cluster.wait_failover(lost)
        self._lost = lost
        seen = self._recovered("master killed", slots)
        if has_proc():
            seen.left = self._left_to(lost, died_s)
        return seen

    def come_back(self) -> Seen:
        """Start the killed node again: it is a replica now."""
        if self._lost is None:
            raise RuntimeError("come_back() comes after kill()")
        self._cluster.restart(self._lost)
        slots = frozenset(s for m in self._cluster.masters for s in self._slots_of(m))
        return self._recovered("came back", slots)

    def promote(self) -> Seen:
        """Let every master and its replica change places, one after the other."""
        self._cluster.wait_complete()
        slots: set[int] = set()
        for master in self._cluster.masters:
            for replica in self._cluster.replicas_of(master)[:1]:
                slots |= self._slots_of(master)
                self._cluster.promote(replica)
        return self._recovered("replicas promoted", frozenset(slots))

    def take_down(self) -> Seen:
        """Let some slots have no master for a while: all of the cluster is down."""
        slots = self._chance.sample(range(16384), self._slots)
        self._cluster.take_down_slots(slots)
        failed = self._workload.tally.failed
        wait_until(lambda: self._workload.tally.failed >= failed + FAILURES, "it is noticed")
        self._cluster.restore_slots()
        return self._recovered("slots down and up", frozenset(slots))

    def _slots_of(self, master: Node) -> set[int]:
        held = (one for one in self._cluster.slots() if one.master == master.id)
        return {slot for one in held for slot in range(one.first, one.last + 1)}

    def _recovered(self, name: str, slots: frozenset[int]) -> Seen:
        """Wait until each worker was served by these slots, from now on."""
        workload = self._workload
        recovery = Recovery(slots, time.monotonic())
        workload.recovery = recovery
        try:
            wait_until(
                lambda: len(recovery.served_s) == len(workload.handles),
                f"{name}: all workers are served",
                RECOVERY_BOUND_S,
            )
        except TimeoutError as error:
            return Seen(name, problem=str(error))
        finally:
            workload.recovery = None
        return Seen(name, recovery.took_s)

    @staticmethod
    def _left_to(lost: Node, died_s: float) -> int:
        """Return how many sockets to a dead node are left when none may be."""
        with contextlib.suppress(TimeoutError):
            left_s = died_s + DEAD_S - time.monotonic()
            wait_until(lambda: not sockets_to(lost.port), "no socket is left", left_s)
        return sockets_to(lost.port)

    def _let_replicas_catch_up(self, master: Node) -> None:
        """Let the master acknowledge no more writes, until its replicas have them all.

        What a master acknowledges and does not live to pass on is lost by the servers; so
        there is none of it, and any loss that is found is the client's.
        """
        master.call("CLIENT", "PAUSE", PAUSE_MS, "WRITE")
        replicas = self._cluster.replicas_of(master)
        wait_until(lambda: all(has_all(one, master) for one in replicas), "replicas have it all")


def has_all(replica: Node, master: Node) -> bool:
    """Whether a replica has all that its master has written."""
    try:
        written = master.call("INFO", "replication")["master_repl_offset"]
        return bool(replica.call("INFO", "replication")["slave_repl_offset"] >= written)
    except redis.RedisError:
        return False
