"""Measure the peak memory of one transfer. Run by test_memory.py: VERB URL SIZE_BYTES."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

import cpool

KIB = 1024


def peak_bytes() -> int:
    """Return the most memory this process has held so far. (getrusage() would count what
    the parent held before it became this one.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * KIB


def get(client: redis.Redis, size: int) -> Callable[[], Any]:
    """Prepare to read a value; it is made by the server, not here."""
    client.delete("large")
    client.setbit("large", size * 8 - 1, 1)
    return lambda: len(client.get("large")) == size


def set_bytes(client: redis.Redis, size: int) -> Callable[[], Any]:
    """Prepare to write a value that is there already."""
    value = b"x" * size
    return lambda: client.set("large", value)


def set_view(client: redis.Redis, size: int) -> Callable[[], Any]:
    """The same by a memoryview of a bytearray."""
    value = memoryview(bytearray(b"x" * size))
    return lambda: client.set("large", value)


def pipeline(client: redis.Redis, size: int) -> Callable[[], Any]:
    """Prepare to write a value within a pipeline."""
    value = b"x" * size
    return lambda: client.pipeline(transaction=False).set("large", value).get("no").execute()


VERBS = {"get": get, "set": set_bytes, "set_view": set_view, "pipeline": pipeline}


def main(verb: str, url: str, size: str) -> None:
    """Warm up with a small value, then measure the large one."""
    pool = cpool.ConnectionPool.from_url(url, socket_timeout=40)
    client = redis.Redis(connection_pool=pool)
    VERBS[verb](client, 100_000)()
    work = VERBS[verb](client, int(size))
    before = peak_bytes()
    ok = bool(work())
    print(json.dumps({"grown_bytes": peak_bytes() - before, "ok": ok}))


if __name__ == "__main__":
    main(*sys.argv[1:])
