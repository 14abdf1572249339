"""One connection whose server end is in the hands of the test itself.

The connections say nothing when they connect, so a test decides about every byte. They come
in four kinds: "fd" and "unix" are read by descriptor, "tls" and "methods" (a socket class that
the core does not know) by the socket's own methods.
"""

from __future__ import annotations

import contextlib
import fcntl
import inspect
import os
import select
import socket
import ssl
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import redis
from redis.connection import AbstractConnection
from redis.retry import Retry

import cpool
from tests.support.tls import Certificates

T = TypeVar("T")
KINDS = ("fd", "unix", "tls", "methods")
LIBRARIES = (redis, cpool)
WAIT_TIMEOUT_S = 20.0
# What came with later versions of redis-py: 8.0, 7.0, 7.2.
HAS_READ_TIMEOUT = "timeout" in inspect.signature(AbstractConnection.read_response).parameters
HAS_MAINTENANCE = hasattr(AbstractConnection, "update_current_socket_timeout")
HAS_FAILURE_COUNT = "with_failure_count" in inspect.signature(Retry.call_with_retry).parameters
_POLL_S = 0.002
_SETTLED_POLLS = 5


def silent() -> dict[str, Any]:
    """Return the options of a connection that sends nothing of its own."""
    if "driver_info" in inspect.signature(AbstractConnection.__init__).parameters:
        return {"protocol": 2, "driver_info": None}
    return {"protocol": 2, "lib_name": None, "lib_version": None}


def is_connected(conn: Any) -> bool:
    """Tell whether a connection has a socket, in every version of redis-py."""
    return conn._sock is not None


def wait_for(done: Callable[[], object], what: str, timeout_s: float = WAIT_TIMEOUT_S) -> None:
    """Poll until `done()` is true, at first often. Raises TimeoutError."""
    poll_s = _POLL_S / 50
    give_up_s = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > give_up_s:
            raise TimeoutError(f"not in {timeout_s} s: {what}")
        time.sleep(poll_s)
        poll_s = min(poll_s * 1.5, _POLL_S)


def bulk(data: bytes) -> bytes:
    """Return a bulk string as it stands on the wire."""
    return b"$%d\r\n%b\r\n" % (len(data), data)


def request(*words: bytes) -> bytes:
    """Return a command as it stands on the wire."""
    return b"*%d\r\n" % len(words) + b"".join(bulk(word) for word in words)


HELLO = request(b"HELLO", b"3")


class Task(threading.Thread, Generic[T]):
    """A call on a thread of its own, begun at once, whose outcome the test asks for."""

    def __init__(self, call: Callable[..., T], *args: Any) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._call_args = args
        self._value: T | None = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Make the call."""
        try:
            self._value = self._call(*self._call_args)
        except BaseException as error:
            self._error = error

    def result(self, timeout_s: float = WAIT_TIMEOUT_S) -> Any:
        """Return what the call returned, or raise what it raised. Raises TimeoutError."""
        self.join(timeout_s)
        if self.is_alive():
            raise TimeoutError(f"{self._call} has not ended in {timeout_s} s")
        try:
            if self._error is not None:
                raise self._error
        finally:
            self._error = None  # no reference cycle through the traceback
        return self._value

    def wait_blocked(self) -> None:
        """Wait until the thread sleeps in a system call while nobody holds the GIL."""
        self.wait_blocked_or_ended()
        if not self.is_alive():
            raise AssertionError(f"{self._call} has ended: {self._error!r}")

    def wait_blocked_or_ended(self) -> None:
        """The same, or until the call has ended."""
        settled = 0
        while settled < _SETTLED_POLLS and self.is_alive():
            time.sleep(_POLL_S)  # a thread that waits for the GIL gets it now
            settled = settled + 1 if self._sleeps() else 0

    def _sleeps(self) -> bool:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            stat = Path(f"/proc/self/task/{self.native_id}/stat").read_text()
            return stat.rpartition(")")[2].split()[0] == "S"
        return False


@dataclass(frozen=True)
class Outcome:
    """What a call came to: its exact type and text if it raised, and the connection after."""

    value: Any
    error: type[BaseException] | None
    text: str
    connected: bool


def outcome(conn: Any, call: Callable[[], Any]) -> Outcome:
    """Make a call and tell what it came to."""
    try:
        value, error, text = call(), None, ""
    except BaseException as raised:
        value, error, text = None, type(raised), str(raised)
    return Outcome(value, error, text, is_connected(conn))


class Link:
    """A connection and the server's end of its socket."""

    def __init__(self, conn: Any, peer: socket.socket) -> None:
        self.conn = conn
        self.peer = peer
        self.sock = conn._sock
        peer.settimeout(WAIT_TIMEOUT_S)

    def send(self, data: bytes) -> None:
        """Let the server say something."""
        self.peer.sendall(data)

    def feed(self, pieces: Iterable[bytes]) -> None:
        """Send each piece once the client has read the one before it."""
        for piece in pieces:
            self.peer.sendall(piece)
            wait_for(lambda: self.unread_bytes == 0, "the client reads the piece")

    def wait_closed(self) -> None:
        """Wait until the client's kernel knows that nothing more will come."""
        self._wait_event(select.POLLRDHUP | select.POLLHUP | select.POLLERR)

    def wait_broken(self) -> None:
        """Wait until the client's kernel knows that nothing more can be sent."""
        self._wait_event(select.POLLHUP | select.POLLERR)

    def _wait_event(self, wanted: int) -> None:
        poll = select.poll()
        poll.register(self.sock.fileno(), wanted)
        wait_for(lambda: poll.poll(0), "the end of the connection")

    def receive(self, n_bytes: int) -> bytes:
        """Read that many bytes of what the client sends."""
        data = bytearray()
        while len(data) < n_bytes:
            more = self.peer.recv(n_bytes - len(data))
            if not more:
                break
            data += more
        return bytes(data)

    @property
    def unread_bytes(self) -> int:
        """Bytes the client's kernel holds for it."""
        answer = fcntl.ioctl(self.sock.fileno(), termios.FIONREAD, b"\0" * 4)
        return int(struct.unpack("i", answer)[0])

    def close(self) -> None:
        """End the connection in order (FIN), as a server does that goes."""
        with contextlib.suppress(OSError):
            self.peer.shutdown(socket.SHUT_RDWR)
        self.peer.close()

    def reset(self) -> None:
        """End the connection by RST."""
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if isinstance(self.peer, ssl.SSLSocket):
            os.close(self.peer.detach())
        else:
            self.peer.close()


class UnknownSocket(socket.socket):
    """A socket class of somebody's making: the core must use its methods."""


def by_methods(base: Any) -> Any:
    """Return a connection class whose sockets are of a class the core does not know."""

    class Connection(base):  # type: ignore[misc]
        def _connect(self) -> socket.socket:
            sock = super()._connect()
            timeout_s = sock.gettimeout()
            unknown = UnknownSocket(sock.family, sock.type, sock.proto, sock.detach())
            unknown.settimeout(timeout_s)
            return unknown

    return Connection


class Wire:
    """A listening socket of one kind, and connections made to it. close() ends them all."""

    def __init__(self, kind: str, directory: Path, certificates: Certificates | None) -> None:
        self.kind = kind
        self._certificates = certificates
        self._path = str(directory / "sock")
        self._open: list[Any] = []
        if kind == "unix":
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(self._path)
            self._listener.listen()
        else:
            self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(WAIT_TIMEOUT_S)

    @property
    def by_fd(self) -> bool:
        """Whether the core does the I/O itself."""
        return self.kind in ("fd", "unix")

    @property
    def port(self) -> int:
        """The TCP port."""
        return int(self._listener.getsockname()[1])

    def connection(self, library: Any = cpool, **options: Any) -> Any:
        """Make a connection of redis-py or cpool, not yet connected."""
        options = {"socket_timeout": WAIT_TIMEOUT_S, **silent(), **options}
        conn = self._class(library)(**self._address(), **options)
        self._open.append(conn)
        return conn

    def connect(self, library: Any = cpool, **options: Any) -> Link:
        """Make a connection and connect it. With protocol=3 the peer answers HELLO."""
        conn = self.connection(library, **options)
        greet = self._accept_hello if int(options.get("protocol", 2)) == 3 else self.accept
        accepted = Task(greet)
        dialled = Task(conn.connect)
        peer = accepted.result()
        dialled.result()
        return Link(conn, peer)

    def _accept_hello(self) -> socket.socket:
        peer = self.accept()
        assert peer.recv(len(HELLO), socket.MSG_WAITALL if self.kind != "tls" else 0) == HELLO
        peer.sendall(b"%1\r\n$5\r\nproto\r\n:3\r\n")
        return peer

    def accept(self) -> socket.socket:
        """Take a connection; under TLS shake hands."""
        peer, _ = self._listener.accept()
        if self.kind == "tls":
            assert self._certificates is not None
            peer.settimeout(WAIT_TIMEOUT_S)
            peer = self._certificates.server_context().wrap_socket(peer, server_side=True)
        self._open.append(_Peer(peer))
        return peer

    def forget(self) -> None:
        """Let go of the connections made so far: the test has disconnected them."""
        self._open = [opened for opened in self._open if isinstance(opened, _Peer)]

    def close(self) -> None:
        """Close everything that was opened here."""
        self._listener.close()
        for opened in self._open:
            opened.disconnect()

    def _class(self, library: Any) -> Any:
        if self.kind == "unix":
            return _connections(library).UnixDomainSocketConnection
        if self.kind == "tls":
            return _connections(library).SSLConnection
        base = _connections(library).Connection
        return by_methods(base) if self.kind == "methods" else base

    def _address(self) -> dict[str, Any]:
        if self.kind == "unix":
            return {"path": self._path}
        host = "127.0.0.1"
        if self.kind != "tls":
            return {"host": host, "port": self.port}
        assert self._certificates is not None
        return {"host": host, "port": self.port, "ssl_ca_certs": self._certificates.ca}


@dataclass(frozen=True)
class _Peer:
    sock: socket.socket

    def disconnect(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.close()


def _connections(library: Any) -> Any:
    return redis.connection if library is redis else library
