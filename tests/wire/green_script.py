"""Scenarios under a patched standard library. Run by test_green.py: LIBRARY URL.

The library (gevent or eventlet) patches first, before anything else is imported.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

warnings.simplefilter("ignore", DeprecationWarning)  # eventlet's own
LIBRARY = sys.argv[1] if __name__ == "__main__" else ""
if LIBRARY == "gevent":
    import gevent
    import gevent.monkey

    gevent.monkey.patch_all()
    spawn, sleep, Timeout = gevent.spawn, gevent.sleep, gevent.Timeout
elif LIBRARY == "eventlet":
    import eventlet

    eventlet.monkey_patch()
    spawn, sleep, Timeout = eventlet.spawn, eventlet.sleep, eventlet.Timeout

import json  # noqa: E402
from collections.abc import Callable  # noqa: E402

import redis  # noqa: E402

import cpool  # noqa: E402

BOUND_S = 20.0
TICK_S = 0.002


def wait(task: Any) -> Any:
    """Return what a greenlet returned."""
    return task.get() if LIBRARY == "gevent" else task.wait()


def ended(task: Any) -> bool:
    """Tell whether a greenlet has ended."""
    return bool(task.ready() if LIBRARY == "gevent" else task.dead)


class Ticker:
    """Counts how often the hub comes round."""

    def __init__(self) -> None:
        self.ticks = 0
        self._task = spawn(self._run)

    def _run(self) -> None:
        while True:
            sleep(TICK_S)
            self.ticks += 1

    def wait_ticks(self, count: int) -> None:
        """Let the hub come round so many more times."""
        goal = self.ticks + count
        while self.ticks < goal:
            sleep(TICK_S)

    def end(self) -> None:
        """Count no more."""
        self._task.kill()


def make_client(url: str, **options: Any) -> redis.Redis:
    """A client with retries switched off, so that every error shows."""
    pool = cpool.ConnectionPool.from_url(url, socket_timeout=BOUND_S, **options)
    client = redis.Redis(connection_pool=pool)
    client.set_retry(redis.retry.Retry(redis.backoff.NoBackoff(), 0))
    client.flushdb()
    return client


def work(client: redis.Redis, number: int, rounds: int) -> int:
    """Write and read back values of one's own; return how many were right."""
    right = 0
    for i in range(rounds):
        key, value = f"key:{number}", f"{number}:{i}" * (1 + 5000 * (i % 7 == 0))
        client.set(key, value)
        right += client.get(key) == value.encode()
    return right


def slow_command(url: str) -> dict[str, Any]:
    """One greenlet blocks in a command, others work, the hub comes round."""
    client, ticker = make_client(url), Ticker()
    slow = spawn(client.blpop, ["queue"], BOUND_S)
    workers = [spawn(work, client, number, 30) for number in range(12)]
    right = sum(wait(worker) for worker in workers)
    ticker.wait_ticks(20)
    still_slow = not ended(slow)
    client.rpush("queue", "item")
    answer = wait(slow)
    ticker.end()
    conn = client.connection_pool.get_connection()
    return {
        "uses_fd": conn._session.uses_fd,
        "right": right,
        "still_slow": still_slow,
        "answer": answer[1].decode(),
        "in_use": client.connection_pool.stats().in_use - 1,
    }


def timeout_in_mid_read(url: str) -> dict[str, Any]:
    """The library's own timeout strikes within a read: nobody gets its late reply."""
    client = make_client(url)
    struck = 0
    for i in range(10):
        try:
            with Timeout(0.01):
                client.blpop([f"never:{i}"], BOUND_S)
        except Timeout:
            struck += 1
        client.rpush(f"never:{i}", "late")
        assert client.echo(f"own:{i}") == b"own:%d" % i
    stats = client.connection_pool.stats()
    return {"struck": struck, "in_use": stats.in_use, "open": stats.open}


def timeout_in_mid_read_closes(url: str) -> dict[str, Any]:
    """The same with a connection of one's own, which must be closed after it."""
    client = make_client(url)
    conn = client.connection_pool.get_connection()
    conn.send_command("BLPOP", "never", 0)
    try:
        with Timeout(0.02):
            conn.read_response()
    except Timeout:
        return {"connected": conn._sock is not None}
    return {"connected": "no timeout"}


def killed_in_mid_read(url: str) -> dict[str, Any]:
    """Greenlets are killed while they wait: no slot is lost, no reply goes astray."""
    client = make_client(url, max_connections=8)
    for _ in range(5):
        victims = [spawn(client.blpop, ["never"], 0) for _ in range(7)]
        while client.connection_pool.stats().in_use < len(victims):
            sleep(TICK_S)
        sleep(5 * TICK_S)
        for victim in victims:
            victim.kill()
        client.rpush("never", *range(7))
        right = work(client, 1, 5)
        client.delete("never")
        assert right == 5
    held = [client.connection_pool.get_connection() for _ in range(8)]
    stats = client.connection_pool.stats()
    return {"in_use": stats.in_use, "different": len(set(map(id, held)))}


def waiting_for_a_connection(url: str) -> dict[str, Any]:
    """More greenlets than connections: each waits its turn and the hub comes round."""
    client = make_client(url, max_connections=2, timeout=BOUND_S)
    ticker = Ticker()

    def block_and_work(number: int) -> int:
        client.blpop([f"never:{number}"], 0.005)  # holds its connection for a while
        return work(client, number, 10)

    workers = [spawn(block_and_work, number) for number in range(10)]
    right = sum(wait(worker) for worker in workers)
    ticks = ticker.ticks
    ticker.end()
    stats = client.connection_pool.stats()
    return {"right": right, "ticked": ticks > 0, "waited": stats.waits > 0, "open": stats.open}


def pubsub(url: str) -> dict[str, Any]:
    """One greenlet listens, another subscribes it to more channels and publishes."""
    client = make_client(url)
    listener = client.pubsub()
    listener.subscribe("first")

    def listen() -> list[str]:
        got = []
        for message in listener.listen():
            if message["type"] == "message":
                got.append(message["data"].decode())
                if got[-1] == "last":
                    return got
        return got

    listening = spawn(listen)
    sleep(5 * TICK_S)
    listener.subscribe("second")
    while client.pubsub_numsub("first", "second") != [(b"first", 1), (b"second", 1)]:
        sleep(TICK_S)
    client.publish("first", "one")
    client.publish("second", "two")
    client.publish("first", "last")
    return {"got": wait(listening)}


def large_value(url: str) -> dict[str, Any]:
    """Large values both ways, from several greenlets, while the hub comes round."""
    client, ticker = make_client(url), Ticker()

    def both_ways(number: int) -> bool:
        value = bytes([number]) * (4 * 1024 * 1024 + number)
        client.set(f"large:{number}", value)
        return bool(client.get(f"large:{number}") == value)

    right = [wait(task) for task in [spawn(both_ways, number) for number in range(4)]]
    ticks = ticker.ticks
    ticker.end()
    client.flushdb()
    return {"right": right, "ticked": ticks > 0}


SCENARIOS: list[Callable[[str], dict[str, Any]]] = [
    slow_command,
    timeout_in_mid_read,
    timeout_in_mid_read_closes,
    killed_in_mid_read,
    waiting_for_a_connection,
    pubsub,
    large_value,
]


def main(url: str) -> None:
    """Run all scenarios and print what each found, or how it failed."""
    answers: dict[str, Any] = {}
    for scenario in SCENARIOS:
        try:
            answers[scenario.__name__] = scenario(url)
        except Exception as error:
            answers[scenario.__name__] = repr(error)
    print(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[2:])
