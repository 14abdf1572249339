"""Real clusters for the tests: one that is shared, and some to be broken.

Loaded with tests.support.servers, whose server executable they use.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from cpool.tools.topology import ClusterTopology
from tests.support.servers import chosen_binary, debug_args

StartCluster = Callable[..., ClusterTopology]


def make_cluster(
    masters: int = 3,
    replicas: int = 1,
    args: Sequence[str] = (),
    binary: str | None = None,
    **options: Any,
) -> ClusterTopology:
    """Prepare a cluster that allows DEBUG; options are ClusterTopology's."""
    binary = binary or chosen_binary()
    args = (*debug_args(binary), *args)
    return ClusterTopology(masters, replicas, binary, args, **options)


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[ClusterTopology]:
    """Give three masters with a replica each, as other tests left them."""
    with make_cluster() as topology:
        yield topology


@pytest.fixture
def fresh_cluster(redis_cluster: ClusterTopology) -> ClusterTopology:
    """Give `redis_cluster`, empty, with all its nodes in place.

    A test may promote replicas and move slots, and must end what it began; one that kills
    or adds nodes takes start_cluster().
    """
    redis_cluster.wait_complete()
    redis_cluster.flush()
    return redis_cluster


@pytest.fixture
def start_cluster() -> Iterator[StartCluster]:
    """Give a function that starts a cluster of the test's own, to break.

    It takes make_cluster()'s arguments; the clusters are stopped after the test.
    """
    with contextlib.ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(make_cluster(*args, **kwargs))
