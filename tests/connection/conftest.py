"""Fixtures: one client after the other, of redis-py's pool and ours, in every mode."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from cpool.tools.servers import EmbeddedServer
from tests.support.servers import flush
from tests.wire.peer import LIBRARIES

N_THREADS = 8


@pytest.fixture(params=LIBRARIES, ids=["redis-py", "cpool"])
def library(request: pytest.FixtureRequest) -> Any:
    """Give the library whose pool is used."""
    return request.param


@pytest.fixture(params=[2, 3], ids=["resp2", "resp3"])
def protocol(request: pytest.FixtureRequest) -> int:
    """Give the protocol."""
    return int(request.param)


@pytest.fixture(params=[False, True], ids=["bytes", "text"])
def decode(request: pytest.FixtureRequest) -> bool:
    """Say whether replies are decoded."""
    return bool(request.param)


@pytest.fixture
def client(
    redis_server: EmbeddedServer, library: Any, protocol: int, decode: bool
) -> Iterator[redis.Redis]:
    """Give a client on an empty database."""
    flush(redis_server)
    pool = library.ConnectionPool(
        host=redis_server.host,
        port=redis_server.port,
        protocol=protocol,
        decode_responses=decode,
        max_connections=N_THREADS,
    )
    yield redis.Redis(connection_pool=pool)
    pool.disconnect()


@pytest.fixture
def text(decode: bool) -> Any:
    """Give a function that makes of a string what a reply makes of it."""
    return lambda value: value if decode else value.encode()
