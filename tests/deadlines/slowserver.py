"""Servers that keep a caller waiting: at each stage, over each transport.

A `Silent` listens and takes nobody in: connections are made by the kernel and nothing is ever
said, not even the TLS handshake. With its backlog full it is a black hole. A `SlowServer`
shakes hands, and then does with commands what a test wants.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import cpool
from tests.connection.fakeserver import DEFAULT_REPLIES, Words, words_of
from tests.support.faultproxy import message_end
from tests.support.tls import Certificates

Transport = Literal["tcp", "tls", "unix"]
TRANSPORTS: tuple[Transport, ...] = ("tcp", "tls", "unix")
#: What to do with a command, on its socket, until the server ends.
Answer = Callable[[socket.socket, Words, threading.Event], None]
_CLASSES: dict[Transport, type] = {
    "tcp": cpool.Connection,
    "tls": cpool.SSLConnection,
    "unix": cpool.UnixDomainSocketConnection,
}


class Listener:
    """A listening socket, and what a pool needs to know of it."""

    def __init__(
        self, transport: Transport, directory: Path, certificates: Certificates, backlog: int
    ) -> None:
        self.transport = transport
        self.certificates = certificates
        if transport == "unix":
            self.address: Any = str(directory / "socket")
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.bind(self.address)
            self.sock.listen(backlog)
        else:
            self.sock = socket.create_server(("127.0.0.1", 0), backlog=backlog)
            self.address = self.sock.getsockname()

    def pool(
        self, pool_class: type[cpool.ConnectionPool] = cpool.ConnectionPool, **options: Any
    ) -> Any:
        """Make a pool that never tries again, unless told otherwise."""
        options.setdefault("retry", Retry(NoBackoff(), 0))
        options.setdefault("socket_timeout", None)
        if self.transport == "unix":
            options["path"] = self.address
        else:
            options["host"], options["port"] = self.address
        if self.transport == "tls":
            options["ssl_ca_certs"] = self.certificates.ca
        return pool_class(connection_class=_CLASSES[self.transport], **options)


class Silent(Listener):
    """Never says anything. full: nor can anybody connect."""

    def __init__(
        self, transport: Transport, directory: Path, certificates: Certificates, full: bool = False
    ) -> None:
        super().__init__(transport, directory, certificates, 0 if full else 100)
        self.waiting: list[socket.socket] = []
        while full and self._connect_one():
            pass

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (*self.waiting, self.sock):
            sock.close()

    def _connect_one(self) -> bool:
        """Take a place in the backlog; tell whether there was one."""
        sock = socket.socket(self.sock.family)
        sock.settimeout(0.05)
        self.waiting.append(sock)
        try:
            sock.connect(self.address)
        except (TimeoutError, BlockingIOError):
            return False
        return True


class SlowServer(Listener):
    """Answers a handshake at once, and every other command as `answer` does."""

    def __init__(
        self,
        transport: Transport,
        directory: Path,
        certificates: Certificates,
        answer: Answer,
    ) -> None:
        super().__init__(transport, directory, certificates, 100)
        self._answer = answer
        self._stop = threading.Event()
        self._context = certificates.server_context() if transport == "tls" else None
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> SlowServer:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        for sock in (self.sock, *self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self.sock.close()

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the end
            while True:
                sock, _ = self.sock.accept()
                self._open.append(sock)
                self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        data = b""
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.suppress(OSError))
            stack.enter_context(sock)
            if self._context is not None:
                sock = stack.enter_context(self._wrap(self._context, sock))
            while more := sock.recv(1 << 20):
                data += more
                while data and (end := message_end(data)) is not None:
                    words, data = words_of(data[:end])[0], data[end:]
                    self._reply(sock, words)

    def _wrap(self, context: ssl.SSLContext, sock: socket.socket) -> ssl.SSLSocket:
        return context.wrap_socket(sock, server_side=True)

    def _reply(self, sock: socket.socket, words: Words) -> None:
        name = words[0].decode()
        if name in ("HELLO", "CLIENT", "SELECT"):
            reply = DEFAULT_REPLIES.get(name, b"+OK\r\n")
            sock.sendall((reply(words) if callable(reply) else reply) or b"")
        else:
            self._answer(sock, words, self._stop)


def stall(sock: socket.socket, words: Words, stop: threading.Event) -> None:
    """Say nothing more."""
    stop.wait()


def drip(every_s: float) -> Answer:
    """Answer a GET with a string of which a byte comes now and then, other commands at once."""

    def answer(sock: socket.socket, words: Words, stop: threading.Event) -> None:
        sock.sendall(b"$1000000\r\n" if words[0] == b"GET" else b"+OK\r\n")
        while words[0] == b"GET" and not stop.wait(every_s):
            sock.sendall(b"x")

    return answer


def flood(sock: socket.socket, words: Words, stop: threading.Event) -> None:
    """Answer with a string that comes as fast as it is read, and is longer than any wait."""
    sock.sendall(b"$536870912\r\n")
    while not stop.is_set():
        sock.sendall(b"x" * 65536)


def client_of(kind: str, pool: Any) -> redis.Redis:
    """Make a client on a pool: of "cpool", or redis-py's own on our "pool"."""
    return (cpool.Redis if kind == "cpool" else redis.Redis)(connection_pool=pool)
