"""Whose deadline it is: threads, greenlets and tasks have their own, copies share it."""

from __future__ import annotations

import asyncio
import contextvars
import importlib.util
import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis

import cpool
from cpool import _deadline
from cpool.tools.servers import EmbeddedServer
from tests.deadlines.conftest import SHORT_S, open_connections
from tests.support.servers import wait_until
from tests.wire.scripts import run_module

LONG_S = 100.0
N_THREADS = 8


def in_threads(*calls: Callable[[], Any]) -> list[Any]:
    """Make each call in a thread of its own; return what they returned or raised."""
    found: list[Any] = [None] * len(calls)

    def run(i: int) -> None:
        try:
            found[i] = calls[i]()
        except Exception as error:
            found[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_threads_have_deadlines_of_their_own(client: redis.Redis) -> None:
    long_waits = threading.Event()

    def short() -> Any:
        with cpool.deadline(SHORT_S):
            return client.blpop(["none"], 0)

    def long(i: int) -> Any:
        with cpool.deadline(LONG_S):
            return client.blpop([f"list:{i}"], 0)

    def unbounded() -> Any:
        return client.blpop(["list:unbounded"], 0)

    def feed() -> None:
        wait_until(lambda: client.info("clients")["blocked_clients"] >= 3, "they wait")
        long_waits.wait()
        client.rpush("list:unbounded", "u")
        for i in range(2):
            client.rpush(f"list:{i}", i)

    def short_then_feed() -> list[Any]:
        found = in_threads(*[short] * N_THREADS)
        long_waits.set()
        return found

    strikes, *answers, _ = in_threads(
        short_then_feed, lambda: long(0), lambda: long(1), unbounded, feed
    )
    assert {type(error) for error in strikes} == {cpool.DeadlineExceededError}
    assert [answer[1] for answer in answers] == [b"0", b"1", b"u"]
    assert client.connection_pool.stats().in_use == 0
    assert not _deadline.is_any_in_force()


def test_a_thread_that_begins_in_the_block_is_not_bounded(client: redis.Redis) -> None:
    with cpool.deadline(0):
        assert in_threads(client.ping) == [True]


def test_a_thread_in_a_copy_of_the_context_is_bounded(client: redis.Redis) -> None:
    open_connections(client, N_THREADS)
    with cpool.deadline(SHORT_S):
        copies = [contextvars.copy_context() for _ in range(N_THREADS)]
        strikes = in_threads(
            *(lambda copy=copy: copy.run(client.blpop, ["none"], 0) for copy in copies)
        )
    assert {error.phase for error in strikes} == {"reading"}
    assert all(error.reading_s > 0 for error in strikes)
    assert client.connection_pool.stats().in_use == 0


def test_tasks_have_deadlines_of_their_own(client: redis.Redis) -> None:
    """Of those that call blocking code in threads, and so do not stop their loop."""
    open_connections(client, N_THREADS)

    async def wait_for(seconds: float, key: str) -> Any:
        with cpool.deadline(seconds):
            return await asyncio.to_thread(client.blpop, [key], 0)

    async def run() -> list[Any]:
        long = asyncio.create_task(wait_for(LONG_S, "list"))
        short = [wait_for(SHORT_S, "none") for _ in range(4)]
        strikes = await asyncio.gather(*short, return_exceptions=True)
        client.rpush("list", "item")
        return [*strikes, await long]

    *strikes, answer = asyncio.run(run())
    assert [error.phase for error in strikes] == ["reading"] * 4
    assert answer[1] == b"item"
    assert not _deadline.is_any_in_force()


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_greenlets_have_deadlines_of_their_own(library: str, redis_server: EmbeddedServer) -> None:
    if importlib.util.find_spec(library) is None:  # importing eventlet would change our forks
        pytest.skip(f"{library} is not installed")
    found = run_module("tests.deadlines.green_script", library, redis_server.url)
    assert found == {
        "phases": ["reading"] * 8,
        "answers": [str(i) for i in range(8)],
        "waiting": "waiting for a connection",
        "in_use": 0,
    }
