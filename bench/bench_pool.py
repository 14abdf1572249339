"""The pool itself: checkout and return, opening a connection, an idle one's memory, the import."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from _contest import Group, task_of
from _load import memory_is_readable
from _process import Result, call_worker
from _relay import CountingRelay
from _server import Server
from _sides import CPOOL, POOLS, POOLS_RESP2, REDIS_PY, RESP2

Compare = Callable[..., None]
Measure = Callable[..., Group]


@pytest.mark.parametrize("side", POOLS)
def bench_checkout(compare: Compare, server: Server, side: str) -> None:
    compare("checkout and return", "checkout", server)


@pytest.mark.parametrize("side", POOLS_RESP2)
def bench_opening(compare: Compare, server: Server, side: str) -> None:
    compare("opening a connection", "opening", server, base=RESP2)


@pytest.mark.parametrize("side", (REDIS_PY, CPOOL))
def bench_import(compare: Compare, server: Server, side: str) -> None:
    compare("import redis; and cpool", "importing", server)


@pytest.mark.parametrize("side", (REDIS_PY, *POOLS_RESP2))
def bench_round_trips(measure: Measure, server: Server, side: str) -> None:
    def count(side: str) -> Result:
        relay = CountingRelay(server)
        relay.start()
        where = {"host": server.host, "port": relay.port}
        call_worker("_work.py", task_of("opened once", side, where))
        return {"trips": relay.count()}

    name = "round trips to open one"
    assert measure(
        name, "", server, base=RESP2, metric="trips", unit="round trips", by=count
    ).rounds


@pytest.mark.skipif(not memory_is_readable(), reason="resident memory is read from /proc")
@pytest.mark.parametrize("side", POOLS)
def bench_idle_memory(measure: Measure, server: Server, side: str) -> None:
    name = "memory of an idle connection"
    assert measure(name, "idle memory", server, metric="kib", unit="KiB").rounds
