"""A server that says what a test has written down, and notes what it was asked.

It answers every request of every connection; each batch of requests that arrived together is
noted as one. Replies are given by the first word, or the first two, of a command.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping
from types import TracebackType

from tests.support.faultproxy import message_end

Words = tuple[bytes, ...]
Reply = bytes | None | Callable[[Words], bytes | None]
WAIT_TIMEOUT_S = 20.0
CLOSE = None  # in the place of a reply: close the connection


def hello(words: Words) -> bytes:
    """Answer HELLO with the protocol asked for."""
    if words[1] == b"3":
        return b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n"
    return b"*4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:2\r\n"


DEFAULT_REPLIES: dict[str, Reply] = {"HELLO": hello, "PING": b"+PONG\r\n", "GET": b"$-1\r\n"}


def words_of(data: bytes) -> list[Words]:
    """Take packed or inline requests apart."""
    found, at = [], 0
    while at < len(data):
        end = message_end(data, at)
        assert end is not None
        if data[at : at + 1] == b"*":
            found.append(tuple(data[at:end].split(b"\r\n")[2::2]))
        else:
            found.append(tuple(data[at:end].split()))
        at = end
    return found


class FakeServer:
    """Answer on a loopback port. `connections` lists, of each, its batches of requests."""

    host = "127.0.0.1"

    def __init__(self, replies: Mapping[str, Reply] | None = None) -> None:
        self.replies = {**DEFAULT_REPLIES, **(replies or {})}
        self.connections: list[list[list[Words]]] = []
        self._changed = threading.Condition()
        self._listener = socket.create_server((self.host, 0))
        self._open: list[socket.socket] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> FakeServer:
        self._accepting.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    @property
    def port(self) -> int:
        """The TCP port."""
        return int(self._listener.getsockname()[1])

    @property
    def requests(self) -> list[Words]:
        """All requests of the last connection."""
        with self._changed:
            return [words for batch in self.connections[-1] for words in batch]

    @property
    def batches(self) -> list[list[str]]:
        """The commands of the last connection, by the batches they came in."""
        with self._changed:
            return [[words[0].decode() for words in batch] for batch in self.connections[-1]]

    def forget(self) -> None:
        """Forget what was asked so far."""
        with self._changed:
            self.connections.clear()

    def wait_until(self, done: Callable[[], bool]) -> None:
        """Wait for a condition on what was asked. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(done, WAIT_TIMEOUT_S):
                raise TimeoutError(f"not asked so: {self.connections}")

    def say(self, data: bytes) -> None:
        """Send bytes nobody asked for on the newest connection."""
        self._open[-1].sendall(data)

    def hang_up(self) -> None:
        """Close the newest connection."""
        self._open[-1].shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            batches: list[list[Words]] = []
            with self._changed:
                self._open.append(sock)
                self.connections.append(batches)
                self._changed.notify_all()
            threading.Thread(target=self._serve, args=(sock, batches), daemon=True).start()

    def _serve(self, sock: socket.socket, batches: list[list[Words]]) -> None:
        data = b""
        with sock, contextlib.suppress(OSError):
            while more := sock.recv(1 << 20):
                data += more
                whole, data = _split(data)
                if not whole:
                    continue
                batch = words_of(whole)
                with self._changed:
                    batches.append(batch)
                    self._changed.notify_all()
                if not self._answer(sock, batch):
                    return

    def _answer(self, sock: socket.socket, batch: list[Words]) -> bool:
        for words in batch:
            reply = self._reply_to(words)
            if reply is CLOSE:
                return False
            sock.sendall(reply)
        return True

    def _reply_to(self, words: Words) -> bytes | None:
        two = b" ".join(words[:2]).decode(errors="replace").upper()
        one = words[0].decode().upper()
        reply = self.replies.get(two, self.replies.get(one, b"+OK\r\n"))
        return reply(words) if callable(reply) else reply


def _split(data: bytes) -> tuple[bytes, bytes]:
    """Split after the last whole request."""
    at = 0
    while at < len(data):
        end = message_end(data, at)
        if end is None:
            break
        at = end
    return data[:at], data[at:]
