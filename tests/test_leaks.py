"""No leak: what a process holds after many commands and reconnects is what it held before.

The measuring runs in a process of its own: `python -m tests.test_leaks WORK URL COUNT`. Short
by default; `-m slow` does 100,000 commands and 10,000 reconnects.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

import cpool
from cpool.tools.servers import EmbeddedServer
from tests.wire.conftest import forget_the_systems_authorities
from tests.wire.scripts import run_module

KIB = 1024
VALUE = b"x" * 64
LARGE = b"x" * 200_000
RESIDENT_LIMIT_BYTES = 3 * 1024 * KIB
TRACED_LIMIT_BYTES = 32 * KIB
OBJECTS_LIMIT = 60


# The works: each does something `count` times


def commands(pool: Any, count: int) -> None:
    """Commands of all kinds: small, large, errors, pipelines, transactions."""
    client = redis.Redis(connection_pool=pool)
    client.set("value", VALUE)
    client.set("large", LARGE)
    for i in range(count // 10):
        for _ in range(4):
            client.get("value")
        client.set("value", VALUE)
        client.pipeline(transaction=i % 2 == 0).get("value").incr("n").execute()
        client.mget(["value"] * 20)
        with contextlib.suppress(redis.ResponseError):
            client.lpop("value")
        with contextlib.suppress(redis.DataError):
            client.set("value", None)
        if i % 50 == 0:
            client.set("large", LARGE)
            assert client.get("large") == LARGE


def reconnects(pool: Any, count: int) -> None:
    """Connections that end in all ways: closed here, by the server, dropped, left owed."""
    client = redis.Redis(connection_pool=pool)
    for i in range(count):
        conn = pool.get_connection()
        conn.send_command("ECHO", i)
        if i % 4 == 0:
            assert conn.read_response() == b"%d" % i
            conn.disconnect()
            pool.release(conn)
        elif i % 4 == 1:
            pool.release(conn)
        elif i % 4 == 2:
            conn.read_response()
            del conn
        else:
            conn.read_response()
            conn._sock.shutdown(2)
            pool.release(conn)
            assert client.ping()


def refused(pool: Any, count: int) -> None:
    """Connects that fail, and commands whose retries fail."""
    nowhere = type(pool)(host="127.0.0.1", port=1, max_connections=2)
    client = redis.Redis(connection_pool=nowhere)
    for _ in range(count):
        with contextlib.suppress(redis.ConnectionError):
            nowhere.get_connection()
        with contextlib.suppress(redis.ConnectionError):
            client.get("value")


def exhausted(pool: Any, count: int) -> None:
    """Checkouts that wait in vain, or are refused."""
    full = cpool.ConnectionPool(**pool.connection_kwargs, max_connections=1, timeout=0.0005)
    held = full.get_connection()
    for _ in range(count):
        with contextlib.suppress(redis.ConnectionError):
            full.get_connection()
    full.release(held)
    full.disconnect()


def pools(pool: Any, count: int) -> None:
    """Pools that come and go, with connections lent, idle and dropped."""
    for i in range(count):
        made = cpool.ConnectionPool(**pool.connection_kwargs, max_connections=4)
        held = [made.get_connection() for _ in range(3)]
        made.release(held.pop())
        if i % 2:
            made.disconnect()


def pubsubs(pool: Any, count: int) -> None:
    """Subscriptions that come and go."""
    client = redis.Redis(connection_pool=pool)
    for _ in range(count):
        with client.pubsub() as pubsub:
            pubsub.subscribe("channel")
            pubsub.get_message(timeout=5)
            client.publish("channel", VALUE)
            pubsub.get_message(timeout=5)


kept: list[Any] = []


def leaking(pool: Any, count: int) -> None:
    """A program that leaks: the proof that the measuring sees it."""
    for i in range(count):
        kept.append({"value": bytes(500) + b"%d" % i, "pool": pool})
        if i % 100 == 0:
            kept.append(open(os.devnull))


WORKS: dict[str, Callable[[Any, int], None]] = {
    work.__name__: work for work in (commands, reconnects, refused, exhausted, pools, pubsubs)
}
# How often by default, and with -m slow.
SHORT = {
    "commands": 6000,
    "reconnects": 600,
    "refused": 300,
    "exhausted": 600,
    "pools": 80,
    "pubsubs": 150,
}
LONG = {
    "commands": 100_000,
    "reconnects": 10_000,
    "refused": 10_000,
    "exhausted": 20_000,
    "pools": 2000,
    "pubsubs": 3000,
}


def resident_bytes() -> int:
    """Return the memory this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def measure(pool: Any) -> dict[str, int]:
    """Look at all that can grow, with no connection open."""
    pool.disconnect()
    gc.collect()
    return {
        "resident_bytes": resident_bytes(),
        "traced_bytes": tracemalloc.get_traced_memory()[0],
        "fds": len(os.listdir("/proc/self/fd")),
        "objects": len(gc.get_objects()),
    }


def main(name: str, url: str, count: str) -> None:
    """Do the work twice, and tell what grew while it was done the second time."""
    pool = cpool.ConnectionPool.from_url(url, max_connections=8)
    work = {**WORKS, "leaking": leaking}[name]
    tracemalloc.start()
    work(pool, max(int(count) // 3, 20))
    before = measure(pool)
    work(pool, int(count))
    after = measure(pool)
    print(json.dumps({key: after[key] - before[key] for key in before}))


def check(name: str, server: EmbeddedServer, count: int, timeout_s: float = 50.0) -> None:
    grown = run_module("tests.test_leaks", name, server.url, count, timeout_s=timeout_s)
    assert grown["resident_bytes"] < RESIDENT_LIMIT_BYTES, grown
    assert grown["traced_bytes"] < TRACED_LIMIT_BYTES, grown
    assert grown["fds"] == 0, grown
    assert grown["objects"] < OBJECTS_LIMIT, grown


@pytest.mark.parametrize("name", WORKS)
def test_nothing_grows(redis_server: EmbeddedServer, name: str) -> None:
    check(name, redis_server, SHORT[name])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", WORKS)
def test_nothing_grows_in_the_long_run(redis_server: EmbeddedServer, name: str) -> None:
    check(name, redis_server, LONG[name], timeout_s=550.0)


def test_a_leak_would_be_seen(redis_server: EmbeddedServer) -> None:
    grown = run_module("tests.test_leaks", "leaking", redis_server.url, SHORT["commands"])
    assert grown["resident_bytes"] >= RESIDENT_LIMIT_BYTES, grown
    assert grown["traced_bytes"] >= TRACED_LIMIT_BYTES, grown
    assert grown["fds"] > 0, grown
    assert grown["objects"] >= OBJECTS_LIMIT, grown


@pytest.mark.parametrize("fixture", ["tls_server", "unix_server"])
def test_nothing_grows_by_other_sockets(request: pytest.FixtureRequest, fixture: str) -> None:
    if fixture == "tls_server":
        forget_the_systems_authorities(request, request.getfixturevalue("certificates").ca)
    check("reconnects", request.getfixturevalue(fixture), 100)


if __name__ == "__main__":
    main(*sys.argv[1:])
