"""Each system call of each kind of command fails once with each errno.

Run by test_each_call.py with the library preloaded: URL CLIENT. What came of it is told by
action and fault; what must hold whatever fails is checked here, after each fault.
"""

from __future__ import annotations

import errno
import gc
import itertools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

import cpool
from tests.syscalls.shim import Call, Fault, Shim

ONE_BYTE = 0
LARGE = 200_000
MOST_CALLS = 400
COUNTER, VALUE = "each-call:counter", "each-call:value"
OPTIONS: dict[str, Any] = {
    "max_connections": 1,
    "socket_timeout": 10,
    "socket_connect_timeout": 10,
    "retry": Retry(NoBackoff(), 0),
}
CLIENTS: dict[str, tuple[Any, Any]] = {
    "cpool": (cpool.Redis, cpool.ConnectionPool),
    "redis": (redis.Redis, cpool.ConnectionPool),
    "original": (redis.Redis, redis.ConnectionPool),
}


@dataclass(frozen=True)
class Plan:
    """The n-th call fails so; `also` at the same time (poll() comes after "would block")."""

    call: Call
    err: int
    also: tuple[tuple[Call, int, int], ...] = ()

    @property
    def name(self) -> str:
        """What the fault is called in the answer."""
        return f"{self.call.name} {errno.errorcode.get(self.err, 'ONE_BYTE')}"


NOTHING_YET = ((Call.RECV, 1, errno.EAGAIN),)
PLANS = [
    *(Plan(Call.RECV, e) for e in (ONE_BYTE, errno.EINTR, errno.EAGAIN)),
    *(Plan(Call.RECV, e) for e in (errno.ECONNRESET, errno.ETIMEDOUT)),
    *(Plan(Call.SEND, e) for e in (ONE_BYTE, errno.EINTR, errno.EAGAIN)),
    *(Plan(Call.SEND, e) for e in (errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT)),
    *(Plan(Call.PEEK, e) for e in (errno.EINTR, errno.EAGAIN, errno.ECONNRESET)),
    *(Plan(Call.POLL, e, NOTHING_YET) for e in (errno.EINTR, errno.ENOMEM)),
    *(Plan(Call.CONNECT, e) for e in (errno.EINTR, errno.ECONNREFUSED, errno.ETIMEDOUT)),
    Plan(Call.OPTION, errno.ENOBUFS),
    Plan(Call.FLAGS, errno.EINVAL),
]
# No kernel says so of a unix socket, and redis-py's class for them is not prepared for it.
NEVER_BY_UNIX = Plan(Call.CONNECT, errno.ETIMEDOUT)


def get(client: redis.Redis, nonce: str) -> int:
    """A command that has little to say."""
    value = client.get(VALUE)
    assert value is not None and len(value) == LARGE
    return 0


def incr(client: redis.Redis, nonce: str) -> int:
    client.incr(COUNTER)
    return 1


def large_set(client: redis.Redis, nonce: str) -> int:
    """An argument that goes out from where it is."""
    assert client.set(VALUE, nonce[-1] * LARGE) is True
    return 0


def pipeline(client: redis.Redis, nonce: str, transaction: bool = False) -> int:
    with client.pipeline(transaction=transaction) as pipe:
        results = pipe.incr(COUNTER).echo(nonce).get(VALUE).incr(COUNTER).execute()
    assert results[1] == nonce.encode() and len(results[2]) == LARGE
    assert results[3] == results[0] + 1
    return 2


def transaction(client: redis.Redis, nonce: str) -> int:
    return pipeline(client, nonce, True)


def dial(client: redis.Redis, nonce: str) -> int:
    """A command of a pool that has no connection yet."""
    client.connection_pool.disconnect()
    return incr(client, nonce)


ACTIONS: list[Callable[[redis.Redis, str], int]] = [
    get,
    incr,
    large_set,
    pipeline,
    transaction,
    dial,
]


def check(pool: Any) -> None:
    """No slot is lost, and none is lent."""
    if isinstance(pool, cpool.ConnectionPool):
        stats = pool.stats()
        assert (stats.in_use, stats.opening, stats.waiting) == (0, 0, 0), stats
    conn = pool.get_connection()
    pool.release(conn)


class Trial:
    """One client, a faultless one beside it, and what came of the faults."""

    def __init__(self, shim: Shim, url: str, client: str) -> None:
        client_class, pool_class = CLIENTS[client]
        self.shim = shim
        self.client = client_class(connection_pool=pool_class.from_url(url, **OPTIONS))
        self.admin = redis.Redis.from_url(url)
        self.outcomes: dict[str, dict[str, int]] = {}
        self.faults = 0
        self.serial = 0
        self.total = self.executed()

    def run(self) -> None:
        """Let each call of each action fail with each errno."""
        self.admin.set(VALUE, "x" * LARGE)
        self.client.ping()  # each fault meets an open connection, and leaves one
        by_unix = "path" in self.client.connection_pool.connection_kwargs
        plans = [plan for plan in PLANS if not (by_unix and plan == NEVER_BY_UNIX)]
        for action, plan in itertools.product(ACTIONS, plans):
            name = f"{action.__name__} {plan.name}"
            n = 1
            while self.fault(name, action, plan, n):
                n += 1
                assert n < MOST_CALLS, name

    def fault(self, name: str, action: Any, plan: Plan, n: int) -> bool:
        """Let the n-th call fail; False if there are not so many."""
        self.serial += 1
        before = self.shim.injected(plan.call, Fault.ORDERED)
        with self.shim.ordered((plan.call, n, plan.err), *plan.also):
            outcome, counted = self.outcome(action)
        total = self.executed()
        executed, self.total = total - self.total, total
        assert executed == counted if outcome == "ok" else executed in (0, 1, 2), (name, n)
        check(self.client.connection_pool)
        nonce = f"nonce:{self.serial}"
        assert self.client.echo(nonce) == nonce.encode(), (name, n)
        if self.shim.injected(plan.call, Fault.ORDERED) == before:
            assert outcome == "ok", (name, n, outcome)
            return False
        self.faults += 1
        by_outcome = self.outcomes.setdefault(name, {})
        by_outcome[outcome] = by_outcome.get(outcome, 0) + 1
        return True

    def outcome(self, action: Any) -> tuple[str, int]:
        """What came of it, and how often the counter was to be counted up."""
        try:
            return "ok", action(self.client, f"n:{self.serial}")
        except RedisError as error:
            return f"{type(error).__name__}: {error}", 0

    def executed(self) -> int:
        """How often the server has counted up."""
        return int(self.admin.get(COUNTER) or 0)


def main(url: str, client: str) -> None:
    """Run all trials of one client."""
    gc.disable()  # a finaliser's calls would be counted among a command's
    trial = Trial(Shim(), url, client)
    trial.run()
    trial.client.connection_pool.disconnect()
    print(json.dumps({"outcomes": trial.outcomes, "faults": trial.faults}))


if __name__ == "__main__":
    main(*sys.argv[1:])
