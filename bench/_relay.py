"""A relay between a client and the server that counts round trips.

It holds back what the client sends until the client has been silent for a while (so several
sends without waiting for a reply count as one), passes it on, and returns the replies: each
batch it held is one round trip. TCP's own is not counted.
"""

from __future__ import annotations

import select
import socket
import threading

from _server import Server

SILENCE_S, ACCEPT_LIMIT_S, REPLY_LIMIT_S = 0.02, 10.0, 5.0
READ_SIZE = 65536


class CountingRelay(threading.Thread):
    """Relay one connection to a server and keep the batches the client sent."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self.batches: list[bytes] = []
        self.server = server.host, server.port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(ACCEPT_LIMIT_S)
        self.port = self.listener.getsockname()[1]

    def run(self) -> None:
        with self.listener, self.listener.accept()[0] as client:
            with socket.create_connection(self.server) as server:
                while batch := self.next_batch(client):
                    self.batches.append(batch)
                    server.sendall(batch)
                    client.sendall(replies_to(server))

    def next_batch(self, client: socket.socket) -> bytes:
        """Return all the client sends until it falls silent; empty if it has gone."""
        batch = client.recv(READ_SIZE)
        while batch and select.select([client], [], [], SILENCE_S)[0]:
            more = client.recv(READ_SIZE)
            if not more:
                break
            batch += more
        return batch

    def count(self) -> int:
        """Wait until the client has gone; return the round trips it made."""
        self.join(ACCEPT_LIMIT_S)
        return len(self.batches)


def replies_to(server: socket.socket) -> bytes:
    """Read until the server too has been silent for a while: then all replies are here."""
    replies, wait_s = b"", REPLY_LIMIT_S
    while select.select([server], [], [], wait_s)[0]:
        part = server.recv(READ_SIZE)
        if not part:
            break
        replies += part
        wait_s = SILENCE_S
    return replies
