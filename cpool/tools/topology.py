"""Run a Redis Cluster of our own for a while, and do to it what happens to clusters.

Used by `python -m cpool demo --cluster` and by the tests. What a method waits for it asks the
nodes themselves, each one; if that does not come, TopologyError says what was missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType

import redis

from cpool.tools.cluster_node import SLOTS, Migration, Node, SlotRange
from cpool.tools.servers import (
    EmbeddedServer,
    ServerError,
    find_binary,
    free_port,
    server_version,
)

WAIT_TIMEOUT_S = 30.0
WAIT_PAUSE_S = 0.01
BUS_OFFSET = 10_000
START_ATTEMPTS = 5
FLUSH_WAIT_MS = 1000
TAKEOVERS = ("", "FORCE", "TAKEOVER")

# A replica attaches at once instead of after 5 s, and is announced after 1 s instead of 10.
REPLICATION_ARGS = (
    *("--repl-diskless-sync", "yes"),
    *("--repl-diskless-sync-delay", "0"),
    *("--repl-ping-replica-period", "1"),
)


class TopologyError(ServerError):
    """The nodes did not come to what was waited for; the text says what was missing."""


class ClusterTopology:
    """A cluster of `masters` masters with `replicas` replicas each, all of them our processes.

    Nothing is persisted, all of it is gone when we are gone. A failover without our doing
    needs at least three masters. One thread at a time may change the topology.
    """

    def __init__(
        self,
        masters: int = 3,
        replicas: int = 1,
        binary: str | None = None,
        args: Sequence[str] = (),
        *,
        ports: Sequence[int] = (),
        node_timeout_ms: int = 2000,
    ) -> None:
        """Prepare; start() or a `with` block does it.

        binary: the server to run, or the first one found. args: options for every node.
        ports: one for each node, masters first; free ones if left out.
        node_timeout_ms: how long a node is silent before it is taken for dead.
        Raises ValueError, and ServerNotFoundError.
        """
        count = masters * (1 + replicas)
        if masters < 1 or replicas < 0:
            raise ValueError(
                f"masters must be 1 or more, replicas 0 or more; not {masters} and {replicas}"
            )
        if ports and len(ports) != count:
            raise ValueError(f"ports must be {count}, one for each node, not {len(ports)}")
        self.nodes: list[Node] = []
        self._binary = binary if binary is not None else find_binary().path
        self._shape = masters, replicas
        self._ports: Sequence[int | None] = ports or [None] * count
        timeout = ("--cluster-node-timeout", str(node_timeout_ms))
        self._args = ("--cluster-enabled", "yes", *timeout, *REPLICATION_ARGS, *args)
        self._down: dict[int, Node] = {}

    def start(self) -> ClusterTopology:
        """Start the nodes; return when each of them sees the whole cluster.

        Raises ServerError; nothing is left running then.
        """
        try:
            for port in self._ports:
                self._start_node(port)
            self._form()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End all nodes; harmless if that was done before."""
        while self.nodes:
            self.nodes.pop().close()

    def __enter__(self) -> ClusterTopology:
        """Start the nodes unless start() was called before."""
        return self if self.nodes else self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End all nodes."""
        self.stop()

    # -- what there is ----------------------------------------------------------------------

    @property
    def startup(self) -> list[tuple[str, int]]:
        """The addresses of all nodes, of killed ones too."""
        return [(node.host, node.port) for node in self.nodes]

    @property
    def url(self) -> str:
        """The URL of the first node that runs."""
        return self.living[0].server.url

    @property
    def living(self) -> list[Node]:
        """The nodes whose process runs. Raises TopologyError if there is none."""
        living = [node for node in self.nodes if node.is_alive]
        if not living:
            raise TopologyError("No node of the cluster is running")
        return living

    @property
    def masters(self) -> list[Node]:
        """The nodes that have slots, by their lowest slot."""
        holders = [self._node(held.master) for held in self.slots()]
        return list(dict.fromkeys(holders))

    def slots(self) -> list[SlotRange]:
        """Return who has which slots, as the first node that runs sees it."""
        return self.living[0].slots()

    def owner(self, slot: int) -> Node:
        """Return the master of a slot. Raises TopologyError if it has none."""
        for held in self.slots():
            if held.first <= slot <= held.last:
                return self._node(held.master)
        raise TopologyError(f"Slot {slot} has no master")

    def replicas_of(self, master: Node) -> list[Node]:
        """Return the replicas of a master that has slots, those that can be read from."""
        ids = {r for held in self.slots() if held.master == master.id for r in held.replicas}
        return [node for node in self.nodes if node.id in ids]

    def _node(self, node_id: str) -> Node:
        return next(node for node in self.nodes if node.id == node_id)

    # -- waiting ----------------------------------------------------------------------------

    def wait_serving(self, timeout_s: float = WAIT_TIMEOUT_S) -> None:
        """Return when all running nodes agree on who has the slots, and all of those run."""
        self._wait(self._what_is_not_served, timeout_s)

    def wait_complete(self, timeout_s: float = WAIT_TIMEOUT_S) -> None:
        """Return when, besides, every running replica has its data and is known to all."""
        self._wait(self._what_is_incomplete, timeout_s)

    def _what_is_not_served(self) -> str:
        running = {node.id for node in self.living}
        first_view = None
        for node in self.living:
            view = [(held.first, held.last, held.master) for held in node.slots()]
            lost = [f"{a}-{b}" for a, b, master in view if master not in running]
            if lost:
                return f"{node} says slots {', '.join(lost)} belong to a node that is gone"
            if sum(b - a + 1 for a, b, _ in view) < SLOTS or node.state() != "ok":
                return f"{node} says cluster_state:{node.state()}, with slots {view}"
            if view != (first_view := first_view or view):
                return f"{node} says {view}, {self.living[0]} says {first_view}"
        return ""

    def _what_is_incomplete(self) -> str:
        if problem := self._what_is_not_served():
            return problem
        followers = {node.id for node in self.living if node.role == "replica"}
        for node in self.living:
            listed = {replica for held in node.slots() for replica in held.replicas}
            if absent := [str(self._node(one)) for one in followers - listed]:
                return f"{node} does not list the replicas {', '.join(absent)}"
        return ""

    def _wait(self, missing: Callable[[], str], timeout_s: float = WAIT_TIMEOUT_S) -> None:
        """Poll until nothing is missing; a redis error is something that is missing."""
        give_up_s = time.monotonic() + timeout_s
        while text := _answer(missing):
            if time.monotonic() > give_up_s:
                raise TopologyError(f"not in {timeout_s} s: {text}")
            time.sleep(WAIT_PAUSE_S)

    # -- nodes that come and go -------------------------------------------------------------

    def kill_master(self, index: int) -> Node:
        """Kill a master (SIGKILL), counted by its lowest slot, and return it."""
        master = self.masters[index]
        master.kill()
        return master

    def wait_failover(self, lost: Node, timeout_s: float = WAIT_TIMEOUT_S) -> None:
        """Return when nobody takes `lost` for a master and all its slots are served again."""
        if lost.is_alive:
            raise ValueError(f"lost must have been killed, but {lost} is running")
        self.wait_serving(timeout_s)

    def restart(self, *nodes: Node) -> None:
        """Start killed nodes again, without their data; return when the cluster is whole.

        A master follows the replica that took its place; if none did, it is one as before.
        """
        for node in nodes:
            node.server.restart()
        self.wait_complete()

    def add_node(self, master: Node | None = None) -> Node:
        """Start one more node, without slots, or as a replica of `master`, and return it."""
        node = self._start_node(None)
        node.call("CLUSTER", "MEET", *_bus_address(self.nodes[0]))
        self._wait_known(node)
        if master is not None:
            self._follow(node, master)
            self.wait_complete()
        return node

    def forget_node(self, node: Node) -> None:
        """End a node and make the others forget it. Raises ValueError if it has slots."""
        if node in self.masters:
            raise ValueError(f"node must have no slots: {node} is a master")
        self.nodes.remove(node)
        node.close()
        for other in self.living:
            self._forget(other, node)

    @staticmethod
    def _forget(node: Node, gone: Node) -> None:
        try:
            node.call("CLUSTER", "FORGET", gone.id)
        except redis.ResponseError as error:
            # Newer servers tell each other.
            if "Unknown node" not in str(error):
                raise

    def promote(self, replica: Node, option: str = "") -> None:
        """Make a replica the master (CLUSTER FAILOVER); return when all nodes know.

        option: "" asks the master first, "FORCE" does not (it may be dead), "TAKEOVER" does
        not ask the other masters either.
        """
        if option not in TAKEOVERS:
            raise ValueError(f"option must be one of {TAKEOVERS}, not {option!r}")
        replica.call("CLUSTER", "FAILOVER", *filter(None, [option]))
        self._wait(lambda: "" if replica in self.masters else f"{replica} has no slots")
        self.wait_serving()

    def flush(self) -> None:
        """Remove all data, from the replicas as well."""
        for master in self.masters:
            master.call("FLUSHALL")
            master.call("WAIT", len(self.replicas_of(master)), FLUSH_WAIT_MS)

    # -- slots that move --------------------------------------------------------------------

    def begin_migration(self, slot: int, target: Node) -> Migration:
        """Open a slot, so that its master answers ASK; end_migration() gives it to `target`."""
        migration = Migration(slot, self.owner(slot), target)
        migration.begin()
        return migration

    def end_migration(self, migration: Migration, keys: bool = True) -> None:
        """Move the keys that are left and give the slot to the target.

        keys: False if the slot is known to be empty. Raises redis.ResponseError if it is not.
        """
        if keys:
            migration.move_all_keys()
        others = [m for m in self.masters if m not in (migration.source, migration.target)]
        migration.finish(others)

    def migrate_slots(
        self, slots: Iterable[int], source: Node, target: Node, keys: bool = True
    ) -> None:
        """Move slots with their keys, one after the other, while clients may use them.

        keys: False if the slots are known to be empty.
        """
        others = [m for m in self.masters if m not in (source, target)]
        for slot in slots:
            migration = Migration(slot, source, target)
            migration.begin()
            if keys:
                migration.move_all_keys()
            migration.finish(others)

    def take_down_slots(self, slots: Iterable[int]) -> None:
        """Take slots from their masters: all nodes answer CLUSTERDOWN until restore_slots().

        With the option cluster-require-full-coverage "no" only for keys of these slots.
        """
        taken = {slot: self.owner(slot) for slot in slots}
        self._down.update(taken)
        self._wait(lambda: self._take_where_held(set(taken)))

    def restore_slots(self) -> None:
        """Give the slots that were taken down back to their masters."""
        masters = set(self._down.values()) | set(self.masters)
        for slot, owner in self._down.items():
            owner.call("CLUSTER", "ADDSLOTS", slot)
            for other in masters - {owner}:
                other.call("CLUSTER", "SETSLOT", slot, "NODE", owner.id)
        self._down.clear()
        self.wait_serving()

    def _take_where_held(self, slots: set[int]) -> str:
        """Say where slots had to be taken: a message under way may give them back to a node."""
        problem = ""
        for node in self.living:
            ranges = [range(held.first, held.last + 1) for held in node.slots()]
            if left := {slot for slot in slots for held in ranges if slot in held}:
                node.call("CLUSTER", "DELSLOTS", *left)
                problem = f"{node} still had the slots {sorted(left)}"
        return problem

    # -- starting ---------------------------------------------------------------------------

    def _start_node(self, port: int | None) -> Node:
        for attempt in range(1, START_ATTEMPTS + 1):
            try:
                return self._try_to_start_node(port)
            except ServerError as error:
                # Somebody took the port between our look and the server's bind.
                if port or "in use" not in str(error) or attempt == START_ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    def _try_to_start_node(self, port: int | None) -> Node:
        chosen = port or free_port(twin=BUS_OFFSET)
        bus_port = chosen + BUS_OFFSET
        args = self._args
        if port and self._has_cluster_port():
            bus_port = free_port()
            args = (*args, "--cluster-port", str(bus_port))
        server = EmbeddedServer(self._binary).start(chosen, args=args)
        try:
            self.nodes.append(Node(server, bus_port))
        except BaseException:
            server.stop()
            raise
        return self.nodes[-1]

    def _has_cluster_port(self) -> bool:
        name, _, number = (server_version(self._binary) or "Redis 0").partition(" ")
        return name == "Valkey" or int(number.split(".")[0]) >= 7

    def _form(self) -> None:
        count, replicas = self._shape
        masters = self.nodes[:count]
        for epoch, node in enumerate(self.nodes, 1):
            # Without it nodes of one epoch would have to settle whose slots count.
            node.call("CLUSTER", "SET-CONFIG-EPOCH", epoch)
        for i, master in enumerate(masters):
            slots = range(i * SLOTS // count, (i + 1) * SLOTS // count)
            master.call("CLUSTER", "ADDSLOTS", *slots)
        for i, node in enumerate(self.nodes):
            for other in self.nodes[:i]:
                node.call("CLUSTER", "MEET", *_bus_address(other))
        for i, replica in enumerate(self.nodes[count:]):
            self._follow(replica, masters[i // replicas])
        self.wait_complete()

    def _follow(self, replica: Node, master: Node) -> None:
        self._wait(
            lambda: "" if master.id in replica.known() else f"{replica} does not know {master}"
        )
        replica.call("CLUSTER", "REPLICATE", master.id)

    def _wait_known(self, node: Node) -> None:
        def missing() -> str:
            strangers = [other for other in self.living if node.id not in other.known()]
            return f"{strangers} do not know {node}" if strangers else ""

        self._wait(missing)


def _answer(missing: Callable[[], str]) -> str:
    try:
        return missing()
    except redis.RedisError as error:
        return f"{type(error).__name__}: {error}"


def _bus_address(node: Node) -> tuple[str, int, int]:
    return node.host, node.port, node.bus_port
