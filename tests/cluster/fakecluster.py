"""A cluster of servers that say what a test has written down.

All of them tell the same of the slots, which is what the test has set; the keys' commands are
answered by each node's own `replies`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from cpool.tools.cluster_node import SLOTS
from tests.connection.fakeserver import FakeServer, Reply
from tests.wire.peer import bulk

# Of the server's table of commands: name, arity, flags, first and last key, step.
COMMANDS = [
    ("get", 2, ("readonly", "fast"), 1, 1, 1),
    ("set", -3, ("write",), 1, 1, 1),
    ("incrby", 3, ("write", "fast"), 1, 1, 1),
    ("mget", -2, ("readonly", "fast"), 1, -1, 1),
    ("blpop", -3, ("write", "noscript", "blocking"), 1, -2, 1),
    ("cluster", -2, (), 0, 0, 0),
]


def array(items: Sequence[bytes]) -> bytes:
    """Pack an array of packed items."""
    return b"*%d\r\n%s" % (len(items), b"".join(items))


def number(value: int) -> bytes:
    """Pack an integer."""
    return b":%d\r\n" % value


def command_table() -> bytes:
    """Pack what COMMAND answers."""
    rows = []
    for name, arity, flags, first, last, step in COMMANDS:
        words = array([b"+%s\r\n" % flag.encode() for flag in flags])
        keys = [number(first), number(last), number(step)]
        rows.append(array([bulk(name.encode()), number(arity), words, *keys, array([])]))
    return array(rows)


class FakeCluster:
    """Fake servers, of which each has an equal part of the slots, unless `owners` is set."""

    def __init__(self, nodes: Sequence[FakeServer]) -> None:
        self.nodes = nodes
        self.owners: list[tuple[int, int, list[FakeServer]]] = []
        per_node = SLOTS // len(nodes)
        for i, node in enumerate(nodes):
            last = SLOTS - 1 if node is nodes[-1] else (i + 1) * per_node - 1
            self.owners.append((i * per_node, last, [node]))
        for node in nodes:
            node.replies.update(
                {"CLUSTER SLOTS": lambda words: self.slots(), "COMMAND": command_table()}
            )

    @property
    def startup(self) -> list[tuple[str, int]]:
        """The addresses of all nodes."""
        return [(node.host, node.port) for node in self.nodes]

    def slots(self) -> bytes:
        """Pack what CLUSTER SLOTS answers."""
        return array(
            [
                array([number(a), number(b), *(self._address(node) for node in nodes)])
                for a, b, nodes in self.owners
            ]
        )

    @staticmethod
    def _address(node: FakeServer) -> bytes:
        return array([bulk(node.host.encode()), number(node.port), bulk(b"%040d" % node.port)])

    def all_to(self, *nodes: FakeServer) -> None:
        """Give all slots to a node, and its replicas."""
        self.owners = [(0, SLOTS - 1, list(nodes))]

    def answer(self, command: str, reply: Reply) -> None:
        """Let all nodes answer a command so."""
        for node in self.nodes:
            node.replies[command] = reply

    def asked(self, *names: str) -> list[list[str]]:
        """Return what each node was asked, of these commands."""
        return [
            [
                name
                for connection in node.connections
                for batch in connection
                for words in batch
                if (name := words[0].decode()) in names
            ]
            for node in self.nodes
        ]

    def numbered(self, text: str) -> str:
        """Return a text with the nodes' numbers in the place of their ports, which differ."""
        for i, node in enumerate(self.nodes):
            text = text.replace(str(node.port), f"<{i}>")
        return text

    def refreshes(self) -> int:
        """Return how often anybody asked for the slots."""
        return sum(names.count("CLUSTER") for names in self.asked("CLUSTER"))


@contextlib.contextmanager
def fake_cluster(n_nodes: int = 3) -> Iterator[FakeCluster]:
    """Give a cluster of so many fake nodes."""
    with contextlib.ExitStack() as stack:
        yield FakeCluster([stack.enter_context(FakeServer()) for _ in range(n_nodes)])


def moved(slot: int, node: FakeServer | tuple[str, int]) -> bytes:
    """Pack a MOVED to a node, or to an address."""
    return _redirection(b"MOVED", slot, node)


def ask(slot: int, node: FakeServer | tuple[str, int]) -> bytes:
    """Pack an ASK."""
    return _redirection(b"ASK", slot, node)


def _redirection(kind: bytes, slot: int, node: FakeServer | tuple[str, int]) -> bytes:
    host, port = node if isinstance(node, tuple) else (node.host, node.port)
    return b"-%s %d %s:%d\r\n" % (kind, slot, host.encode(), port)


def times(n: int, first: Reply, then: Reply) -> Callable[[tuple[bytes, ...]], bytes | None]:
    """Answer so at first, as often as that, and then differently."""
    left = [n]

    def answer(words: tuple[bytes, ...]) -> bytes | None:
        left[0] -= 1
        reply = first if left[0] >= 0 else then
        return reply(words) if callable(reply) else reply

    return answer
