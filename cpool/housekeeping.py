"""Housekeeping: what pools need done while nobody borrows: closing what has been idle for too
long or lived its life, dialling `min_idle` connections ahead.

One daemon thread per process, started when a pool first needs it; it ends with the last of
them. A child process starts its own at its first dial.
"""

from __future__ import annotations

import atexit
import logging
import os
import random
import threading
import time
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cpool.pool import ConnectionPool

__all__ = ["forget", "watch"]

LONGEST_ROUND_S = 30.0
SHORTEST_ROUND_S = 0.05
LONGEST_DIAL_S = 5.0  # for one pool, before the others' turn comes
REFILL_EVERY_S = 1.0  # how often a pool with `min_idle` is looked at
LONGEST_BACKOFF_S = 10.0  # and while its server can't be reached

_log = logging.getLogger("cpool.pool")


class _Housekeeper:
    """The thread, and the pools it looks after. Nothing here keeps a pool alive."""

    def __init__(self) -> None:
        self._pools: weakref.WeakSet[ConnectionPool] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._over = False

    def watch(self, pool: ConnectionPool) -> None:
        with self._lock:
            self._pools.add(pool)
            if self._thread is None and not self._over:
                self._thread = threading.Thread(
                    target=self._run, name="cpool-housekeeping", daemon=True
                )
                self._thread.start()
        self._wake.set()

    def forget(self, pool: ConnectionPool) -> None:
        with self._lock:
            self._pools.discard(pool)
        self._wake.set()

    def stop(self) -> None:
        self._over = True
        self._wake.set()

    def _run(self) -> None:
        while not self._over:
            # Who has woken it may be in the constructor of a subclass still.
            time.sleep(SHORTEST_ROUND_S)
            self._wake.clear()
            wait_s = min(map(_look_after, self._take_pools()), default=LONGEST_ROUND_S)
            if self._ends():
                return
            self._wake.wait(wait_s)

    def _take_pools(self) -> list[ConnectionPool]:
        with self._lock:
            return list(self._pools)

    def _ends(self) -> bool:
        """Whether no pool is left; watch() then starts another thread."""
        with self._lock:
            if self._pools:
                return False
            self._thread = None
            return True


def refill_after_s(failures: int) -> float:
    """Return in how many seconds to dial ahead again, after so many failures in a row.

    Many processes lose their server at the same moment, so the time is a matter of chance."""
    if not failures:
        return REFILL_EVERY_S
    most_s = min(LONGEST_BACKOFF_S, 0.05 * 2.0 ** min(failures, 10))
    return random.uniform(most_s / 2, most_s)


def _look_after(pool: ConnectionPool) -> float:
    """Do what a pool needs; return in how many seconds it needs it again."""
    try:
        next_s = pool._keep_house()
    except Exception as error:
        # The text may not be logged: it is the error of a user's class, perhaps.
        _log.warning("housekeeping of pool %s failed: %s", pool._label(), type(error).__name__)
        next_s = REFILL_EVERY_S
    return min(next_s, LONGEST_ROUND_S)


_housekeeper = _Housekeeper()


def watch(pool: ConnectionPool) -> None:
    """Look after this pool from now on, beginning now. Cheap if that is done already."""
    _housekeeper.watch(pool)


def forget(pool: ConnectionPool) -> None:
    """Look after this pool no more."""
    _housekeeper.forget(pool)


def _begin_anew() -> None:
    global _housekeeper
    _housekeeper = _Housekeeper()


os.register_at_fork(after_in_child=_begin_anew)
atexit.register(lambda: _housekeeper.stop())
