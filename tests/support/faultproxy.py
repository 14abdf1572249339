"""A TCP proxy between client and server whose faults a test controls to the byte.

Nothing here is timed: bytes are held until a test lets them go, and a test can wait until
they have arrived. All methods may be called from any thread; what is set applies to all
connections, present and future, and counts from the moment it is set.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Literal

from tests.support.unread import wait_until_read

Cut = Literal["close", "reset", "half"]
WAIT_TIMEOUT_S = 10.0
_POLL_S = 0.1


def message_end(data: bytes | bytearray, at: int = 0) -> int | None:
    """Return where the RESP value or inline command that begins at `at` ends; None if cut."""
    line_end = data.find(b"\r\n", at)
    if line_end < 0:
        return None
    kind, after = bytes(data[at : at + 1]), line_end + 2
    try:
        size = int(data[at + 1 : line_end])
    except ValueError:
        return after
    if kind in b"$=!":
        after += size + 2 if size >= 0 else 0
        return after if after <= len(data) else None
    children = size * 2 + (kind == b"|") if kind in b"%|" else size if kind in b"*~>" else 0
    end: int | None = after
    for _ in range(children):
        if end is None:
            break
        end = message_end(data, end)
    return end


class Flow:
    """One direction of the traffic: what a test does to it, and what went through it.

    A message is a whole RESP value: a command or a reply.
    """

    def __init__(self, changed: threading.Condition, framed: bool) -> None:
        self.segments = 0
        self.n_bytes = 0
        self.messages = 0
        self._changed = changed
        self._framed = framed
        self._pipes: list[_Pipe] = []
        self._bytes_left: int | None = None
        self._messages_left: int | None = None
        self._cut: tuple[int, Cut] | None = None
        self._sizes: deque[int] = deque()
        self._each: int | None = None
        self._planned: tuple[int, bytes] | None = None

    def stall(self, after_bytes: int | None = None, after_messages: int | None = None) -> None:
        """Let that much more pass (nothing if not told), then hold all bytes until release().

        A message that is half through counts as the first one.
        """
        with self._changed:
            at_once = after_bytes is None and after_messages is None
            self._bytes_left = 0 if at_once else after_bytes
            self._messages_left = after_messages
            self._changed.notify_all()

    def release(self) -> None:
        """Let everything pass that is held, and what follows."""
        with self._changed:
            self._bytes_left = self._messages_left = None
            self._changed.notify_all()

    def cut_after(self, n_bytes: int, how: Cut = "close") -> None:
        """Let `n_bytes` pass, then end that connection once, in place of the next byte.

        how: "close" both ends in order, "reset" the client's (RST), or close "half": this
        direction's end only, the other direction goes on.
        """
        with self._changed:
            self._cut = (n_bytes, how)
            self._changed.notify_all()

    def split(self, *sizes: int, each: int | None = None) -> None:
        """Deliver pieces of these sizes, then the rest whole, or in pieces of `each` bytes.

        A piece is sent when the receiver has read the one before it (known on Linux only).
        Without arguments end it.
        """
        with self._changed:
            self._sizes, self._each = deque(sizes), each

    def inject(self, data: bytes, wait: bool = True) -> None:
        """Send bytes of our own on the newest connection, between two messages; wait for it.

        They overtake what is stalled, unless a message is half through: then only release()
        lets them out. Raises TimeoutError.
        """
        with self._changed:
            pipe = self._pipes[-1]
            pipe.injected.append(data)
            self._changed.notify_all()
            if wait:
                self._wait(lambda: not pipe.injected, "the injected bytes were not sent")

    def inject_after(self, messages: int, data: bytes) -> None:
        """Let that many more messages pass, then send bytes of our own once.

        They go to the connection that comes first to that point; 0 is at once, or when the
        next connection is opened.
        """
        with self._changed:
            self._planned = (messages, data)
            self._changed.notify_all()

    def calm(self) -> None:
        """Take back all that was set and has not struck yet."""
        with self._changed:
            self._cut = self._planned = None
            self.split()
            self.release()

    def _count_message(self) -> None:
        self.messages += 1
        if self._messages_left is not None:
            self._messages_left -= 1
        if self._planned is not None:
            self._planned = (self._planned[0] - 1, self._planned[1])

    def _next_size(self, n_bytes: int) -> int:
        if not self._sizes:
            return min(n_bytes, self._each or n_bytes)
        n_bytes = min(n_bytes, self._sizes[0])
        self._sizes[0] -= n_bytes
        if self._sizes[0] == 0:
            self._sizes.popleft()
        return n_bytes

    @property
    def held_bytes(self) -> int:
        """Bytes that have arrived and not been passed on."""
        with self._changed:
            return sum(len(pipe.buffer) - pipe.sent for pipe in self._pipes)

    def wait_held(self, n_bytes: int = 1) -> None:
        """Wait until at least `n_bytes` are held. Raises TimeoutError."""
        with self._changed:
            self._wait(lambda: self.held_bytes >= n_bytes, f"{n_bytes} bytes are not held")

    def _wait(self, done: Callable[[], bool], what: str) -> None:
        if not self._changed.wait_for(done, WAIT_TIMEOUT_S):
            raise TimeoutError(what)


class _Pipe:
    """One direction of one connection: a reader thread fills, a writer thread empties."""

    def __init__(
        self, link: _Link, flow: Flow, source: socket.socket, sink: socket.socket
    ) -> None:
        self.link = link
        self.flow = flow
        self.source = source
        self.sink = sink
        self.buffer = bytearray()  # from the last message boundary on
        self.sent = 0  # of it, already passed on
        self.injected: deque[bytes] = deque()
        self.is_split = False  # more is at hand than the piece just taken
        self.ended = False
        self.closed = False

    def read_loop(self) -> None:
        """Take in what arrives, until the source or the connection ends."""
        while not self.link.dead:
            try:
                data = self.source.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                return self.link.end()
            self._take_in(data)
            if not data:
                return None
        return None

    def write_loop(self) -> None:
        """Pass on what may pass, until nothing more will come."""
        while (piece := self._next_piece()) is not None:
            data, is_injected = piece
            if not self.closed and not self._send(data):
                return self.link.end()
            if is_injected:
                with self.flow._changed:
                    self.injected.popleft()
                    self.flow._changed.notify_all()
            elif self.is_split:
                wait_until_read(self.sink)
        return self.close()

    def close(self) -> None:
        """Tell the receiver that nothing more will come; what does come is discarded."""
        self.closed = True
        if not self.link.dead:
            with contextlib.suppress(OSError):
                self.sink.shutdown(socket.SHUT_WR)

    def _take_in(self, data: bytes) -> None:
        with self.flow._changed:
            self.ended = not data
            self.buffer += data
            if data:
                self.flow.segments += 1
                self.flow.n_bytes += len(data)
                self.link.count_turn(self)
            self.flow._changed.notify_all()

    def _send(self, data: bytes) -> bool:
        view = memoryview(data)
        while view and not self.link.dead:
            try:
                view = view[self.sink.send(view) :]
            except TimeoutError:
                continue
            except OSError:
                return self.closed
        return not view

    def _next_piece(self) -> tuple[bytes, bool] | None:
        """Wait for bytes that may pass, ours or the source's; None when it is over."""
        with self.flow._changed:
            while not self.link.dead:
                self._take_planned()
                n_bytes = self._allowance()
                if self.injected and self.sent == 0:
                    return self.injected[0], True
                if n_bytes > 0 and self._cut_here():
                    continue
                if n_bytes > 0:
                    return self._take_out(n_bytes), False
                if self.ended and self.sent == len(self.buffer):
                    return None
                self.flow._changed.wait()
        return None

    def _take_planned(self) -> None:
        if self.flow._planned is not None and self.flow._planned[0] == 0:
            self.injected.append(self.flow._planned[1])
            self.flow._planned = None

    def _allowance(self) -> int:
        """Count the bytes at hand that may pass now, stalls and boundaries considered."""
        flow, limit = self.flow, len(self.buffer)
        limits = [1] if self.injected and self.sent else []
        if flow._messages_left is not None:
            limits.append(flow._messages_left)
        if flow._planned is not None:
            limits.append(flow._planned[0])
        if limits:
            messages = min(limits)
            limit = self._end_of_message(messages) if messages else self.sent
        if flow._bytes_left is not None:
            limit = min(limit, self.sent + flow._bytes_left)
        return limit - self.sent

    def _end_of_message(self, number: int) -> int:
        if not self.flow._framed:
            return len(self.buffer)
        end = 0
        for _ in range(number):
            next_end = message_end(self.buffer, end)
            if next_end is None:
                return len(self.buffer)
            end = next_end
        return end

    def _cut_here(self) -> bool:
        if self.flow._cut is None or self.flow._cut[0] > 0:
            return False
        how, self.flow._cut = self.flow._cut[1], None
        if how == "half":
            self.close()
        else:
            self.link.end(reset=how == "reset")
        return True

    def _take_out(self, n_bytes: int) -> bytes:
        flow = self.flow
        if flow._cut is not None:
            n_bytes = min(n_bytes, flow._cut[0])
            flow._cut = (flow._cut[0] - n_bytes, flow._cut[1])
        wanted, n_bytes = n_bytes, flow._next_size(n_bytes)
        self.is_split = n_bytes < wanted
        if flow._bytes_left is not None:
            flow._bytes_left -= n_bytes
        piece = bytes(self.buffer[self.sent : self.sent + n_bytes])
        self.sent += n_bytes
        self._forget_messages()
        flow._changed.notify_all()
        return piece

    def _forget_messages(self) -> None:
        flow = self.flow
        while self.sent:
            end = message_end(self.buffer) if flow._framed else self.sent
            if end is None or end > self.sent:
                return
            del self.buffer[:end]
            self.sent -= end
            flow._count_message()


class _Link:
    """One connection through the proxy: two sockets, two pipes, four threads."""

    def __init__(self, proxy: FaultProxy, client: socket.socket, server: socket.socket) -> None:
        self.dead = False
        self._proxy = proxy
        self._client = client
        self._server = server
        self._turn: _Pipe | None = None
        for sock in (client, server):
            sock.settimeout(_POLL_S)
        self.requests = _Pipe(self, proxy.requests, client, server)
        self.replies = _Pipe(self, proxy.replies, server, client)
        self._running = 4

    def start(self) -> None:
        """Begin to pass bytes."""
        for pipe in (self.requests, self.replies):
            for loop in (pipe.read_loop, pipe.write_loop):
                threading.Thread(target=self._run, args=(loop,), daemon=True).start()

    def count_turn(self, pipe: _Pipe) -> None:
        """Count a round trip when requests follow replies, or come first."""
        if pipe is self.requests and self._turn is not pipe:
            self._proxy.round_trips += 1
        self._turn = pipe

    def end(self, reset: bool = False) -> None:
        """End the connection; the last of its threads closes the sockets.

        Closing sooner would do nothing yet: a thread in recv() keeps the connection alive.
        """
        with self._proxy.changed:
            if self.dead:
                return
            self.dead = True
            how = socket.SHUT_RDWR
            if reset:
                how = socket.SHUT_RD
                linger = struct.pack("ii", 1, 0)
                self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            for sock in (self._client, self._server):
                with contextlib.suppress(OSError):
                    sock.shutdown(how)
            self._proxy.changed.notify_all()

    def _run(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        finally:
            with self._proxy.changed:
                self._running -= 1
                if self._running == 0:
                    self._client.close()
                    self._server.close()
                    self._proxy.forget(self)


class FaultProxy:
    """Listen on a loopback port and pass every connection on to a server.

    upstream: (host, port), or the path of a unix socket. framed: False if the bytes are not
    RESP (TLS), then every segment is a message. path: listen on a unix socket there, not on a
    port. `requests` and `replies` are the two directions; `connections` counts those accepted,
    `round_trips` how often requests followed replies.
    """

    host = "127.0.0.1"

    def __init__(
        self, upstream: tuple[str, int] | str, framed: bool = True, path: str | None = None
    ) -> None:
        self.changed = threading.Condition()
        self.requests = Flow(self.changed, framed)
        self.replies = Flow(self.changed, framed)
        self.connections = 0
        self.round_trips = 0
        self.port = 0
        self.path = path
        self._upstream = upstream
        self._links: list[_Link] = []
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None

    def __enter__(self) -> FaultProxy:
        self.accept_connections()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.refuse_connections()
        self.close_connections()

    @property
    def address(self) -> tuple[str, int]:
        """Where clients connect to, if not to `path`."""
        return self.host, self.port

    @property
    def open_connections(self) -> int:
        """How many connections go through the proxy now."""
        with self.changed:
            return len(self._links)

    def accept_connections(self) -> None:
        """Listen, again on the same port or path after refuse_connections()."""
        if self._listener is None:
            self._listener = self._listen()
            args = (self._listener,)
            self._acceptor = threading.Thread(target=self._accept_loop, args=args, daemon=True)
            self._acceptor.start()

    def _listen(self) -> socket.socket:
        if self.path is None:
            listener = socket.create_server((self.host, self.port), backlog=1024)
            self.port = listener.getsockname()[1]
            return listener
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path)
        listener.listen(1024)
        return listener

    def refuse_connections(self) -> None:
        """Stop listening: new connections are refused, open ones go on."""
        if self._listener is not None and self._acceptor is not None:
            listener, self._listener = self._listener, None
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            self._acceptor.join()
            listener.close()

    def close_connections(self) -> None:
        """Close every open connection in order (FIN) and wait until that is done."""
        self._end_all(reset=False)

    def reset_connections(self) -> None:
        """Reset every open connection (RST to the client) and wait until that is done."""
        self._end_all(reset=True)

    def calm(self) -> None:
        """End all faults: accept connections, let everything pass, forget what was planned."""
        self.accept_connections()
        self.requests.calm()
        self.replies.calm()

    def half_close(self) -> None:
        """Close the replies' end of every connection: the client may still send."""
        with self.changed:
            for link in self._links:
                link.replies.close()

    def wait_until(self, done: Callable[[], bool], what: str = "condition") -> None:
        """Wait for a condition on this proxy, e.g. its counters. Raises TimeoutError."""
        with self.changed:
            if not self.changed.wait_for(done, WAIT_TIMEOUT_S):
                raise TimeoutError(f"{what} not met in {WAIT_TIMEOUT_S} s")

    def forget(self, link: _Link) -> None:
        """Drop a connection that is closed. Caller holds `changed`."""
        self._links.remove(link)
        self.requests._pipes.remove(link.requests)
        self.replies._pipes.remove(link.replies)
        self.changed.notify_all()

    def _end_all(self, reset: bool) -> None:
        with self.changed:
            links = list(self._links)
            for link in links:
                link.end(reset)
            self.wait_until(lambda: not set(links) & set(self._links), "end of connections")

    def _accept_loop(self, listener: socket.socket) -> None:
        listener.settimeout(_POLL_S)
        while self._listener is listener:
            try:
                client, _ = listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            self._open(client)

    def _open(self, client: socket.socket) -> None:
        try:
            server = self._connect()
        except OSError:
            client.close()
            return
        for sock in (client, server):
            if sock.family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.changed:
            link = _Link(self, client, server)
            self._links.append(link)
            self.requests._pipes.append(link.requests)
            self.replies._pipes.append(link.replies)
            self.connections += 1
            self.changed.notify_all()
        link.start()

    def _connect(self) -> socket.socket:
        if not isinstance(self._upstream, str):
            return socket.create_connection(self._upstream, timeout=WAIT_TIMEOUT_S)
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(self._upstream)
        except OSError:
            server.close()
            raise
        return server
