# cython: language_level=3
"""Connections: a session per socket with its reply ledger, and redis-py's verbs on it.

The classes here are bases that `cpool.connection` joins with redis-py's own. Each
verb asks first whether anybody has replaced what it would bypass (a subclass, a
patched class or instance, another parser or packer) and then leaves the work to
redis-py's method.
"""

import weakref
from time import monotonic

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.object cimport PyObject, PyObject_GenericSetAttr
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcpy

from cpool._resp cimport (
    CP_AGAIN, CP_BIG, CP_E_EOF, CP_E_INTR, CP_E_NOMEM, CP_E_PROTO, CP_E_RTIMEOUT, CP_OK,
    cp_buf_commit, cp_buf_end, cp_buf_head, cp_buf_reserve, cp_buf_room, cp_buf_size,
    cp_scan_request, cp_scan_step,
    raise_protocol_error,
)
from cpool._wire cimport (
    CP_FOREVER, CP_PEEK_CLOSED, CP_PEEK_DATA, CP_PEEK_QUIET, cp_patience_of, cp_peeked,
    cp_wire_recv, cp_wire_send, cp_wire_wait, ns_of,
)

cdef extern from "Python.h":
    bint PyExceptionInstance_Check(object o)
    unsigned long PyThread_get_thread_ident() noexcept
    int generic_delattr "PyObject_GenericSetAttr"(object o, object name, void *none) except -1

cdef extern from *:
    """
    /* Changes whenever an attribute of the type or of one of its bases changes;
     * 0 means that it is not assigned, so nothing may be cached under it. */
    static inline unsigned int cp_type_version(PyObject *o) {
        return (unsigned int)Py_TYPE(o)->tp_version_tag;
    }
    """
    unsigned int cp_type_version(PyObject *o)

cdef extern from "cp_session.h" nogil:
    const int CP_SESSION_MULTI
    const int CP_SESSION_WATCH
    const int CP_SESSION_OPEN
    const int CP_SESSION_LEAVING
    int cp_session_after(int flags, const char *name, size_t length,
                         const char *second, size_t second_len)

cdef enum:
    # How much room a recv() gets at least, and above which size a string is
    # received straight into its bytes object.
    RECV_ROOM_BYTES = 16384
    BIG_BYTES = 65536


class HandshakeMismatch(Exception):
    """The handshake that was predicted is not the one that was asked for."""


class Packed(list):
    """Packed commands that know how many they are, for the ledger."""

    __slots__ = ("commands", "chunks", "effects")


cdef object from_status(int status, int err):
    """The only place a cp_status of the wire becomes an exception."""
    from cpool import errors

    return errors.from_status(status, err)


cdef object in_use_elsewhere():
    from cpool import errors

    return errors.in_use_elsewhere()


@cython.final
cdef class Session:
    def __cinit__(self, Wire wire, Reader reader, Packer packer):
        self.wire = wire
        self.reader = reader
        self.packer = packer
        self.out = Outbox()
        self.inbox = &reader.buf
        self.scan = &reader.scan

    @property
    def owed(self):
        """How many replies are to come for what was sent."""
        return self.owed

    @owed.setter
    def owed(self, Py_ssize_t value):
        self.owed = value

    @property
    def clean(self):
        """Whether the next borrower may have it: nothing owed, unread or left open."""
        return self.is_clean()

    @property
    def uses_fd(self):
        """Whether I/O goes by the descriptor, with the GIL released."""
        return self.wire.by_fd

    @property
    def buffer_bytes(self):
        """How much memory the receive buffer holds."""
        return self.reader.buf.cap

    cdef int note(self, Outbox out) except -1:
        """Enter the command that was just encoded into the ledger."""
        return self.note_request(out.buf.data + out.name_off, out.buf.len - out.name_off)

    cdef int note_request(self, const char *data, size_t size) except -1:
        """`data` begins at the header of the command's name."""
        cdef size_t name_len = 0, second_len = 0
        cdef const char *name = header(data, &name_len)
        cdef const char *second = NULL
        self.owed += 1
        if self.flags == 0 and name_len < 4:
            return 0
        if name + name_len + 4 < data + size and name[name_len + 2] == c"$":
            second = header(name + name_len + 2, &second_len)
            if second + second_len > data + size:
                second = NULL
        self.flags = cp_session_after(self.flags, name, name_len, second, second_len)
        return 0

    cdef Outbox detach(self):
        """Take what is to be sent, so that another thread's commands find an outbox of
        their own while it goes out without the GIL."""
        cdef Outbox out = self.out
        self.out = Outbox() if self.spare is None else self.spare
        self.spare = None
        self.broken = True  # until all of it is out
        return out

    cdef int sent(self, Outbox out) except -1:
        out.clear()
        self.spare = out
        self.broken = False
        return 0

    cdef int flush(self) except -1:
        """Send what is held. After an error the session is of no more use."""
        cdef Sending sending
        cdef Outbox out
        cdef cp_status st = CP_OK
        cdef int err = 0
        if self.out.is_empty():
            return 0
        if not self.wire.by_fd:
            return self.flush_by_method()
        out = self.detach()
        lay_out(&sending, out, self.wire.idle_ns())
        self.users += 1
        try:
            while True:
                with nogil:
                    st = send_laid_out(&self.wire.raw, &sending, &err)
                if st != CP_E_INTR:
                    break
                PyErr_CheckSignals()
        finally:
            self.users -= 1
            PyMem_RawFree(sending.many)
        if st != CP_OK:
            raise from_status(st, err)
        return self.sent(out)

    cdef int flush_by_method(self) except -1:
        """The same by the socket's own method."""
        cdef Outbox out = self.detach()
        cdef size_t at = 0
        cdef int i
        cdef bytes data = out.buf.data[:out.buf.len]
        from cpool import errors

        try:
            for i in range(out.count):
                self.wire.sock.sendall(data[at:out.segments[i].upto])
                self.wire.sock.sendall(out.held[i])
                at = out.segments[i].upto
            if at < <size_t>len(data):
                self.wire.sock.sendall(data[at:] if at else data)
        except TimeoutError:
            raise errors.write_timed_out() from None
        except OSError as error:
            raise errors.write_error(error) from None
        return self.sent(out)

    cdef cp_status pump(self, Sending *sending, cp_patience *p, int *err) noexcept nogil:
        """Send what is laid out, then receive until one reply is whole: the part of
        a command without the GIL. CP_BIG: a large string comes, see fill_big()."""
        cdef cp_status st = CP_AGAIN
        cdef iovec iov
        cdef size_t got = 0
        if sending.count:
            st = send_laid_out(&self.wire.raw, sending, err)
            if st != CP_OK:
                return st
        while True:
            if cp_buf_reserve(self.inbox, RECV_ROOM_BYTES) != CP_OK:
                return CP_E_NOMEM
            iov.iov_base = cp_buf_end(self.inbox)
            iov.iov_len = cp_buf_room(self.inbox)
            st = cp_wire_recv(&self.wire.raw, &iov, 1, &got, p, err)
            if st != CP_OK:
                return st
            cp_buf_commit(self.inbox, got)
            st = cp_scan_step(self.scan, cp_buf_head(self.inbox), cp_buf_size(self.inbox))
            if st != CP_AGAIN:
                return st
            if self.scan.body and self.scan.body_len > BIG_BYTES:
                return CP_BIG

    cdef cp_status pump_by_method(self, cp_patience *p) except *:
        """The same through the socket's methods, one receive at a time."""
        cdef Reader reader = self.reader
        cdef Py_ssize_t got
        cdef cp_status st
        self.flush()
        if cp_buf_reserve(&reader.buf, RECV_ROOM_BYTES) != CP_OK:
            raise MemoryError()
        got = self.wire.recv_by_method(cp_buf_end(&reader.buf), cp_buf_room(&reader.buf), p)
        if got <= 0:
            return CP_E_EOF
        cp_buf_commit(&reader.buf, <size_t>got)
        st = reader.scan_step()
        if st == CP_AGAIN and reader.scan.body and reader.scan.body_len > BIG_BYTES:
            return CP_BIG
        return st

    cdef int fill_big(self, cp_patience *p) except -1:
        """Receive the rest of a large string where it will live, and its CR LF into
        the buffer. May be called again after a timeout."""
        cdef Reader reader = self.reader
        cdef iovec iov[2]
        cdef size_t got = 0, room
        cdef int err = 0, parts
        cdef cp_status st
        cdef char *to
        while reader.big_got < reader.big_len or cp_buf_size(&reader.buf) < 2:
            room = <size_t>len(reader.big) - reader.big_got
            if room == 0 and reader.big_got < reader.big_len:
                reader.grow_big()
                room = <size_t>len(reader.big) - reader.big_got
            if cp_buf_reserve(&reader.buf, RECV_ROOM_BYTES) != CP_OK:
                raise MemoryError()
            to = PyBytes_AS_STRING(reader.big) + reader.big_got
            parts = 0
            if room:
                iov[0].iov_base = to
                iov[0].iov_len = room
                parts = 1
            if reader.big_got + room == reader.big_len:
                iov[parts].iov_base = cp_buf_end(&reader.buf)
                iov[parts].iov_len = cp_buf_room(&reader.buf)
                parts += 1
            if self.wire.by_fd:
                with nogil:
                    st = cp_wire_recv(&self.wire.raw, iov, parts, &got, p, &err)
                if st == CP_E_INTR:
                    PyErr_CheckSignals()
                    continue
                if st != CP_OK:
                    raise from_status(st, err)
            else:
                got = self.wire.recv_by_method(<char *>iov[0].iov_base, iov[0].iov_len, p)
                if got == 0:
                    raise from_status(CP_E_EOF, 0)
            if got > room:
                cp_buf_commit(&reader.buf, got - room)
                got = room
            reader.big_got += got
        return 0

    cdef object next_reply(self, bint decode, cp_patience *p):
        """The next reply or push, waited for as long as `p` says.

        What has come in of it stays after a timeout, for the next call. Two threads
        can't read from one connection: the second gets an error, not garbage."""
        cdef Sending sending
        cdef Outbox out = None
        if self.reading:
            raise in_use_elsewhere()
        self.reading = True
        self.users += 1
        sending.count = 0
        sending.many = NULL
        try:
            if self.wire.by_fd and not self.out.is_empty() and self.reader.big is None:
                out = self.detach()
                lay_out(&sending, out, self.wire.idle_ns())
            return self.receive(decode, p, &sending, out)
        finally:
            self.reading = False
            self.users -= 1
            PyMem_RawFree(sending.many)

    cdef object receive(self, bint decode, cp_patience *p, Sending *sending, Outbox out):
        cdef Reader reader = self.reader
        cdef cp_status st = CP_AGAIN
        cdef int err = 0
        if reader.big is not None:
            st = CP_BIG
        elif cp_buf_size(&reader.buf):
            if out is not None:
                self.send_first(sending, out)
                out = None
            st = reader.scan_step()
        while st != CP_OK:
            if st == CP_BIG:
                if reader.big is None:
                    reader.begin_big()
                self.fill_big(p)
                return reader.take_big(decode)
            if st == CP_E_PROTO:
                raise_protocol_error(reader, st)
            if st == CP_E_INTR:
                PyErr_CheckSignals()
            elif st != CP_AGAIN:
                raise from_status(st, err)
            if self.wire.by_fd:
                with nogil:
                    st = self.pump(sending, p, &err)
                if out is not None and sending.count == 0:
                    self.sent(out)
                    out = None
            else:
                st = self.pump_by_method(p)
        return reader.take(decode)

    cdef int send_first(self, Sending *sending, Outbox out) except -1:
        """Send what is laid out although a reply may be at hand already."""
        cdef cp_status st = CP_E_INTR
        cdef int err = 0
        while st == CP_E_INTR:
            PyErr_CheckSignals()
            with nogil:
                st = send_laid_out(&self.wire.raw, sending, &err)
        if st != CP_OK:
            raise from_status(st, err)
        return self.sent(out)

    cdef bint has_unread(self) noexcept:
        return cp_buf_size(&self.reader.buf) != 0 or self.reader.big is not None

    cdef int close(self) except -1:
        """Let go of the descriptor, unless a thread is inside a verb: it then does."""
        if self.users == 0:
            self.wire.let_go()
        return 0

    cdef int left_or_not(self, object reply) except -1:
        """A DISCARD or UNWATCH is answered, or another command while one is to be."""
        if PyExceptionInstance_Check(reply):
            self.flags |= CP_SESSION_OPEN  # refused: what it was to end may still be
        elif self.owed == 0:
            self.flags &= ~CP_SESSION_LEAVING
        return 0

    cdef bint is_clean(self) noexcept:
        """May the next borrower have it? Nothing owed, unread, unsent or left open."""
        return (self.owed == 0 and self.flags == 0 and not self.has_unread()
                and self.out.is_empty() and not self.broken)


cdef int lay_out(Sending *sending, Outbox out, int64_t idle_ns) except -1:
    """List what goes to the wire: stretches of the buffer and, between them, the large
    arguments where they are. `many` is the caller's to free."""
    cdef iovec *iov = sending.few
    cdef size_t at = 0
    cdef int i, n = 0
    sending.many = NULL
    sending.patience = cp_patience_of(idle_ns, CP_FOREVER)
    if out.count:
        iov = sending.many = <iovec *>PyMem_RawMalloc((2 * out.count + 1) * sizeof(iovec))
        if iov == NULL:
            raise MemoryError()
    for i in range(out.count):
        iov[n].iov_base = out.buf.data + at
        iov[n].iov_len = out.segments[i].upto - at
        iov[n + 1].iov_base = <void *>out.segments[i].data
        iov[n + 1].iov_len = out.segments[i].size
        at = out.segments[i].upto
        n += 2
    if at < out.buf.len:
        iov[n].iov_base = out.buf.data + at
        iov[n].iov_len = out.buf.len - at
        n += 1
    sending.count = n
    return 0


cdef cp_status send_laid_out(cp_wire *wire, Sending *sending, int *err) noexcept nogil:
    """Send what lay_out() listed, or go on after a signal; count is 0 once all is out."""
    cdef iovec *iov = sending.many if sending.many != NULL else sending.few
    cdef cp_status st = cp_wire_send(wire, iov, sending.count, &sending.patience, err)
    if st == CP_OK:
        sending.count = 0
    return st


cdef const char *header(const char *p, size_t *size) noexcept:
    """The text behind a `$<n>CR LF` header that was written by us or scanned."""
    cdef size_t n = 0
    p += 1
    while p[0] != c"\r":
        n = n * 10 + <size_t>(p[0] - c"0")
        p += 1
    size[0] = n
    return p + 2


cdef object NEVER_GIVEN = object()
cdef object SENTINEL = None  # redis-py's own "never given", set by cpool.connection


cdef class ParserBase:
    """A parser that reads from its connection's session.

    It is redis-py's parser to who looks from outside: handlers for push frames,
    `read_response`, `can_read`. Whoever reaches for its inside (`_buffer`) gets
    redis-py's own parser at work from there on."""

    def on_connect(self, connection):
        """Begin a session on the socket the connection has just opened."""
        if self.session is not None and self.session.wire.sock is connection._sock \
                and self.session.owed == 0 and not self.session.has_unread():
            return  # begun already, and nothing was said yet
        self._sock = connection._sock
        self.encoder = connection.encoder
        self.connection = weakref.ref(connection)
        self.session = begin_session(connection, self.parse_error)
        if isinstance(connection, ConnBase):
            (<ConnBase>connection).session = self.session

    def on_disconnect(self):
        """End the session. A thread that is inside a verb keeps what it needs."""
        connection = None if self.connection is None else self.connection()
        if connection is not None and isinstance(connection, ConnBase):
            (<ConnBase>connection).send_held(self.session)
            if self.session is not None:
                self.session.close()
            if (<ConnBase>connection).session is self.session:
                (<ConnBase>connection).session = None
        self.session = None
        super(ParserBase, self).on_disconnect()

    def can_read(self, timeout=0):
        """Tell whether bytes of a reply are there, or come within `timeout` seconds.

        Raises ConnectionError when the server has closed the connection."""
        cdef Session s = self.session
        cdef cp_patience p
        if s is None:
            return super(ParserBase, self).can_read(timeout)
        if s.reading:
            return False  # another thread reads: what comes is its own
        if s.has_unread():
            return True
        s.flush()
        p = cp_patience_of(ns_of(timeout), CP_FOREVER)
        s.users += 1
        try:
            return can_read_fd(s, &p) if s.wire.by_fd else can_read_by_method(s, &p)
        finally:
            s.users -= 1

    @cython.binding(False)
    def read_response(self, disable_decoding=False, push_request=False, timeout=NEVER_GIVEN):
        """Read one reply; errors that end the connection are raised, others returned."""
        cdef Session s = self.session
        if s is None:
            return self.read_without_session(disable_decoding, push_request, timeout)
        return self.read(s, not disable_decoding, push_request, idle_of(s, timeout))

    def read_without_session(self, disable_decoding, push_request, timeout):
        if self._own_buffer is None:
            raise from_status(CP_E_EOF, 0)
        kwargs = {} if timeout is NEVER_GIVEN else {"timeout": timeout}
        if self.reads_pushes:
            kwargs["push_request"] = push_request
        return super(ParserBase, self).read_response(disable_decoding=disable_decoding, **kwargs)

    cdef object read(self, Session s, bint decode, bint push_request, int64_t idle_ns):
        """One reply of a session; pushes on the way go to their handlers."""
        cdef cp_patience p
        cdef object reply
        while True:
            p = cp_patience_of(idle_ns, CP_FOREVER)
            reply = s.next_reply(decode, &p)
            if s.reader.is_push:
                reply = self.handle_push_response(reply)
                if push_request:
                    return reply
                if self.session is not s:
                    raise from_status(CP_E_EOF, 0)
                reply = None
                continue
            s.owed -= 1
            if s.flags & CP_SESSION_LEAVING:
                s.left_or_not(reply)
            if s.owed < 0:  # nobody asked for it: it can no longer be told whose
                s.owed = 0
                s.flags |= CP_SESSION_OPEN
            if s.reader.fatal is not None:
                # No reference from the session to the error, whose traceback holds it.
                reply, s.reader.fatal = s.reader.fatal, None
                try:
                    raise reply
                finally:
                    reply = None
            return reply

    @property
    def has_session(self):
        """Whether replies come from the compiled reader at this moment."""
        return self.session is not None

    def end_session(self):
        """Leave the socket to redis-py's own code; returns the bytes that are unread."""
        cdef Session s = self.session
        connection = self.connection()
        s.flush()
        self.session = None
        if isinstance(connection, ConnBase):
            (<ConnBase>connection).session = None
        return s.reader.buf.data[s.reader.buf.pos:s.reader.buf.len]

    def __setattr__(self, name, value):
        PyObject_GenericSetAttr(self, name, value)
        if name in PARSER_VERBS:
            self.patched = is_patched(self, PARSER_VERBS)

    def __delattr__(self, name):
        generic_delattr(self, name, NULL)
        if name in PARSER_VERBS:
            self.patched = is_patched(self, PARSER_VERBS)


cdef object PARSER_VERBS = frozenset(("read_response", "can_read", "handle_push_response"))


cdef bint is_patched(object instance, object names) except -1:
    """Whether somebody has put a method of these names on the instance itself."""
    cdef dict own = instance.__dict__
    for name in own:
        if name in names:
            return True
    return False


cdef int64_t idle_of(Session s, object timeout) except -1:
    """The inactivity timeout of one read: as asked for, else the socket's own."""
    if timeout is NEVER_GIVEN or timeout is SENTINEL:
        return s.wire.idle_ns()
    return ns_of(timeout)


cdef bint can_read_fd(Session s, cp_patience *p) except -1:
    cdef char byte = 0
    cdef int err = 0
    cdef cp_status st
    cdef cp_peeked found = s.wire.peek(&byte)
    while found == CP_PEEK_QUIET and p.idle_ns != 0:
        with nogil:
            st = cp_wire_wait(&s.wire.raw, p, &err)
        if st == CP_E_RTIMEOUT:
            return False
        if st == CP_E_INTR:
            PyErr_CheckSignals()
        elif st != CP_OK:
            raise from_status(st, err)
        found = s.wire.peek(&byte)
    if found == CP_PEEK_CLOSED:
        raise from_status(CP_E_EOF, 0)
    return found == CP_PEEK_DATA


cdef bint can_read_by_method(Session s, cp_patience *p) except -1:
    """Some sockets can't be asked without reading: what comes goes to the buffer."""
    cdef cp_status st
    if p.idle_ns == 0 and not s.wire.readable_by_method():
        return False
    try:
        st = s.pump_by_method(p)
    except Exception as error:
        from cpool import errors

        if errors.is_read_timeout(error):
            return False
        raise
    if st == CP_E_EOF:
        raise from_status(CP_E_EOF, 0)
    if st == CP_BIG:
        s.reader.begin_big()
    return True


cdef Session begin_session(object connection, object make_error):
    from cpool import errors

    cdef object encoder = connection.encoder
    encoding = encoder.encoding if encoder.decode_responses else None
    reader = Reader(make_error, encoding, encoder.encoding_errors, errors.FATAL,
                    connection.max_nesting_depth, connection.max_bulk_bytes)
    return Session(Wire(connection._sock), reader, packer_of(encoder, True))


def packer_of(encoder, bint split_large=False):
    """Return a Packer that follows a connection's redis-py Encoder."""
    utf8 = encoder.encoding.lower().replace("_", "-") in ("utf-8", "utf8") \
        and encoder.encoding_errors == "strict"
    return Packer(encoder.encode, utf8, split_large)


# What compiled code bypasses when nobody has replaced it: by gate, the names and
# where in the method resolution order redis-py's own function must be found.
cdef dict ORIGINALS = {}        # name -> frozenset of redis-py's functions
cdef object GATES_BY_TYPE = weakref.WeakKeyDictionary()  # type -> (version tag, flags)
cdef object OBSERVED = frozenset((
    "send_packed_command", "check_health", "connect", "can_read", "should_reconnect",
    "re_auth", "read_response", "send_command",
))


def set_originals(functions, sentinel):
    """Tell which functions of redis-py the core may stand in for, by name, and the
    object it takes for an argument that was not given."""
    global SENTINEL
    ORIGINALS.update(functions)
    SENTINEL = sentinel


cdef bint is_original(object cls, str name, bint behind_base) except -1:
    """Whether a lookup of `name` (behind ConnBase: as super() does) ends at
    redis-py's own function or at ours."""
    cdef bint behind = not behind_base
    for base in cls.__mro__:
        if behind and name in base.__dict__:
            return base is ConnBase or base.__dict__[name] in ORIGINALS[name]
        if base is ConnBase:
            behind = True
    return False


cdef bint all_original(object cls, tuple names, bint behind_base) except -1:
    for name in names:
        if not is_original(cls, name, behind_base):
            return False
    return True


cdef int find_gates(object cls) except -1:
    cdef int flags = 0
    if all_original(cls, ("send_command", "send_packed_command"), True) and \
            is_original(cls, "send_packed_command", False):
        flags |= GATE_SEND
    if all_original(cls, ("read_response", "can_read"), True):
        flags |= GATE_READ
    if all_original(cls, ("connect", "can_read", "should_reconnect", "re_auth"), False):
        flags |= GATE_POOL
    if is_original(cls, "check_health", False):
        flags |= GATE_HEALTH
    return flags


@cython.no_gc_clear  # __dealloc__ needs retry_view; no cycle runs through our fields alone
cdef class ConnBase:
    """The compiled verbs of a connection. Not thread-safe, as redis-py's, except
    for what other threads may do to a connection: disconnect() and timeouts."""

    def __cinit__(self, *args, **kwargs):
        self.health_interval = 0
        self.next_health = 0

    def __dealloc__(self):
        self.part_from_retry()

    cdef int part_from_retry(self) except -1:
        if isinstance(self.retry_view, RetryBase):
            (<RetryBase>self.retry_view).connection = NULL
        return 0

    cdef int gates(self) except -1:
        """GATE_* of this instance; looked up again when the class has changed."""
        cdef uint32_t tag = cp_type_version(<PyObject *>self)
        if tag != 0 and tag == self.gate_tag:
            return 0 if self.patched else self.gate_flags
        cls = type(self)
        known = GATES_BY_TYPE.get(cls)
        if tag == 0 or known is None or known[0] != tag:
            known = (tag, find_gates(cls))
            GATES_BY_TYPE[cls] = known
        self.gate_tag = tag
        self.gate_flags = known[1]
        return 0 if self.patched else self.gate_flags

    def __setattr__(self, name, value):
        PyObject_GenericSetAttr(self, name, value)
        if name in OBSERVED:
            self.patched = is_patched(self, OBSERVED)

    def __delattr__(self, name):
        generic_delattr(self, name, NULL)
        if name in OBSERVED:
            self.patched = is_patched(self, OBSERVED)

    # redis-py's attributes that compiled code needs, over C fields. Deleting one
    # must work, because patching tools set, delete and set again.

    @property
    def _sock(self):
        if self.holds() and self.session is not None:
            self.flush_or_close(self.session)
        if self.sock is NEVER_GIVEN:
            raise AttributeError("_sock")
        return self.sock

    @_sock.setter
    def _sock(self, value):
        self.sock = value
        if self.session is not None and self.session.wire.sock is not value:
            self.session = None  # somebody has put another socket in

    @_sock.deleter
    def _sock(self):
        self.sock = NEVER_GIVEN

    @property
    def _parser(self):
        if self.parser is NEVER_GIVEN:
            raise AttributeError("_parser")
        return self.parser

    @_parser.setter
    def _parser(self, value):
        self.parser = value
        self.reader = value if isinstance(value, ParserBase) else None

    @_parser.deleter
    def _parser(self):
        self.parser = NEVER_GIVEN
        self.reader = None

    @property
    def retry(self):
        """The retry policy: what was assigned, joined to this connection so that a
        command it drives may be sent and answered in one go."""
        if self.inner_retry is NEVER_GIVEN:
            raise AttributeError("retry")
        if self.retry_view is None:
            self.retry_view = self._join_retry(self.inner_retry)
        return self.retry_view

    @retry.setter
    def retry(self, value):
        if isinstance(value, RetryBase):
            value = (<RetryBase>value).inner
        self.part_from_retry()
        self.inner_retry = value
        self.retry_view = None

    @retry.deleter
    def retry(self):
        self.inner_retry = NEVER_GIVEN

    @property
    def _command_packer(self):
        return self.packer

    @_command_packer.setter
    def _command_packer(self, value):
        self.packer = value

    @property
    def _should_reconnect(self):
        return self.reconnect

    @_should_reconnect.setter
    def _should_reconnect(self, bint value):
        self.reconnect = value

    @property
    def _re_auth_token(self):
        return self.re_auth_token

    @_re_auth_token.setter
    def _re_auth_token(self, value):
        self.re_auth_token = value

    @property
    def health_check_interval(self):
        return self.health_interval

    @health_check_interval.setter
    def health_check_interval(self, value):
        self.health_interval = value

    @property
    def next_health_check(self):
        return self.next_health

    @next_health_check.setter
    def next_health_check(self, value):
        self.next_health = value

    @cython.binding(False)
    def should_reconnect(self):
        """Tell whether somebody asked for a reconnect before the next use."""
        return self.reconnect

    @property
    def _session(self):
        return self.session

    # Sending

    @cython.binding(False)
    def send_command(self, *args, **kwargs):
        """Encode a command and send it, or hold it for the read that follows."""
        cdef Session s
        if (self.gates() & GATE_SEND) == 0 or type(self.packer) is not Packer:
            return super(ConnBase, self).send_command(*args, **kwargs)
        if self.script is not None or self.rehearsing:
            return self.follow_script(args)
        if self.sock is None or self.health_interval:
            self.packer.pack(*args)  # its errors come before anything is dialled or sent
        s = self.ready(kwargs.get("check_health", True) if kwargs else True)
        if s is None:
            return super(ConnBase, self).send_command(*args, **kwargs)
        s.packer.append(s.out, args)
        s.note(s.out)
        self.after_queue(s)

    def send_packed_command(self, command, check_health=True):
        """Send commands that are already encoded: a list of bytes-like objects."""
        cdef Session s
        if (self.gates() & GATE_SEND) == 0 or self.script is not None or self.rehearsing:
            return super(ConnBase, self).send_packed_command(command, check_health=check_health)
        s = self.ready(check_health)
        if s is None:
            return super(ConnBase, self).send_packed_command(command, check_health=check_health)
        if isinstance(command, str):
            command = [command]
        try:
            self.queue_packed(s, command)
        except BaseException:
            self.disconnect()
            raise
        self.after_queue(s)

    cdef Session ready(self, bint check_health):
        """The session to send on, connected and healthy; None: leave it to redis-py."""
        if self.sock is None:
            self.connect_check_health(check_health=False)
        if check_health and (self.health_interval or (self.gate_flags & GATE_HEALTH) == 0):
            if self.session is not None and self.holds():
                self.flush_or_close(self.session)
            self.check_health()
        return self.session

    cdef int queue_packed(self, Session s, object command) except -1:
        """Append packed chunks to the outbox, and what they are to the ledger."""
        cdef list chunks = [command] if isinstance(command, bytes) else list(command)
        cdef Outbox out = s.out
        if type(command) is Packed and len(command) == command.chunks:
            s.owed += command.commands
            for effect in command.effects:
                note_name(s, effect)
        elif chunks:
            note_opaque(s, chunks)
        for chunk in chunks:
            if len(chunk) > RECV_ROOM_BYTES:
                out.add_segment(chunk)
            else:
                append_bytes(out, chunk)
        return 0

    cdef bint holds(self) noexcept:
        """Whether this thread may let a send wait for the read that follows."""
        return self.holder != 0 and self.holder == PyThread_get_thread_ident()

    cdef int after_queue(self, Session s) except -1:
        return 0 if self.holds() else self.flush_or_close(s)

    cdef int send_held(self, Session s) except -1:
        """Send what this thread holds before its connection is closed: redis-py would
        have sent it already. Whether it arrives is known to nobody then."""
        if s is not None and self.holds() and not s.out.is_empty():
            try:
                s.flush()
            except Exception:
                s.broken = True
        return 0

    cdef int flush_or_close(self, Session s) except -1:
        """Send what is held; nothing that was sent in part may be used again."""
        try:
            s.flush()
        except BaseException:
            self.disconnect()
            raise
        return 0

    def pack_command(self, *args):
        """Encode one command: a list of bytes-like objects, to be sent as it is."""
        cdef list chunks = self.packer.pack(*args)
        if type(self.packer) is not Packer:
            return chunks
        return packed(chunks, 1, effects_of(args))

    def pack_commands(self, commands):
        """Encode many commands: a list of bytes-like objects, to be sent as it is."""
        cdef list effects = []
        if type(self.packer) is not Packer:
            return super(ConnBase, self).pack_commands(commands)
        commands = list(commands)
        chunks, count = (<Packer>self.packer).pack_many(commands)
        for args in commands:
            effects.extend(effects_of(args))
        return packed(chunks, count, effects)

    # Reading

    @cython.binding(False)
    def read_response(self, disable_decoding=False, *, timeout=NEVER_GIVEN,
                      disconnect_on_error=True, push_request=False):
        """Read one reply. An error reply is raised; after any other error the
        connection is closed (unless disconnect_on_error is false)."""
        cdef ParserBase parser
        cdef Session s = self.session
        cdef object reply
        if self.rehearsing:
            return self.rehearsed_reply()
        if s is None or (self.gates() & GATE_READ) == 0 or self.reader is None \
                or self.reader.patched:
            return self.read_by_redis(disable_decoding, timeout, disconnect_on_error,
                                      push_request)
        parser = self.reader
        try:
            reply = parser.read(s, not disable_decoding, push_request, idle_of(s, timeout))
        except BaseException as error:
            if disconnect_on_error or s.broken:
                self.disconnect()
            if isinstance(error, OSError):
                raise self.read_error(error) from error
            raise
        if self.health_interval:
            self.next_health = monotonic() + self.health_interval
        if PyExceptionInstance_Check(reply):
            try:
                raise reply
            finally:
                reply = None  # no reference cycle through the traceback
        return reply

    def read_by_redis(self, disable_decoding, timeout, disconnect_on_error, push_request):
        kwargs = {} if timeout is NEVER_GIVEN else {"timeout": timeout}
        if self.session is not None and not self.session.out.is_empty():
            self.flush_or_close(self.session)
        return super(ConnBase, self).read_response(
            disable_decoding=disable_decoding, disconnect_on_error=disconnect_on_error,
            push_request=push_request, **kwargs)

    def read_error(self, error):
        from cpool import errors

        return errors.read_error(error, self._host_error())

    def can_read(self, timeout=0):
        """Tell whether something can be read within `timeout` seconds.

        Connects first if need be; a closed connection raises ConnectionError."""
        if self.session is not None and not self.session.out.is_empty():
            self.flush_or_close(self.session)
        return super(ConnBase, self).can_read(timeout)

    # The handshake, see cpool.connection

    def start_rehearsal(self):
        """Note requests instead of sending them, and answer each as if all was well."""
        self.script = []
        self.rehearsing = True

    def end_rehearsal(self):
        """Return the requests that were noted."""
        script = self.script
        self.script = None
        self.rehearsing = False
        return script

    def start_script(self, requests):
        """Take these requests as good as sent: they go out together with the first."""
        cdef Session s = self.session
        for request in requests:
            append_bytes(s.out, request)
        self.script = requests
        self.script_at = 0

    def end_script(self):
        """Tell whether exactly the requests of the script were asked for."""
        script = self.script
        self.script = None
        return script is None or self.script_at == len(script)

    def follow_script(self, tuple args):
        cdef Session s = self.session
        request = b"".join((<Packer>self.packer).pack(*args))
        if self.rehearsing:
            self.script.append(request)
            return
        if self.script_at >= len(self.script) or self.script[self.script_at] != request:
            raise HandshakeMismatch()
        self.script_at += 1
        s.owed += 1

    def rehearsed_reply(self):
        """What a server says to the request before, if all is well."""
        if b"HELLO" in self.script[len(self.script) - 1][:16]:
            return {b"proto": self.protocol, "proto": self.protocol}
        return b"OK"

    # For the pool

    cdef bint pool_may_skip(self) except -1:
        """May a checkout or return do without redis-py's calls on this connection?"""
        return self.session is not None and (self.gates() & GATE_POOL) != 0

    def _can_batch(self):
        """Whether requests may be sent before redis-py has asked for them."""
        self._parser.on_connect(self)
        return (self.session is not None and self.session.wire.by_fd
                and (self.gates() & (GATE_SEND | GATE_READ)) == GATE_SEND | GATE_READ
                and type(self.packer) is Packer and self.reader is not None
                and not self.reader.patched)

    def may_settle(self):
        """Whether settle() can do what connect() and can_read() are for at a checkout."""
        return self.pool_may_skip()

    def settle(self):
        """Bring an idle connection to rest: hand out pushes that came in meanwhile.

        Returns whether it may be lent: connected, owed nothing, nothing unread."""
        cdef Session s = self.session
        cdef cp_patience p
        cdef ParserBase parser
        parser = self.reader
        if s is None or s.owed or s.flags or parser is None:
            return False
        while self.session is s and parser.can_read(0):
            p = cp_patience_of(PUSH_REST_NS, CP_FOREVER)
            reply = s.next_reply(True, &p)
            if not s.reader.is_push:
                return False
            parser.handle_push_response(reply)
        return self.session is s and s.is_clean()


def _get_host(self):
    return self._host


def _set_host(self, value):
    self._host = value


# redis-py's metrics hooks ask for it several times at each command.
host_property = property(_get_host, _set_host)

cdef int64_t PUSH_REST_NS = 50_000_000  # for the rest of a push that has begun to come


cdef class RetryBase:
    """A connection's retry policy, through which a command is sent and read at once.

    While the policy's first attempt runs, a send is held back and goes out with the
    read that follows, or before anything else happens. The first error enters the
    policy itself, as its first attempt, so that counts, backoff and callbacks are
    its own."""

    @cython.binding(False)
    def call_with_retry(self, do, fail, is_retryable=None, with_failure_count=False):
        cdef ConnBase connection
        cdef object error
        if self.connection == NULL:
            return self.by_policy(do, fail, is_retryable, with_failure_count)
        connection = <ConnBase>self.connection
        if type(self.inner).call_with_retry not in ORIGINALS["call_with_retry"] \
                or "call_with_retry" in self.inner.__dict__:
            return self.by_policy(do, fail, is_retryable, with_failure_count)
        if connection.holder or connection.session is None or connection.rehearsing \
                or not connection.session.wire.by_fd or connection.script is not None:
            return self.by_policy(do, fail, is_retryable, with_failure_count)
        try:
            return held(connection, do)
        except self.inner._supported_errors as e:
            error = e
        try:
            return self.by_policy(Replay(connection, do, error), fail, is_retryable,
                                  with_failure_count)
        finally:
            error = None

    def by_policy(self, do, fail, is_retryable, with_failure_count):
        """The wrapped policy's own call, with the arguments its version knows."""
        kwargs = {}
        if is_retryable is not None:
            kwargs["is_retryable"] = is_retryable
        if with_failure_count:
            kwargs["with_failure_count"] = True
        return self.inner.call_with_retry(do, fail, **kwargs)

    @property
    def _backoff(self):
        return self.inner._backoff

    @_backoff.setter
    def _backoff(self, value):
        self.inner._backoff = value

    @property
    def _retries(self):
        return self.inner._retries

    @_retries.setter
    def _retries(self, value):
        self.inner._retries = value

    @property
    def _supported_errors(self):
        return self.inner._supported_errors

    @_supported_errors.setter
    def _supported_errors(self, value):
        self.inner._supported_errors = value

    def __copy__(self):
        return self.inner

    def __deepcopy__(self, memo):
        from copy import deepcopy

        return deepcopy(self.inner, memo)

    def __reduce__(self):
        return self.inner.__reduce_ex__(2)


cdef object held(ConnBase connection, object do):
    """Call do() with sends held back; what is left unsent goes out at the end."""
    cdef Session s
    connection.holder = PyThread_get_thread_ident()
    try:
        result = do()
        s = connection.session
        if s is not None and not s.out.is_empty():
            connection.flush_or_close(s)
        return result
    except BaseException:
        s = connection.session
        if s is not None and not s.out.is_empty():
            connection.flush_or_close(s)
        raise
    finally:
        connection.holder = 0


@cython.internal
@cython.final
cdef class Replay:
    """An attempt whose first call raises the error that was already met."""
    cdef ConnBase connection
    cdef object do
    cdef object error

    def __cinit__(self, ConnBase connection, do, error):
        self.connection = connection
        self.do = do
        self.error = error

    def __call__(self):
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                error = None
        return held(self.connection, self.do) if self.connection.session is not None \
            else self.do()


def bind_retry(RetryBase retry, ConnBase connection, inner):
    """Join a retry object to a connection; the reference back is not counted."""
    retry.inner = inner
    retry.connection = <void *>connection
    return retry


cdef object packed(list chunks, Py_ssize_t commands, list effects):
    result = Packed(chunks)
    result.commands = commands
    result.chunks = len(chunks)
    result.effects = effects
    return result


cdef list effects_of(object args):
    """The command's words if it may do something to its session, else nothing."""
    cdef object name = args[0]
    if isinstance(name, str):
        name = name.encode()
    if not isinstance(name, bytes) or len(name) < 4:
        return []
    words = name.split() + [a.encode() if isinstance(a, str) else a for a in args[1:2]]
    second = words[1] if len(words) > 1 and isinstance(words[1], bytes) else b""
    for flags in range(CP_SESSION_OPEN):
        if session_after(flags, words[0], second) != flags:
            return [(words[0], second)]
    return []


cdef int session_after(int flags, bytes name, bytes second) except -1:
    return cp_session_after(flags, name, <size_t>len(name), second, <size_t>len(second))


cdef int note_name(Session s, tuple effect) except -1:
    s.flags = session_after(s.flags, effect[0], effect[1])
    return 0


cdef int note_opaque(Session s, list chunks) except -1:
    """Count commands that somebody else has packed, by their headers."""
    cdef bytes data = b"".join(chunks)
    cdef size_t size = <size_t>len(data), at = 0, length = 0
    cdef size_t name_len = 0, second_len = 0
    cdef const char *name = NULL
    cdef const char *second = NULL
    while at < size:
        if cp_scan_request(PyBytes_AS_STRING(data) + at, size - at, &length, &name, &name_len,
                           &second, &second_len) != CP_OK:
            s.flags |= CP_SESSION_OPEN
            return 0
        s.owed += 1
        s.flags = cp_session_after(s.flags, name, name_len, second, second_len)
        at += length
    return 0


cdef int append_bytes(Outbox out, object data) except -1:
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if cp_buf_reserve(&out.buf, <size_t>view.len) != CP_OK:
            raise MemoryError()
        memcpy(cp_buf_end(&out.buf), view.buf, <size_t>view.len)
        cp_buf_commit(&out.buf, <size_t>view.len)
    finally:
        PyBuffer_Release(&view)
    return 0
