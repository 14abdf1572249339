# cython: language_level=3
"""Dials: a server that is down is dialled by a few, and one that comes back by not too many.

Every connection of a pool asks before it dials, the first time and whenever redis-py
reconnects it. While the server answers, `max_connecting` may dial at a time. After a
dial has failed one tries, and the others wait for what comes of it: who waits is told of
a refusal that came after he had asked, never of an older one. A try that hangs holds up
nobody for long: another one begins beside it.

Compiled, so that no interrupt comes between a turn's beginning and being bound to end it.
"""

import threading

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t

from cpool._conn cimport ConnBase
from cpool._deadline cimport WAITING, check, due, spend
from cpool._slots cimport CP_NS_PER_MS, CP_SLOT_NONE, Slots, cp_hist_add, park
from cpool._wire cimport cp_clock_after, cp_clock_now, ns_of

cdef enum:
    UNLIMITED = 0x7FFFFFFF

# All connections are given up, for what a server has said, no more often than this; who
# means to talk to a replica, or to several servers behind one address, does so ever more rarely.
cdef int64_t LEAST_PAUSE_NS = 1000 * CP_NS_PER_MS
cdef int64_t LONGEST_PAUSE_NS = 300_000 * CP_NS_PER_MS


@cython.no_gc_clear  # __dealloc__ needs dials
@cython.final
cdef class Turn:
    def __enter__(self):
        cdef object thread = threading.get_ident()  # a greenlet's, where it is patched
        self.place = self.dials.place_of(self.connection)
        self.dials.begin(
            thread, self.place, ns_of(getattr(self.connection, "socket_connect_timeout", None)))
        self.thread = thread
        self.generation = self.dials.generation()
        self.since = cp_clock_now()
        return self

    def __exit__(self, kind, error, traceback):
        thread, self.thread = self.thread, None
        self.dials.end(self, thread, error)

    def __dealloc__(self):
        if self.thread is not None:  # a block without memory may not call __exit__
            self.dials.forget(self.thread, self.place)


@cython.final
cdef class Place:
    def __cinit__(self):
        self.diallers = []


@cython.final
cdef class Dials:
    """Who may dial at this moment. Thread-safe."""

    def __cinit__(self):
        self.limit = UNLIMITED
        self.hanging_s = 0.25
        self.pause_ns = LEAST_PAUSE_NS
        self.renew()

    def set_limit(self, max_connecting):
        """How many dials may be under way at a time; None: any number."""
        self.limit = UNLIMITED if max_connecting is None else max_connecting
        self.tell()

    def renew(self):
        """Begin anew in a child: whose dials were under way is not here."""
        self.diallers = []
        self.parkers = []
        self.places = {}
        self.last = Place()
        self.newest_client = None

    def turn(self, connection):
        """A context manager around one dial of a connection, which waits for its turn."""
        cdef Turn turn = Turn.__new__(Turn)
        turn.dials = self
        turn.connection = connection
        return turn

    @property
    def under_way(self):
        """How many dials have begun and not ended."""
        return len(self.diallers)

    @property
    def waiting(self):
        """How many connections wait for their turn."""
        return len(self.parkers)

    @property
    def failures(self):
        """How many dials have failed in a row where the last one went; 0: the server answers,
        for all we know."""
        return self.last.failures

    @property
    def last_error(self):
        """What the last of the failures was, as text."""
        return None if self.last.error is None else self.last.error[1]

    cdef Place place_of(self, object connection):
        """What is known of where a connection leads: behind sentinels not all go to one."""
        cdef tuple address = address_of(connection)
        cdef Place place = self.places.get(address)
        if place is None:
            place = self.places[address] = Place()
        return place

    cdef int begin(self, object thread, Place place, int64_t patience_ns) except -1:
        """Wait for a turn. A thread that dials already need not: what it does meanwhile (a
        finaliser's command, the question for a password) is part of that dial."""
        if self.closed is not None:
            raise pool_closed(self.closed)
        if not self.are_of(thread) and not self.may_begin(place, cp_clock_now()):
            self.wait_for_turn(place, patience_ns)
        place.diallers.append(thread)
        try:
            self.diallers.append(thread)
        except BaseException:
            place.diallers.remove(thread)
            raise
        place.newest = cp_clock_now()
        self.note_full()
        return 0

    cdef bint are_of(self, object thread) except -1:
        """Whether a thread is dialling."""
        return thread in self.diallers

    cdef int forget(self, object thread, Place place) except -1:
        """A dial is over. In a child that was born meanwhile nobody knows of it."""
        if thread in place.diallers:
            place.diallers.remove(thread)
        if self.are_of(thread):
            self.diallers.remove(thread)
        return self.note_full()

    cdef bint may_begin(self, Place place, int64_t now) except -1:
        if len(self.diallers) >= self.limit:
            return False
        if place.failures == 0 or not place.diallers:
            return True
        return now - place.newest >= ns_of(self.hanging_s)

    cdef int wait_for_turn(self, Place place, int64_t patience_ns) except -1:
        cdef uint64_t seen = place.refusals
        cdef int64_t now = cp_clock_now(), since = now
        cdef int64_t until = min(cp_clock_after(now, patience_ns), due())
        cdef object parker = threading.Lock()
        parker.acquire()
        self.parkers.append(parker)
        try:
            while place.refusals == seen and not self.may_begin(place, now):
                if now >= until:
                    spend(WAITING, since)
                    since = now
                    check(WAITING)
                    raise self.too_slow(patience_ns)
                park(parker, until - now)
                now = cp_clock_now()
            if place.refusals != seen:
                raise place.error[0](place.error[1])
        finally:
            self.parkers.remove(parker)
            spend(WAITING, since)
        return 0

    def too_slow(self, patience_ns):
        from cpool import errors

        return errors.dialling_is_slow(
            patience_ns / 1e9, len(self.diallers), None if self.limit == UNLIMITED else self.limit)

    cdef int end(self, Turn turn, object thread, object error) except -1:
        self.forget(thread, turn.place)
        self.last = turn.place
        try:
            if error is None:
                self.has_succeeded(turn)
            else:
                self.has_failed(turn.place, error)
        finally:
            self.tell()
        return 0

    cdef int has_failed(self, Place place, object error) except -1:
        from cpool import errors

        if errors.is_answer(error):
            place.failures = 0
        if not errors.is_dial_failure(error):
            return 0
        place.failures += 1
        self.failed += 1
        place.error = (type(error), str(error))
        if errors.is_refusal(error):
            place.refusals += 1
            place.was_down = place.was_down or place.broke
        return 0

    cdef int has_succeeded(self, Turn turn) except -1:
        """All older connections are to another process if one broke and then the server
        refused to be dialled, or numbers its clients from the beginning again."""
        cdef Slots slots = self.slots()
        cdef Place place = turn.place
        cdef bint other = place.was_down or (
            place.broke and self.is_numbered_anew(turn.connection) and self.may_evict())
        place.failures = 0
        place.broke = place.was_down = False
        self.newest_client = client_number(turn.connection)
        if slots is None:
            return 0
        cp_hist_add(&slots.dialled, cp_clock_now() - turn.since)
        if other and len(self.places) == 1:  # else others may lead to another server
            slots.evict()
            turn.generation = slots.generation
        slot = slots.slot_of(turn.connection)
        if slot != CP_SLOT_NONE:
            slots.opened(slot, turn.generation)
        return 0

    cdef Slots slots(self):
        """The pool's, or None: they are gone."""
        return None if self.home is None or self.home.slots == NULL else <Slots>self.home.slots

    cdef uint32_t generation(self) except? 0xFFFFFFF0:
        """What a connection that is dialled now belongs to, whatever is evicted meanwhile."""
        cdef Slots slots = self.slots()
        return 0 if slots is None else slots.generation

    cdef bint is_numbered_anew(self, object connection) except -1:
        """Whether the process behind an address has counted fewer clients than before."""
        cdef tuple client = client_number(connection), before = self.newest_client
        return client is not None and before is not None \
            and client[0] == before[0] and client[1] < before[1]

    cdef bint may_evict(self) noexcept:
        """Whether all may be given up for what a server has said; the next time has to wait
        for longer, unless there has been peace for long."""
        cdef int64_t now = cp_clock_now(), since = now - self.evicted
        if self.evicted != 0 and since < self.pause_ns:
            return False
        if self.evicted == 0 or since > 10 * self.pause_ns:
            self.pause_ns = LEAST_PAUSE_NS
        else:
            self.pause_ns = min(2 * self.pause_ns, LONGEST_PAUSE_NS)
        self.evicted = now
        return True

    def abandon(self, address, error):
        """Tell who waits for a turn to dial a (host, port) that nobody is to dial it now."""
        cdef Place place = self.places.get((*address, None))
        if place is None:
            return
        place.error = (type(error), str(error))
        place.refusals += 1
        for parker in list(self.parkers):
            if parker.locked():
                parker.release()

    def note_break(self, connection):
        """A connection that was open is no more: the server's end was closed, as it seems."""
        self.place_of(connection).broke = True

    def note_read_only(self, ConnBase connection):
        """What should be the master is none any more: close all connections when they are
        met, so that what the server's name now stands for is dialled."""
        cdef Slots slots = self.slots()
        if slots is None:
            return
        slot = slots.slot_of(connection)
        if slot != CP_SLOT_NONE and slots.is_current(slot) and self.may_evict():
            slots.evict()

    cdef int note_full(self) noexcept:
        """Let callers wait for any connection, and not for a turn only, while the server
        answers and no more dials may begin."""
        cdef Slots slots = self.slots()
        if slots is not None:
            slots.dials_full = self.last.failures == 0 and len(self.diallers) >= self.limit
        return 0

    cdef int tell(self) except -1:
        """Wake as many of those who wait for a turn as may have one (all of them, if the
        server has refused), and let those who wait for a connection dial."""
        cdef Slots slots = self.slots()
        cdef Py_ssize_t turns = self.limit - len(self.diallers)
        if self.last.failures:
            turns = UNLIMITED
        for parker in list(self.parkers):
            if turns == 0:
                break
            if parker.locked():
                parker.release()
                turns -= 1
        self.note_full()
        if slots is not None:
            slots.offer_empty()
        return 0


cdef object pool_closed(object name):
    from cpool import errors

    return errors.pool_closed(name)


cdef tuple address_of(object connection):
    return (getattr(connection, "host", None), getattr(connection, "port", None),
            getattr(connection, "path", None))


cdef tuple client_number(object connection):
    """Where a new connection leads, and the number the server has given to it if it has told."""
    cdef object told = getattr(connection, "handshake_metadata", None)
    if not isinstance(told, dict):
        return None
    number = told.get("id", told.get(b"id"))
    return (address_of(connection), number) if type(number) is int else None
