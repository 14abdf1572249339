"""What the tests of replays share: clients of all kinds, on transports that break on order."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import cpool
from cpool import fast_path
from tests.support.faultproxy import FaultProxy
from tests.support.servers import TLSServer

RETRIES = 3


class UnixFaultProxy(FaultProxy):
    """The same for clients that come by a unix socket."""

    def __init__(self, upstream: tuple[str, int], path: Path) -> None:
        super().__init__(upstream)
        self.path = str(path)

    def accept_connections(self) -> None:
        """Listen."""
        if self._listener is None:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(self.path)
            self._listener.listen(64)
            args = (self._listener,)
            self._acceptor = threading.Thread(target=self._accept_loop, args=args, daemon=True)
            self._acceptor.start()


def no_wait(retries: int = RETRIES) -> Retry:
    """Return redis-py's policy without its sleeps."""
    return Retry(NoBackoff(), retries)


@contextlib.contextmanager
def fused(**options: Any) -> Iterator[Any]:
    """Give a cpool.Redis."""
    with closing(cpool.Redis.from_pool(cpool.ConnectionPool(**options))) as client:
        yield client


@contextlib.contextmanager
def on_our_pool(**options: Any) -> Iterator[Any]:
    """Give a redis.Redis on a pool of cpool's."""
    with closing(redis.Redis.from_pool(cpool.ConnectionPool(**options))) as client:
        yield client


@contextlib.contextmanager
def switched_off(**options: Any) -> Iterator[Any]:
    """Give a cpool.Redis that leaves its commands to redis-py's code."""
    fast_path.disable()
    try:
        with fused(**options) as client:
            yield client
    finally:
        fast_path.enable()


CLIENTS = {"fused": fused, "on our pool": on_our_pool, "switched off": switched_off}


@contextlib.contextmanager
def closing(client: Any) -> Iterator[Any]:
    """Give a client; disconnect its pool at the end."""
    try:
        yield client
    finally:
        client.connection_pool.disconnect()


@contextlib.contextmanager
def transport(name: str, server: TLSServer, directory: Path) -> Iterator[Any]:
    """Give a proxy before a server, and what a pool needs to connect to it."""
    address = (server.server.host, server.server.port)
    if name == "unix":
        with UnixFaultProxy(address, directory / "proxy.sock") as proxy:
            yield (
                proxy,
                {
                    "connection_class": cpool.UnixDomainSocketConnection,
                    "path": proxy.path,
                },
            )
        return
    by_tls = name == "tls"
    with FaultProxy((server.host, server.port) if by_tls else address, not by_tls) as proxy:
        options: dict[str, Any] = {"host": proxy.host, "port": proxy.port}
        if by_tls:
            options |= {
                "connection_class": cpool.SSLConnection,
                "ssl_ca_certs": server.certificates.ca,
            }
        yield proxy, options


TRANSPORTS = ("tcp", "unix", "tls")
