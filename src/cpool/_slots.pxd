# cython: language_level=3
"""A pool's slots between two resets, and who waits for one. Layer 5."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from cpool._conn cimport ConnBase


cdef extern from "cp_clock.h" nogil:
    const int64_t CP_FOREVER
    const int64_t CP_NS_PER_MS
    int64_t cp_clock_now()
    int64_t cp_clock_after(int64_t now, int64_t ns)


cdef extern from "cp_slots.h" nogil:
    const uint32_t CP_SLOT_NONE
    ctypedef enum cp_slot_state:
        CP_SLOT_EMPTY
        CP_SLOT_OPENING
        CP_SLOT_IDLE
        CP_SLOT_BUSY
        CP_SLOT_RETURNING
        CP_SLOT_CLAIMED
    ctypedef struct cp_slot:
        uint32_t generation
        uint32_t ticket
        int64_t since
        int64_t retires
        int64_t stale
    ctypedef struct cp_slots:
        uint32_t max
    void cp_slots_init(cp_slots *s, uint32_t max)
    void cp_slots_free(cp_slots *s)
    cp_slot *cp_slots_at(const cp_slots *s, uint32_t slot)
    uint32_t cp_slots_grow_mpmc(cp_slots *s)
    uint32_t cp_slots_used(const cp_slots *s)
    uint32_t cp_slots_state(const cp_slots *s, uint32_t slot)
    void cp_slots_set_state(cp_slots *s, uint32_t slot, cp_slot_state state)
    bint cp_slots_claim_mpmc(cp_slots *s, uint32_t slot, cp_slot_state old, cp_slot_state new)


cdef extern from "cp_hist.h" nogil:
    const int CP_HIST_BUCKETS
    ctypedef struct cp_hist:
        uint64_t counts[1]
        int64_t sum_ns
        int64_t max_ns
    int64_t cp_hist_end(int bucket)
    void cp_hist_add(cp_hist *h, int64_t ns)


cdef extern from "cp_idle.h" nogil:
    ctypedef struct cp_idle:
        pass
    void cp_idle_init(cp_idle *list)
    void cp_idle_push_mpmc(cp_idle *list, cp_slots *slots, uint32_t slot)
    uint32_t cp_idle_pop_mpmc(cp_idle *list, const cp_slots *slots)
    uint32_t cp_idle_first(const cp_idle *list)
    uint32_t cp_idle_after(const cp_slots *slots, uint32_t slot)


cdef extern from "cp_waitq.h" nogil:
    const int64_t CP_BARGE_NS
    ctypedef struct cp_waiter:
        int64_t since
        uint32_t slot
    ctypedef struct cp_waitq:
        pass
    void cp_waitq_init(cp_waitq *q)
    void cp_waitq_destroy(cp_waitq *q)
    bint cp_waitq_join(cp_waitq *q, cp_waiter *w, void *parker, int64_t now, uint32_t max)
    bint cp_waitq_leave(cp_waitq *q, cp_waiter *w)
    bint cp_waitq_look(cp_waitq *q, cp_waiter *w)
    bint cp_waitq_deliver(cp_waitq *q, uint32_t slot, void **parker)
    void *cp_waitq_nudge(cp_waitq *q)
    void cp_waitq_push_fifo(cp_waitq *q, cp_slots *slots, uint32_t slot)
    uint32_t cp_waitq_pop_fifo(cp_waitq *q, cp_slots *slots)
    uint32_t cp_waitq_fifo_first(cp_waitq *q)
    uint32_t cp_waitq_count(cp_waitq *q)
    bint cp_waitq_may_barge(cp_waitq *q)


cdef enum:
    SLOT_MOVED = 0xFFFFFFFE     # told to a waiter instead of a slot


cdef class Waiter:
    """One caller in the queue. Not on the stack: greenlets share their thread's."""
    cdef cp_waiter link
    cdef object parker      # a lock that is held; releasing it signals


cdef class Slots:
    """The slots of a pool between two resets. States live in C; who is in a slot
    lives in Python lists, where the garbage collector sees it."""
    cdef cp_slots cells
    cdef cp_idle idle           # IDLE slots, newest first (a FIFO pool's: in waitq)
    cdef cp_idle empty          # EMPTY slots that were used before
    cdef cp_waitq waiters
    cdef bint fifo
    cdef bint ended             # the pool has other slots now; nobody waits here
    cdef bint closing           # nothing is lent any more; nobody waits here
    cdef uint32_t generation    # connections of another one are closed when met
    cdef list conns             # by slot: its connection while it is not lent (one
                                # of a foreign class: always), else None
    cdef list refs              # by slot: weak reference to its connection if it is
                                # ours, else None
    cdef dict numbers           # id(connection) -> slot, of foreign connections
    cdef Home home              # what connections and finalisers know of this
    cdef object dials           # the pool's Dials: its connections ask it before they dial
    cdef bint dials_full        # as many dials are under way as may be
    cdef uint32_t warming       # connections that are dialled ahead, for nobody yet
    cdef bint shrinking         # there may be more connections than cells.max, or retired
    cdef bint retired           # the server has left: connections that come back are closed
    cdef bint warm              # idle connections that have ended are to be replaced
    cdef bint ageing            # connections grow stale: their cells' `stale` is kept
    cdef int64_t max_idle_ns, max_lifetime_ns   # CP_FOREVER: any time
    cdef object emptied         # a lock that is held: released when a slot above the limit
                                # has become empty; None: nobody waits for it
    # totals, see cpool.stats
    cdef uint64_t checkouts, created, discarded, replaced, reclaimed, refused
    cdef uint64_t waits, timeouts, evictions, closed_idle, closed_old
    cdef cp_hist waited, used, dialled

    cdef uint32_t take_idle(self) noexcept
    cdef uint32_t take_empty(self, bint to_dial) noexcept
    cdef uint32_t held(self) noexcept
    cdef uint32_t take(self) noexcept
    cdef uint32_t wait(self, int64_t until, uint32_t limit, bint for_dial) except? 0xFFFFFFF0
    cdef uint32_t wait_parked(self, Waiter waiter, int64_t until,
                              bint for_dial) except? 0xFFFFFFF0
    cdef bint is_exhausted(self) noexcept
    cdef int dismiss(self) except -1
    cdef bint wait_empty(self, int64_t until) except -1
    cdef int offer_empty(self) except -1
    cdef int opened(self, uint32_t slot, uint32_t generation) except -1
    cdef int64_t retirement(self) except? -2
    cdef int set_ageing(self, int64_t max_idle_ns, int64_t max_lifetime_ns, bint warm) except -1
    cdef int evict(self) except -1
    cdef bint is_current(self, uint32_t slot) noexcept
    cdef int came_back(self, uint32_t slot) noexcept
    cdef int rest(self, cp_slot *cell) noexcept
    cdef bint is_too_many(self) noexcept
    cdef dict take_stale(self)
    cdef bint is_stale(self, uint32_t slot, int64_t now) noexcept
    cdef bint is_unconnected(self, uint32_t slot) except -1
    cdef bint has_ended(self, uint32_t slot) except -1
    cdef int put_back_all(self, list kept, dict found) except -1
    cdef int64_t oldest_use_ns(self) noexcept
    cdef int adopt(self, uint32_t slot, object connection) except -1
    cdef int vacate(self, uint32_t slot) except -1
    cdef object lend(self, uint32_t slot)
    cdef uint32_t new_ticket(self, uint32_t slot) noexcept
    cdef bint is_in(self, uint32_t slot, ConnBase connection) noexcept
    cdef uint32_t number_of(self, object connection) except? 0xFFFFFFF0
    cdef uint32_t slot_of(self, object connection) except? 0xFFFFFFF0
    cdef int give_back(self, uint32_t slot, object connection) except -1
    cdef int offer(self, uint32_t slot) except -1
    cdef int reclaim(self, uint32_t slot, object ref) except -1
    cdef object connection_in(self, uint32_t slot)
    cdef list idle_slots(self)
    cdef dict stats(self)
    cdef dict distributions(self)
    cdef int count(self, cp_slot_state state) noexcept


cdef int park(object parker, int64_t ns) except -1


cdef class Home:
    """Outlives its slots: connections and finalisers hold it, no reference goes back."""
    cdef void *slots            # borrowed; NULL once the slots are gone
