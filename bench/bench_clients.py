"""Whole clients, one command at a time: a GET of 64 bytes, from one thread to 32.

One client object is shared by all threads, each of which sends GETs as fast as it can. Blocking:
32 threads on a pool of 16 connections that waits for a free one.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from _server import Server
from _sides import C_LOOP, CLIENTS, CPOOL, GENERATOR, GLIDE, POOL, REDIS_PY, VALKEY

Compare = Callable[..., None]
BLOCKING_THREADS, BLOCKING_CONNECTIONS = 32, 16


@pytest.mark.parametrize("side", (*CLIENTS, GENERATOR, C_LOOP))
@pytest.mark.parametrize("where", ("one thread", "one thread, one CPU"))
def bench_one_thread(compare: Compare, server: Server, side: str, where: str) -> None:
    one_cpu = "CPU" in where
    compare(f"GET, {where}", "threads", server, one_cpu=one_cpu, threads=1)


@pytest.mark.parametrize("side", (*CLIENTS, GENERATOR))
@pytest.mark.parametrize("threads", (8, 32))
def bench_threads(compare: Compare, server: Server, side: str, threads: int) -> None:
    compare(f"GET, {threads} threads", "threads", server, unit="ops/s", threads=threads)


@pytest.mark.parametrize("side", (REDIS_PY, VALKEY, POOL, CPOOL))
def bench_blocking(compare: Compare, server: Server, side: str) -> None:
    threads, connections = BLOCKING_THREADS, BLOCKING_CONNECTIONS
    name = f"GET, {threads} threads on {connections} connections"
    compare(name, "threads", server, unit="ops/s", threads=threads, connections=connections)


@pytest.mark.parametrize("side", (REDIS_PY, VALKEY, GLIDE, POOL, CPOOL))
@pytest.mark.parametrize("threads", (1, 8))
def bench_tls(compare: Compare, tls_server: Server, side: str, threads: int) -> None:
    threads_text = "one thread" if threads == 1 else f"{threads} threads"
    compare(f"GET by TLS, {threads_text}", "threads", tls_server, unit="ops/s", threads=threads)
