"""The identity workload while system calls fail in ways that nobody may notice.

Run by test_storms.py with the library preloaded: MODE URL CLIENT SEED COMMANDS THREADS.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import cpool
from tests.identity import workload
from tests.identity.workload import BOUND_S, MAX_CONNECTIONS, Verdict, check_slots
from tests.syscalls.shim import Shim

PERCENT = 25
SIGNAL_EVERY_S = 0.0003
LARGE = 300_000  # received straight into its bytes object

CLIENTS: dict[str, Any] = {"cpool": cpool.Redis, "redis": redis.Redis}


def count(client: redis.Redis, nonce: str) -> Verdict:
    """Count up by a command of its own, within a pipeline and within a transaction."""
    key, _, serial = nonce.rpartition(":")
    counted = [client.incr(f"count:{key}")]
    for transaction in (False, True):
        with client.pipeline(transaction=transaction) as pipe:
            counted += pipe.incr(f"count:{key}").incr(f"count:{key}").execute()
    last = 5 * int(serial)
    return list(range(last - 4, last + 1)), counted


def large(client: redis.Redis, nonce: str) -> Verdict:
    """A value that goes out from where it is and comes in where it will live."""
    key = "large:" + nonce.rpartition(":")[0]
    value = (nonce.encode() * (LARGE // len(nonce)))[: LARGE - 1] + b"."
    client.set(key, value)
    return value, client.get(key)


EVERYTHING: list[Callable[[redis.Redis, str], Verdict]] = [
    # A caller that gives up soon sees an error by its own wish.
    *(verb for verb in workload.VERBS if verb is not workload.give_up),
    large,
]
# Their system calls are the same each time.
SMALL = [workload.write_and_read]


def make_client(url: str, client_class: Any, **options: Any) -> redis.Redis:
    """Make a client that never retries, so that no error is papered over."""
    pool = cpool.BlockingConnectionPool.from_url(
        url,
        max_connections=MAX_CONNECTIONS,
        timeout=BOUND_S,
        socket_timeout=BOUND_S,
        socket_connect_timeout=BOUND_S,
        retry=Retry(NoBackoff(), 0),
        **options,
    )
    client: redis.Redis = client_class(connection_pool=pool)
    client.set_retry(Retry(NoBackoff(), 0))
    return client


def work(client: redis.Redis, name: str, seed: int, commands: int, verbs: list[Any]) -> None:
    """Do so many commands; each must succeed, with its own reply and executed once."""
    chance = random.Random(f"{seed}:{name}")
    for serial in range(1, commands + 1):
        for verb in (chance.choice(verbs), *(count for _ in verbs[1:2])):
            wanted, got = verb(client, f"{os.getpid()}:{name}:{serial}")
            assert wanted == got, (verb.__name__, str(wanted)[:100], str(got)[:100])


def run_threads(client: redis.Redis, seed: int, commands: int, threads: int) -> list[str]:
    """Let threads work together; return what went wrong."""
    wrong: list[str] = []

    def run(number: int) -> None:
        try:
            work(client, f"{seed}:{number}", seed, commands, EVERYTHING)
        except Exception as error:
            wrong.append(f"{type(error).__name__}: {error}")

    workers = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()  # each of its commands is bounded
    return wrong


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
    """Let signals come all the time, each with a Python handler to run."""
    handled: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: handled.append(number))
    signal.setitimer(signal.ITIMER_REAL, SIGNAL_EVERY_S, SIGNAL_EVERY_S)
    try:
        yield handled
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def storm(shim: Shim, client: redis.Redis, seed: int, commands: int, threads: int) -> Any:
    """Everything, on one thread or on several."""
    with shim.storm(seed, PERCENT):
        wrong = run_threads(client, seed, commands, threads)
    return {"wrong": wrong}


def alarm(shim: Shim, client: redis.Redis, seed: int, commands: int, threads: int) -> Any:
    """The same with real signals and their handlers: on the main thread, where they run."""
    with signals() as handled, shim.storm(seed, PERCENT):
        work(client, f"alarm:{seed}", seed, commands, EVERYTHING)
    return {"wrong": [], "handled": len(handled)}


def twice(shim: Shim, client: redis.Redis, seed: int, commands: int, threads: int) -> Any:
    """Commands whose calls are the same each time, but for how long a reply takes: several
    times with one seed, then with another."""
    work(client, "before", seed, 1, SMALL)
    traces = []
    # The first rounds fill caches, of redis-py's and ours.
    for this_seed in (*[seed] * 9, seed + 1):
        with shim.storm(this_seed, PERCENT):
            work(client, "again", seed, commands, SMALL)
        traces.append(shim.trace())
    return {"wrong": [], "traces": traces[3:]}


class Careless(cpool.Connection):
    """A planted bug: it takes for granted that send() sends all."""

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        for chunk in [command] if isinstance(command, bytes) else command:
            self._sock.send(chunk)


def careless(shim: Shim, client: redis.Redis, seed: int, commands: int, threads: int) -> Any:
    """The planted bug under the same storm."""
    client.connection_pool.connection_class = Careless
    client.connection_pool.connection_kwargs["socket_timeout"] = 0.2
    try:
        with shim.storm(seed, PERCENT):
            work(client, "careless", seed, commands, SMALL)
    except redis.RedisError as error:
        return {"wrong": [type(error).__name__]}
    return {"wrong": []}


MODES = {"storm": storm, "alarm": alarm, "twice": twice, "careless": careless}


def main(mode: str, url: str, client: str, seed: str, commands: str, threads: str) -> None:
    """Run one mode and tell what was met."""
    shim = Shim()
    ours = make_client(url, CLIENTS[client])
    answer = MODES[mode](shim, ours, int(seed), int(commands), int(threads))
    gc.collect()
    if mode != "careless":
        check_slots(ours.connection_pool)
    ours.connection_pool.disconnect()
    print(json.dumps({**answer, "faults": shim.storm_counts()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
