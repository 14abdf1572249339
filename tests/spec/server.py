"""A server that is no process: it accepts, refuses and hangs by script, over socket pairs.

A connection class of either library dials it in place of TCP and is otherwise itself, so a
pool sees real descriptors that end, or have bytes to read, as a network's would.
"""

from __future__ import annotations

import errno
import queue
import socket
import threading
from collections import deque
from collections.abc import Iterable
from typing import Any

from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.pool.support import PATIENCE_S


class ConstructorFailed(Exception):
    """What a connection's constructor raises by script."""


class ScriptedServer:
    """Who dialled, what became of it, and which connections the pool has not closed.

    Connections are numbered as they are accepted, from 1; dials as they begin."""

    def __init__(
        self,
        dials: Iterable[str] = (),
        constructors: Iterable[str] = (),
        closings: Iterable[str] = (),
    ) -> None:
        self.dials = self.dials_under_way = self.most_dials = 0
        self._outcomes = deque(dials)
        self._constructors = deque(constructors)
        self._closings = deque(closings)
        self._may_close = threading.Event()
        self._hanging: dict[int, queue.SimpleQueue[str]] = {}
        self._peers: dict[int, socket.socket] = {}
        self._clients = 0
        self._over = False
        self._lock = threading.Lock()

    def construct(self) -> None:
        """Raise ConstructorFailed if the script says so."""
        with self._lock:
            outcome = self._constructors.popleft() if self._constructors else "works"
        if outcome == "raises":
            raise ConstructorFailed("the constructor has failed")

    def dial(self) -> tuple[socket.socket, int, int]:
        """Return a socket, the connection's number and the client's, as a dial ends.

        Raises what a socket's connect() raises."""
        number, outcome = self._begin()
        try:
            if outcome == "hang":
                outcome = self._hanging[number].get(timeout=PATIENCE_S)
            if outcome == "refuse":
                raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
            if outcome == "timeout":
                raise TimeoutError("timed out")
            return self._accept()
        finally:
            with self._lock:
                self.dials_under_way -= 1

    def _begin(self) -> tuple[int, str]:
        with self._lock:
            self.dials += 1
            self.dials_under_way += 1
            self.most_dials = max(self.most_dials, self.dials_under_way)
            self._hanging[self.dials] = queue.SimpleQueue()
            return self.dials, self._outcomes.popleft() if self._outcomes else "accept"

    def _accept(self) -> tuple[socket.socket, int, int]:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        with self._lock:
            self._clients += 1
            number = len(self._peers) + 1
            self._peers[number] = theirs
            if self._over:
                theirs.close()
            return ours, number, self._clients

    def end_dial(self, number: int, outcome: str) -> None:
        """Let a dial that hangs end that way."""
        self._hanging[number].put(outcome)

    def hold_closing(self) -> None:
        """Keep who closes a connection from doing so, if the script says so."""
        if self._closings and self._closings.popleft() == "hang":
            self._may_close.wait(PATIENCE_S)

    def end_closing(self) -> None:
        """Let every closing that hangs go on."""
        self._may_close.set()

    def accept_all(self) -> None:
        """Let every dial succeed from now on, those that hang included."""
        self._outcomes.clear()
        self._constructors.clear()
        self._closings.clear()
        self._may_close.set()
        for hanging in list(self._hanging.values()):
            hanging.put("accept")

    def send(self, number: int, data: bytes) -> None:
        """Say something to a connection."""
        self._peers[number].sendall(data)

    def close(self, number: int) -> None:
        """Close a connection from this side."""
        self._peers[number].close()

    def count_clients_anew(self) -> None:
        """Number clients from 1 again, as a process that was started anew does."""
        self._clients = 0

    def connected(self) -> list[int]:
        """Return the numbers of the connections that neither side has closed."""
        return [number for number, peer in list(self._peers.items()) if _is_open(peer)]

    def end(self) -> None:
        """Close everything."""
        self.accept_all()
        with self._lock:  # a pool may be dialling ahead
            self._over = True
            for peer in self._peers.values():
                peer.close()


def _is_open(peer: socket.socket) -> bool:
    try:
        while peer.fileno() >= 0 and peer.recv(65536):
            pass  # what the pool has sent is not looked at
        return False
    except BlockingIOError:
        return True
    except ConnectionError:  # it was closed with bytes unread
        return False


def connection_class(base: Any, server: ScriptedServer) -> Any:
    """Make a connection class, of either library, that dials this server."""

    class Scripted(base):  # type: ignore[misc]
        number = 0

        def __init__(self, **kwargs: Any) -> None:
            server.construct()
            super().__init__(**kwargs)

        def _connect(self) -> socket.socket:
            sock, self.number, self.client = server.dial()
            sock.settimeout(self.socket_timeout)
            return sock

        def disconnect(self, *args: Any, **kwargs: Any) -> None:
            if self._sock is not None:
                server.hold_closing()
            super().disconnect(*args, **kwargs)

    return Scripted


def connection_options() -> dict[str, Any]:
    """Return the arguments of connections for which the script alone decides what happens."""
    return {
        "protocol": 2,  # no reference cycles: what vanishes does so at once
        "redis_connect_func": _shake_hands,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": PATIENCE_S,
        "socket_connect_timeout": PATIENCE_S,
    }


def _shake_hands(connection: Any) -> None:
    connection._parser.on_connect(connection)
    connection.handshake_metadata = {"id": connection.client}
