"""A master, two replicas and three sentinels for the tests of a module, whole for each test.

Load it with `pytest_plugins = ["tests.support.sentinels"]`, beside tests.support.servers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from cpool.tools.sentinels import SentinelTopology
from cpool.tools.servers import ServerError
from tests.support.servers import chosen_binary, debug_args
from tests.support.tls import Certificates


@pytest.fixture(scope="module")
def module_topology() -> Iterator[SentinelTopology]:
    """Give the processes; tests ask for `topology`."""
    binary = chosen_binary()
    with SentinelTopology(binary=binary, args=debug_args(binary)) as topology:
        yield topology


@pytest.fixture
def topology(module_topology: SentinelTopology) -> Iterator[SentinelTopology]:
    """Give a whole topology; whatever the test does to it is mended after it."""
    yield module_topology
    module_topology.restart()


@pytest.fixture
def tls_topology(certificates: Certificates) -> Iterator[SentinelTopology]:
    """Give one whose servers and sentinels take TLS; skips where the server has none."""
    with contextlib.ExitStack() as stack:
        topology = SentinelTopology(binary=chosen_binary(), tls=certificates)
        try:
            stack.enter_context(topology)
        except ServerError as error:
            if "tls" not in str(error).lower():
                raise
            pytest.skip("the server has no TLS")
        yield topology
