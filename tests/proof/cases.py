"""The fault matrix's cases: one caller, one fault, at one byte; what must hold after each.

The faults are the proxy's. A case is: a new pool of one connection, a call in the middle of
which the fault strikes, and another call on that pool when all is calm again.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import redis
from redis.exceptions import MaxConnectionsError, RedisError

import cpool
from tests.identity.faults import INVALIDATE, set_timeout
from tests.identity.rounds import SHORT_TIMEOUT_S
from tests.identity.workload import (
    BOUND_S,
    Outcome,
    Verb,
    attempt,
    echo,
    give_up,
    make_client,
    pipeline,
    transaction,
    walk_away,
    watch,
)
from tests.pool.support import REDIS_VERSION
from tests.proof.routes import Route
from tests.support.faultproxy import FaultProxy, Flow

Side = Literal["requests", "replies"]
SIDES: tuple[Side, ...] = ("requests", "replies")
ERRORS = (redis.ConnectionError, redis.TimeoutError, redis.WatchError)  # these very types
RETRIED = (echo, pipeline, transaction)
HANDSHAKES_ARE_RETRIED = REDIS_VERSION >= (7, 0)  # by redis-py's connect()
GARBAGE = bytes(range(48, 64))


@dataclass(frozen=True)
class Fault:
    """A fault of the proxy. per: what its places are; harmless: the reply must come through."""

    name: str
    strike: Callable[[FaultProxy, Flow, int], None]
    per: Literal["byte", "message", "case"] = "byte"
    sides: tuple[Side, ...] = SIDES
    harmless: bool = False
    late: bool = False
    on: Literal["messages", "bytes", "both"] = "both"  # what the proxy must see, or not see

    def applies_to(self, route: Route, subject: Subject) -> bool:
        """Tell whether this can happen on that way, in that protocol."""
        seen = "messages" if route.framed else "bytes"
        return self.on in ("both", seen) and (self.name != "push" or subject.protocol == 3)


def _cut(how: Literal["close", "reset", "half"]) -> Callable[[FaultProxy, Flow, int], None]:
    return lambda proxy, flow, place: flow.cut_after(place, how)


def _refuse(proxy: FaultProxy, flow: Flow, place: int) -> None:
    proxy.refuse_connections()
    proxy.close_connections()


FAULTS = (
    Fault("close", _cut("close")),
    Fault("reset", _cut("reset")),
    Fault("half-close", _cut("half")),
    Fault("stall", lambda proxy, flow, place: flow.stall(after_bytes=place), late=True),
    Fault("split", lambda proxy, flow, place: flow.split(place), harmless=True),
    Fault("drip", lambda proxy, flow, place: flow.split(each=1), "case", harmless=True),
    Fault("refuse", _refuse, "case", ("requests",)),
    Fault(
        "push",
        lambda proxy, flow, place: flow.inject_after(place, INVALIDATE),
        "message",
        ("replies",),
        harmless=True,
        on="messages",
    ),
    Fault(
        "garbage",
        lambda proxy, flow, place: flow.inject_after(place, GARBAGE),
        "message",
        ("replies",),
        on="bytes",
    ),
)


@dataclass(frozen=True)
class Subject:
    """Whose call it is that a fault strikes. warm: on a connection that was used before."""

    client_class: type[redis.Redis]
    verb: Verb
    protocol: int = 3
    warm: bool = False
    retries: int = 0

    def __str__(self) -> str:
        who = f"{self.client_class.__module__.partition('.')[0]}.Redis"
        state = "warm" if self.warm else "cold"
        return f"{who} {self.verb.__name__} RESP{self.protocol} {state} retries={self.retries}"


CLIENTS = (cpool.Redis, redis.Redis)
_VERBS = (echo, pipeline, transaction, watch, give_up, walk_away)


def _subjects(who: type[redis.Redis]) -> list[Subject]:
    """The handshake is the same whatever follows it: it is struck before a few calls only."""
    return [
        Subject(who, echo),
        Subject(who, echo, protocol=2),
        Subject(who, echo, retries=1),
        Subject(who, pipeline),
        *(Subject(who, verb, warm=True) for verb in _VERBS),
        *(Subject(who, verb, warm=True, retries=1) for verb in RETRIED),
    ]


SUBJECTS = tuple(subject for who in CLIENTS for subject in _subjects(who))


@dataclass(frozen=True)
class Case:
    """One fault at one place of one call."""

    route: Route
    subject: Subject
    fault: Fault
    side: Side
    place: int

    def __str__(self) -> str:
        where = f"{self.fault.per} {self.place} of the {self.side}"
        return f"{self.route.transport} {self.subject}: {self.fault.name} at {where}"

    @property
    def must_succeed(self) -> bool:
        """Whether this fault is none for the caller: it is harmless, or retried away."""
        retried = self.subject.retries and self.subject.verb in RETRIED
        if not self.subject.warm and not HANDSHAKES_ARE_RETRIED:
            retried = False
        strikes_once = self.fault.name in ("close", "reset", "half-close")
        return (
            self.fault.harmless
            and self.subject.verb is not give_up
            or bool(retried and strikes_once)
        )


@dataclass
class Verdict:
    """What a case has shown."""

    outcome: Outcome
    problems: list[str] = field(default_factory=list)
    lost_slots: int = 0


_serial = itertools.count(1)


def new_nonce() -> str:
    """Return a nonce that was never used; all are of one length, as places count bytes."""
    return f"case:{next(_serial):09d}"


def cases_of(route: Route, subjects: tuple[Subject, ...] = SUBJECTS) -> Iterator[Case]:
    """Yield every case of a route; each subject's call is measured for it."""
    for subject in subjects:
        lengths = measure(route, subject)
        for fault in FAULTS:
            if fault.applies_to(route, subject):
                for side in fault.sides:
                    for place in _places(fault, *lengths[side]):
                        yield Case(route, subject, fault, side, place)


def _places(fault: Fault, n_bytes: int, n_messages: int) -> range:
    if fault.per == "case":
        return range(1)
    if fault.per == "message":
        return range(n_messages + 1)
    # There is nothing to split before the first byte.
    return range(1 if fault.name == "split" else 0, n_bytes)


def sample(cases: list[Case], each: int, seed: int) -> list[Case]:
    """Choose so many cases of each fault and side."""
    chance = random.Random(seed)
    groups: dict[tuple[str, Side], list[Case]] = {}
    for case in cases:
        groups.setdefault((case.fault.name, case.side), []).append(case)
    return [c for group in groups.values() for c in chance.sample(group, min(each, len(group)))]


def measure(route: Route, subject: Subject) -> dict[Side, tuple[int, int]]:
    """Count the bytes and messages of a call without a fault."""
    flows = {side: _flow(route, side) for side in SIDES}
    with _Caller(route, subject, BOUND_S) as caller:
        before = {side: (flow.n_bytes, flow.messages) for side, flow in flows.items()}
        if caller.call().kind != "right" and subject.verb is not give_up:
            raise AssertionError(f"{route.transport} {subject} fails without a fault")
    return {
        side: (flow.n_bytes - before[side][0], flow.messages - before[side][1])
        for side, flow in flows.items()
    }


def _flow(route: Route, side: Side) -> Flow:
    return route.proxy.requests if side == "requests" else route.proxy.replies


def run_case(case: Case, pool_class: Any = cpool.ConnectionPool) -> Verdict:
    """Let the fault strike and judge what comes of it."""
    proxy = case.route.proxy
    timeout_s = SHORT_TIMEOUT_S if case.fault.late else BOUND_S
    with _no_collection(), _Caller(case.route, case.subject, timeout_s, pool_class) as caller:
        case.fault.strike(proxy, _flow(case.route, case.side), case.place)
        try:
            verdict = Verdict(caller.call())
        finally:
            proxy.calm()
        _judge(case, verdict)
        caller.check_next(verdict)
    return verdict


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Collect no garbage in the proxy's threads: the finaliser of a redis-py pipeline that
    watches sends UNWATCH, and would wait there for the proxy."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _judge(case: Case, verdict: Verdict) -> None:
    outcome = verdict.outcome
    if outcome.kind == "foreign":
        verdict.problems.append(f"foreign reply {outcome.verdict}")
    elif outcome.kind == "failed" and outcome.error_class not in ERRORS:
        verdict.problems.append(f"not redis-py's error: {outcome.verdict}")
    elif outcome.kind == "failed" and case.must_succeed:
        verdict.problems.append(f"an error where none may be: {outcome.verdict}")


class _Caller:
    """A client with one connection at most, whose connections are all gone in the end."""

    def __init__(
        self,
        route: Route,
        subject: Subject,
        timeout_s: float,
        pool_class: Any = cpool.ConnectionPool,
    ) -> None:
        self._proxy = route.proxy
        self._subject = subject
        self._client = make_client(
            pool_class,
            subject.client_class,
            max_connections=1,
            timeout=0,
            retries=subject.retries,
            protocol=subject.protocol,
            socket_timeout=timeout_s,
            **route.options,
        )

    def __enter__(self) -> _Caller:
        if self._subject.warm:
            while attempt(echo, self._client, new_nonce()).kind == "failed":
                pass  # in so short a time it may well fail on a busy machine
            self._proxy.wait_until(lambda: self._proxy.open_connections == 1, "one connection")
        return self

    def __exit__(self, *_: object) -> None:
        self._client.connection_pool.disconnect()
        self._proxy.wait_until(lambda: self._proxy.open_connections == 0, "end of all sockets")

    def call(self) -> Outcome:
        """Make the call."""
        return attempt(self._subject.verb, self._client, new_nonce())

    def check_next(self, verdict: Verdict) -> None:
        """The next call gets its reply, and the slot is neither lost nor shared."""
        pool = self._client.connection_pool
        # What came late has arrived before anybody can be lent a connection.
        self._proxy.wait_until(lambda: self._proxy.replies.held_bytes == 0, "late replies")
        set_timeout(pool, BOUND_S)
        try:
            connection = pool.get_connection()
        except RedisError as error:
            verdict.lost_slots += isinstance(error, MaxConnectionsError)
            verdict.problems.append(f"no connection afterwards: {error!r}")
            return
        if not _is_exhausted(pool):
            verdict.lost_slots += 1
            verdict.problems.append("the only connection was lent twice")
        pool.release(connection)
        outcome = attempt(echo, self._client, new_nonce())
        if outcome.kind != "right":
            verdict.problems.append(f"the next call: {outcome}")


def _is_exhausted(pool: Any) -> bool:
    try:
        pool.get_connection()
    except MaxConnectionsError:
        return True
    return False
