"""A node of a Redis Cluster of our own, and a slot on its way from one node to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cpool.tools.servers import EmbeddedServer, ServerError

SLOTS = 16384
KEYS_PER_MIGRATE = 100
MIGRATE_TIMEOUT_MS = 5000
COMMAND_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class SlotRange:
    """Slots from `first` to `last`, both included, and the ids of the nodes that have them."""

    first: int
    last: int
    master: str
    replicas: tuple[str, ...]


class Node:
    """A server of a cluster: its process, and a client that talks to it alone.

    Compared by identity: address and role may change.
    """

    def __init__(self, server: EmbeddedServer, bus_port: int) -> None:
        """Take a running server; close() ends it."""
        self.server = server
        self.bus_port = bus_port
        self._client = redis.Redis(
            host=server.host,
            port=server.port,
            protocol=2,
            socket_timeout=COMMAND_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        self.id: str = self.call("CLUSTER", "MYID").decode()

    @property
    def host(self) -> str:
        """The address to connect to."""
        return self.server.host

    @property
    def port(self) -> int:
        """The TCP port."""
        return self.server.port

    @property
    def is_alive(self) -> bool:
        """Whether its process runs."""
        try:
            return self.server.pid > 0
        except ServerError:
            return False

    @property
    def role(self) -> str:
        """What the node itself says it is: "master" or "replica". Raises redis.RedisError."""
        return "master" if self.call("ROLE")[0] == b"master" else "replica"

    def call(self, *command: Any) -> Any:
        """Send one command and return the reply as it came. Raises redis.RedisError."""
        return self._client.execute_command(*command)

    def state(self) -> str:
        """Return the node's own cluster_state, "ok" or "fail"."""
        lines: list[str] = self.call("CLUSTER", "INFO").decode().split()
        return next(line[14:] for line in lines if line.startswith("cluster_state:"))

    def known(self) -> set[str]:
        """Return the ids of the nodes it knows, without those it has only just met."""
        text: str = self.call("CLUSTER", "NODES").decode()
        lines = [line.split() for line in text.splitlines()]
        return {words[0] for words in lines if "handshake" not in words[2]}

    def slots(self) -> list[SlotRange]:
        """Return who has which slots, as the node sees it; a replica without data is left out."""
        ranges = []
        for first, last, *nodes in sorted(self.call("CLUSTER", "SLOTS")):
            master, *replicas = (node[2].decode() for node in nodes)
            ranges.append(SlotRange(first, last, master, tuple(replicas)))
        return ranges

    def kill(self) -> None:
        """End the process at once (SIGKILL)."""
        self.server.kill()
        self._client.connection_pool.disconnect()

    def close(self) -> None:
        """End the process and remove its files."""
        self._client.close()
        # At once: a server that is asked to end waits for its replicas first.
        self.server.kill()
        self.server.stop()

    def __repr__(self) -> str:
        return f"<Node {self.host}:{self.port}>"


@dataclass(frozen=True)
class Migration:
    """A slot that is moving: the source answers ASK for the keys it has not (any more).

    A command on several keys that are not all on one side gets TRYAGAIN.
    """

    slot: int
    source: Node
    target: Node

    def begin(self) -> None:
        """Open the slot on both sides."""
        self.target.call("CLUSTER", "SETSLOT", self.slot, "IMPORTING", self.source.id)
        self.source.call("CLUSTER", "SETSLOT", self.slot, "MIGRATING", self.target.id)

    def move_keys(self, *keys: str | bytes) -> None:
        """Move some keys; those that are not there are passed over."""
        address = self.target.host, self.target.port
        options = "", 0, MIGRATE_TIMEOUT_MS, "KEYS"
        self.source.call("MIGRATE", *address, *options, *keys)

    def move_all_keys(self) -> None:
        """Move what the source holds in this slot."""
        while keys := self.source.call("CLUSTER", "GETKEYSINSLOT", self.slot, KEYS_PER_MIGRATE):
            self.move_keys(*keys)

    def finish(self, others: Sequence[Node] = ()) -> None:
        """Give the slot to the target, and tell other masters before they hear of it.

        Raises redis.ResponseError if the source still has keys of it.
        """
        # The target first: a source that gave the slot away while nobody had it would be asked
        # again and again.
        for node in (self.target, self.source, *others):
            self._tell(node)

    def _tell(self, node: Node) -> None:
        try:
            node.call("CLUSTER", "SETSLOT", self.slot, "NODE", self.target.id)
        except redis.ResponseError as error:
            # A source that heard of the loss of its last slot is the target's replica by now.
            if "only with masters" not in str(error):
                raise

    def cancel(self) -> None:
        """Close the slot on both sides; keys that were moved stay where they are."""
        for node in (self.source, self.target):
            node.call("CLUSTER", "SETSLOT", self.slot, "STABLE")
