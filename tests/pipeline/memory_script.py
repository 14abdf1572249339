"""Measure the peak memory of one pipeline. Run by test_memory.py: VERB URL."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from typing import Any

import cpool
from tests.wire.memory_script import peak_bytes

KIB, MIB = 1024, 1024 * 1024
LARGE_BYTES = 400 * KIB
N_LARGE, N_SMALL = 200, 100_000
VALUE = b"x" * LARGE_BYTES


def small(pipe: Any) -> Callable[[list[Any]], bool]:
    """Very many commands, whose replies are small."""
    for i in range(N_SMALL):
        pipe.set("key", i)
    return lambda results: results == [True] * N_SMALL


def large_replies(pipe: Any) -> Callable[[list[Any]], bool]:
    """Replies larger than any buffer."""
    for _ in range(N_LARGE):
        pipe.get("large")
    return lambda results: results == [VALUE] * N_LARGE


def large_arguments(pipe: Any) -> Callable[[list[Any]], bool]:
    """The same for arguments."""
    for _ in range(N_LARGE):
        pipe.set("large", VALUE)
    return lambda results: results == [True] * N_LARGE


def views(pipe: Any) -> Callable[[list[Any]], bool]:
    """Arguments that are parts of something else."""
    whole = memoryview(bytearray(VALUE))
    for i in range(N_LARGE):
        pipe.setrange("large", i, whole[i:])
    return lambda results: len(set(results)) == 1


def both(pipe: Any) -> Callable[[list[Any]], bool]:
    """Large arguments and large replies: more than two sockets hold."""
    for _ in range(N_LARGE // 2):
        pipe.set("large", VALUE).get("large").get("key")
    return lambda results: results[1::3] == [VALUE] * (N_LARGE // 2)


def middling(pipe: Any) -> Callable[[list[Any]], bool]:
    """Arguments and replies that are copied into the buffers."""
    value = VALUE[: 15 * KIB]
    for _ in range(4 * N_LARGE):
        pipe.echo(value)
    return lambda results: results == [value] * (4 * N_LARGE)


VERBS = {
    verb.__name__: verb for verb in (small, large_replies, large_arguments, views, both, middling)
}
# What is in the results themselves, or in their lists.
RESULT_BYTES = {
    "small": 4 * 8 * N_SMALL,
    "large_replies": N_LARGE * LARGE_BYTES,
    "both": N_LARGE // 2 * LARGE_BYTES,
    "middling": 4 * N_LARGE * 15 * KIB,
}


def main(verb: str, url: str) -> None:
    """Warm up with a short pipeline, then measure."""
    client = cpool.Redis.from_url(url, socket_timeout=40)
    client.pipeline(False).set("large", VALUE).get("large").set("key", 1).execute()
    if verb == "both":
        connection = client.connection_pool.get_connection()
        connection._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * KIB)
        connection._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * KIB)
        client.connection_pool.release(connection)
    pipe = client.pipeline(transaction=False)
    is_right = VERBS[verb](pipe)
    before = peak_bytes()
    results = pipe.execute()
    grown = peak_bytes() - before - RESULT_BYTES.get(verb, 0)
    print(json.dumps({"grown_bytes": grown, "ok": is_right(results)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
