"""Ways to a server, each through a proxy that can break it: TCP, a unix socket, TLS."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

import cpool
from cpool.tools.servers import EmbeddedServer
from tests.support.faultproxy import FaultProxy
from tests.support.servers import TLSServer, start_tls
from tests.support.tls import Certificates

TRANSPORTS = ("tcp", "unix", "tls")
try:  # redis-py 7 can't tell that a unix socket has no host to be moved to
    from redis.maint_notifications import MaintNotificationsConfig
except ImportError:
    NO_MAINTENANCE: dict[str, Any] = {}
else:
    NO_MAINTENANCE = {"maint_notifications_config": MaintNotificationsConfig(enabled=False)}


def add_transport(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses transports."""
    choices = (*TRANSPORTS, "all")
    parser.add_argument("--transport", choices=choices, default="all", help="(%(default)s)")


def transports_of(options: argparse.Namespace) -> tuple[str, ...]:
    """Return what it has chosen."""
    return TRANSPORTS if options.transport == "all" else (options.transport,)


@dataclass(frozen=True)
class Route:
    """A way to a server. options: what a pool needs to take it."""

    transport: str
    proxy: FaultProxy
    options: dict[str, Any]

    @property
    def framed(self) -> bool:
        """Whether the proxy sees messages."""
        return self.transport != "tls"


@dataclass(frozen=True)
class Site:
    """A server of our own, and the ways to it."""

    server: EmbeddedServer
    admin: redis.Redis
    routes: dict[str, Route]


class Sites(contextlib.ExitStack):
    """Starts servers, each with a proxy per transport, and stops them."""

    def __init__(self) -> None:
        super().__init__()
        self._directory = Path(self.enter_context(tempfile.TemporaryDirectory(prefix="proof-")))
        self._certificates = Certificates.make(self._directory)
        self._trust_nobody_else()

    def start(self, binary: str | None = None) -> Site:
        """Start a server. binary: its executable; None: the tests' own."""
        tls = start_tls(self, self._certificates, binary)
        admin = redis.Redis(host=tls.server.host, port=tls.server.port)
        self.callback(admin.close)
        return Site(tls.server, admin, {name: self._route(name, tls) for name in TRANSPORTS})

    def _trust_nobody_else(self) -> None:
        """redis-py reads the system's authorities for each connection, which takes far longer
        than the handshake."""
        names = {"SSL_CERT_FILE": self._certificates.ca, "SSL_CERT_DIR": str(self._directory)}
        for name in names:
            self.callback(_restore, name, os.environ.get(name))
        os.environ.update(names)

    def _route(self, transport: str, tls: TLSServer) -> Route:
        if transport == "tcp":
            proxy = self._proxy((tls.server.host, tls.server.port))
            return Route(transport, proxy, {"host": proxy.host, "port": proxy.port})
        if transport == "tls":
            proxy = self._proxy((tls.host, tls.port), framed=False)
            return Route(transport, proxy, self._tls_options(proxy))
        assert tls.server.unixsocket is not None
        path = str(self._directory / f"proxy-{tls.server.port}")
        proxy = self._proxy(tls.server.unixsocket, path=path)
        unix = cpool.UnixDomainSocketConnection
        options = {"connection_class": unix, "path": path, **NO_MAINTENANCE}
        return Route(transport, proxy, options)

    def _proxy(self, upstream: tuple[str, int] | str, **options: Any) -> FaultProxy:
        return self.enter_context(FaultProxy(upstream, **options))

    def _tls_options(self, proxy: FaultProxy) -> dict[str, Any]:
        return {
            "connection_class": cpool.SSLConnection,
            "host": proxy.host,
            "port": proxy.port,
            "ssl_ca_certs": self._certificates.ca,
        }


def _restore(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
