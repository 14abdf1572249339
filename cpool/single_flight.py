"""Single flight: work that many threads ask for at once is done once, and not too often."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

from cpool._deadline import pause, remaining_s
from cpool.errors import DeadlineExceededError

__all__ = ["SingleFlight"]

_log = logging.getLogger("cpool.cluster")


class _Flight:
    """One time the work is done, and what came of it."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.pid = os.getpid()
        self.landed = threading.Event()
        self.error: BaseException | None = None

    @property
    def is_shared(self) -> bool:
        """Whether what came of it holds for others: an interrupt, or a deadline, is one's own."""
        own = (DeadlineExceededError,)
        return self.error is None or (
            isinstance(self.error, Exception) and not isinstance(self.error, own)
        )


class SingleFlight:
    """Flights begin `pause_s` after the last one has landed, at least. Thread-safe.

    A forked child must make another: a lock may have been held when it was born.
    """

    def __init__(self, pause_s: float, background_pause_s: float) -> None:
        self.pause_s = pause_s
        self.background_pause_s = background_pause_s
        self.count: int = 0  # flights that have landed
        self._lock = threading.Lock()
        self._flight: _Flight | None = None
        self._is_starting = False  # a thread that will fly
        self._landed_s = float("-inf")

    @property
    def is_under_way(self) -> bool:
        """Whether the work is being done, or about to begin."""
        return self._flight is not None

    def run(self, work: Callable[[], None]) -> None:
        """Do the work; where it is under way already, share what comes of that.

        A thread that asks again in the midst of its own flight does it by itself. Raises
        what the work raises, DeadlineExceededError if that takes too long for the caller."""
        while True:
            flight, is_ours = self._board()
            if is_ours:
                return self._fly(flight, work)
            if flight.thread == threading.get_ident():
                return work()
            self._wait(flight)
            if flight.is_shared:
                if flight.error is not None:
                    raise type(flight.error)(*flight.error.args) from flight.error
                return None

    def start(self, work: Callable[[], None]) -> None:
        """Let a thread of its own do the work, unless that is under way, or was done just now."""
        with self._lock:
            rested_s = time.monotonic() - self._landed_s
            if self._is_starting or self._flight or rested_s < self.background_pause_s:
                return
            self._is_starting = True
        try:
            threading.Thread(target=self._run_quietly, args=(work,), daemon=True).start()
        except RuntimeError as error:  # there is no room for another thread
            self._is_starting = False
            _log.info("no topology refresh: %s", error)

    def _run_quietly(self, work: Callable[[], None]) -> None:
        try:
            self.run(work)
        except Exception as error:  # who can't be served will ask again, and be told
            _log.info("topology refresh failed: %s", type(error).__name__)
        finally:
            self._is_starting = False

    def _board(self) -> tuple[_Flight, bool]:
        """Give the flight that is under way, or a new one, the caller's to fly."""
        with self._lock:
            if self._flight is not None:
                return self._flight, False
            self._flight = _Flight()
            return self._flight, True

    def _fly(self, flight: _Flight, work: Callable[[], None]) -> None:
        try:
            left_s = self._landed_s + self.pause_s - time.monotonic()
            if left_s > 0:
                pause(left_s)
            work()
        except BaseException as error:
            flight.error = error
            raise
        finally:
            with self._lock:
                self._flight = None
                self._landed_s = time.monotonic()
                self.count += 1
            flight.landed.set()

    def _wait(self, flight: _Flight) -> None:
        left_s = remaining_s()
        if not flight.landed.wait(None if left_s is None else max(left_s, 0.0)):
            pause(0.0)  # raises: the deadline has passed
