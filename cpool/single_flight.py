"""Single flight: work that many threads ask for at once is done once, and not too often."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from cpool._deadline import pause, remaining_s
from cpool.errors import DeadlineExceededError

__all__ = ["SingleFlight"]

_log = logging.getLogger("cpool.cluster")


class _Flight:
    """One time the work is done, and what came of it. Under way from the beginning."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.is_done = False
        self.error: BaseException | None = None
        self._under_way = threading.Lock()
        self._under_way.acquire()

    def land(self) -> None:
        """Let go on who waits. One call, which no interrupt can part."""
        self._under_way.release()

    @property
    def has_landed(self) -> bool:
        """Whether nobody is doing the work any more."""
        return self.is_done or not self._under_way.locked()

    @property
    def is_shared(self) -> bool:
        """Whether what came of it holds for others: an interrupt, or a deadline, is one's own."""
        if self.error is None:
            return self.is_done
        is_own = isinstance(self.error, DeadlineExceededError)
        return isinstance(self.error, Exception) and not is_own

    def wait(self) -> None:
        """Wait until it has landed. Raises DeadlineExceededError if that takes too long."""
        left_s = remaining_s()
        if self._under_way.acquire(timeout=-1 if left_s is None else left_s):
            self._under_way.release()
        else:
            pause(0.0)  # raises: the deadline has passed


class SingleFlight:
    """Flights begin `pause_s` after the last one has landed, at least. Thread-safe.

    A forked child must make another: a lock may have been held when it was born.
    """

    def __init__(self, pause_s: float, background_pause_s: float) -> None:
        self.pause_s = pause_s
        self.background_pause_s = background_pause_s
        self.count: int = 0  # flights that have landed
        self._lock = threading.RLock()  # a finaliser may ask in the midst of it
        self._flight: _Flight | None = None  # the last one
        self._starter: threading.Thread | None = None  # of the last one in the background
        self._landed_s = float("-inf")

    @property
    def is_under_way(self) -> bool:
        """Whether the work is being done, or about to begin."""
        return self._flight is not None and not self._flight.has_landed

    def run(self, work: Callable[[], None]) -> None:
        """Do the work; where it is under way already, share what comes of that.

        A thread that asks again in the midst of its own flight does it by itself. Raises
        what the work raises, DeadlineExceededError if that takes too long for the caller."""
        ours = _Flight()
        try:
            while True:
                flight = self._board(ours)
                if flight is ours:
                    return self._fly(ours, work)
                if flight.thread == threading.get_ident():
                    return work()
                flight.wait()
                if flight.is_shared:
                    return _share(flight.error)
        finally:
            ours.land()

    def start(self, work: Callable[[], None]) -> None:
        """Let a thread of its own do the work, unless that is under way, or was done just now."""
        with self._lock:
            is_starting = self._starter is not None and self._starter.is_alive()
            rested_s = time.monotonic() - self._landed_s
            if is_starting or self.is_under_way or rested_s < self.background_pause_s:
                return
            args = (work,)
            self._starter = threading.Thread(target=self._run_quietly, args=args, daemon=True)
            try:
                self._starter.start()
            except RuntimeError as error:  # there is no room for another thread
                _log.info("no topology refresh: %s", error)

    def _run_quietly(self, work: Callable[[], None]) -> None:
        try:
            self.run(work)
        except Exception as error:  # who can't be served will ask again, and be told
            _log.info("topology refresh failed: %s", type(error).__name__)

    def _board(self, ours: _Flight) -> _Flight:
        """Give the flight that is under way; ours, if there is none."""
        with self._lock:
            if self._flight is None or self._flight.has_landed:
                self._flight = ours
            return self._flight

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
            self._landed_s = time.monotonic()
            self.count += 1
            flight.is_done = True


def _share(error: BaseException | None) -> None:
    """Raise an error that another thread has met, as one of this thread's."""
    if error is None:
        return
    try:
        own = type(error)(*error.args)
    except TypeError:  # it is not made of its `args`
        own = error
    raise own from (None if own is error else error)
