"""One round of the identity workload under faults, and what must hold after it."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator
from typing import Any

import redis

from tests.identity.faults import Faults, enough_of, set_timeout, strike_until
from tests.identity.workload import BOUND_S, Injected, Workload, check_slots, spawn_thread
from tests.support.faultproxy import FaultProxy

SHORT_TIMEOUT_S = 0.02
# What finalisers may meet: a socket that redis-py has just made when an exception is thrown in
# is closed by its own.
HARMLESS = {Injected, ResourceWarning}


def timeout_s_for(kinds: tuple[str, ...]) -> float:
    """Return the socket timeout to run under these faults: late needs somebody who gives up."""
    return SHORT_TIMEOUT_S if {"delay", "hold"} & set(kinds) else BOUND_S


def play(
    workload: Workload,
    proxy: FaultProxy,
    admin: redis.Redis,
    kinds: tuple[str, ...],
    right: int,
    struck: int,
    bound_s: float = BOUND_S,
) -> None:
    """Run the workload until so many replies were right and so many faults have struck.

    Raises TimeoutError.
    """
    faults = Faults(proxy, admin, workload, workload.seed)
    workload.start(spawn_thread)
    try:
        strike_until(faults, kinds, enough_of(faults, right, struck), bound_s)
    finally:
        calm(proxy)
        workload.stop()
        workload.tally.struck = faults.struck


def calm(proxy: FaultProxy) -> None:
    """End all faults, and the connections that have met one."""
    proxy.calm()
    proxy.close_connections()


def check_after(pool: Any) -> None:
    """Check the slots by patient connections, and close them. Raises AssertionError."""
    gc.collect()
    set_timeout(pool, BOUND_S)
    pool.disconnect()
    check_slots(pool)
    pool.disconnect()


@contextlib.contextmanager
def unraisable_errors() -> Iterator[set[type[BaseException]]]:
    """Collect the classes of exceptions that nobody could catch, in place of printing them."""
    lost: set[type[BaseException]] = set()
    before = sys.unraisablehook
    sys.unraisablehook = lambda args: lost.add(args.exc_type)
    try:
        yield lost
    finally:
        sys.unraisablehook = before
