"""The identity workload on a service of sentinels: who has served which thread, and when.

The writes a failover loses are the server's to lose: a key may hold what its thread wrote
before, or nothing, but never what another thread wrote.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Any, Literal

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

import cpool
from cpool.tools.sentinels import SentinelTopology
from tests.identity import workload
from tests.identity.workload import Verb, Verdict, Workload, attempt

SOCKET_TIMEOUT_S = 0.5
PAUSE_S = 0.02  # between two attempts: a program that spins takes the CPU from the sentinels
WRITE_AND_TELL = """
redis.call('SET', KEYS[1], ARGV[1])
return {ARGV[1], string.match(redis.call('INFO', 'server'), 'tcp_port:(%d+)')}
"""


def write_and_look(client: redis.Redis, nonce: str) -> Verdict:
    """Write, and read the key: what is there, if anything, must be this thread's."""
    name = nonce.rpartition(":")[0]
    client.set(name, nonce)
    found = client.get(name)
    return name.encode(), name.encode() if found is None else bytes(found).rpartition(b":")[0]


_LOST_BY_A_FAILOVER = (workload.write_and_read, workload.pop_own)
VERBS: list[Verb] = [write_and_look] + [
    verb for verb in workload.VERBS if verb not in _LOST_BY_A_FAILOVER
]


@dataclass(frozen=True)
class Served:
    """A write was answered: when (time.monotonic()), and by the server on which port."""

    at_s: float
    port: int


class FailoverWorkload(Workload):
    """Every other command is a write that tells which server has run it."""

    def __init__(
        self, client: redis.Redis, threads: int, seed: int = 0, others: list[Verb] = VERBS
    ) -> None:
        super().__init__(client, seed)
        self.threads = threads
        self.served: list[list[Served]] = [[] for _ in range(threads)]
        self._others = others

    def step(self, chance: random.Random, nonce: str) -> None:
        """Do two commands and judge their replies."""
        self.tally.count(attempt(self._write, self.client, nonce))
        self.tally.count(attempt(chance.choice(self._others), self.client, nonce))

    def _write(self, client: redis.Redis, nonce: str) -> Verdict:
        key = nonce.rpartition(":")[0]
        told, port = client.eval(WRITE_AND_TELL, 1, f"p:{key}", nonce)
        self.served[int(key.rpartition(":")[2])].append(Served(time.monotonic(), int(port)))
        return nonce.encode(), told

    def first_from(self, port: int) -> list[float]:
        """Return when each thread was first served by a server; less than all if some were
        not yet."""
        firsts = (
            next((s.at_s for s in list(done) if s.port == port), None) for done in self.served
        )
        return [at_s for at_s in firsts if at_s is not None]

    def all_served_by(self, port: int) -> bool:
        """Say whether that server has served every thread."""
        return len(self.first_from(port)) == self.threads


def make_client(
    library: Literal["cpool", "redis-py"],
    addresses: list[tuple[str, int]],
    sentinel_kwargs: dict[str, Any] | None = None,
    **options: Any,
) -> redis.Redis:
    """Make a client of the master that tries again twice, and gives up on silence soon.

    options: of the pool and its connections."""
    sentinel_class = cpool.Sentinel if library == "cpool" else redis.sentinel.Sentinel
    sentinel = sentinel_class(
        addresses, sentinel_kwargs=sentinel_kwargs, socket_timeout=SOCKET_TIMEOUT_S
    )
    client: redis.Redis = sentinel.master_for(SentinelTopology.name, **options)
    client.set_retry(Retry(ConstantBackoff(PAUSE_S), 2))
    return client
