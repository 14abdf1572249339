# cython: language_level=3
"""A connection's compiled half: the session (one socket's life), the base of the
parsers, of the connections and of their retry object. Layer 3."""

from libc.stdint cimport int64_t, uint32_t

from cpool._resp cimport Outbox, Packer, Reader, cp_buf, cp_scan, cp_status
from cpool._wire cimport Wire, cp_patience, cp_wire, iovec


cdef struct Sending:
    iovec few[1]            # what is left to go out, where one stretch is all
    iovec *many             # where it is more; or NULL
    int count
    cp_patience patience


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
    cdef int users          # threads inside a verb: they need the descriptor
    cdef bint broken        # a send has begun and is not known to have ended
    cdef int flags          # CP_SESSION_*: state the next borrower must not meet

    cdef int note(self, Outbox out) except -1
    cdef int note_request(self, const char *data, size_t size) except -1
    cdef Outbox detach(self)
    cdef int sent(self, Outbox out) except -1
    cdef int flush(self) except -1
    cdef int flush_by_method(self) except -1
    cdef int send_first(self, Sending *sending, Outbox out) except -1
    cdef cp_status pump(self, Sending *sending, cp_patience *p, int *err) noexcept nogil
    cdef cp_status pump_by_method(self, cp_patience *p) except *
    cdef int fill_big(self, cp_patience *p) except -1
    cdef object next_reply(self, bint decode, cp_patience *p)
    cdef object receive(self, bint decode, cp_patience *p, Sending *sending, Outbox out)
    cdef int left_or_not(self, object reply) except -1
    cdef int close(self) except -1
    cdef bint has_unread(self) noexcept
    cdef bint is_clean(self) noexcept


cdef class ParserBase:
    """What the parsers of `cpool.connection` are made of, beside redis-py's."""
    cdef Session session    # of the connection while it is connected
    cdef object connection  # weak reference
    cdef bint patched       # somebody has replaced a method on this instance

    cdef object read(self, Session s, bint decode, bint push_request, int64_t idle_ns)


cdef class ConnBase:
    """What the connections of `cpool.connection` are made of, beside redis-py's.

    Fields stand for redis-py's attributes of nearly the same name, which are
    properties over them."""
    cdef Session session            # None: not connected, or not by our parser
    cdef object sock                # _sock
    cdef object parser              # _parser
    cdef ParserBase reader          # the same if it is ours, else None
    cdef object inner_retry         # what was assigned to `retry`
    cdef object retry_view          # what reading `retry` gives, made on demand
    cdef object re_auth_token       # _re_auth_token
    cdef object health_interval     # health_check_interval
    cdef object next_health         # next_health_check
    cdef object packer              # _command_packer
    cdef bint reconnect             # _should_reconnect
    cdef bint patched               # an observed method was replaced on this instance
    cdef unsigned long holder       # the thread whose sends may wait for the read
                                    # that follows; 0: none
    cdef list script                # handshake: the requests that were predicted
    cdef Py_ssize_t script_at       # handshake: how many of them have been asked for
    cdef bint rehearsing            # handshake: nothing is sent, requests are noted
    cdef uint32_t gate_tag          # the type's version when gate_flags was found
    cdef int gate_flags             # GATE_*: which of its verbs nobody has replaced
    # the pool's, see _pool.pyx
    cdef object home                # the pool's slots this connection belongs to
    cdef uint32_t slot              # and its number there

    cdef int gates(self) except -1
    cdef int part_from_retry(self) except -1
    cdef Session ready(self, bint check_health)
    cdef bint holds(self) noexcept
    cdef int queue_packed(self, Session s, object command) except -1
    cdef int after_queue(self, Session s) except -1
    cdef int send_held(self, Session s) except -1
    cdef int flush_or_close(self, Session s) except -1
    cdef bint pool_may_skip(self) except -1


cdef class RetryBase:
    """What the retry object of a connection is made of, beside redis-py's."""
    cdef object inner       # the Retry that decides
    cdef void *connection   # borrowed; NULL once the connection is gone


cdef enum:
    GATE_SEND = 1       # send_command, send_packed_command
    GATE_READ = 2       # read_response, can_read
    GATE_POOL = 4       # what a checkout or a return of a good connection calls
    GATE_HEALTH = 8     # check_health is redis-py's
