"""The identity workload on a cluster: its keys are in all slots, and each worker counts.

Besides replies, which must be one's own, writes are judged: every worker adds to counters that
nobody else writes to, so a counter that goes back has lost an acknowledged write, and one above
the number of calls was written to twice.
"""

from __future__ import annotations

import dataclasses
import random
import time
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import RedisClusterException, RedisError

from tests.identity.workload import (
    Outcome,
    Verb,
    Verdict,
    Workload,
    attempt,
    fail,
    pop_own,
    wait_in_vain,
    write_and_read,
)

COUNTERS = 64  # of each worker
COUNTED_SHARE = 0.4  # of the commands


def key_of(nonce: str) -> str:
    """Return the key of a worker that this command is to use: any of many, in any slot."""
    name, _, serial = nonce.rpartition(":")
    return f"{name}:{int(serial) % COUNTERS}"


def read_what_was_written(client: Any, nonce: str) -> Verdict:
    key = key_of(nonce)
    client.set(key, nonce)
    return nonce.encode(), client.get(key)


def evaluate(client: Any, nonce: str) -> Verdict:
    reply = client.eval("return {KEYS[1], ARGV[1]}", 1, key_of(nonce), nonce)
    return [key_of(nonce).encode(), nonce.encode()], reply


def pipeline(client: Any, nonce: str) -> Verdict:
    """Over several nodes."""
    words = [f"{nonce}:{i}" for i in range(8)]
    with client.pipeline() as pipe:
        for word in words:
            pipe.set(word, word, ex=60).get(word)
        return [one for word in words for one in (True, word.encode())], pipe.execute()


def large_pipeline(client: Any, nonce: str) -> Verdict:
    words = [f"{nonce}:{i}" for i in range(4)]
    with client.pipeline() as pipe:
        for word in words:
            pipe.set(word, word * 4000, ex=60).get(word)
        return [one for w in words for one in (True, w.encode() * 4000)], pipe.execute()


def transaction(client: Any, nonce: str) -> Verdict:
    key = f"t:{{{key_of(nonce)}}}"
    with client.pipeline(transaction=True) as pipe:
        pipe.set(key, nonce).get(key)
        return nonce.encode(), pipe.execute()[-1]


def over_slots(client: Any, nonce: str) -> Verdict:
    words = [f"{nonce}:{i}" for i in range(6)]
    client.mset_nonatomic(dict.fromkeys(words, nonce))
    got = client.mget_nonatomic(words)
    client.delete(*words)
    return [nonce.encode()] * 6, got


VERBS: list[Verb] = [
    write_and_read,
    *[read_what_was_written] * 3,
    fail,
    evaluate,
    pipeline,
    large_pipeline,
    transaction,
    over_slots,
    wait_in_vain,
    pop_own,
]


def outcome_of(verb: Verb, client: Any, nonce: str) -> Outcome:
    """Do one command and judge its reply; a cluster that can't be used is a failure."""
    outcome = attempt(verb, client, nonce)
    if outcome.error_class is not None and issubclass(outcome.error_class, RedisClusterException):
        return dataclasses.replace(outcome, kind="failed")
    return outcome


@dataclass
class Counter:
    """What a worker knows of a counter of its own."""

    key: str
    slot: int
    calls: int = 0
    last: int = 0  # what the last reply said

    def judge(self, value: int) -> str:
        """Take a reply; say what is wrong with it, or nothing."""
        before, self.last = self.last, value
        if value <= before:
            return f"{self.key} was {before} and is {value}: acknowledged writes are lost"
        if value > self.calls:
            return f"{self.key} is {value} after {self.calls} calls: written to twice"
        return ""


@dataclass
class Recovery:
    """Which workers have been served again by the slots that a node had; and when."""

    slots: frozenset[int]
    begins_s: float = float("inf")
    served_s: dict[int, float] = field(default_factory=dict)

    def note(self, number: int) -> None:
        """Note that a worker was served."""
        now_s = time.monotonic()
        if now_s >= self.begins_s:
            self.served_s.setdefault(number, now_s)

    @property
    def took_s(self) -> float:
        """Seconds until the last one was served."""
        return max(self.served_s.values()) - self.begins_s


class ClusterWorkload(Workload):
    """Workers on one cluster client."""

    def __init__(self, client: Any, seed: int, name: str = "run") -> None:
        super().__init__(client, seed, name)
        self.wrong: list[str] = []  # what the counters have told
        self.recovery: Recovery | None = None
        self._counters: dict[int, list[Counter]] = {}

    def step(self, chance: random.Random, nonce: str) -> None:
        """Do one command and judge its reply."""
        if self.recovery is not None or chance.random() < COUNTED_SHARE:
            self._count_up(chance, int(nonce.split(":")[1]))
        else:
            self.tally.count(outcome_of(chance.choice(VERBS), self.client, nonce))

    def counters(self) -> list[Counter]:
        """Return the counters of all workers."""
        return [one for counters in self._counters.values() for one in counters]

    def _own(self, number: int) -> list[Counter]:
        if number not in self._counters:
            keys = [f"{self._name}:counter:{number}:{i}" for i in range(COUNTERS)]
            self._counters[number] = [Counter(k, self.client.keyslot(k)) for k in keys]
        return self._counters[number]

    def _count_up(self, chance: random.Random, number: int) -> None:
        recovery = self.recovery
        own = self._own(number)
        if recovery is not None:  # where it matters now; `or own`: by chance it has none there
            own = [one for one in own if one.slot in recovery.slots] or own
        counter = chance.choice(own)
        counter.calls += 1
        try:
            value = self.client.incr(counter.key)
        except (RedisError, RedisClusterException, OSError) as error:
            self.tally.count(Outcome("failed", (counter.key, repr(error)), type(error)))
            return
        self._judge(counter, value)
        if recovery is not None:
            recovery.note(number)

    def _judge(self, counter: Counter, value: Any) -> None:
        if not isinstance(value, int):
            self.tally.count(Outcome("foreign", (counter.key, value)))
            return
        self.tally.right += 1
        wrong = counter.judge(value)
        if wrong:
            self.wrong.append(wrong)

    def compare(self, read: Any) -> list[str]:
        """Compare the counters with what read(key) says; say what is wrong."""
        found = []
        for counter in self.counters():
            value = int(read(counter.key) or 0)
            if not counter.last <= value <= counter.calls:
                found.append(
                    f"{counter.key} is {value} at the end, not {counter.last} to {counter.calls}"
                )
        return found
