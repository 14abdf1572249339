"""Fixtures of the pool tests: the two implementations, and pools that are closed at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cpool.tools.servers import EmbeddedServer
from tests.pool.support import IMPLEMENTATIONS, Implementation

MakePool = Callable[..., Any]


@pytest.fixture(params=IMPLEMENTATIONS, ids=lambda impl: impl.name)
def impl(request: pytest.FixtureRequest) -> Implementation:
    """Give redis-py's classes, then ours: what a test asserts holds for both."""
    return request.param


@pytest.fixture(params=["ConnectionPool", "BlockingConnectionPool"])
def pool_class(request: pytest.FixtureRequest, impl: Implementation) -> Any:
    """Give each of the two pool classes of `impl`."""
    return getattr(impl, request.param)


@pytest.fixture
def make_pool(redis_server: EmbeddedServer) -> Iterator[MakePool]:
    """Give a function that makes a pool of connections to `redis_server`."""
    with contextlib.ExitStack() as stack:

        def make(cls: Any, **kwargs: Any) -> Any:
            address = {"host": redis_server.host, "port": redis_server.port}
            pool = cls(**{**address, **kwargs})
            stack.callback(pool.disconnect)
            return pool

        yield make


@pytest.fixture
def stub_pool() -> MakePool:
    """Give a function that makes a pool of StubConnections."""
    from tests.pool.support import StubConnection

    def make(cls: Any, **kwargs: Any) -> Any:
        return cls(**{"connection_class": StubConnection, **kwargs})

    return make
