"""The work the demo measures: a fixed script of commands whose every reply is checked."""

from __future__ import annotations

import secrets
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

STEPS_PER_BATCH = 4
REPLIES_PER_BATCH = 6 * STEPS_PER_BATCH
COMMANDS_PER_BATCH = 1 + REPLIES_PER_BATCH + STEPS_PER_BATCH  # DEL, the script, shared INCRs


def run_batch(client: Any, prefix: str, thread: int) -> list[Any]:
    """Run one thread's fixed script on keys of its own; return the replies it is judged by."""
    string, counter, table, missing = _keys(prefix, thread)
    replies: list[Any] = []
    client.delete(string, counter, table)
    for step in range(STEPS_PER_BATCH):
        replies += (
            client.set(string, _value(thread, step)),
            client.get(string),
            client.incr(counter),
            client.hset(table, mapping=_fields(thread, step)),
            client.hgetall(table),
            client.get(missing),
        )
        client.incr(shared_key(prefix))
    return replies


def expected_batch(thread: int) -> list[Any]:
    """Return what run_batch() must return."""
    replies: list[Any] = []
    for step in range(STEPS_PER_BATCH):
        fields = _fields(thread, step)
        added = len(fields) if step == 0 else 0
        replies += (True, _value(thread, step), step + 1, added, fields, None)
    return replies


def checksum(replies: list[Any]) -> int:
    """Condense the replies of a batch."""
    return zlib.crc32(repr(replies).encode())


def _keys(prefix: str, thread: int) -> tuple[str, str, str, str]:
    own = f"{prefix}:{thread}"
    return f"{own}:string", f"{own}:counter", f"{own}:hash", f"{own}:missing"


def shared_key(prefix: str) -> str:
    """Return the key of the counter that all threads increment."""
    return f"{prefix}:shared"


def _value(thread: int, step: int) -> bytes:
    return (b"thread %d step %d " % (thread, step)).ljust(64, b".")


def _fields(thread: int, step: int) -> dict[Any, Any]:
    return {b"thread": b"%d" % thread, b"step": b"%d" % step, b"text": _value(thread, step)}


@dataclass
class Tally:
    """What one thread did; written by that thread only."""

    batches: int = 0
    checksums: set[int] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    began_s: float = 0.0
    ended_s: float = 0.0
    failed: int = 0
    retried: int = 0
    back_s: float | None = None

    def judge(self, thread: int, replies: list[Any], expected: list[Any]) -> None:
        """Count a batch; note the first reply that is not what it must be."""
        self.batches += 1
        self.checksums.add(checksum(replies))
        if replies != expected:
            pairs = enumerate(zip(replies, expected, strict=True))
            wrong, (got, wanted) = next(item for item in pairs if item[1][0] != item[1][1])
            self.problems.append(f"thread {thread}: reply {wrong} is {got!r}, not {wanted!r}")


@dataclass(frozen=True)
class Round:
    """One side's measured slice of work."""

    batches: int
    elapsed_s: float
    checksum: int
    counted: int
    counter: int
    problems: list[str]

    @property
    def rate(self) -> float:
        """Commands per second."""
        return self.batches * COMMANDS_PER_BATCH / self.elapsed_s


def measure(client: Any, threads: int, slice_s: float) -> Round:
    """Repeat the script on `threads` threads for about `slice_s` seconds, at least once."""
    prefix = f"cpool-demo:{secrets.token_hex(4)}"
    tallies = [Tally() for _ in range(threads)]
    start = threading.Barrier(threads)

    def work(thread: int) -> None:
        tally, expected = tallies[thread], expected_batch(thread)
        start.wait()
        tally.began_s = time.perf_counter()
        while not tally.batches or time.perf_counter() < tally.began_s + slice_s:
            tally.judge(thread, run_batch(client, prefix, thread), expected)
        tally.ended_s = time.perf_counter()

    run_threads(work, tallies)
    try:
        counter = int(client.get(shared_key(prefix)) or 0)
    finally:
        _delete_keys(client, prefix, threads)
    return _make_round(tallies, counter)


def run_threads(work: Callable[[int], object], tallies: list[Tally]) -> None:
    """Run `work(thread)` on a thread for each tally; note in it what was raised."""

    def guarded(thread: int) -> None:
        try:
            work(thread)
        except Exception as error:  # noqa: BLE001 - reported by the main thread
            tallies[thread].problems.append(f"thread {thread}: {type(error).__name__}: {error}")
            tallies[thread].ended_s = time.perf_counter()

    workers = [threading.Thread(target=guarded, args=(i,)) for i in range(len(tallies))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def _delete_keys(client: Any, prefix: str, threads: int) -> None:
    own = [key for thread in range(threads) for key in _keys(prefix, thread)]
    client.delete(shared_key(prefix), *own)


def _make_round(tallies: list[Tally], counter: int) -> Round:
    batches = sum(tally.batches for tally in tallies)
    counted = batches * STEPS_PER_BATCH
    problems = [problem for tally in tallies for problem in tally.problems]
    if counted != counter and not problems:
        problems.append(f"{counted} increments were answered, the server's counter is {counter}")
    return Round(
        batches=batches,
        elapsed_s=max(t.ended_s for t in tallies) - min(t.began_s for t in tallies),
        checksum=zlib.crc32(repr([sorted(t.checksums) for t in tallies]).encode()),
        counted=counted,
        counter=counter,
        problems=problems,
    )
