"""Deadlines under a patched standard library. Run by test_contexts.py: LIBRARY URL.

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
    spawn, sleep = gevent.spawn, gevent.sleep
elif LIBRARY == "eventlet":
    import eventlet

    eventlet.monkey_patch()
    spawn, sleep = eventlet.spawn, eventlet.sleep

import json  # noqa: E402

import cpool  # noqa: E402

SHORT_S, LONG_S = 0.3, 30.0


def wait(task: Any) -> Any:
    """Return what a greenlet returned."""
    return task.get() if LIBRARY == "gevent" else task.wait()


def struck(seconds: float, client: cpool.Redis, key: str) -> str:
    """Wait for a list under a deadline; return the phase that it struck in."""
    try:
        with cpool.deadline(seconds):
            answer: Any = client.blpop([key], 0)
    except cpool.DeadlineExceededError as error:
        return error.phase
    return str(answer[1].decode())


def main(url: str) -> None:
    """Let greenlets with deadlines of their own wait at once; print what came of each."""
    client = cpool.Redis.from_url(url, socket_timeout=None, max_connections=20)
    client.flushdb()
    short = [spawn(struck, SHORT_S, client, "none") for _ in range(8)]
    long = [spawn(struck, LONG_S, client, f"list:{i}") for i in range(8)]
    phases = [wait(task) for task in short]
    for i in range(8):
        client.rpush(f"list:{i}", i)
    answers = [wait(task) for task in long]

    pool = cpool.BlockingConnectionPool.from_url(url, max_connections=1, timeout=LONG_S)
    conn = pool.get_connection()
    waiting = wait(spawn(struck, SHORT_S, cpool.Redis(connection_pool=pool), "none"))
    pool.release(conn)
    print(
        json.dumps(
            {
                "phases": phases,
                "answers": answers,
                "waiting": waiting,
                "in_use": client.connection_pool.stats().in_use + pool.stats().in_use,
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[2:])
