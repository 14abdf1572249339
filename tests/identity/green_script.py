"""The identity workload by greenlets that are killed at random. Run by test_identity.py.

Arguments: LIBRARY PORT SEED RIGHT STRUCK. The library patches first.
"""

from __future__ import annotations

import sys
import warnings

warnings.simplefilter("ignore", DeprecationWarning)  # eventlet's own
LIBRARY = sys.argv[1] if __name__ == "__main__" else ""
if LIBRARY == "gevent":
    import gevent
    import gevent.monkey

    gevent.monkey.patch_all()
elif LIBRARY == "eventlet":
    import eventlet

    eventlet.monkey_patch()

import gc  # noqa: E402
import json  # noqa: E402
import random  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import Any  # noqa: E402

from tests.identity.workload import (  # noqa: E402
    BOUND_S,
    Injected,
    check_slots,
    make_client,
    running,
)


class Greenlet:
    """A worker, as Workload wants it."""

    def __init__(self, work: Callable[[], None]) -> None:
        spawn = gevent.spawn if LIBRARY == "gevent" else eventlet.spawn
        self._greenlet = spawn(work)

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end."""
        if LIBRARY == "gevent":
            self._greenlet.join(timeout)
        else:
            self._greenlet.wait()

    def throw(self) -> None:
        """Let it meet an exception where it waits; it goes on after it."""
        if LIBRARY == "gevent":
            if self._greenlet.started and not self._greenlet.ready():
                gevent.kill(self._greenlet, Injected)
        elif self._greenlet:
            eventlet.hubs.get_hub().schedule_call_global(0, self._greenlet.throw, Injected)


def main(port: str, seed: str, right: str, struck: str) -> None:
    """Run and tell what came of it."""
    client = make_client(host="127.0.0.1", port=int(port), socket_timeout=BOUND_S)
    chance = random.Random(int(seed))
    strikes = 0
    with running(client, int(seed), Greenlet) as workload:
        while workload.tally.right < int(right) or strikes < int(struck):
            time.sleep(chance.random() * 0.01)
            chance.choice(workload.handles).throw()
            strikes += 1
    gc.collect()
    check_slots(client.connection_pool)
    tally: dict[str, Any] = dict(vars(workload.tally))
    tally["foreign"] = [repr(pair) for pair in tally["foreign"]]
    print(json.dumps(tally))


if __name__ == "__main__":
    main(*sys.argv[2:])
