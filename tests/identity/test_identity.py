"""Whatever strikes, every reply goes to its caller and every slot comes back.

Short by default; `-m slow` runs each case for longer, with more seeds. CPOOL_IDENTITY_SCALE
multiplies how much is enough, CPOOL_IDENTITY_SEED sets the first seed.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
import redis

import cpool
from cpool.tools.servers import EmbeddedServer
from tests.identity.children import exit_status, fork, work
from tests.identity.faults import Faults, enough_of, strike_until
from tests.identity.rounds import (
    HARMLESS,
    SHORT_TIMEOUT_S,
    calm,
    check_after,
    play,
    timeout_s_for,
    unraisable_errors,
)
from tests.identity.workload import (
    BOUND_S,
    Injected,
    Trusting,
    Workload,
    check_slots,
    make_client,
    running,
)
from tests.support.faultproxy import FaultProxy
from tests.wire.peer import by_methods
from tests.wire.scripts import run_module

SCALE = float(os.environ.get("CPOOL_IDENTITY_SCALE", "1"))
SEED = int(os.environ.get("CPOOL_IDENTITY_SEED", "1"))
RIGHT, STRUCK = int(150 * SCALE), int(10 * SCALE)
SLOW_FACTOR = 30

FAULTS: dict[str, tuple[str, ...]] = {
    "kills": ("reset", "close", "cut", "kill"),
    "late-replies": ("delay", "delay", "split"),
    "pushes": ("push", "split", "delay"),
    "exceptions": ("throw",),
    "disconnects": ("disconnect", "drain"),
    "everything": ("reset", "cut", "kill", "delay", "push", "split", "throw", "disconnect"),
}


@pytest.fixture
def unraisable() -> Iterator[None]:
    """Let exceptions that are thrown in strike finalisers, but nothing else be lost there."""
    with unraisable_errors() as lost:
        yield
        gc.collect()
    assert lost <= HARMLESS


@pytest.fixture
def proxy(redis_server: EmbeddedServer) -> Iterator[FaultProxy]:
    """Give a proxy in front of a real server."""
    with FaultProxy((redis_server.host, redis_server.port)) as running_proxy:
        yield running_proxy


@pytest.fixture
def admin(redis_server: EmbeddedServer) -> Iterator[redis.Redis]:
    """Give a client that does not go through the proxy."""
    with redis.Redis(host=redis_server.host, port=redis_server.port) as client:
        yield client


def run(
    proxy: FaultProxy,
    admin: redis.Redis,
    kinds: tuple[str, ...],
    seed: int,
    factor: int = 1,
    **options: Any,
) -> Workload:
    """Run the workload under faults until enough has happened; check all that must hold."""
    client = client_of(proxy, socket_timeout=timeout_s_for(kinds), **options)
    workload = Workload(client, seed)
    play(workload, proxy, admin, kinds, RIGHT * factor, STRUCK * factor, BOUND_S * factor)
    assert workload.tally.foreign == []
    check_after(client.connection_pool)
    return workload


def client_of(proxy: FaultProxy, **options: Any) -> redis.Redis:
    """Make a client that goes through the proxy."""
    return make_client(host=proxy.host, port=proxy.port, **options)


each_client = pytest.mark.parametrize(
    "client_class", [pytest.param(redis.Redis, marks=pytest.mark.slow), cpool.Redis]
)
each_fault = pytest.mark.parametrize("kinds", FAULTS.values(), ids=FAULTS)


@pytest.mark.usefixtures("unraisable")
@each_client
@each_fault
def test_every_reply_is_its_callers_own(
    proxy: FaultProxy, admin: redis.Redis, kinds: tuple[str, ...], client_class: Any
) -> None:
    tally = run(proxy, admin, kinds, SEED, client_class=client_class).tally
    if "throw" in kinds:
        assert tally.injected > 0
    elif kinds != FAULTS["disconnects"]:
        assert tally.failed > 0 or kinds == FAULTS["pushes"]


@pytest.mark.usefixtures("unraisable")
@pytest.mark.parametrize(
    "protocol, order, connection_class, client_class",
    [
        (2, "lifo", cpool.Connection, redis.Redis),
        (3, "fifo", by_methods(cpool.Connection), redis.Redis),
        (2, "fifo", cpool.Connection, cpool.Redis),
        (3, "lifo", by_methods(cpool.Connection), cpool.Redis),
    ],
)
def test_every_reply_is_its_callers_own_in_every_mode(
    proxy: FaultProxy,
    admin: redis.Redis,
    protocol: int,
    order: str,
    connection_class: Any,
    client_class: Any,
) -> None:
    kinds = tuple(kind for kind in FAULTS["everything"] if protocol == 3 or kind != "push")
    run(
        proxy,
        admin,
        kinds,
        SEED + protocol,
        protocol=protocol,
        order=order,
        connection_class=connection_class,
        client_class=client_class,
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("unraisable")
@pytest.mark.parametrize("seed", range(SEED, SEED + 3))
@pytest.mark.usefixtures("unraisable")
@each_client
@each_fault
def test_every_reply_is_its_callers_own_for_long(
    proxy: FaultProxy, admin: redis.Redis, kinds: tuple[str, ...], client_class: Any, seed: int
) -> None:
    run(proxy, admin, kinds, seed, SLOW_FACTOR, client_class=client_class)


# Forks


@each_client
@pytest.mark.parametrize("children", [4, pytest.param(60, marks=pytest.mark.slow)])
def test_children_and_their_parent_get_their_own_replies(
    proxy: FaultProxy, children: int, client_class: Any
) -> None:
    client = client_of(proxy, client_class=client_class, socket_timeout=BOUND_S)
    chance = random.Random(SEED)
    with running(client, SEED) as workload:
        for number in range(children):
            seed = SEED + number
            pid = fork(lambda seed=seed: work(client, seed))
            time.sleep(chance.random() * 0.02)
            assert exit_status(pid) == 0, f"child {number}"
    assert workload.tally.foreign == []
    assert workload.tally.right > 0
    gc.collect()
    check_slots(client.connection_pool)
    client.connection_pool.disconnect()


# KeyboardInterrupt strikes the main thread only


def is_within(function: Any, frame: FrameType | None) -> bool:
    """Tell whether the frame was called, however indirectly, by the function."""
    while frame is not None and frame.f_code is not function.__code__:
        frame = frame.f_back
    return frame is not None


@pytest.mark.usefixtures("unraisable")
@each_client
@pytest.mark.parametrize("strikes", [40, pytest.param(3000, marks=pytest.mark.slow)])
def test_interrupts_of_the_main_thread_mix_up_nothing(
    proxy: FaultProxy, strikes: int, client_class: Any
) -> None:
    client = client_of(proxy, client_class=client_class, socket_timeout=BOUND_S)
    main = threading.main_thread().ident
    chance = random.Random(SEED)
    over = threading.Event()
    mine = Workload(client, SEED + 1, "main")

    def interrupt(_: int, frame: FrameType | None) -> None:
        # Anywhere else nobody would catch it. A sender that is not heard strikes again.
        if not over.is_set() and is_within(Workload.step, frame):
            raise Injected

    def send_signals() -> None:
        while mine.tally.injected < strikes:
            time.sleep(chance.random() * 0.01)
            signal.pthread_kill(main, signal.SIGUSR1)
        over.set()
        mine._over = True

    # An import that is interrupted fails in other threads too, and dialling needs this one.
    "localhost".encode("idna")
    before = signal.signal(signal.SIGUSR1, interrupt)
    sender = threading.Thread(target=send_signals, daemon=True)
    try:
        with running(client, SEED, workers=2) as others:
            sender.start()
            mine.work(0)
            sender.join()
    finally:
        over.set()
        signal.signal(signal.SIGUSR1, before)
    assert mine.tally.foreign == others.tally.foreign == []
    assert mine.tally.right > 0
    gc.collect()
    check_slots(client.connection_pool)
    client.connection_pool.disconnect()


# Greenlets


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_greenlets_that_are_killed_mix_up_nothing(
    redis_server: EmbeddedServer, library: str
) -> None:
    answer = run_module(
        "tests.identity.green_script", library, redis_server.port, SEED, RIGHT, STRUCK
    )
    assert answer["foreign"] == []
    assert answer["right"] >= RIGHT
    assert answer["injected"] > 0


# The proof that it can fail


@pytest.mark.parametrize("pool_class", [cpool.ConnectionPool, Trusting])
def test_without_the_ledger_there_are_foreign_replies(
    proxy: FaultProxy, admin: redis.Redis, pool_class: Any
) -> None:
    """The same workload, the same faults; only what the pool knows is taken away."""
    client = client_of(proxy, pool_class=pool_class, socket_timeout=SHORT_TIMEOUT_S)
    with running(client, SEED) as workload:
        faults = Faults(proxy, admin, workload, SEED)
        enough = enough_of(faults, RIGHT, STRUCK)
        strike_until(
            faults,
            ("delay",),
            lambda: bool(workload.tally.foreign) or (pool_class is not Trusting and enough()),
            BOUND_S,
        )
        calm(proxy)
    assert bool(workload.tally.foreign) == (pool_class is Trusting)
    client.connection_pool.disconnect()
