"""One side of a measured failover: threads on one client, and what came of each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import redis

from tests.identity import workload as identity
from tests.identity.workload import check_slots, spawn_thread
from tests.sentinel.workload import FailoverWorkload, make_client

BAR_S = 1.0
BOUND_S = 60.0
CHECK_INTERVAL_S = 0.2
VERBS = [identity.echo, identity.pipeline, identity.transaction]


@dataclass
class Result:
    """What came of one failover. waits_s: of each thread that was served again, from the
    promotion on. to_the_old: writes the old master took after it. told_s: how long after it a
    sentinel gave out the new address."""

    waits_s: list[float]
    to_the_old: int
    errors: int
    foreign: int
    told_s: float = 0.0
    slots_are_whole: bool = True
    problems: list[str] = field(default_factory=list)

    def holds(self, threads: int) -> bool:
        """Say whether the bar is met."""
        return (
            len(self.waits_s) == threads
            and max(self.waits_s) - self.told_s <= BAR_S
            and not self.foreign
            and self.slots_are_whole
        )


def work(pipe: Connection, library: Any, addresses: Any, threads: int) -> None:
    """Be one side: run the workload, and tell of its end. In a process of its own."""
    options: dict[str, Any] = {"max_connections": threads}
    if library == "cpool":
        options |= {"timeout": BOUND_S, "master_check_interval": CHECK_INTERVAL_S}
    client = make_client(library, addresses, **options)
    running = FailoverWorkload(client, threads, others=VERBS)
    running.start(spawn_thread, threads)
    _wait(lambda: all(running.served))
    pipe.send("ready")
    old_port, new_port, promoted_s, told_s = pipe.recv()
    _wait(lambda: running.all_served_by(new_port))
    running.stop()
    result = _result(running, old_port, new_port, promoted_s)
    result.told_s = told_s - promoted_s
    if library == "cpool":
        _check_slots(client, result)
    pipe.send(result)


def _wait(done: Callable[[], object]) -> None:
    give_up_s = time.monotonic() + BOUND_S
    while not done() and time.monotonic() < give_up_s:
        time.sleep(0.01)


def _result(running: FailoverWorkload, old_port: int, new_port: int, promoted_s: float) -> Result:
    return Result(
        waits_s=sorted(max(at_s - promoted_s, 0.0) for at_s in running.first_from(new_port)),
        to_the_old=sum(
            each.port == old_port and each.at_s > promoted_s
            for served in running.served
            for each in served
        ),
        errors=running.tally.failed,
        foreign=len(running.tally.foreign),
        problems=[f"foreign: {verdict}" for verdict in running.tally.foreign[:3]],
    )


def _check_slots(client: redis.Redis, result: Result) -> None:
    try:
        check_slots(client.connection_pool)
    except AssertionError as error:
        result.slots_are_whole = False
        result.problems.append(f"slots: {error}")
