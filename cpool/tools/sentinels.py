"""A master, its replicas and their sentinels on this machine, and what can happen to a master.

Used by the tests and by `python -m tests.sentinel`. All of it is gone when its owner is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cpool.tools.servers import EmbeddedServer, free_port

__all__ = ["Node", "Promotion", "SentinelTopology", "TLSFiles"]

# Without these a replica takes seconds to attach, and its sentinels to see it.
REPLICATION_ARGS = (
    *("--repl-diskless-sync", "yes"),
    *("--repl-diskless-sync-delay", "0"),
    *("--repl-ping-replica-period", "1"),
)
FAILOVER_TIMEOUT_MS = 3000
# How often a sentinel asks the servers how they are, else ten seconds. It is not what a
# failover waits for: one under way asks every second.
INFO_PERIOD_MS = 500
PATIENCE_S = 60.0
_ANSWER_TIMEOUT_S = 2.0


class TLSFiles(Protocol):
    """Paths of PEM files: an authority, and a certificate of this host with its key."""

    @property
    def ca(self) -> str:
        """The authority's certificate."""

    @property
    def cert(self) -> str:
        """The host's certificate."""

    @property
    def key(self) -> str:
        """Its key."""


@dataclass(frozen=True)
class Node:
    """A server or a sentinel. port: the one for clients, of TLS if there is TLS. tls_args: its
    options for that."""

    server: EmbeddedServer
    port: int
    tls_args: Sequence[str] = ()
    host: str = EmbeddedServer.host

    @property
    def address(self) -> tuple[str, int]:
        """Where clients connect to, and by what name sentinels know it."""
        return self.host, self.port

    def ask(self, *command: Any) -> Any:
        """Send one command by the unix socket and return the reply. Raises RedisError."""
        client = redis.Redis(
            unix_socket_path=self.server.unixsocket,
            socket_timeout=_ANSWER_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
            protocol=2,
        )
        with contextlib.closing(client):
            return client.execute_command(*command)

    def role(self) -> str:
        """Return "master" or "slave", as the server itself says. Raises RedisError."""
        return str(self.ask("ROLE")[0])

    def is_synced(self) -> bool:
        """Say whether a replica follows its master at this moment."""
        return bool(self.ask("INFO", "replication").get("master_link_status") == "up")


@dataclass(frozen=True)
class Promotion:
    """A replica has become the master. seen_at_s: when it said so, by time.monotonic()."""

    node: Node
    seen_at_s: float


class SentinelTopology:
    """A master with `replicas`, watched by `sentinels`; a context manager. Not thread-safe.

    binary: the server executable (default: the first that is found). tls: clients, servers
    and sentinels connect to each other by TLS. down_after_ms: how long a server must be
    silent for a sentinel to take it for dead. args: more options of the servers.
    """

    name = "mymaster"

    def __init__(
        self,
        replicas: int = 2,
        sentinels: int = 3,
        binary: str | None = None,
        tls: TLSFiles | None = None,
        down_after_ms: int = 1000,
        args: Sequence[str] = (),
    ) -> None:
        self.nodes: list[Node] = []
        self.sentinels: list[Node] = []
        self._n_replicas, self._n_sentinels = replicas, sentinels
        self._binary = binary
        self._tls = tls
        self._down_after_ms = down_after_ms
        self._args = (*args, *REPLICATION_ARGS)
        self._stack = contextlib.ExitStack()
        self._down: list[Node] = []
        self._paused: list[Node] = []

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The sentinels, as `cpool.Sentinel` takes them."""
        return [sentinel.address for sentinel in self.sentinels]

    @property
    def master(self) -> Node:
        """The server that is the master by its own words. Raises RuntimeError for none."""
        for node in self._nodes_up():
            if node.role() == "master":
                return node
        raise RuntimeError("no server says that it is a master")

    @property
    def replicas(self) -> list[Node]:
        """The servers that are replicas by their own words."""
        return [node for node in self._nodes_up() if node.role() == "slave"]

    def __enter__(self) -> SentinelTopology:
        """Start everything; return once the sentinels know all. Nothing is left on an error."""
        with self._stack as stack:
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop all servers and sentinels."""
        self.resume()  # who is stopped can't end
        self._stack.close()

    def kill(self, node: Node) -> None:
        """End a server at once, as a crash would."""
        node.server.kill()
        self._down.append(node)

    # What can happen to a master; each returns it

    def kill_master(self) -> Node:
        """End the master at once, as a crash would."""
        master = self.master
        self.kill(master)
        return master

    def pause_master(self) -> Node:
        """Stop the master (SIGSTOP): its sockets stay open and nothing answers."""
        master = self.master
        os.kill(master.server.pid, signal.SIGSTOP)
        self._paused.append(master)
        return master

    def failover(self) -> Node:
        """Ask a sentinel for a failover, though nothing is wrong with the master."""
        master = self.master
        # Sentinels refuse for a while after the last one.
        _wait_until(self._failover_begins, "a sentinel begins a failover")
        return master

    def wait_promoted(self, old: Node, timeout_s: float = PATIENCE_S) -> Promotion:
        """Wait until another server than `old` says that it is the master.

        Raises TimeoutError."""
        others = [node for node in self._nodes_up() if node is not old]
        promoted: list[Node] = []

        def is_promoted() -> bool:
            promoted.extend(node for node in others if node.role() == "master")
            return bool(promoted)

        _wait_until(is_promoted, "a replica is promoted", timeout_s, every_s=0.002)
        return Promotion(promoted[0], time.monotonic())

    def wait_told(self, promotion: Promotion, timeout_s: float = PATIENCE_S) -> float:
        """Wait until a sentinel gives the new master's address to who asks for the master by
        name; return when, by time.monotonic(). Raises TimeoutError."""

        def is_told() -> bool:
            return any(self._told(each) == promotion.node.port for each in self.sentinels)

        _wait_until(is_told, "a sentinel tells of the promotion", timeout_s, every_s=0.002)
        return time.monotonic()

    def resume(self) -> None:
        """Let masters that were paused go on."""
        while self._paused:
            os.kill(self._paused.pop().server.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Bring back whoever is down or paused, as a replica of the master there is now, and
        wait until all servers and sentinels agree on it. Raises TimeoutError."""
        self.resume()
        _wait_until(self._is_settled, "the sentinels agree on a master")
        master = self._sentinels_master()
        while self._down:
            node = self._down.pop()
            node.server.restart(args=(*self._args_of_replica(master), *node.tls_args))
        for node in self.nodes:
            if node is not master:  # sentinels would do it, some ten seconds later
                node.ask("REPLICAOF", *master.address)
        _wait_until(self._is_complete, "servers and sentinels agree")

    # Start

    def _start(self) -> None:
        master = self._start_node(self._args)
        self.nodes = [master]
        for _ in range(self._n_replicas):
            self.nodes.append(self._start_node(self._args_of_replica(master)))
        _wait_until(lambda: self._are_synced(master), "the replicas have synced")
        config = self._sentinel_config(master)
        for _ in range(self._n_sentinels):
            self.sentinels.append(self._start_node(("--sentinel",), config))
        for sentinel in self.sentinels:
            with contextlib.suppress(redis.ResponseError):  # before version 7 it takes longer
                sentinel.ask("SENTINEL", "DEBUG", "info-period", INFO_PERIOD_MS)
        _wait_until(self._is_complete, "the sentinels know all")

    def _start_node(self, args: Sequence[str], config: str = "") -> Node:
        tls_port = free_port() if self._tls else 0
        tls_args = _tls_args(self._tls, tls_port) if self._tls else ()
        server = EmbeddedServer(self._binary).start(args=(*args, *tls_args), config=config)
        self._stack.enter_context(server)
        return Node(server, tls_port or server.port, tls_args)

    def _args_of_replica(self, master: Node) -> Sequence[str]:
        return (*self._args, "--replicaof", master.host, str(master.port))

    def _sentinel_config(self, master: Node) -> str:
        return (
            f"sentinel monitor {self.name} {master.host} {master.port}"
            f" {self._n_sentinels // 2 + 1}\n"
            f"sentinel down-after-milliseconds {self.name} {self._down_after_ms}\n"
            f"sentinel failover-timeout {self.name} {FAILOVER_TIMEOUT_MS}\n"
            f"sentinel parallel-syncs {self.name} {max(self._n_replicas, 1)}\n"
        )

    # What there is at this moment

    def _nodes_up(self) -> list[Node]:
        return [node for node in self.nodes if node not in self._down + self._paused]

    def _failover_begins(self) -> bool:
        return bool(self.sentinels[0].ask("SENTINEL", "FAILOVER", self.name))

    def _told(self, sentinel: Node) -> int:
        return int(sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name)[1])

    def _sentinels_master(self) -> Node:
        port = self._told(self.sentinels[0])
        return next(node for node in self.nodes if node.port == port)

    def _is_settled(self) -> bool:
        """Say whether the sentinels' master is up and knows that it is one."""
        master = self._sentinels_master()
        return (
            master in self._nodes_up()
            and master.role() == "master"
            and all(self._names(sentinel, master) for sentinel in self.sentinels)
        )

    def _are_synced(self, master: Node) -> bool:
        return all(node.is_synced() for node in self.nodes if node is not master)

    def _is_complete(self) -> bool:
        master = self._sentinels_master()
        return (
            self._is_settled()
            and self._are_synced(master)
            and all(self._knows_all(sentinel) for sentinel in self.sentinels)
        )

    def _names(self, sentinel: Node, master: Node) -> bool:
        state = _fields(sentinel.ask("SENTINEL", "MASTER", self.name))
        return int(state["port"]) == master.port and state["flags"] == "master"

    def _knows_all(self, sentinel: Node) -> bool:
        state = _fields(sentinel.ask("SENTINEL", "MASTER", self.name))
        replicas = [_fields(each) for each in sentinel.ask("SENTINEL", "SLAVES", self.name)]
        linked = [
            each
            for each in replicas
            if each["flags"] == "slave" and each["master-link-status"] == "ok"
        ]
        others = int(state["num-other-sentinels"])
        return others == self._n_sentinels - 1 and len(linked) == self._n_replicas


def _tls_args(files: TLSFiles, port: int) -> Sequence[str]:
    return (
        *("--tls-port", str(port), "--tls-auth-clients", "no", "--tls-replication", "yes"),
        *("--tls-cert-file", files.cert, "--tls-key-file", files.key),
        *("--tls-ca-cert-file", files.ca),
    )


def _fields(pairs: list[Any]) -> dict[str, Any]:
    """Return a sentinel's flat list of names and values as a dict."""
    return dict(zip(pairs[::2], pairs[1::2], strict=True))


def _wait_until(
    done: Callable[[], object], what: str, timeout_s: float = PATIENCE_S, every_s: float = 0.02
) -> None:
    """Poll until `done()` is true; an error of Redis counts as not yet. Raises TimeoutError."""
    give_up_s = time.monotonic() + timeout_s
    while time.monotonic() < give_up_s:
        with contextlib.suppress(redis.RedisError):
            if done():
                return
        time.sleep(every_s)
    raise TimeoutError(f"not in {timeout_s} s: {what}")
