# cython: language_level=3
"""Sessions: one socket's life, with its buffers and its ledger of replies.

A session sends what was queued and reads what is owed, by the descriptor with the
GIL released or by the socket's methods. It knows what commands do to a session, and
nothing of redis-py's connections.
"""

cimport cython
from cpython.buffer cimport PyBUF_READ, PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.memoryview cimport PyMemoryView_FromMemory, PyMemoryView_GET_BUFFER
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from cpool._deadline cimport DIALLING, READING, WRITING, Deadline, current, due
from cpool._resp cimport (
    CP_AGAIN, CP_BIG, CP_E_EOF, CP_E_INTR, CP_E_NOMEM, CP_E_PROTO, CP_E_RTIMEOUT, CP_OK,
    cp_buf_commit, cp_buf_end, cp_buf_head, cp_buf_reserve, cp_buf_room, cp_buf_size,
    cp_scan_request, cp_scan_step, cp_status, raise_protocol_error, Outbox, Packer, Reader,
)
from cpool._wire cimport (
    CP_FOREVER, CP_PEEK_CLOSED, CP_PEEK_DATA, CP_PEEK_QUIET, Wire, cp_clock_now,
    cp_patience, cp_patience_is_over, cp_patience_of, cp_peeked, cp_wire, cp_wire_peek,
    cp_wire_recv, cp_wire_send, cp_wire_wait, iovec,
)

cdef extern from "Python.h":
    bint PyExceptionInstance_Check(object o)

cdef enum:
    # How much room a recv() gets at least.
    RECV_ROOM_BYTES = 16384
    # How many of the commands in flight are remembered by name.
    FEW = 5


class NotQuiet(Exception):
    """The type of NOT_QUIET."""


cdef object NOT_QUIET = NotQuiet


class Packed(list):
    """Packed commands that know how many they are, for the ledger."""

    __slots__ = ("commands", "chunks", "effects", "requests")


cdef object from_status(int status, int err):
    """The only place a cp_status of the wire becomes an exception."""
    from cpool import errors

    return errors.from_status(status, err)


cdef object in_use_elsewhere():
    from cpool import errors

    return errors.in_use_elsewhere()


@cython.final
cdef class InFlight:
    def __cinit__(self, table):
        self.table = table
        self.known = table.known
        self.names = []

    cdef int begin(self, cp_wire *wire) except -1:
        self.names = []
        self.count = 0
        self.harmful = False
        self.sent_before = wire.sent_bytes
        self.received_before = wire.received_bytes
        return 0

    cdef int add(self, tuple args) except -1:
        cdef object name = args[0] if args else ""
        cdef tuple said = None
        if type(name) is str:
            said = self.known.get(name)
        if said is None:
            said = self.table.judge(args)
        self.count += 1
        if len(self.names) < FEW:
            self.names.append(said[0])
        if not said[1]:
            self.harmful = True
        return 0


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

    cdef int enter(self, tuple args) except -1:
        """Encode a command into the outbox, and what it is into the ledger."""
        cdef Outbox out = self.out
        if not self.packer.append_simple(out, args):
            args = self.packer.plain(args)
            out = self.out  # Python code may have let another thread send it
            self.packer.append(out, args)
        if self.in_flight is not None:
            self.note_in_flight((args,))
        return self.note_request(out.buf.data + out.name_off, out.buf.len - out.name_off)

    cdef int note_request(self, const char *data, size_t size) except -1:
        """`data` begins at the header of the command's name."""
        cdef size_t name_len = 0, second_len = 0
        cdef const char *name
        cdef const char *second = NULL
        if size == 0:
            return 0  # a name of no words: no server answers that
        name = header(data, &name_len)
        self.owed += 1
        if self.flags == 0 and name_len < 4:
            return 0
        if name + name_len + 4 < data + size and name[name_len + 2] == c"$":
            second = header(name + name_len + 2, &second_len)
            if second + second_len > data + size:
                second = NULL
        self.flags = cp_session_after(self.flags, name, name_len, second, second_len)
        return 0

    cdef int64_t begin(self) except -1:
        """A verb begins. Returns when it must have ended: see spend() and told()."""
        cdef int64_t deadline = due()
        if deadline != CP_FOREVER:
            self.began = self.sent_at = cp_clock_now()
        return deadline

    cdef int spend(self, int stage) except -1:
        """Account for the time of a verb under a deadline so far: in a stage, or in the
        dialling that it is part of."""
        cdef Deadline deadline = current()
        cdef int64_t now = cp_clock_now()
        if self.dial is not None:
            self.dial.settle()
        elif deadline is not None:
            if stage == READING:
                deadline.add(WRITING, self.sent_at - self.began)
                self.began = self.sent_at
            deadline.add(stage, now - self.began)
        self.began = self.sent_at = now
        return 0

    cdef object told(self, object error, int64_t deadline, int stage):
        """What to raise for the error a verb has ended with: for a timeout, if the deadline
        has passed, the deadline's own."""
        cdef Deadline struck = current()
        from cpool import errors

        if struck is None or deadline == CP_FOREVER:
            return error
        self.spend(stage)
        if cp_clock_now() < deadline or not errors.is_timeout(error):
            return error
        return struck.exceeded(DIALLING if self.dial is not None else stage,
                               self.received() if stage == READING else 0,
                               self.flags & CP_SESSION_LEAVING != 0)

    cdef object read_failed(self, object error, int64_t deadline):
        """The same where a read was to follow. A timeout of redis-py's gets a note of how far
        the reply was."""
        cdef bint sent = deadline == CP_FOREVER or self.sent_at != 0
        from cpool import errors

        error = self.told(error, deadline, READING if sent else WRITING)
        if errors.is_read_timeout(error):
            errors.note_received(error, self.received())
        return error

    cdef Py_ssize_t received(self) noexcept:
        """How many bytes have come of the next reply."""
        return <Py_ssize_t>(cp_buf_size(&self.reader.buf) + self.reader.big_got)

    cdef int note_in_flight(self, object requests) except -1:
        """Remember commands, given by their arguments, before the ledger counts them. A
        transaction is one with what was queued in it."""
        if self.owed == 0 and not self.flags & CP_SESSION_MULTI:
            self.in_flight.begin(&self.wire.raw)
        for args in requests:
            self.in_flight.add(args)
        return 0

    cdef bint may_have_run(self) noexcept:
        """Whether a replay of what is in flight could do twice what may be done once only.
        Of one command whose reply has come, be it an error that ends the session, the
        outcome is known; of many, those before that reply have run."""
        return (self.in_flight is not None and self.in_flight.harmful
                and self.wire.raw.sent_bytes != self.in_flight.sent_before
                and (self.owed > 0 or self.flags & CP_SESSION_OPEN != 0
                     or (self.taken and self.in_flight.count > 1)))

    cdef Outbox detach(self):
        """Take what is to be sent, so that another thread's commands find an outbox of
        their own while it goes out without the GIL."""
        cdef Outbox out = self.out
        if out.writing:  # by a thread that the garbage collector has made a pause
            raise in_use_elsewhere()
        self.out = Outbox() if self.spare is None else self.spare
        self.spare = None
        self.begun = True
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
        cdef int64_t deadline
        if self.out.is_empty():
            return 0
        deadline = self.begin()
        if not self.wire.by_fd:
            return self.flush_by_method(deadline)
        out = self.detach()
        lay_out(&sending, out, self.wire.idle_ns(), deadline)
        self.users += 1
        try:
            while True:
                with nogil:
                    st = send_laid_out(&self.wire.raw, &sending, &err)
                if st != CP_E_INTR:
                    break
                PyErr_CheckSignals()
        finally:
            self.leave()
            PyMem_RawFree(sending.many)
        if st != CP_OK:
            raise self.told(from_status(st, err), deadline, WRITING)
        if deadline != CP_FOREVER:
            self.spend(WRITING)
        return self.sent(out)

    cdef int flush_by_method(self, int64_t deadline) except -1:
        """The same by the socket's own method."""
        cdef Outbox out = self.detach()
        cdef size_t at = 0
        cdef int i
        cdef bytes data = out.buf.data[:out.buf.len]
        from cpool import errors

        self.users += 1
        try:
            for i in range(out.count):
                self.wire.send_by_method(data[at:out.segments[i].upto], deadline)
                self.wire.send_by_method(PyMemoryView_FromMemory(
                    <char *>out.segments[i].data, <Py_ssize_t>out.segments[i].size, PyBUF_READ),
                    deadline)
                at = out.segments[i].upto
            if at < <size_t>len(data):
                self.wire.send_by_method(data[at:] if at else data, deadline)
        except (TimeoutError, errors.Timeout):
            raise self.told(errors.write_timed_out(), deadline, WRITING) from None
        except OSError as error:
            raise errors.write_error(error) from None
        finally:
            self.leave()
        if deadline != CP_FOREVER:
            self.spend(WRITING)
        return self.sent(out)

    cdef cp_status pump(self, Sending *sending, cp_patience *p, int *err) noexcept nogil:
        """Send what is laid out, then receive until one reply is whole: the part of
        a command without the GIL. CP_BIG: a large string comes, see fill_big()."""
        cdef cp_status st = CP_AGAIN
        cdef iovec iov
        cdef size_t got = 0
        cdef char byte = 0
        if sending.look and cp_wire_peek(&self.wire.raw, &byte) != CP_PEEK_QUIET:
            return CP_AGAIN
        sending.look = False
        if sending.count:
            st = send_laid_out(&self.wire.raw, sending, err)
            if st != CP_OK:
                return st
            if p.deadline != CP_FOREVER:
                self.sent_at = cp_clock_now()
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
            if cp_patience_is_over(p):
                return CP_E_RTIMEOUT

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
        return CP_E_RTIMEOUT if st == CP_AGAIN and cp_patience_is_over(p) else st

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
                try:
                    reader.grow_big()
                except MemoryError:
                    self.broken = True  # the rest of it would be taken for replies
                    raise
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
            if cp_patience_is_over(p) and reader.big_got < reader.big_len:
                raise from_status(CP_E_RTIMEOUT, 0)
        return 0

    cdef object next_reply(self, bint decode, cp_patience *p, bint own_patience, bint look):
        """The next reply or push, waited for as long as `p` says (the socket's own
        patience, or one that is for reading only). look: raise NOT_QUIET, having sent
        nothing, if something has come in before the one command of a clean session.

        What has come in of it stays after a timeout, for the next call. Two threads
        can't read from one connection: the second gets an error, not garbage."""
        cdef Sending sending
        cdef Outbox out = None
        if self.reading:
            raise in_use_elsewhere()
        self.reading = True
        self.taken = False
        self.users += 1
        sending.count = 0
        sending.many = NULL
        sending.look = look
        try:
            if self.wire.by_fd and not self.out.is_empty() and self.reader.big is None:
                out = self.detach()
                lay_out(&sending, out, p.idle_ns if own_patience else self.wire.idle_ns(),
                        p.deadline)
                self.sent_at = 0
            return self.receive(decode, p, &sending, out)
        finally:
            self.reading = False
            self.leave()
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
                if not reader.big_has_ended():
                    self.broken = True
                self.taken = True
                return reader.take_big(decode)
            if st == CP_E_PROTO:
                self.broken = True  # what follows is in step with nothing
                raise_protocol_error(reader, st)
            if st == CP_E_INTR:
                PyErr_CheckSignals()
            elif st != CP_AGAIN:
                raise from_status(st, err)
            if self.wire.by_fd:
                with nogil:
                    st = self.pump(sending, p, &err)
                if sending.look:
                    self.take_it_back(out)
                if out is not None and sending.count == 0:
                    self.sent(out)
                    out = None
            else:
                st = self.pump_by_method(p)
        self.taken = True
        return reader.take(decode)

    cdef int take_it_back(self, Outbox out) except -1:
        """Something had come in before the one command was sent: it is as if never entered."""
        self.sent(out)
        self.owed = 0
        self.flags = 0
        raise NOT_QUIET

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
        self.sent_at = cp_clock_now()
        return self.sent(out)

    cdef bint has_unread(self) noexcept:
        return cp_buf_size(&self.reader.buf) != 0 or self.reader.big is not None

    cdef int close(self) except -1:
        """Let go of the descriptor, unless a thread is inside a verb: it then does."""
        self.closed = True
        if self.users == 0:
            self.wire.let_go()
        return 0

    cdef int leave(self) except -1:
        """A thread comes out of a verb."""
        self.users -= 1
        if self.closed and self.users == 0:
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


cdef int lay_out(Sending *sending, Outbox out, int64_t idle_ns, int64_t deadline) except -1:
    """List what goes to the wire: stretches of the buffer and, between them, the large
    arguments where they are. `many` is the caller's to free."""
    cdef iovec *iov = sending.few
    cdef size_t at = 0
    cdef int i, n = 0
    sending.many = NULL
    sending.patience = cp_patience_of(idle_ns, deadline)
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


cdef bint can_read(Session s, cp_patience *p) except -1:
    """Whether something can be read within the patience; a closed stream raises."""
    cdef bint by_method = not s.wire.by_fd
    if s.reading:
        return False  # another thread reads: what comes is its own
    s.users += 1
    s.reading = by_method  # some sockets can't be asked without reading
    try:
        return can_read_by_method(s, p) if by_method else can_read_fd(s, p)
    finally:
        if by_method:
            s.reading = False
        s.leave()


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

        if errors.is_timeout(error):
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
    cdef object sock = connection._sock
    if sock is None:
        raise from_status(CP_E_EOF, 0)  # closed by another thread since it was dialled
    encoding = encoder.encoding if encoder.decode_responses else None
    reader = Reader(make_error, encoding, encoder.encoding_errors, errors.FATAL,
                    connection.max_nesting_depth, connection.max_bulk_bytes)
    return Session(Wire(sock), reader, packer_of(encoder, True))


def packer_of(encoder, bint split_large=False):
    """Return a Packer that follows a connection's redis-py Encoder."""
    utf8 = encoder.encoding.lower().replace("_", "-") in ("utf-8", "utf8") \
        and encoder.encoding_errors == "strict"
    return Packer(encoder.encode, utf8, split_large)


cdef object packed(list chunks, list requests, Py_ssize_t commands, list effects):
    result = Packed(chunks)
    result.requests = requests
    result.commands = commands
    result.chunks = len(chunks)
    result.effects = effects
    return result


cdef bytes as_bytes(object word):
    """A command's word as bytes; nothing for what is no text (a number, say)."""
    if isinstance(word, str):
        return word.encode(errors="replace")
    return bytes(word) if isinstance(word, (bytes, bytearray, memoryview)) else b""


cdef list effects_of(object args):
    """The command's words if it may do something to its session, else nothing."""
    cdef bytes name = as_bytes(args[0])
    if len(name) < 4:
        return []
    words = name.split()
    for word in args[1:2]:
        words.append(as_bytes(word))
    second = words[1] if len(words) > 1 else b""
    for flags in range(CP_SESSION_OPEN):
        if words and session_after(flags, words[0], second) != flags:
            return [(words[0], second)]
    return []


cdef int session_after(int flags, bytes name, bytes second) except -1:
    return cp_session_after(flags, name, <size_t>len(name), second, <size_t>len(second))


cdef list note_packed(Session s, object command):
    """Enter packed chunks into the ledger; returns them as a list."""
    cdef list chunks = [command] if isinstance(command, bytes) else list(command)
    if type(command) is Packed and len(command) == command.chunks:
        if s.in_flight is not None:
            s.note_in_flight(command.requests)
        s.owed += command.commands
        for effect in command.effects:
            note_name(s, effect)
    elif chunks:
        note_opaque(s, chunks)
    return chunks


cdef int append_packed(Session s, object command) except -1:
    """Append packed chunks to the outbox, and what they are to the ledger."""
    cdef list chunks = note_packed(s, command)
    for chunk in chunks:
        if len(chunk) > RECV_ROOM_BYTES:
            add_chunk(s.out, chunk)
        else:
            append_bytes(s.out, chunk)
    return 0


cdef int add_chunk(Outbox out, object chunk) except -1:
    """Let a bytes-like object go out from where it is."""
    cdef object view = memoryview(chunk)
    if not view.c_contiguous:
        raise BufferError("memoryview: underlying buffer is not C-contiguous")
    return out.add_segment(view, <const char *>PyMemoryView_GET_BUFFER(view).buf,
                           <size_t>PyMemoryView_GET_BUFFER(view).len)


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
    if s.in_flight is not None:
        s.note_in_flight(requests_of(data))
    while at < size:
        if cp_scan_request(PyBytes_AS_STRING(data) + at, size - at, &length, &name, &name_len,
                           &second, &second_len) != CP_OK:
            s.flags |= CP_SESSION_OPEN
            return 0
        s.owed += 1
        s.flags = cp_session_after(s.flags, name, name_len, second, second_len)
        at += length
    return 0


def requests_of(bytes data):
    """The arguments of commands that are packed; () for what can't be taken apart."""
    cdef size_t at = 0, length = 0, size = <size_t>len(data)
    cdef size_t name_len = 0, second_len = 0
    cdef const char *name = NULL
    cdef const char *second = NULL
    requests = []
    while at < size:
        if cp_scan_request(PyBytes_AS_STRING(data) + at, size - at, &length, &name, &name_len,
                           &second, &second_len) != CP_OK:
            return [*requests, ()]
        requests.append(words_of(data[at:at + length]))
        at += length
    return requests


cdef tuple words_of(bytes request):
    """The words of one packed command that was scanned."""
    cdef list words = []
    cdef Py_ssize_t end, size, at = request.find(b"\n") + 1
    while at < len(request):
        end = request.find(b"\r\n", at)
        size = int(request[at + 1:end])
        words.append(request[end + 2:end + 2 + size])
        at = end + size + 4
    return tuple(words)


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
