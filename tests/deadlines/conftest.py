"""Fixtures of the deadlines' tests: slow servers, clients, and the error that is expected."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

import cpool
from cpool.tools.servers import EmbeddedServer
from tests.deadlines.slowserver import (
    TRANSPORTS,
    Answer,
    Silent,
    SlowServer,
    Transport,
    client_of,
)
from tests.support.servers import flush
from tests.support.tls import Certificates

# Time for a few packets on a machine that is busy, and no longer.
SHORT_S = 0.1

MakeClient = Callable[[Any], redis.Redis]
Serve = Callable[[Answer], SlowServer]
Struck = Callable[..., cpool.DeadlineExceededError]


@pytest.fixture(params=["cpool", "pool"])
def kind(request: pytest.FixtureRequest) -> str:
    """Say whose client it is: cpool's, or redis-py's on a pool of ours."""
    return str(request.param)


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> Transport:
    """Give one transport after the other."""
    found: Transport = request.param
    return found


@pytest.fixture
def make_client(kind: str) -> Iterator[MakeClient]:
    """Give a function that makes a client on a pool."""
    with contextlib.ExitStack() as stack:

        def make(pool: Any) -> redis.Redis:
            stack.callback(pool.disconnect)
            return client_of(kind, pool)

        yield make


@pytest.fixture
def serve(transport: Transport, tmp_path: Path, certificates: Certificates) -> Iterator[Serve]:
    """Give a function that starts a slow server."""
    with contextlib.ExitStack() as stack:
        yield lambda answer: stack.enter_context(
            SlowServer(transport, tmp_path, certificates, answer)
        )


@pytest.fixture
def silent(transport: Transport, tmp_path: Path, certificates: Certificates) -> Iterator[Silent]:
    """Give a server that never says anything."""
    with Silent(transport, tmp_path, certificates) as server:
        yield server


@pytest.fixture
def client(redis_server: EmbeddedServer, make_client: MakeClient) -> redis.Redis:
    """Give a client on an empty database of a real server."""
    flush(redis_server)
    made = make_client(cpool.ConnectionPool.from_url(redis_server.url, socket_timeout=None))
    made.ping()
    return made


@pytest.fixture
def struck() -> Struck:
    """Give a function that makes a call under a short deadline and returns what it raised."""

    def call_it(call: Callable[[], Any], seconds: float = SHORT_S) -> cpool.DeadlineExceededError:
        with pytest.raises(cpool.DeadlineExceededError) as caught, cpool.deadline(seconds):
            call()
        return caught.value

    return call_it


def is_as_new(client: redis.Redis) -> bool:
    """Tell whether no slot is lent and no connection is open."""
    pool = client.connection_pool
    return pool.stats().in_use == 0 and all(conn._sock is None for conn in pool._idle())


def open_connections(client: redis.Redis, count: int = 1) -> redis.Redis:
    """Dial so many connections now, so that no deadline strikes while they are dialled."""
    pool = client.connection_pool
    for conn in [pool.get_connection() for _ in range(count)]:
        pool.release(conn)
    return client
