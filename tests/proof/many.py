"""Rounds of the identity workload over all routes in turn: the part with many threads."""

from __future__ import annotations

import faulthandler
import itertools
from dataclasses import dataclass, field
from typing import Any

import redis

import cpool
from tests.identity.rounds import (
    HARMLESS,
    check_after,
    play,
    timeout_s_for,
    unraisable_errors,
)
from tests.identity.workload import Tally, Workload, make_client
from tests.proof.cases import CLIENTS
from tests.proof.framework import Report, server_name, watchdog
from tests.proof.routes import Route, Site

ENOUGH = (400, 25, 60.0)  # right replies, faults, seconds they may take at most
HANG_S = 180.0
KINDS = (
    *("reset", "close", "cut", "cut_anywhere", "half_close", "refuse", "kill", "delay", "hold"),
    *("split", "split_requests", "throw", "disconnect", "drain", "push"),
)
COLUMNS = ("workload", "rounds", "right", "errors", "thrown", "faults", "foreign", "lost slots")


@dataclass(frozen=True)
class Setting:
    """Where a round runs, and with which client."""

    site: Site
    route: Route
    client_class: type[redis.Redis]

    def __str__(self) -> str:
        who = self.client_class.__module__.partition(".")[0]
        return f"{server_name(self.site.server.binary)} {self.route.transport} {who}.Redis"


def settings(sites: list[Site], transports: tuple[str, ...]) -> list[Setting]:
    """Return all of them, the transports in turn."""
    every = itertools.product(transports, sites, CLIENTS)
    return [Setting(site, site.routes[transport], client) for transport, site, client in every]


@dataclass
class Sum:
    """What came of all rounds of a setting."""

    rounds: int = 0
    lost: int = 0
    tally: Tally = field(default_factory=Tally)

    def add(self, tally: Tally) -> None:
        """Add a round."""
        self.rounds += 1
        for name in ("right", "failed", "injected", "struck"):
            setattr(self.tally, name, getattr(self.tally, name) + getattr(tally, name))
        self.tally.foreign += tally.foreign
        self.tally.errors += tally.errors

    def row(self) -> list[str]:
        """Return the columns behind the name."""
        tally = self.tally
        errors = ", ".join(f"{name} {n}" for name, n in sorted(tally.errors.items()))
        before = [str(self.rounds), str(tally.right), errors, str(tally.injected)]
        return [*before, *map(str, (tally.struck, len(tally.foreign), self.lost))]


class Rounds:
    """Rounds of the workload on a class of pools, and what came of them."""

    def __init__(
        self,
        report: Report,
        pool_class: Any = cpool.BlockingConnectionPool,
        kinds: tuple[str, ...] = KINDS,
    ) -> None:
        self._report = report
        self._pool_class = pool_class
        self._kinds = kinds
        self._sums: dict[str, Sum] = {}

    def play(self, setting: Setting, seed: int) -> None:
        """Run one round; what does not hold is a violation."""
        total = self._sums.setdefault(str(setting), Sum())
        workload = Workload(self._client(setting), seed)
        pool = workload.client.connection_pool
        with watchdog(HANG_S), unraisable_errors() as lost:
            try:
                kinds = self._kinds_for(setting)
                play(workload, setting.route.proxy, setting.site.admin, kinds, *ENOUGH)
            except TimeoutError as error:
                self._report.violation(f"{setting} seed {seed}: {error}")
                faulthandler.dump_traceback(all_threads=True)
            total.add(workload.tally)
            for pair in workload.tally.foreign:
                self._report.violation(f"{setting} seed {seed}: foreign reply {pair}")
            try:
                check_after(pool)
                # What is left open then is nobody's.
                proxy = setting.route.proxy
                proxy.wait_until(lambda: proxy.open_connections == 0, "end of all sockets")
            except (AssertionError, TimeoutError, redis.RedisError) as error:
                total.lost += 1
                self._report.violation(f"{setting} seed {seed}: slots: {error!r}")
        if lost - HARMLESS:
            self._report.violation(f"{setting} seed {seed}: lost in a finaliser: {lost}")

    def _kinds_for(self, setting: Setting) -> tuple[str, ...]:
        """Nothing can be said between messages that the proxy can't see."""
        return tuple(kind for kind in self._kinds if setting.route.framed or kind != "push")

    def _client(self, setting: Setting) -> redis.Redis:
        return make_client(
            self._pool_class,
            setting.client_class,
            protocol=3,
            socket_timeout=timeout_s_for(self._kinds),
            **setting.route.options,
        )

    @property
    def total(self) -> Tally:
        """What came of all rounds together."""
        every = Sum()
        for one in self._sums.values():
            every.add(one.tally)
        return every.tally

    def print(self) -> None:
        """Print the table."""
        rows = [[name, *total.row()] for name, total in self._sums.items()]
        self._report.table("many threads, faults at random", COLUMNS, rows)
