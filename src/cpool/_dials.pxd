# cython: language_level=3
"""The dials of one pool: how many at a time, and what came of them. Layer 5."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from cpool._slots cimport Home


cdef class Dials:
    """Who may dial a pool's server at this moment. Outlives a reset of the pool."""
    cdef Home home              # of the pool's slots
    cdef Py_ssize_t limit       # how many dials may be under way
    cdef list diallers          # the threads of those that are
    cdef object closed          # the name of a pool that was closed: nobody dials any more
    cdef readonly uint32_t failures  # in a row; 0: the server answers, for all we know
    cdef readonly uint64_t failed    # in all
    cdef object error           # the last failure: (its class, its text)
    cdef uint64_t refusals      # failures that everybody would have met, in all
    cdef int64_t newest         # when the last dial has begun
    cdef public double hanging_s     # after so long a dial that does not end is one that hangs
    cdef int64_t evicted        # when READONLY has last closed all connections
    cdef list parkers           # locks that are held: of those who wait for a turn
    cdef bint broke             # a connection has broken since the last good dial
    cdef bint was_down          # and then a dial has failed
    cdef tuple newest_client    # (host, port, the number the server has given to it)

    cdef int begin(self, object thread, int64_t patience_ns) except -1
    cdef bint are_of(self, object thread) except -1
    cdef int forget(self, object thread) except -1
    cdef int wait_for_turn(self, int64_t patience_ns) except -1
    cdef bint may_begin(self, int64_t now) except -1
    cdef int end(self, object thread, object error, object connection,
                 int64_t took_ns) except -1
    cdef int has_failed(self, object error) except -1
    cdef int has_succeeded(self, object connection, int64_t took_ns) except -1
    cdef bint is_numbered_anew(self, object connection) except -1
    cdef int note_full(self) noexcept
    cdef int tell(self) except -1
