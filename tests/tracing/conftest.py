"""A fixture that has a tool look at a client, in a process of its own, two at a time."""

from __future__ import annotations

import contextlib
import queue
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from cpool.tools.servers import EmbeddedServer
from tests.support.servers import start
from tests.tracing.tools import TOOLS, orders_of
from tests.wire.scripts import run_module

AT_ONCE = 2

Key = tuple[str, str, str]
Answers = Callable[[str, str, str], Any]


@pytest.fixture(scope="session")
def closed_port() -> Iterator[int]:
    """Give a port that is taken and not listened on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


class Runs:
    """The runs of the script: all of a tool's are begun when the first is asked for."""

    def __init__(self, servers: list[EmbeddedServer], closed_port: int) -> None:
        self._threads = ThreadPoolExecutor(len(servers))
        self._free: queue.SimpleQueue[EmbeddedServer] = queue.SimpleQueue()
        self._closed_port = closed_port
        self._begun: dict[Key, Future[Any]] = {}
        for server in servers:
            self._free.put(server)

    def answer(self, tool: str, order: str, side: str) -> Any:
        """Return what the script has printed."""
        for each in orders_of(TOOLS[tool]):
            for one in ("redis", "cpool"):
                self._begin(key_of(tool, each, one))
        return self._begun[key_of(tool, order, side)].result()

    def _begin(self, key: Key) -> None:
        if key not in self._begun:
            self._begun[key] = self._threads.submit(self._run, key)

    def _run(self, key: Key) -> Any:
        server = self._free.get_nowait()
        try:
            where = (server.host, server.port, server.unixsocket, self._closed_port)
            return run_module("tests.tracing.trace_script", *key, *where)
        finally:
            self._free.put(server)

    def close(self) -> None:
        """Wait for what runs."""
        self._threads.shutdown(cancel_futures=True)


def key_of(tool: str, order: str, side: str) -> Key:
    """Name a run: redis-py alone imports no cpool that the tool could be before."""
    return (tool, "before" if (side, order) == ("redis", "after") else order, side)


@pytest.fixture(scope="session")
def answers(closed_port: int) -> Iterator[Answers]:
    """Give the function that returns what came of a tool, an order and a side."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(start()) for _ in range(AT_ONCE)]
        runs = stack.enter_context(contextlib.closing(Runs(servers, closed_port)))
        yield runs.answer
