# cython: language_level=3
"""A pool's compiled half: checkout and return. Layer 5."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from cpool._conn cimport ConnBase
from cpool._dials cimport Dials
from cpool._gates cimport cp_gate
from cpool._slots cimport Slots


cdef extern from "cp_fork.h" nogil:
    int cp_fork_watch()
    uint32_t cp_fork_generation()


cdef class PoolBase:
    """What the pools of `cpool.pool` are made of, beside redis-py's."""
    cdef Slots slots
    cdef Dials dials
    cdef bint closed                # to callers: nothing is lent any more
    cdef bint cut                   # closed, and the time to come back is over
    cdef int64_t max_idle_ns, max_lifetime_ns   # CP_FOREVER: for any time
    cdef bint warm                  # connections are dialled ahead
    cdef uint32_t fork_generation   # when the slots were made
    cdef int64_t timeout_ns         # how long an exhausted pool lets a caller wait
    cdef uint32_t waiting_limit     # how many callers may wait
    cdef dict metrics               # redis-py's recorder's globals, or None
    cdef dict providers             # and its providers'
    cdef dict listeners             # the event dispatcher's mapping, or None
    cdef object released_event      # AfterConnectionReleasedEvent, or None
    # What was found in them, and when (see dict_version):
    cdef object collector           # recorder._metrics_collector
    cdef object provider            # providers._observability_instance
    cdef object released_listeners  # listeners[released_event]
    cdef uint64_t metrics_version, providers_version, listeners_version
    cdef object reserved            # {thread id: slot} while make_connection() is
                                    # somebody's override
    cdef cp_gate gate               # GATE_*: which of its verbs nobody has replaced
    cdef bint patched               # one was replaced on this instance

    cdef int gates(self) except -1
    cdef int check_fork(self) except -1
    cdef bint metrics_off(self) except -1
    cdef bint only_default_listener(self) except -1
    cdef object checkout(self, bint look)
    cdef int look_at(self, ConnBase connection) except -1
    cdef object make_ready(self, Slots slots, uint32_t slot, object connection)
    cdef uint32_t take_or_wait(self, Slots slots, int64_t *until) except? 0xFFFFFFF0
    cdef object open_in(self, Slots slots, uint32_t slot)
    cdef int take_back(self, object connection, bint measured) except -1
    cdef int take_back_fused(self, ConnBase connection) except -1
    cdef bint is_at_rest(self, ConnBase connection) except -1
    cdef int put_back(self, Slots slots, uint32_t slot, object connection) except -1


cdef enum:
    GATE_LEND = 1       # get_connection, release
    GATE_MAKE = 2       # make_connection
    GATE_OWNS = 4       # owns_connection is redis-py's
