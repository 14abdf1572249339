"""A dial that has failed leaves nothing behind that would keep its connection alive."""

from __future__ import annotations

import gc
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.sentinel import MasterNotFoundError

import cpool


class NoMaster:
    """Stands in for sentinels that know of no master."""

    def discover_master(self, name: str) -> Any:
        """Do as redis-py's."""
        raise MasterNotFoundError(name)


class OneMaster:
    """Stands in for sentinels whose master is at one address."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address

    def discover_master(self, name: str) -> Any:
        """Do as redis-py's."""
        return self._address


@pytest.fixture
def refusing() -> Iterator[tuple[str, int]]:
    """Give an address at which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()


@pytest.fixture
def silent() -> Iterator[tuple[str, int]]:
    """Give an address at which connections are taken and nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()


def make_pool(kind: str, refusing: Any, silent: Any) -> cpool.ConnectionPool:
    manager: Any
    options: dict[str, Any] = {"max_connections": 1, "socket_timeout": 0.01}
    if kind == "no master":
        manager = cpool.Sentinel([refusing])
        return cpool.SentinelConnectionPool("service", manager, **options)
    if kind == "a master that refuses":
        return cpool.SentinelConnectionPool("service", OneMaster(refusing), **options)  # type: ignore[arg-type]
    host, port = silent if kind == "silence" else refusing
    if kind == "a TLS server that refuses":
        options["ssl"] = True
    if kind == "no unix socket":
        return cpool.ConnectionPool(
            cpool.UnixDomainSocketConnection, path="/no/such/socket", **options
        )
    return cpool.ConnectionPool(host=host, port=port, **options)


@pytest.mark.parametrize(
    "kind",
    [
        "a server that refuses",
        "a TLS server that refuses",
        "no unix socket",
        "silence",
        "no master",
        "a master that refuses",
    ],
)
def test_a_connection_dropped_after_a_failed_dial_gives_its_slot_back_at_once(
    kind: str, refusing: tuple[str, int], silent: tuple[str, int]
) -> None:
    pool = make_pool(kind, refusing, silent)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            connection = pool.make_connection()
            with pytest.raises((redis.ConnectionError, redis.TimeoutError)):
                connection.connect()
            del connection
            assert pool.stats().in_use == 0
    finally:
        gc.enable()
