# cython: language_level=3
"""The session: one socket's life, its buffers and its ledger. Layer 3."""

from libc.stdint cimport int64_t, uint64_t

from cpool._deadline cimport Dial
from cpool._resp cimport Outbox, Packer, Reader, cp_buf, cp_scan, cp_status
from cpool._wire cimport Wire, cp_patience, cp_wire, iovec


cdef extern from "cp_session.h" nogil:
    const int CP_SESSION_MULTI
    const int CP_SESSION_WATCH
    const int CP_SESSION_OPEN
    const int CP_SESSION_LEAVING
    const int CP_SESSION_STREAM
    int cp_session_after(int flags, const char *name, size_t length,
                         const char *second, size_t second_len)


cdef struct Sending:
    iovec few[1]            # what is left to go out, where one stretch is all
    iovec *many             # where it is more; or NULL
    int count
    bint look               # first make sure that nothing has come in
    cp_patience patience


cdef enum:
    # A string above this size is received straight into its bytes object.
    BIG_BYTES = 65536


cdef class InFlight:
    """The commands entered since the ledger was last at zero: one, a pipeline or a
    transaction. To replay any of them is to replay all."""
    cdef object table           # judge(args) -> (name, whether it may run twice)
    cdef dict known             # what it has said of names that decide alone
    cdef list names             # of the first few
    cdef Py_ssize_t count
    cdef bint harmful           # one of them must not run twice
    cdef uint64_t sent_before, received_before  # the wire's counts when they began

    cdef int begin(self, cp_wire *wire) except -1
    cdef int add(self, tuple args) except -1


cdef class Session:
    """From connect to disconnect: everything that belongs to one socket.

    A thread inside a verb holds a reference of its own, so another thread may
    end the session at any time: the memory and the descriptor stay until the
    last user has left. Owned by the connection's borrower.
    """
    cdef Wire wire
    cdef Reader reader
    cdef cp_buf *inbox      # the reader's buffer and scanner, for use without the GIL
    cdef cp_scan *scan
    cdef Outbox out
    cdef Packer packer
    cdef Py_ssize_t owed    # the ledger: replies to come for what was sent or held
    cdef Outbox spare       # an empty one, for the next detach()
    cdef bint reading       # a thread is inside a read: the reader is its own
    cdef bint taken         # the last read has consumed a reply, whatever came of it
    cdef int users          # threads inside a verb: they need the descriptor
    cdef bint closed        # nobody is to enter any more
    cdef bint begun         # something was sent
    cdef bint broken        # a send has begun and is not known to have ended
    cdef Dial dial          # while the connection is being opened under a deadline
    # Of the verb that is going on, where there is a deadline:
    cdef int64_t began
    cdef int64_t sent_at    # when all was out; 0: it is not
    cdef int flags          # CP_SESSION_*: state the next borrower must not meet
    cdef InFlight in_flight  # None: nobody asks whether a replay is harmless

    cdef int enter(self, tuple args) except -1
    cdef int note_request(self, const char *data, size_t size) except -1
    cdef int64_t begin(self) except -1
    cdef int spend(self, int stage) except -1
    cdef object told(self, object error, int64_t deadline, int stage)
    cdef object read_failed(self, object error, int64_t deadline)
    cdef Py_ssize_t received(self) noexcept
    cdef int note_in_flight(self, object requests) except -1
    cdef bint may_have_run(self) noexcept
    cdef Outbox detach(self)
    cdef int sent(self, Outbox out) except -1
    cdef int flush(self) except -1
    cdef int flush_by_method(self, int64_t deadline) except -1
    cdef int take_it_back(self, Outbox out) except -1
    cdef int send_first(self, Sending *sending, Outbox out) except -1
    cdef cp_status pump(self, Sending *sending, cp_patience *p, int *err) noexcept nogil
    cdef cp_status pump_by_method(self, cp_patience *p) except *
    cdef int fill_big(self, cp_patience *p) except -1
    cdef object next_reply(self, bint decode, cp_patience *p, bint own_patience, bint look)
    cdef object receive(self, bint decode, cp_patience *p, Sending *sending, Outbox out)
    cdef int left_or_not(self, object reply) except -1
    cdef int close(self) except -1
    cdef int leave(self) except -1
    cdef bint has_unread(self) noexcept
    cdef bint is_clean(self) noexcept


cdef object NOT_QUIET           # the error of an exchange that has found a reply, or the
                                # end, before it began: nothing was sent

cdef object from_status(int status, int err)
cdef object in_use_elsewhere()
cdef int lay_out(Sending *sending, Outbox out, int64_t idle_ns, int64_t deadline) except -1
cdef bint can_read(Session s, cp_patience *p) except -1
cdef Session begin_session(object connection, object make_error)
cdef object packed(list chunks, list requests, Py_ssize_t commands, list effects)
cdef list effects_of(object args)
cdef list note_packed(Session s, object command)
cdef int append_packed(Session s, object command) except -1
cdef int append_bytes(Outbox out, object data) except -1
cdef int add_chunk(Outbox out, object chunk) except -1
cdef int note_name(Session s, tuple effect) except -1
cdef int note_opaque(Session s, list chunks) except -1
