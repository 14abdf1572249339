"""One thread, larger calls: pipelines, a large reply, values of 1 KiB to 16 MiB.

A pipeline's call is all of it: making it, a method per command, execute(); its figure is that of
one command.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from _server import Server
from _sides import CLIENTS, CLIENTS_RESP2, CPOOL, GENERATOR, GLIDE, POOL, REDIS_PY, RESP2, VALKEY

Compare = Callable[..., None]
SIZES = {"1 KiB": 1 << 10, "64 KiB": 1 << 16, "1 MiB": 1 << 20, "16 MiB": 1 << 24}


@pytest.mark.parametrize("side", (*CLIENTS, GENERATOR))
@pytest.mark.parametrize("depth", (100, 1_000))
def bench_pipeline(compare: Compare, server: Server, side: str, depth: int) -> None:
    name = f"GET in a pipeline of {depth:,}"
    compare(name, "calls", server, call="pipeline of GETs", per=depth)


@pytest.mark.parametrize("side", CLIENTS_RESP2)
def bench_large_reply(compare: Compare, server: Server, side: str) -> None:
    compare("HGETALL of 1,000 fields", "calls", server, base=RESP2, call="HGETALL")


@pytest.mark.parametrize("side", (REDIS_PY, VALKEY, GLIDE, POOL, CPOOL))
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("verb", ("SET", "GET"))
def bench_value(compare: Compare, server: Server, side: str, verb: str, size: str) -> None:
    name = f"{verb} of {size}"
    compare(name, "calls", server, unit="MB/s", call=verb, bytes=SIZES[size])
