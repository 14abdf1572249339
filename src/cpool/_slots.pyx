# cython: language_level=3
"""Slots: who is where in a pool, who waits, and what happens when a borrower vanishes.

A slot that is lent holds its connection weakly: a borrower that vanishes gives the
slot back through the connection's own end. Finalisers run at any allocation, so
nothing here calls into Python while it holds the queue's mutex, and counts are
never kept: they are read off the states.
"""

import random
import threading
import weakref

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint32_t, uint64_t

from cpool._conn cimport ConnBase
from cpool._session cimport Session
from cpool._wire cimport CP_PEEK_CLOSED


# redis-py's connection that sends through another one, set by cpool.cache.
cdef object CACHING = ()


def set_caching(connection_class):
    """Tell the class of the connections that are a cache before another one, `_conn`."""
    global CACHING
    CACHING = connection_class


@cython.final
cdef class Home:
    pass


@cython.internal
@cython.final
cdef class Reclaim:
    """Called when a connection has ended: its slot, if it was lent, is free again."""
    cdef Home home
    cdef uint32_t slot

    def __call__(self, ref):
        if self.home.slots != NULL:
            (<Slots>self.home.slots).reclaim(self.slot, ref)


@cython.final
cdef class Waiter:
    pass


@cython.no_gc_clear  # __dealloc__ needs home; cycles are broken at the pool
@cython.final
cdef class Slots:
    def __cinit__(self, uint32_t max_connections, bint fifo):
        cp_slots_init(&self.cells, max_connections)
        cp_idle_init(&self.idle)
        cp_idle_init(&self.empty)
        cp_waitq_init(&self.waiters)
        self.fifo = fifo
        self.max_idle_ns = self.max_lifetime_ns = CP_FOREVER
        self.conns = []
        self.refs = []
        self.numbers = {}
        self.home = Home()
        self.home.slots = <void *>self

    def __dealloc__(self):
        if self.home is not None:  # memory ran out before it was made
            self.home.slots = NULL
        cp_waitq_destroy(&self.waiters)
        cp_slots_free(&self.cells)

    cdef uint32_t take_idle(self) noexcept:
        """An idle slot, now BUSY and the caller's, or CP_SLOT_NONE."""
        cdef uint32_t slot
        if self.fifo:
            slot = cp_waitq_pop_fifo(&self.waiters, &self.cells)
        else:
            slot = cp_idle_pop_mpmc(&self.idle, &self.cells)
        if slot != CP_SLOT_NONE:
            cp_slots_set_state(&self.cells, slot, CP_SLOT_BUSY)
        return slot

    cdef uint32_t take_empty(self, bint to_dial) noexcept:
        """A slot without a connection, now OPENING and the caller's, or CP_SLOT_NONE."""
        cdef uint32_t slot
        if to_dial and self.dials_full:
            return CP_SLOT_NONE
        if self.cells.max < cp_slots_used(&self.cells) and self.held() >= self.cells.max:
            return CP_SLOT_NONE  # a limit that was lowered
        slot = cp_idle_pop_mpmc(&self.empty, &self.cells)
        if slot == CP_SLOT_NONE:
            slot = cp_slots_grow_mpmc(&self.cells)
        if slot != CP_SLOT_NONE:
            cp_slots_set_state(&self.cells, slot, CP_SLOT_OPENING)
        return slot

    cdef uint32_t held(self) noexcept:
        """How many slots have a connection, or are about to."""
        return cp_slots_used(&self.cells) - self.count(CP_SLOT_EMPTY)

    cdef uint32_t take(self) noexcept:
        """A slot without waiting, unless somebody has waited too long already."""
        cdef uint32_t slot
        if cp_waitq_count(&self.waiters) and not cp_waitq_may_barge(&self.waiters):
            return CP_SLOT_NONE
        slot = self.take_idle()
        return self.take_empty(True) if slot == CP_SLOT_NONE else slot

    cdef uint32_t wait(self, int64_t until, uint32_t limit, bint for_dial) except? 0xFFFFFFF0:
        """Join the queue. A slot as of take(), CP_SLOT_NONE once the time is over, or
        SLOT_MOVED when the pool has begun anew with other slots. for_dial: give up as well
        once all connections are lent, so that there is nothing to dial.

        An exception (a signal's handler raised) loses nothing: what was given to
        this waiter in the meantime goes to the next."""
        cdef Waiter waiter = Waiter()
        cdef int64_t now = cp_clock_now()
        cdef uint32_t slot
        waiter.parker = threading.Lock()  # gevent's, eventlet's where they have patched it
        waiter.parker.acquire()
        if not cp_waitq_join(&self.waiters, &waiter.link, <void *>waiter.parker, now, limit):
            from cpool import errors

            self.refused += 1
            raise errors.too_many_waiting(limit)
        if self.ended or self.closing:  # since this caller has found nothing, and has joined
            cp_waitq_leave(&self.waiters, &waiter.link)
            return SLOT_MOVED
        self.waits += 1
        try:
            slot = self.wait_parked(waiter, until, for_dial)
        except BaseException:
            if cp_waitq_leave(&self.waiters, &waiter.link) and waiter.link.slot != SLOT_MOVED:
                self.offer(waiter.link.slot)
            raise
        finally:
            cp_hist_add(&self.waited, cp_clock_now() - now)
        if cp_waitq_leave(&self.waiters, &waiter.link):
            if slot != CP_SLOT_NONE:
                self.offer(slot)
            slot = waiter.link.slot
        if slot == CP_SLOT_NONE:
            self.timeouts += not for_dial
        return slot

    cdef uint32_t wait_parked(self, Waiter waiter, int64_t until,
                              bint for_dial) except? 0xFFFFFFF0:
        """Park until served, or until a look at the idle list finds something.

        The first look comes after joining (see the fence in cp_waitq.h), another
        when a releaser nudges or the time to let newcomers pass is over."""
        cdef int64_t now, left, barged = waiter.link.since + CP_BARGE_NS
        cdef uint32_t slot
        while True:
            if cp_waitq_look(&self.waiters, &waiter.link):
                return CP_SLOT_NONE  # leave() tells which
            slot = self.take_idle()
            if slot == CP_SLOT_NONE:
                slot = self.take_empty(True)
            now = cp_clock_now()
            if slot != CP_SLOT_NONE or now >= until or (for_dial and self.is_exhausted()):
                return slot
            PyErr_CheckSignals()
            left = (min(until, barged) if now < barged else until) - now
            park(waiter.parker, left)

    cdef bint is_exhausted(self) noexcept:
        """Whether all connections there may be are lent, and fewer are dialled ahead than
        callers wait."""
        return self.held() >= self.cells.max and self.warming < cp_waitq_count(&self.waiters)

    cdef int dismiss(self) except -1:
        """Send all who wait back to the pool, to look at it anew."""
        cdef void *parker = NULL
        while cp_waitq_deliver(&self.waiters, SLOT_MOVED, &parker):
            unpark(parker)
        return 0

    cdef bint wait_empty(self, int64_t until) except -1:
        """Wait until no slot has a connection any more; false: the time is over."""
        cdef int64_t now = cp_clock_now()
        while self.held() and now < until and not self.ended:
            self.emptied = threading.Lock()
            self.emptied.acquire()
            if self.held():  # else the last one went before anybody could be told
                park(self.emptied, until - now)
            now = cp_clock_now()
        self.emptied = None
        return self.held() == 0 or self.ended  # what was forgotten is nobody's

    cdef int offer_empty(self) except -1:
        """Let those who wait dial, as many as there are slots for."""
        cdef uint32_t slot
        while cp_waitq_count(&self.waiters):
            slot = self.take_empty(True)
            if slot == CP_SLOT_NONE:
                return 0
            self.offer(slot)
        return 0

    cdef int opened(self, uint32_t slot, uint32_t generation) except -1:
        """The connection of a slot was dialled, for the first time or again."""
        cdef cp_slot *cell = cp_slots_at(&self.cells, slot)
        cell.generation = generation
        cell.retires = cell.stale = self.retirement()
        return 0

    cdef int64_t retirement(self) except? -2:
        """When a connection ends its life that begins it now.

        Up to a twentieth early, so that connections that were made together do not all
        have to be made again together."""
        if self.max_lifetime_ns == CP_FOREVER:
            return CP_FOREVER
        return cp_clock_after(
            cp_clock_now(), <int64_t>(self.max_lifetime_ns * random.uniform(0.95, 1.0)))

    cdef int set_ageing(self, int64_t max_idle_ns, int64_t max_lifetime_ns, bint warm) except -1:
        """For how long connections may be idle, and live from now on."""
        cdef cp_slot *cell
        cdef uint32_t slot
        cdef bint other_lives = max_lifetime_ns != self.max_lifetime_ns
        self.max_idle_ns = max_idle_ns
        self.max_lifetime_ns = max_lifetime_ns
        self.warm = warm
        self.ageing = max_idle_ns != CP_FOREVER or max_lifetime_ns != CP_FOREVER
        for slot in range(cp_slots_used(&self.cells)):
            cell = cp_slots_at(&self.cells, slot)
            if other_lives:
                cell.retires = self.retirement()
            self.rest(cell)  # one that is lent will be told again when it comes back
        return 0

    cdef int evict(self) except -1:
        """Let every connection there is be closed, when it is met, in O(1)."""
        self.generation += 1
        self.evictions += 1
        return 0

    cdef bint is_current(self, uint32_t slot) noexcept:
        """Whether the connection of a slot was dialled since all were evicted."""
        return cp_slots_at(&self.cells, slot).generation == self.generation

    cdef int came_back(self, uint32_t slot) noexcept:
        """A use has ended, and an idle time begins."""
        cdef cp_slot *cell = cp_slots_at(&self.cells, slot)
        cdef int64_t now = cp_clock_now()
        cp_hist_add(&self.used, now - cell.since)
        cell.since = now
        return self.rest(cell) if self.ageing else 0

    cdef int rest(self, cp_slot *cell) noexcept:
        """An idle time has begun: see when it will have been too long."""
        if self.max_idle_ns <= cell.retires - cell.since:
            cell.stale = cell.since + self.max_idle_ns
        else:
            cell.stale = cell.retires
        return 0

    cdef bint is_too_many(self) noexcept:
        """Whether a connection that comes back is to be closed: the limit was lowered, or
        the server has left."""
        if self.retired or self.held() > self.cells.max:
            return True
        self.shrinking = False
        return False

    cdef dict take_stale(self):
        """Idle connections that are to be closed, by slot, now the caller's: grown stale, of
        an older generation, not connected, or above the limit.

        No Python code runs while the others are off the list."""
        cdef dict found = {}
        cdef list kept = []
        cdef int64_t now = cp_clock_now()
        cdef uint32_t slot = self.take_idle()
        try:
            while slot != CP_SLOT_NONE:
                if self.is_stale(slot, now) or self.is_unconnected(slot) \
                        or (self.warm and self.has_ended(slot)):
                    found[slot] = self.lend(slot)
                else:
                    kept.append(slot)
                slot = self.take_idle()
        finally:  # memory may have run out
            if slot != CP_SLOT_NONE:
                self.offer(slot)
            self.put_back_all(kept, found)
        return found

    cdef bint is_stale(self, uint32_t slot, int64_t now) noexcept:
        """Whether an idle connection may not be used any more; counts why."""
        cdef cp_slot *cell = cp_slots_at(&self.cells, slot)
        if cell.generation != self.generation:
            return True
        if now < cell.stale:
            return False
        self.closed_old += now >= cell.retires
        self.closed_idle += now < cell.retires
        return True

    cdef bint is_unconnected(self, uint32_t slot) except -1:
        """Whether an idle connection of ours is none: dialling it has failed."""
        cdef object connection = self.conns[slot]
        return isinstance(connection, ConnBase) and (<ConnBase>connection).sock is None

    cdef bint has_ended(self, uint32_t slot) except -1:
        """Whether the server has closed an idle connection, as far as can be told."""
        cdef char byte = 0
        cdef Session session = None
        if isinstance(self.conns[slot], ConnBase):
            session = (<ConnBase>self.conns[slot]).session
        return session is not None and session.wire.by_fd \
            and session.wire.peek(&byte) == CP_PEEK_CLOSED

    cdef int put_back_all(self, list kept, dict found) except -1:
        """Put idle slots back in their order, but for the oldest if there are too many."""
        cdef uint32_t slot, held = self.held() - <uint32_t>len(found)
        if not self.fifo:  # the newest was taken first
            kept.reverse()
        for slot in kept:
            if held > self.cells.max:
                held -= 1
                found[slot] = self.lend(slot)
            else:
                self.offer(slot)
        return 0

    cdef int64_t oldest_use_ns(self) noexcept:
        """For how long the connection has been lent that was lent first; 0: none is."""
        cdef int64_t since = CP_FOREVER
        cdef uint32_t slot
        for slot in range(cp_slots_used(&self.cells)):
            if cp_slots_state(&self.cells, slot) == CP_SLOT_BUSY:
                since = min(since, cp_slots_at(&self.cells, slot).since)
        return 0 if since == CP_FOREVER else cp_clock_now() - since

    cdef int adopt(self, uint32_t slot, object connection) except -1:
        """Put a new connection into a slot its caller owns."""
        cdef Reclaim reclaim = Reclaim.__new__(Reclaim)
        cdef object ref
        while <uint32_t>len(self.conns) <= slot:
            self.conns.append(None)
        while <uint32_t>len(self.refs) <= slot:
            self.refs.append(None)
        reclaim.home = self.home
        reclaim.slot = slot
        if isinstance(connection, ConnBase):
            ref = weakref.ref(connection, reclaim)
            self.refs[slot] = ref  # from here on nothing can fail
            (<ConnBase>connection).home = self.home
            (<ConnBase>connection).dials = self.dials
            (<ConnBase>connection).slot = slot
            (<ConnBase>connection).ticket = self.new_ticket(slot)
        else:  # a foreign class is held as redis-py holds it
            self.numbers[id(connection)] = slot
            self.conns[slot] = connection
            if wrapped_in(connection) is not None:
                wrapped_in(connection).dials = self.dials
                wrapped_in(connection).slot = slot
        self.opened(slot, self.generation)
        cp_slots_at(&self.cells, slot).since = cp_clock_now()
        self.created += 1
        return 0

    cdef int vacate(self, uint32_t slot) except -1:
        """Take the connection out of a slot its caller owns; somebody else may open."""
        cdef object connection = self.connection_in(slot)
        if isinstance(connection, ConnBase):
            (<ConnBase>connection).home = (<ConnBase>connection).dials = None
        elif connection is not None:
            self.numbers.pop(id(connection), None)
            if wrapped_in(connection) is not None:
                wrapped_in(connection).dials = None
        if slot < <uint32_t>len(self.refs):
            self.refs[slot] = self.conns[slot] = None
        cp_slots_set_state(&self.cells, slot, CP_SLOT_OPENING)
        return self.offer(slot)

    cdef object connection_in(self, uint32_t slot):
        """The connection of a slot whatever its state, or None."""
        if slot >= <uint32_t>len(self.refs):
            return None
        if self.conns[slot] is not None:
            return self.conns[slot]
        return None if self.refs[slot] is None else self.refs[slot]()

    cdef int reclaim(self, uint32_t slot, object ref) except -1:
        """A lent connection has ended without a return."""
        if self.refs[slot] is not ref:
            return 0
        self.refs[slot] = None
        if cp_slots_claim_mpmc(&self.cells, slot, CP_SLOT_BUSY, CP_SLOT_OPENING):
            self.reclaimed += 1
            self.came_back(slot)
            self.offer(slot)
        return 0

    cdef object lend(self, uint32_t slot):
        """The connection of a slot that is BUSY and the caller's: ours is from now on
        held by its borrower alone."""
        cdef object connection = self.conns[slot]
        if isinstance(connection, ConnBase):
            self.conns[slot] = None
        return connection

    cdef uint32_t new_ticket(self, uint32_t slot) noexcept:
        cp_slots_at(&self.cells, slot).ticket += 1
        return cp_slots_at(&self.cells, slot).ticket

    cdef bint is_in(self, uint32_t slot, ConnBase connection) noexcept:
        """Whether a connection of these slots is still in its slot. It is not if its slot
        was reclaimed and it came to life again: the garbage collector tells of an end
        before it calls finalisers, and one of those may release it."""
        return cp_slots_at(&self.cells, slot).ticket == connection.ticket

    cdef uint32_t number_of(self, object connection) except? 0xFFFFFFF0:
        """The slot of a connection of this pool, or CP_SLOT_NONE."""
        cdef uint32_t slot
        if isinstance(connection, ConnBase):
            slot = (<ConnBase>connection).slot
            if (<ConnBase>connection).home is self.home and self.is_in(slot, connection):
                return slot
            return CP_SLOT_NONE
        return self.numbers.get(id(connection), CP_SLOT_NONE)

    cdef uint32_t slot_of(self, object connection) except? 0xFFFFFFF0:
        """The slot of a connection of this pool, of one that is wrapped in it as well."""
        cdef uint32_t slot = self.number_of(connection)
        if slot != CP_SLOT_NONE or not isinstance(connection, ConnBase):
            return slot
        slot = (<ConnBase>connection).slot
        if slot < <uint32_t>len(self.conns) and wrapped_in(self.conns[slot]) is connection:
            return slot
        return CP_SLOT_NONE

    cdef int give_back(self, uint32_t slot, object connection) except -1:
        """Return a connection to its slot, which the caller owns."""
        self.conns[slot] = connection
        cp_slots_set_state(&self.cells, slot, CP_SLOT_BUSY)
        return self.offer(slot)

    cdef int offer(self, uint32_t slot) except -1:
        """Pass on a slot the caller owns: BUSY with its connection, or OPENING, empty.

        To the oldest waiter once newcomers may no longer pass it (an empty slot at
        once: dialling takes its time anyway), else to the list of its kind."""
        cdef void *parker = NULL
        cdef bint empty = cp_slots_state(&self.cells, slot) == CP_SLOT_OPENING
        if empty and self.held() > self.cells.max:  # a limit that was lowered
            cp_slots_set_state(&self.cells, slot, CP_SLOT_EMPTY)
            cp_idle_push_mpmc(&self.empty, &self.cells, slot)
            if self.emptied is not None and self.emptied.locked():
                self.emptied.release()
            return 0
        if cp_waitq_count(&self.waiters) and (empty or not cp_waitq_may_barge(&self.waiters)):
            if cp_waitq_deliver(&self.waiters, slot, &parker):
                unpark(parker)
                return 0
        if empty:
            cp_slots_set_state(&self.cells, slot, CP_SLOT_EMPTY)
            cp_idle_push_mpmc(&self.empty, &self.cells, slot)
        else:
            cp_slots_set_state(&self.cells, slot, CP_SLOT_IDLE)
            if self.fifo:
                cp_waitq_push_fifo(&self.waiters, &self.cells, slot)
            else:
                cp_idle_push_mpmc(&self.idle, &self.cells, slot)
        if cp_waitq_count(&self.waiters):
            unpark(cp_waitq_nudge(&self.waiters))
        return 0

    cdef list idle_slots(self):
        """Numbers of the idle slots, the next to be lent last."""
        cdef list numbers = []
        cdef uint32_t slot
        slot = cp_waitq_fifo_first(&self.waiters) if self.fifo else cp_idle_first(&self.idle)
        while slot != CP_SLOT_NONE:
            numbers.append(slot)
            slot = cp_idle_after(&self.cells, slot)
        numbers.reverse()
        return numbers

    cdef dict stats(self):
        """The states of the slots, and the totals, by their names in cpool.stats."""
        cdef int idle = self.count(CP_SLOT_IDLE) + self.count(CP_SLOT_CLAIMED)
        cdef int opening = self.count(CP_SLOT_OPENING)
        cdef int in_use = self.count(CP_SLOT_BUSY) + self.count(CP_SLOT_RETURNING)
        return {
            "open": idle + in_use, "idle": idle, "in_use": in_use, "opening": opening,
            "waiting": cp_waitq_count(&self.waiters), "max_connections": self.cells.max,
            "checkouts": self.checkouts, "created": self.created,
            "discarded": self.discarded, "replaced": self.replaced,
            "reclaimed": self.reclaimed, "refused": self.refused, "waits": self.waits,
            "timeouts": self.timeouts, "wait_time_s": self.waited.sum_ns / 1e9,
            "longest_wait_s": self.waited.max_ns / 1e9,
            "oldest_use_s": self.oldest_use_ns() / 1e9, "closed_idle": self.closed_idle,
            "closed_old": self.closed_old, "evictions": self.evictions,
        }

    cdef dict distributions(self):
        return {"wait": counted(&self.waited), "use": counted(&self.used),
                "dial": counted(&self.dialled)}

    cdef int count(self, cp_slot_state state) noexcept:
        cdef uint32_t slot
        cdef int n = 0
        for slot in range(cp_slots_used(&self.cells)):
            n += cp_slots_state(&self.cells, slot) == <uint32_t>state
        return n


# Who waits looks up this often, for a signal that came as he fell asleep.
cdef int64_t LOOK_NS = 100 * CP_NS_PER_MS


cdef int park(object parker, int64_t ns) except -1:
    """Sleep at a parking place, without the GIL, until signalled or the time is over, or it
    is time to look up.

    A signal's handler runs, and may raise."""
    parker.acquire(True, min(ns, LOOK_NS) / 1e9)
    return 0


cdef int unpark(void *parker) except -1:
    """Signal a parking place. It is there: its thread needs the GIL to leave it."""
    if parker != NULL:
        (<object>parker).release()
    return 0


cdef ConnBase wrapped_in(object connection):
    """The connection of ours that redis-py's caching one sends through, or None."""
    if not isinstance(connection, CACHING):
        return None
    wrapped = connection._conn
    return <ConnBase>wrapped if isinstance(wrapped, ConnBase) else None


cdef tuple counted(cp_hist *h):
    """A histogram's counts, sum and longest, in seconds."""
    counts = PyBytes_FromStringAndSize(<char *>h.counts, CP_HIST_BUCKETS * sizeof(uint64_t))
    return tuple(memoryview(counts).cast("Q")), h.sum_ns / 1e9, h.max_ns / 1e9


#: Where each bucket of a histogram ends, in seconds.
BUCKET_ENDS_S = tuple([cp_hist_end(i) / 1e9 for i in range(CP_HIST_BUCKETS)])
