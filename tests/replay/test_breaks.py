"""A connection that breaks at each step of each command, by each client and transport.

Under the safe policy what may run twice is tried again; anything else was not sent at all, or
raises IndeterminateResultError and was executed once at most.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

import cpool
from tests.replay.support import CLIENTS, TRANSPORTS, no_wait, transport
from tests.support.faultproxy import FaultProxy
from tests.support.servers import TLSServer

LARGE = "k" * (8 << 20)  # more than sockets buffer
RECORD_HEAD = 5  # of TLS: no whole record, so no whole reply


class Moment(int):
    """An argument that lets something happen when it is encoded, once; it reads "7"."""

    happens: Callable[[], object] | None = None

    def __repr__(self) -> str:
        happens, self.happens = self.happens, None
        if happens is not None:
            happens()
        return "7"


@dataclass(frozen=True)
class Command:
    """A command on a key; `counted` is what the server counts of it."""

    run: Callable[[Any, Any], Any]
    counted: str
    harmless: bool = False


def piped(client: Any, key: Any, transaction: bool) -> Any:
    with client.pipeline(transaction=transaction) as pipe:
        return pipe.execute_command("INCR", key).execute_command("TTL", key).execute()


COMMANDS = {
    "GET": Command(lambda r, key: r.execute_command("GET", key), "get", harmless=True),
    "INCR": Command(lambda r, key: r.execute_command("INCR", key), "incr"),
    "SET": Command(lambda r, key: r.set(key, "v", ex=60), "set", harmless=True),
    "SET NX": Command(lambda r, key: r.set(key, "v", nx=True), "set"),
    "pipeline": Command(lambda r, key: piped(r, key, False), "incr"),
    "transaction": Command(lambda r, key: piped(r, key, True), "incr"),
    "EVAL": Command(lambda r, key: r.execute_command("EVAL", "return 1", 1, key), "eval"),
    "PUBLISH": Command(lambda r, key: r.execute_command("PUBLISH", key, "x"), "publish"),
    "BLPOP": Command(lambda r, key: r.execute_command("BLPOP", key, "filled", 1), "blpop"),
}
OFTEN = ("GET", "INCR", "SET NX", "pipeline", "transaction")  # the others with -m slow


def before_the_send(proxy: FaultProxy, by_tls: bool) -> Any:
    key = Moment(7)
    key.happens = proxy.reset_connections
    return key


def in_mid_send(proxy: FaultProxy, by_tls: bool) -> Any:
    proxy.requests.cut_after(100_000, "reset")
    return LARGE


def after_the_send(proxy: FaultProxy, by_tls: bool) -> Any:
    proxy.replies.cut_after(0, "close")
    return 7


def in_mid_reply(proxy: FaultProxy, by_tls: bool) -> Any:
    proxy.replies.cut_after(RECORD_HEAD if by_tls else 1, "close")
    return 7


STEPS = (before_the_send, in_mid_send, after_the_send, in_mid_reply)


@pytest.fixture(scope="module", params=TRANSPORTS)
def wire(
    request: pytest.FixtureRequest, tls_server: TLSServer, tmp_path_factory: Any
) -> Iterator[tuple[str, FaultProxy, dict[str, Any]]]:
    """Give each transport: its name, the proxy, and what a pool needs."""
    directory: Path = tmp_path_factory.mktemp("wire")
    with transport(request.param, tls_server, directory) as (proxy, options):
        yield request.param, proxy, options


@pytest.fixture
def server(tls_server: TLSServer) -> Iterator[Any]:
    """Give a client that comes by no proxy, on an empty database and counters at zero."""
    with contextlib.closing(redis.Redis(port=tls_server.server.port)) as client:
        client.flushall()
        client.rpush("filled", "a", "b", "c")
        client.config_resetstat()
        yield client


def executed(server: Any, command: str) -> int:
    """Return how often the server has executed a command."""
    return int(server.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize(
    "name",
    [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS],
)
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_nothing_harmful_runs_twice_and_nothing_harmless_fails(
    wire: Any, server: Any, step: Any, name: str, kind: str
) -> None:
    (transport_name, proxy, options), command = wire, COMMANDS[name]
    by_tls, error = transport_name == "tls", None
    with CLIENTS[kind](**options, retry=no_wait(), retry_policy="safe") as client:
        client.ping()
        dialled = proxy.connections
        key = step(proxy, by_tls)
        try:
            command.run(client, key)
        except cpool.IndeterminateResultError as e:
            error = e
        assert client.ping()
        assert proxy.connections > dialled, "nothing has broken"
    ran = executed(server, command.counted)
    unsent = step is before_the_send and not by_tls  # a socket's method does not tell
    assert (error is None) == (command.harmless or unsent)
    if error is None:
        assert ran == 1 + (command.harmless and step in (after_the_send, in_mid_reply))
    else:
        assert ran == (step in (after_the_send, in_mid_reply))
        assert error.sent_bytes > 0
        if step is not in_mid_send:  # MULTI may be answered while the rest goes out
            assert error.received_bytes == (step is in_mid_reply and not by_tls)
        assert isinstance(error.__cause__, (redis.ConnectionError, redis.TimeoutError))
