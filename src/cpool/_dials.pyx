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
from libc.stdint cimport int64_t, uint64_t

from cpool._conn cimport ConnBase
from cpool._deadline cimport WAITING, check, due, spend
from cpool._slots cimport CP_NS_PER_MS, CP_SLOT_NONE, Slots, cp_hist_add, park
from cpool._wire cimport CP_FOREVER, cp_clock_now, ns_of

cdef enum:
    UNLIMITED = 0x7FFFFFFF
    FEW = 4             # dials to a server that does not answer, at most

# Who waits looks up this often.
cdef int64_t LOOK_NS = 100 * CP_NS_PER_MS
# READONLY closes all connections no more often than this: a replica says it each time.
cdef int64_t EVICTION_NS = 1000 * CP_NS_PER_MS


@cython.internal
@cython.no_gc_clear  # __dealloc__ needs dials
@cython.final
cdef class Turn:
    """One dial: a context manager around it."""
    cdef Dials dials
    cdef object connection
    cdef object thread      # whose turn it is, None: not begun, or over
    cdef int64_t since

    def __enter__(self):
        cdef object thread = threading.get_ident()  # a greenlet's, where it is patched
        self.dials.begin(
            thread, ns_of(getattr(self.connection, "socket_connect_timeout", None)))
        self.since = cp_clock_now()
        self.thread = thread
        return self

    def __exit__(self, kind, error, traceback):
        thread, self.thread = self.thread, None
        self.dials.end(thread, error, self.connection, cp_clock_now() - self.since)

    def __dealloc__(self):
        if self.thread is not None:  # a block without memory may not call __exit__
            self.dials.forget(self.thread)


@cython.final
cdef class Dials:
    """Who may dial at this moment. Thread-safe."""

    def __cinit__(self):
        self.limit = UNLIMITED
        self.hanging_s = 0.25
        self.diallers = []
        self.parkers = []

    def set_limit(self, max_connecting):
        """How many dials may be under way at a time; None: any number."""
        self.limit = UNLIMITED if max_connecting is None else max_connecting
        self.tell()

    def renew(self):
        """Begin anew in a child: whose dials were under way is not here."""
        self.failures = 0
        self.diallers = []
        self.parkers = []
        self.broke = self.was_down = False
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
    def last_error(self):
        """What the last of the failures was, as text."""
        return None if self.error is None else self.error[1]

    cdef int begin(self, object thread, int64_t patience_ns) except -1:
        """Wait for a turn. A thread that dials already need not: what it does meanwhile (a
        finaliser's command, the question for a password) is part of that dial."""
        if self.closed is not None:
            raise pool_closed(self.closed)
        if not self.are_of(thread) and not self.may_begin(cp_clock_now()):
            self.wait_for_turn(patience_ns)
        self.diallers.append(thread)
        self.newest = cp_clock_now()
        self.note_full()
        return 0

    cdef bint are_of(self, object thread) except -1:
        """Whether a thread is dialling."""
        return thread in self.diallers

    cdef int forget(self, object thread) except -1:
        """A dial is over. In a child that was born meanwhile nobody knows of it."""
        if self.are_of(thread):
            self.diallers.remove(thread)
        return self.note_full()

    cdef bint may_begin(self, int64_t now) except -1:
        cdef Py_ssize_t under_way = len(self.diallers)
        if under_way >= self.limit:
            return False
        if self.failures == 0 or under_way == 0:
            return True
        return under_way < FEW and now - self.newest >= ns_of(self.hanging_s)

    cdef int wait_for_turn(self, int64_t patience_ns) except -1:
        cdef uint64_t seen = self.refusals
        cdef int64_t now = cp_clock_now(), since = now
        cdef int64_t until = CP_FOREVER if patience_ns > CP_FOREVER - now else now + patience_ns
        until = min(until, due())
        cdef object parker = threading.Lock()
        parker.acquire()
        self.parkers.append(parker)
        try:
            while self.refusals == seen and not self.may_begin(now):
                if now >= until:
                    spend(WAITING, since)
                    since = now
                    check(WAITING)
                    raise self.too_slow(patience_ns)
                park(parker, min(until - now, LOOK_NS))
                now = cp_clock_now()
            if self.refusals != seen:
                raise self.error[0](self.error[1])
        finally:
            self.parkers.remove(parker)
            spend(WAITING, since)
        return 0

    def too_slow(self, patience_ns):
        from cpool import errors

        return errors.dialling_is_slow(
            patience_ns / 1e9, len(self.diallers), None if self.limit == UNLIMITED else self.limit)

    cdef int end(self, object thread, object error, object connection,
                 int64_t took_ns) except -1:
        self.forget(thread)
        try:
            if error is None:
                self.has_succeeded(connection, took_ns)
            else:
                self.has_failed(error)
        finally:
            self.tell()
        return 0

    cdef int has_failed(self, object error) except -1:
        from cpool import errors

        if errors.is_answer(error):
            self.failures = 0
        if not errors.is_dial_failure(error):
            return 0
        self.failures += 1
        self.failed += 1
        self.was_down = self.was_down or self.broke
        self.error = (type(error), str(error))
        self.refusals += errors.is_refusal(error)
        return 0

    cdef int has_succeeded(self, object connection, int64_t took_ns) except -1:
        """All older connections are to another process if one broke and then the server could
        not be dialled, or numbers its clients from the beginning again."""
        cdef Slots slots = None if self.home is None or self.home.slots == NULL \
            else <Slots>self.home.slots
        cdef bint other = self.was_down or (self.broke and self.is_numbered_anew(connection))
        self.failures = 0
        self.broke = self.was_down = False
        self.newest_client = client_number(connection)
        if slots is None:
            return 0
        cp_hist_add(&slots.dialled, took_ns)
        if other:
            slots.evict()
        slot = slots.number_of(connection)
        if slot != CP_SLOT_NONE:
            slots.opened(slot)
        return 0

    cdef bint is_numbered_anew(self, object connection) except -1:
        """Whether the process behind an address has counted fewer clients than before."""
        cdef tuple client = client_number(connection), before = self.newest_client
        return client is not None and before is not None \
            and client[:2] == before[:2] and client[2] < before[2]

    def note_break(self):
        """A connection that was open is no more, and nobody here has closed it."""
        self.broke = True

    def note_read_only(self, ConnBase connection):
        """What should be the master is none any more: close all connections when they are
        met, so that what the server's name now stands for is dialled."""
        cdef Slots slots
        cdef int64_t now = cp_clock_now()
        if connection.home is None or self.home is not connection.home \
                or self.home.slots == NULL or now - self.evicted < EVICTION_NS:
            return
        slots = <Slots>self.home.slots
        if slots.is_current(connection.slot):
            self.evicted = now
            slots.evict()

    cdef int note_full(self) noexcept:
        """Let callers wait for any connection, and not for a turn only, while the server
        answers and no more dials may begin."""
        if self.home is not None and self.home.slots != NULL:
            (<Slots>self.home.slots).dials_full = \
                self.failures == 0 and len(self.diallers) >= self.limit
        return 0

    cdef int tell(self) except -1:
        """Wake as many of those who wait for a turn as may have one (all of them, if the
        server has refused), and let those who wait for a connection dial."""
        cdef Py_ssize_t turns = UNLIMITED if self.failures else self.limit - len(self.diallers)
        for parker in list(self.parkers):
            if turns == 0:
                break
            if parker.locked():
                parker.release()
                turns -= 1
        self.note_full()
        if self.home is not None and self.home.slots != NULL:
            (<Slots>self.home.slots).offer_empty()
        return 0


cdef object pool_closed(object name):
    from cpool import errors

    return errors.pool_closed(name)


cdef tuple client_number(object connection):
    """Where a new connection leads, and the number the server has given to it if it has told."""
    cdef object told = getattr(connection, "handshake_metadata", None)
    if not isinstance(told, dict):
        return None
    number = told.get("id", told.get(b"id"))
    if type(number) is not int:
        return None
    return getattr(connection, "host", None), getattr(connection, "port", None), number
