"""Cluster clients on three masters with a replica each: GET, SET, a pipeline and MGET over all.

One client is shared by all threads; the keys, 300 of 64 bytes, are spread over the nodes.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from _process import CLUSTER_KEYS
from _server import Server
from _sides import CPOOL, GLIDE, POOL, REDIS_PY, VALKEY

Compare = Callable[..., None]
SIDES = (REDIS_PY, VALKEY, GLIDE, POOL, CPOOL)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("where", ("one thread", "one thread, one CPU"))
@pytest.mark.parametrize("verb", ("GET", "SET"))
def bench_cluster_one_thread(
    compare: Compare, cluster: Server, side: str, where: str, verb: str
) -> None:
    name = f"cluster: {verb}, {where}"
    compare(name, "threads", cluster, one_cpu="CPU" in where, threads=1, verb=verb)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("threads", (8, 32))
@pytest.mark.parametrize("verb", ("GET", "SET"))
def bench_cluster_threads(
    compare: Compare, cluster: Server, side: str, threads: int, verb: str
) -> None:
    name = f"cluster: {verb}, {threads} threads"
    compare(name, "threads", cluster, unit="ops/s", threads=threads, verb=verb)


@pytest.mark.parametrize("side", SIDES)
def bench_cluster_pipeline(compare: Compare, cluster: Server, side: str) -> None:
    count = len(CLUSTER_KEYS)
    name = f"cluster: GET in a pipeline of {count}"
    compare(name, "calls", cluster, call="pipeline of GETs", per=count)


@pytest.mark.parametrize("side", SIDES)
def bench_cluster_mget(compare: Compare, cluster: Server, side: str) -> None:
    name = f"cluster: mget_nonatomic of {len(CLUSTER_KEYS)} keys"
    compare(name, "calls", cluster, call="MGET over nodes")
