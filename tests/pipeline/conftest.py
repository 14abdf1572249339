"""Fixtures of the pipelines' tests: clients that must agree."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis.connection

from cpool.tools.servers import EmbeddedServer
from tests.pipeline.support import Twins
from tests.wire.conftest import make_wire
from tests.wire.peer import Wire


@pytest.fixture
def twins(redis_server: EmbeddedServer) -> Iterator[Twins]:
    """Give clients of each kind on a real server."""
    made = Twins({"host": redis_server.host, "port": redis_server.port})
    yield made
    made.close()


@pytest.fixture
def unix_wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    """Give a listening unix socket: what is sent can be read at once, buffers are as told."""
    made = make_wire("unix", request)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def pythons_own_packer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let redis-py encode in Python: hiredis has errors of its own, and knows no encoding."""
    monkeypatch.setattr(redis.connection, "HIREDIS_AVAILABLE", False)
