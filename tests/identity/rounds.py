"""One round of the identity workload under faults, and all that must hold after it."""

from __future__ import annotations

import gc
from typing import Any

import redis

from tests.identity.faults import Faults, enough_of, set_timeout, strike_until
from tests.identity.workload import BOUND_S, Workload, check_slots, running
from tests.support.faultproxy import FaultProxy

SHORT_TIMEOUT_S = 0.02


def timeout_s_for(kinds: tuple[str, ...]) -> float:
    """Return the socket timeout to run under these faults: late needs somebody who gives up."""
    return SHORT_TIMEOUT_S if {"delay", "hold"} & set(kinds) else BOUND_S


def run_round(
    client: redis.Redis,
    proxy: FaultProxy,
    admin: redis.Redis,
    kinds: tuple[str, ...],
    seed: int,
    right: int,
    struck: int,
    bound_s: float = BOUND_S,
) -> Workload:
    """Run until so many replies were right and so many faults have struck; check what must hold.

    Leaves the pool without connections. Raises AssertionError, TimeoutError.
    """
    with running(client, seed) as workload:
        faults = Faults(proxy, admin, workload, seed)
        try:
            strike_until(faults, kinds, enough_of(faults, right, struck), bound_s)
        finally:
            calm(proxy)
    workload.tally.struck = faults.struck
    assert workload.tally.foreign == []
    gc.collect()
    check_after(client.connection_pool)
    return workload


def calm(proxy: FaultProxy) -> None:
    """End all faults, and the connections that have met one."""
    proxy.calm()
    proxy.close_connections()


def check_after(pool: Any) -> None:
    """Check the slots by patient connections, and close them."""
    set_timeout(pool, BOUND_S)
    pool.disconnect()
    check_slots(pool)
    pool.disconnect()
