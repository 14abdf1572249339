# cython: language_level=3
"""Checkout and return, on slots. No commands, no policy: what is out of the ordinary
goes to the underscored methods of cpool.pool.
"""

import threading

cimport cython
from cpython.object cimport PyObject_GenericSetAttr
from libc.stdint cimport int64_t, uint32_t, uint64_t

from cpool._conn cimport ConnBase
from cpool._dials cimport Dials
from cpool._deadline cimport BEFORE, WAITING, check, due, spend, taken
from cpool._gates cimport FRONT, OWN, Gates, dict_version, gates_of, generic_delattr, \
    is_patched, watch_dict
from cpool._session cimport Session
from cpool._slots cimport (
    CP_SLOT_BUSY, CP_SLOT_CLAIMED, CP_SLOT_NONE, CP_SLOT_OPENING,
    CP_SLOT_RETURNING, SLOT_MOVED, cp_slot, cp_slots_at,
    cp_slots_claim_mpmc, cp_slots_set_state, cp_slots_state, cp_slots_used, cp_waitq_count,
)
from cpool._wire cimport CP_FOREVER, CP_PEEK_QUIET, cp_clock_after, cp_clock_now, ns_of


cp_fork_watch()


@cython.internal
@cython.no_gc_clear  # __dealloc__ needs slots and numbers
@cython.final
cdef class Claim:
    """All idle connections, taken off the list and put back in the same order, and those
    that are lent at that moment. Compiled, so that no interrupt comes between taking them
    and being bound to give them back, and none changes hands unseen."""
    cdef PoolBase pool
    cdef Slots slots
    cdef list numbers
    cdef Py_ssize_t given   # how many of them are back

    def __cinit__(self, PoolBase pool):
        self.pool = pool
        self.slots = pool.slots
        self.numbers = []

    def __dealloc__(self):
        if self.numbers is not None:  # a block without memory may not call __exit__
            self.give_back()

    def __enter__(self):
        cdef list connections = []
        cdef uint32_t slot = CP_SLOT_NONE
        try:
            while True:
                slot = self.slots.take_idle()
                if slot == CP_SLOT_NONE:
                    return connections, self.pool._lent()
                cp_slots_set_state(&self.slots.cells, slot, CP_SLOT_CLAIMED)
                connections.append(self.slots.conns[slot])
                self.numbers.append(slot)
                slot = CP_SLOT_NONE
        except BaseException:  # memory has run out
            if slot != CP_SLOT_NONE:
                self.slots.give_back(slot, self.slots.conns[slot])
            self.give_back()
            raise

    def __exit__(self, *_):
        self.give_back()

    cdef int give_back(self) except -1:
        cdef Py_ssize_t n = len(self.numbers)
        cdef uint32_t slot
        while self.given < n:
            self.given += 1
            # the newest of a lifo pool was taken first
            slot = self.numbers[self.given - 1 if self.slots.fifo else n - self.given]
            self.slots.give_back(slot, self.slots.conns[slot])
        return 0


cdef object OBSERVED = frozenset(("get_connection", "release"))
cdef object DEFAULT_LISTENER = None  # redis-py's own, which re-authenticates


def set_originals(functions, default_listener):
    """Tell which functions of redis-py's pools the core may stand in for, by name, and
    the class of the listener to returned connections that it may do without."""
    global DEFAULT_LISTENER
    GATES.originals.update(functions)
    DEFAULT_LISTENER = default_listener


def add_original(name, function):
    """Tell of one more function that may be stood in for."""
    GATES.originals[name] = GATES.originals[name] | {function}


cdef class PoolBase:
    """Checkout and return. Thread-safe; a fork is noticed at the next call."""

    def __cinit__(self, *args, **kwargs):
        self.reserved = {}
        self.waiting_limit = 0xFFFFFFFF
        self.max_idle_ns = self.max_lifetime_ns = CP_FOREVER
        self.dials = Dials()
        self.slots = Slots(0, False)  # for a pool whose __init__ has failed

    cdef int gates(self) except -1:
        """GATE_* of this instance; looked up again when the class has changed."""
        return gates_of(GATES, self, &self.gate)

    def __setattr__(self, name, value):
        PyObject_GenericSetAttr(self, name, value)
        if name in OBSERVED:
            self.patched = is_patched(self, OBSERVED)
        elif name == "_event_dispatcher":
            self.listeners = None  # until _watch(): one put in later sees every return

    def __delattr__(self, name):
        generic_delattr(self, name, NULL)
        if name in OBSERVED:
            self.patched = is_patched(self, OBSERVED)

    def _set_timeout(self, timeout):
        """How long callers of an exhausted pool wait, in seconds; 0: not at all."""
        self.timeout_ns = ns_of(timeout)

    def _set_max_waiting(self, max_waiting):
        """How many callers may wait at a time; None: any number."""
        self.waiting_limit = 0xFFFFFFFF if max_waiting is None else max_waiting

    def _set_max_connections(self, max_connections):
        """How many connections there may be. Those above a lowered limit live on."""
        cdef Slots slots = self.slots
        slots.cells.max = 0 if self.closed else min(max_connections, 0x7FFFFFFF)
        slots.offer_empty()

    def _wind_down(self):
        """The server has left for good: close idle connections now, those in use when they
        come back. Who asks for one still gets one."""
        self.slots.retired = self.slots.shrinking = True
        self.min_idle = 0
        self._next_generation()
        self._close_stale()

    def _shrink(self):
        """Let connections above the limit be closed when they come back."""
        self.slots.shrinking = True

    def _set_ageing(self, max_idle_time, max_lifetime, bint warm):
        """For how long connections may be idle, and live, in seconds; None: for ever. warm:
        those that have ended while they were idle are to be replaced."""
        self.max_idle_ns = ns_of(max_idle_time)
        self.max_lifetime_ns = ns_of(max_lifetime)
        self.warm = warm
        self.slots.set_ageing(self.max_idle_ns, self.max_lifetime_ns, warm)

    @property
    def _dials(self):
        return self.dials

    def _watch(self, metrics, providers, listeners, released_event):
        """Where to see that nobody measures and nobody but redis-py listens."""
        self.metrics = metrics
        self.providers = providers
        self.listeners = listeners
        self.released_event = released_event
        for watched in (metrics, providers, listeners):
            if watched is not None:
                watch_dict(watched)

    def _new_slots(self, max_connections, bint fifo):
        """Begin anew with no connections; those that are lent are nobody's any more."""
        cdef Slots before = self.slots
        cdef bint forked = self.fork_generation != cp_fork_generation()
        self.slots = Slots(0 if self.closed else min(max_connections, 0x7FFFFFFF), fifo)
        self.slots.set_ageing(self.max_idle_ns, self.max_lifetime_ns, self.warm)
        self.slots.dials = self.dials
        self.dials.home = self.slots.home
        self.dials.failed = 0
        self.fork_generation = cp_fork_generation()
        if forked:
            self.dials.renew()
        else:
            before.ended = True
            before.dismiss()

    cdef int check_fork(self) except -1:
        if self.fork_generation != cp_fork_generation():
            self._after_fork()
        return 0

    def _is_forked(self):
        return self.fork_generation != cp_fork_generation()

    cdef bint metrics_off(self) except -1:
        """Whether redis-py's recorder would do nothing, without asking it each time."""
        cdef uint64_t metrics_version, providers_version
        if self.metrics is None:
            return True
        metrics_version = dict_version(self.metrics)
        providers_version = dict_version(self.providers)
        if metrics_version == 0 or metrics_version != self.metrics_version \
                or providers_version != self.providers_version:
            self.collector = self.metrics["_metrics_collector"]
            self.provider = self.providers["_observability_instance"]
            self.metrics_version = metrics_version
            self.providers_version = providers_version
        return self.collector is None and (
            self.provider is None or self.provider._provider_manager is None)

    def _is_measured(self):
        """Whether anybody collects redis-py's metrics."""
        return not self.metrics_off()

    cdef bint only_default_listener(self) except -1:
        """Whether a return has no listener but redis-py's own, which re-authenticates."""
        cdef uint64_t version
        if self.listeners is None:
            return False
        version = dict_version(self.listeners)
        if version == 0 or version != self.listeners_version:
            self.released_listeners = self.listeners.get(self.released_event)
            self.listeners_version = version
        return (type(self.released_listeners) is list
                and len(<list>self.released_listeners) == 1
                and type((<list>self.released_listeners)[0]) is DEFAULT_LISTENER)

    def _has_only_default_listener(self):
        """Whether a return has no listener but redis-py's own."""
        return self.only_default_listener()

    @cython.binding(False)
    def get_connection(self, *args, **options):
        """Lend a connection: open, owed nothing, with nothing unread.

        Raises MaxConnectionsError when all are lent (with `timeout`: after waiting,
        ConnectionPoolTimeoutError), and what connecting raises; no slot is lost.
        The arguments are redis-py's deprecated ones and have no effect."""
        if args or options:
            self._warn_of_arguments(*args, **options)
        return self.checkout(True) if self.metrics_off() else self._measured_checkout()

    def _checkout(self):
        return self.checkout(True)

    cdef object checkout(self, bint look):
        """Lend a connection. look: make sure now that it is open and nothing came in; else
        the exchange that follows is to look, without the GIL, or else look_at()."""
        cdef Slots slots
        cdef uint32_t slot
        cdef object connection
        cdef Session session
        cdef cp_slot *cell
        cdef int64_t until = 0
        cdef char byte = 0
        check(BEFORE)
        self.check_fork()
        slots = self.slots
        slot = slots.take()
        if slot == CP_SLOT_NONE:
            slot = self.take_or_wait(slots, &until)
            while slot == SLOT_MOVED:
                slots = self.slots
                slot = self.take_or_wait(slots, &until)
        if cp_slots_state(&slots.cells, slot) == CP_SLOT_OPENING:
            return self.open_in(slots, slot)
        connection = slots.lend(slot)
        cell = cp_slots_at(&slots.cells, slot)
        cell.since = cp_clock_now()
        if isinstance(connection, ConnBase) and (<ConnBase>connection).pool_may_skip():
            session = (<ConnBase>connection).session
            if session.wire.by_fd and session.is_clean() \
                    and not (<ConnBase>connection).reconnect \
                    and cell.generation == slots.generation and cell.since < cell.stale \
                    and (not look or session.wire.peek(&byte) == CP_PEEK_QUIET):
                slots.checkouts += 1
                return connection
        return self.make_ready(slots, slot, connection)

    cdef int look_at(self, ConnBase connection) except -1:
        """Do what checkout(False) has left undone, and mend what is found. After an error
        the connection has been returned."""
        cdef Slots slots = self.slots
        cdef Session session = connection.session
        cdef char byte = 0
        if session is not None and session.wire.by_fd and session.is_clean() \
                and session.wire.peek(&byte) == CP_PEEK_QUIET:
            return 0
        if connection.home is not slots.home:
            self._make_ready(connection)  # the pool has begun anew since
            return 0
        slots.checkouts -= 1
        self.make_ready(slots, connection.slot, connection)
        return 0

    cdef object make_ready(self, Slots slots, uint32_t slot, object connection):
        """Find out what is the matter with an idle connection, and mend it."""
        try:
            if slots.is_stale(slot, cp_slots_at(&slots.cells, slot).since):
                slots.opened(slot, slots.generation)
                connection.disconnect()
            if self._make_ready(connection):
                slots.replaced += 1
            if self.cut:
                raise self._is_closed()
        except BaseException:
            if not self.metrics_off():
                self._note_failed_checkout()
            self.release(connection)
            raise
        slots.checkouts += 1
        cp_slots_at(&slots.cells, slot).since = cp_clock_now()
        return connection

    cdef uint32_t take_or_wait(self, Slots slots, int64_t *until) except? 0xFFFFFFF0:
        """A slot of an exhausted pool, waited for if the pool's options say so.

        SLOT_MOVED: ask the pool's slots again, they are others now."""
        cdef uint32_t slot = slots.take()
        cdef int64_t now, patience_ns = self.timeout_ns
        cdef bint for_dial = False
        if slot != CP_SLOT_NONE:
            return slot
        if self.closed:
            raise self._is_closed()
        if slots.dials_full and self.dials.are_of(threading.get_ident()):
            slot = slots.take_empty(False)
            if slot != CP_SLOT_NONE:
                return slot
        if patience_ns == 0 and (
                slots.warming > cp_waitq_count(&slots.waiters)
                or slots.dials_full and slots.held() < slots.cells.max):
            patience_ns = ns_of(self._dial_timeout())
            for_dial = True
        if patience_ns != 0:
            now = cp_clock_now()
            if until[0] == 0:
                until[0] = cp_clock_after(now, patience_ns)
            slot = slots.wait(min(until[0], due()), self.waiting_limit, for_dial)
            spend(WAITING, now)
            if slot != CP_SLOT_NONE:
                return slot
            check(WAITING)
            if not for_dial or slots.held() < slots.cells.max:
                raise self._timed_out()
        with taken(self._lock):  # idle ones may be being closed: they come back in a moment
            slot = slots.take()
        if slot == CP_SLOT_NONE:
            slots.refused += 1
            raise self._exhausted()
        return slot

    cdef object open_in(self, Slots slots, uint32_t slot):
        """Make and dial a connection in a slot that is OPENING and the caller's."""
        cdef object connection = None
        try:
            connection = self._make_in(slot)
            slots.adopt(slot, connection)
            self._open(connection)
            if self.cut:
                raise self._is_closed()
        except BaseException:
            if connection is None or slots.number_of(connection) == CP_SLOT_NONE:
                slots.vacate(slot)
            else:  # it stays, not connected, as redis-py's does
                cp_slots_set_state(&slots.cells, slot, CP_SLOT_BUSY)
                if not self.metrics_off():
                    self._note_failed_checkout()
                self.release(connection)
            raise
        cp_slots_at(&slots.cells, slot).since = cp_clock_now()
        cp_slots_set_state(&slots.cells, slot, CP_SLOT_BUSY)
        slots.checkouts += 1
        return connection

    def _open_idle(self, bint patient):
        """Dial a connection that nobody has asked for; false: there is no room for it. Not
        patient: nor is a dial that would have to wait for its turn begun."""
        cdef Slots slots
        cdef uint32_t slot
        self.check_fork()
        slots = self.slots
        slot = slots.take_empty(not patient)
        if slot == CP_SLOT_NONE:
            return False
        slots.warming += 1
        try:
            connection = self.open_in(slots, slot)
        finally:
            slots.warming -= 1
        slots.checkouts -= 1
        slots.rest(cp_slots_at(&slots.cells, slots.number_of(connection)))
        slots.give_back(slots.number_of(connection), connection)
        if slots.shrinking:  # there may be no room for it any more
            self._close_stale()
        return True

    def _take_stale(self):
        """Take the idle connections that are to be closed: the slots, and the connections by
        number. They count as lent until _vacate()."""
        self.check_fork()
        return self.slots, self.slots.take_stale()

    def _vacate(self, Slots slots, uint32_t slot):
        """A connection that was taken is closed: its slot is free."""
        slots.vacate(slot)

    def _close_to_callers(self):
        """Lend nothing from now on. Who waits is told; what is lent may come back."""
        self.closed = True
        cdef Slots slots = self.slots
        slots.cells.max = 0
        slots.shrinking = slots.closing = True
        slots.dismiss()

    def _cut_off(self):
        """The time to come back is over: fail the dials that are still under way, and let
        who has a connection not dial again."""
        self.cut = True
        self.dials.closed = self._label()

    def _wait_empty(self, timeout):
        """Wait until no connection is left; false: the time was over before."""
        cdef Slots slots = self.slots
        return slots.wait_empty(min(due(), cp_clock_after(cp_clock_now(), ns_of(timeout))))

    @property
    def is_closed(self):
        """Whether close(timeout) has been called: nothing is lent any more."""
        return self.closed

    def _make_in(self, uint32_t slot):
        """A connection for a slot that is set aside, by make_connection() if a
        subclass has its own."""
        if self.gates() & GATE_MAKE:
            return self._construct()
        thread = threading.get_ident()
        self.reserved[thread] = slot
        try:
            return self.make_connection()
        finally:
            self.reserved.pop(thread, None)

    def make_connection(self):
        """Make a connection, not yet dialled, that counts as lent.

        Raises MaxConnectionsError when the pool has no slot for it."""
        cdef Slots slots = self.slots
        cdef uint32_t slot
        if self.reserved and threading.get_ident() in self.reserved:
            return self._construct()
        self.check_fork()
        slots = self.slots
        slot = slots.take_empty(False)
        if slot == CP_SLOT_NONE:
            raise self._is_closed() if self.closed else self._exhausted()
        try:
            connection = self._construct()
            slots.adopt(slot, connection)
        except BaseException:
            slots.vacate(slot)
            raise
        cp_slots_set_state(&slots.cells, slot, CP_SLOT_BUSY)
        return connection

    @cython.binding(False)
    def release(self, connection):
        """Take a connection back. One that is owed a reply, has unread bytes or was
        left in a transaction, a watch or a subscription is closed first.

        A connection that is not lent by this pool is ignored, so a second release
        is harmless."""
        self.take_back(connection, not self.metrics_off())

    cdef int take_back(self, object connection, bint measured) except -1:
        cdef Slots slots
        cdef uint32_t slot
        cdef bint at_rest
        self.check_fork()
        slots = self.slots
        slot = slots.number_of(connection)
        if slot == CP_SLOT_NONE or slot >= cp_slots_used(&slots.cells):
            return 0
        # Before the slot is claimed: an error here leaves it lent, for the finaliser.
        at_rest = not measured and isinstance(connection, ConnBase) \
            and (<ConnBase>connection).pool_may_skip() \
            and slots.is_current(slot) and self.is_at_rest(connection)
        if not cp_slots_claim_mpmc(&slots.cells, slot, CP_SLOT_BUSY, CP_SLOT_RETURNING):
            return 0
        slots.came_back(slot)
        if at_rest and not slots.shrinking:
            return slots.give_back(slot, connection)
        return self.put_back(slots, slot, connection)

    cdef int take_back_fused(self, ConnBase connection) except -1:
        """take_back() for who has found may_fuse() at the checkout, and no metrics on."""
        cdef Slots slots = self.slots
        cdef uint32_t slot = connection.slot
        cdef cp_slot *cell
        if self.fork_generation == cp_fork_generation() and connection.home is slots.home:
            cell = cp_slots_at(&slots.cells, slot)
            # One that was evicted meanwhile may not be the pool's any more.
            if cell.ticket == connection.ticket and cell.generation == slots.generation \
                    and connection.session is not None and self.is_at_rest(connection) \
                    and not slots.shrinking and cp_slots_claim_mpmc(
                        &slots.cells, slot, CP_SLOT_BUSY, CP_SLOT_RETURNING):
                slots.came_back(slot)
                return slots.give_back(slot, connection)
        return self.take_back(connection, False)

    cdef bint is_at_rest(self, ConnBase connection) except -1:
        """Whether redis-py would do nothing with a connection of ours that comes back."""
        return (not connection.reconnect and connection.re_auth_token is None
                and connection.session.is_clean() and self.only_default_listener()
                and self.gates() & GATE_OWNS != 0)

    cdef int put_back(self, Slots slots, uint32_t slot, object connection) except -1:
        """Bring a connection that is being returned to rest, and pass its slot on."""
        cdef bint keep = True
        try:
            keep = self._return(connection, slots.shrinking and slots.is_too_many())
        except BaseException:
            connection.disconnect()
            raise
        finally:
            if keep:
                slots.give_back(slot, connection)
            else:
                slots.vacate(slot)
        return 0

    def _count_discarded(self):
        self.slots.discarded += 1

    def _claim_idle(self):
        """A context manager: idle connections, none of which is lent meanwhile, and those
        that are lent already."""
        return Claim(self)

    def _idle(self):
        """Idle connections, the next to be lent last; claimed ones come first."""
        cdef Slots slots = self.slots
        cdef list found = self._in_state(CP_SLOT_CLAIMED)
        for slot in slots.idle_slots():
            found.append(slots.conns[slot])
        return found

    def _lent(self):
        """Connections that are lent, or being opened or returned."""
        return (self._in_state(CP_SLOT_BUSY) + self._in_state(CP_SLOT_OPENING)
                + self._in_state(CP_SLOT_RETURNING))

    def _in_state(self, uint32_t state):
        """Connections whose slots are in one state, by slot."""
        cdef Slots slots = self.slots
        cdef list found = []
        cdef uint32_t slot
        for slot in range(<uint32_t>len(slots.refs)):
            if cp_slots_state(&slots.cells, slot) == state:
                connection = slots.connection_in(slot)
                if connection is not None:
                    found.append(connection)
        return found

    def _retire(self, connection):
        """Close one connection of this pool at its next checkout."""
        cdef uint32_t slot = self.slots.number_of(connection)
        if slot != CP_SLOT_NONE:
            cp_slots_at(&self.slots.cells, slot).generation = self.slots.generation - 1

    def _next_generation(self):
        """Close every connection at its next checkout, in O(1)."""
        self.slots.evict()

    def _stats(self):
        """What cpool.stats.PoolStats is made of, by name."""
        cdef dict stats = self.slots.stats()
        stats["dialling"] = len(self.dials.diallers)
        stats["failed_dials"] = self.dials.failed
        return stats

    def _distributions(self):
        """The histograms: name -> (counts, sum, longest)."""
        return self.slots.distributions()


cdef Gates GATES = Gates(PoolBase, (
    (GATE_LEND, ("get_connection", "release"), OWN),
    (GATE_MAKE, ("make_connection",), OWN),
    (GATE_OWNS, ("owns_connection",), FRONT),
))
