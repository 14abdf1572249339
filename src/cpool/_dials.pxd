# cython: language_level=3
"""The dials of one pool: how many at a time, and what came of them. Layer 5."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from cpool._slots cimport Home, Slots


cdef class Place:
    """What is known of one address. Most pools have one."""
    cdef list diallers          # the threads of the dials that are under way
    cdef Py_ssize_t failures    # in a row; 0: it answers, for all we know
    cdef uint64_t refusals      # failures that everybody would have met, in all
    cdef object error           # the last failure: (its class, its text)
    cdef int64_t newest         # when the last dial has begun
    cdef bint broke             # a connection has broken since the last good dial
    cdef bint was_down          # and then a dial was refused


cdef class Turn:
    """One dial: a context manager around it."""
    cdef Dials dials
    cdef object connection
    cdef Place place            # where the connection leads
    cdef object thread          # whose turn it is; None: not begun, or over
    cdef int64_t since          # when it has begun
    cdef uint32_t generation    # of the pool's connections, at that moment


cdef class Dials:
    """Who may dial at this moment. Outlives a reset of the pool."""
    cdef Home home              # of the pool's slots
    cdef Py_ssize_t limit       # how many dials may be under way
    cdef list diallers          # the threads of those that are
    cdef object closed          # the name of a pool that was closed: nobody dials any more
    cdef dict places            # address -> Place
    cdef Place last             # of the dial that has ended last
    cdef readonly uint64_t failed    # dials, in all
    cdef public double hanging_s     # after so long a dial that does not end is one that hangs
    cdef list parkers           # locks that are held: of those who wait for a turn
    cdef tuple newest_client    # (address, the number the server has given to it)
    # When all connections were last given up for what a server said, and for how long from
    # then on they are not again:
    cdef int64_t evicted, pause_ns

    cdef Place place_of(self, object connection)
    cdef int begin(self, object thread, Place place, int64_t patience_ns) except -1
    cdef bint are_of(self, object thread) except -1
    cdef int forget(self, object thread, Place place) except -1
    cdef int wait_for_turn(self, Place place, int64_t patience_ns) except -1
    cdef bint may_begin(self, Place place, int64_t now) except -1
    cdef int end(self, Turn turn, object thread, object error) except -1
    cdef int has_failed(self, Place place, object error) except -1
    cdef int has_succeeded(self, Turn turn) except -1
    cdef Slots slots(self)
    cdef uint32_t generation(self) except? 0xFFFFFFF0
    cdef bint is_numbered_anew(self, object connection) except -1
    cdef bint may_evict(self) noexcept
    cdef int note_full(self) noexcept
    cdef int tell(self) except -1
