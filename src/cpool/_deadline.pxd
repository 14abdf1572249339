# cython: language_level=3
"""Deadlines: a point in time for all that a block of code does. Layer 2."""

from libc.stdint cimport int64_t


cdef extern from "cp_clock.h" nogil:
    const int64_t CP_FOREVER
    int64_t cp_clock_now()


cdef extern from *:
    """
    #include <stdatomic.h>
    typedef _Atomic int cp_counter;
    static inline int cp_counter_value(cp_counter *c) {
        return atomic_load_explicit(c, memory_order_relaxed);
    }
    static inline void cp_counter_add(cp_counter *c, int n) { atomic_fetch_add(c, n); }
    """
    ctypedef int cp_counter
    bint cp_counter_value(cp_counter *c) nogil
    void cp_counter_add(cp_counter *c, int n) nogil


cdef enum:
    # Where the time goes, and BEFORE: where a command met a deadline that had passed.
    WAITING = 0
    DIALLING = 1
    WRITING = 2
    READING = 3
    SLEEPING = 4
    STAGES = 5
    BEFORE = 5


cdef cp_counter in_force    # blocks that are running, in all threads


cdef class Deadline:
    """What `cpool.deadline()` returns. Threads that run in copies of the context it was
    entered in share it."""
    cdef Deadline outer         # what was in force when it was entered
    cdef Deadline sooner        # the outer one that ends before this, or None
    cdef object given           # seconds
    cdef int64_t until          # 0: not entered yet
    cdef bint ended
    cdef int64_t spent_ns[STAGES]

    cdef int64_t left_ns(self) noexcept
    cdef object shorter(self, object timeout_s)
    cdef int add(self, int stage, int64_t ns) noexcept
    cdef int check(self, int stage) except -1
    cdef object exceeded(self, int stage, Py_ssize_t received=*, bint cleaning_up=*)


cdef class Dial:
    """One connection being opened under a deadline, its handshake included."""
    cdef Deadline deadline
    cdef int64_t since          # up to when its time is accounted for
    cdef unsigned long thread
    cdef bint connecting        # the socket is being made: see shortened()
    cdef bint shortened_any     # it has

    cdef int settle(self) noexcept
    cdef object shortened(self, object timeout_s)


cdef Deadline current()
cdef int64_t find_due() except -1
cdef int check_now(int stage) except -1
cdef int spend_now(int stage, int64_t since) except -1
cdef object taken(object lock)
cdef object bounded(object policy, Dial dial)


cdef inline bint any_in_force() noexcept nogil:
    """Whether there is a deadline at all: what a command pays where there is none."""
    return cp_counter_value(&in_force)


cdef inline int64_t due() except -1:
    """When this thread's deadline comes; CP_FOREVER where it has none."""
    return find_due() if any_in_force() else CP_FOREVER


cdef inline int check(int stage) except -1:
    """Raise if this thread's deadline has passed."""
    return check_now(stage) if any_in_force() else 0


cdef inline int spend(int stage, int64_t since) except -1:
    """Account for the time since a moment, where there is a deadline."""
    return spend_now(stage, since) if any_in_force() else 0
