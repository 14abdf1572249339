# cython: language_level=3
"""Deadlines: one clock for all that a block of code does, and where the time went.

The deadline in force is a context variable, so threads, greenlets and tasks each have
their own. Verbs ask due() for the point in time they must end at, tell add() what a stage
has taken, and raise exceeded() once it has passed.
"""

import sys
import time
from copy import copy

cimport cython
from cpython.contextvars cimport PyContextVar_New, PyContextVar_Set, get_value
from libc.stdint cimport int64_t

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident() noexcept

cdef object CURRENT = PyContextVar_New(b"cpool.deadline", NULL)


cdef Deadline current():
    """The deadline of this thread, or None. A context that was copied inside a block may
    outlive it: what was in force there has ended all the same."""
    cdef Deadline found = <Deadline>get_value(CURRENT, None)
    while found is not None and found.ended:
        found = found.outer
    return found


def is_any_in_force():
    """Tell whether a block with a deadline is running, in any thread."""
    return any_in_force()


cdef int64_t find_due() except -1:
    cdef Deadline deadline = current()
    return CP_FOREVER if deadline is None else deadline.until


cdef int check_now(int stage) except -1:
    cdef Deadline deadline = current()
    return 0 if deadline is None else deadline.check(stage)


cdef int spend_now(int stage, int64_t since) except -1:
    cdef Deadline deadline = current()
    return 0 if deadline is None else deadline.add(stage, cp_clock_now() - since)


@cython.final
cdef class Deadline:
    def __cinit__(self, seconds):
        self.given = seconds

    @property
    def seconds(self):
        """Seconds from the beginning of the block, as given."""
        return self.given

    @property
    def remaining_s(self):
        """Seconds that are left, of an outer deadline if that ends sooner; never negative.
        Before the block begins: all of them."""
        if self.until == CP_FOREVER or self.given > 9e9 and self.sooner is None:
            return float("inf")
        if self.until == 0:
            return float(self.given)
        return max(self.left_ns(), 0) / 1e9

    def __enter__(self):
        cdef int64_t now = cp_clock_now()
        if self.until != 0:
            raise RuntimeError("a deadline can be entered once: make another")
        self.outer = current()
        self.until = CP_FOREVER if self.given > 9e9 else now + <int64_t>(self.given * 1e9)
        if self.outer is not None and self.outer.until <= self.until:
            self.until = self.outer.until
            self.sooner = self.outer if self.outer.sooner is None else self.outer.sooner
        PyContextVar_Set(CURRENT, self)
        cp_counter_add(&in_force, 1)
        return self

    def __exit__(self, *_):
        if self.until == 0 or self.ended:
            return
        self.ended = True
        cp_counter_add(&in_force, -1)
        if get_value(CURRENT, None) is self:  # not in another context
            PyContextVar_Set(CURRENT, self.outer)

    def __repr__(self):
        return f"<cpool.deadline of {self.given} s, {self.remaining_s:.3f} s left>"

    cdef int64_t left_ns(self) noexcept:
        return CP_FOREVER if self.until == CP_FOREVER else self.until - cp_clock_now()

    cdef object shorter(self, object timeout_s):
        """A socket's timeout, or what is left if that is less."""
        cdef object left_s
        if self.until == CP_FOREVER:
            return timeout_s
        left_s = max(self.left_ns(), 1000) / 1e9  # zero would stand for "do not block"
        return left_s if timeout_s is None or left_s < timeout_s else timeout_s

    cdef int add(self, int stage, int64_t ns) noexcept:
        """Account for time that was spent, here and in the blocks around this."""
        cdef Deadline each = self
        while each is not None:
            each.spent_ns[stage] += ns
            each = each.outer
        return 0

    cdef int check(self, int stage) except -1:
        if self.left_ns() <= 0:
            raise self.exceeded(stage)
        return 0

    cdef object exceeded(self, int stage, Py_ssize_t received=0, bint cleaning_up=False):
        """The error of a deadline that has passed. received: bytes of the reply that was
        being read. cleaning_up: in what ends a watch."""
        cdef Deadline struck = self if self.sooner is None else self.sooner
        from cpool import errors

        return errors.deadline_exceeded(
            struck.given, stage, tuple([ns / 1e9 for ns in struck.spent_ns]), received,
            cleaning_up)


@cython.final
cdef class Dial:
    def __cinit__(self, Deadline deadline):
        self.deadline = deadline
        self.since = cp_clock_now()
        self.thread = PyThread_get_thread_ident()

    cdef int settle(self) noexcept:
        """Account for the time since this was last done."""
        cdef int64_t now = cp_clock_now()
        self.deadline.add(DIALLING, max(now - self.since, 0))
        self.since = now
        return 0

    cdef object shortened(self, object timeout_s):
        """A timeout of the socket that is being made, by what the deadline leaves of it."""
        cdef object shorter_s
        if not self.connecting or self.thread != PyThread_get_thread_ident():
            return timeout_s
        shorter_s = self.deadline.shorter(timeout_s)
        if shorter_s is not timeout_s:
            self.shortened_any = True
        return shorter_s


@cython.internal
@cython.final
cdef class Taken:
    """A lock, waited for no longer than the deadline lets."""
    cdef object lock

    def __enter__(self):
        cdef Deadline deadline = current()
        cdef int64_t began = cp_clock_now(), left
        if deadline is None or deadline.until == CP_FOREVER:
            self.lock.acquire()
            return
        left = deadline.left_ns()
        if left <= 0:
            raise deadline.exceeded(BEFORE)
        held = self.lock.acquire(True, left / 1e9)
        deadline.add(WAITING, cp_clock_now() - began)
        if not held:
            raise deadline.exceeded(WAITING)

    def __exit__(self, *_):
        self.lock.release()


cdef object taken(object lock):
    """A context manager that holds the lock."""
    cdef Taken held = Taken.__new__(Taken)
    held.lock = lock
    return held


def held_in_time(lock):
    """A context manager that holds a lock, waited for no longer than a deadline lets."""
    return taken(lock)


@cython.internal
@cython.final
cdef class Pauses:
    """A retry policy's backoff that does not sleep past the deadline."""
    cdef object backoff
    cdef Deadline deadline
    cdef Dial dial

    def __getattr__(self, name):
        return getattr(self.backoff, name)

    def reset(self):
        self.backoff.reset()

    def compute(self, failures):
        """Seconds to sleep, as the backoff says. Called while the last error is handled."""
        pause_s = self.backoff.compute(failures)
        cdef double pause_ns = pause_s * 1e9
        cdef int64_t left = self.deadline.left_ns()
        if left <= 0 or pause_ns >= left:
            self.end(sys.exc_info()[1])
        if pause_ns > 0:
            self.deadline.add(SLEEPING, <int64_t>pause_ns)
            if self.dial is not None:
                self.dial.settle()
                self.dial.since += <int64_t>pause_ns
        return pause_s

    cdef int end(self, object error) except -1:
        from cpool import errors

        if errors.is_deadline_error(error):  # by a policy that retries any error
            raise error
        if self.dial is not None:
            self.dial.settle()
        raise self.deadline.exceeded(SLEEPING) from error


def remaining_s():
    """Seconds that this thread's deadline leaves, or None where there is none."""
    cdef Deadline deadline = current()
    return None if deadline is None or deadline.until == CP_FOREVER else deadline.remaining_s


def pause(double seconds):
    """Sleep; raise at once where that would be longer than this thread's deadline lets."""
    cdef Deadline deadline = current()
    if deadline is not None:
        if seconds * 1e9 >= deadline.left_ns():
            raise deadline.exceeded(SLEEPING) from sys.exc_info()[1]
        deadline.add(SLEEPING, <int64_t>(seconds * 1e9))
    time.sleep(seconds)


cdef object bounded(object policy, Dial dial):
    """A copy of a retry policy whose sleeps end before this thread's deadline; the policy
    itself where there is none."""
    cdef Deadline deadline = current()
    cdef Pauses pauses
    if deadline is None:
        return policy
    pauses = Pauses.__new__(Pauses)
    pauses.backoff = policy._backoff
    pauses.deadline = deadline
    pauses.dial = dial
    policy = copy(policy)
    policy._backoff = pauses
    return policy
