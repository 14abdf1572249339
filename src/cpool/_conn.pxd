# cython: language_level=3
"""The bases of the connections and of their parsers. Layer 3."""

from libc.stdint cimport int64_t, uint32_t

from cpool._deadline cimport Dial
from cpool._gates cimport cp_gate
from cpool._session cimport Session


cdef class ParserBase:
    """What the parsers of `cpool.connection` are made of, beside redis-py's."""
    cdef Session session    # of the connection while it is connected
    cdef object connection  # weak reference
    cdef bint patched       # somebody has replaced a method on this instance

    cdef object read(self, Session s, bint decode, bint push_request, int64_t idle_ns,
                     bint look=*)
    cdef int account(self, Session s, object reply) except -1
    cdef int not_asked_for(self, Session s) except -1


cdef class ConnBase:
    """What the connections of `cpool.connection` are made of, beside redis-py's.

    Fields stand for redis-py's attributes of nearly the same name, which are
    properties over them."""
    cdef Session session            # None: not connected, or not by our parser
    cdef Session guarded            # the last one in which commands in flight are known,
                                    # also once it has ended
    cdef object sock                # _sock
    cdef object parser              # _parser
    cdef ParserBase reader          # the same if it is ours, else None
    cdef object inner_retry         # what was assigned to `retry`
    cdef object retry_view          # what reading `retry` gives, made on demand
    cdef object re_auth_token       # _re_auth_token
    cdef object health_interval     # health_check_interval
    cdef object next_health         # next_health_check
    cdef object packer              # _command_packer
    cdef object timeout_s           # socket_timeout
    cdef object connect_timeout_s   # socket_connect_timeout
    cdef Dial dial                  # while it is being opened under a deadline
    cdef bint reconnect             # _should_reconnect
    cdef bint patched               # an observed method was replaced on this instance
    cdef unsigned long holder       # the thread whose sends may wait for the read
                                    # that follows; 0: none
    cdef list script                # handshake: the requests that were predicted
    cdef Py_ssize_t script_at       # handshake: how many of them have been asked for
    cdef bint rehearsing            # handshake: nothing is sent, requests are noted
    cdef cp_gate gate               # GATE_*: which of its verbs nobody has replaced
    # the pool's, see _pool.pyx
    cdef object home                # the pool's slots this connection belongs to
    cdef uint32_t slot              # and its number there
    cdef uint32_t ticket            # that slot's when this connection was put into it
    cdef object dials               # the pool's Dials, asked before this connection dials

    cdef int gates(self) except -1
    cdef int part_from_retry(self) except -1
    cdef object connect_in_time(self)
    cdef object open_in_time(self, tuple args, dict kwargs)
    cdef object dial_in_time(self, Dial dial, tuple args, dict kwargs)
    cdef int begin_late(self, tuple args) except -1
    cdef object by_redis(self, object method, int stage, tuple args, dict kwargs)
    cdef Session ready(self, bint check_health)
    cdef bint holds(self) noexcept
    cdef int after_queue(self, Session s) except -1
    cdef int send_held(self, Session s) except -1
    cdef int flush_or_close(self, Session s) except -1
    cdef bint pool_may_skip(self) except -1
    cdef int note_break(self, object error) except -1
    cdef int failed(self, Session s, object error, bint disconnect) except -1
    cdef bint ends_by(self, object disconnect_on_error) except -1
    cdef int tell_indeterminate(self, Session s, object error) except -1
    cdef int put_off_health_check(self) except -1
    cdef bint may_fuse(self) except -1
    cdef bint may_begin(self) noexcept
    cdef bint health_is_due(self) except -1
    cdef object exchange(self, tuple args, bint decode, bint look)
    cdef int see_error(self, object error) except -1


cdef enum:
    GATE_SEND = 1       # send_command, send_packed_command
    GATE_READ = 2       # read_response, can_read
    GATE_POOL = 4       # what a checkout or a return of a good connection calls
    GATE_HEALTH = 8     # check_health is redis-py's
    GATE_BATCH = 16     # what a rehearsed handshake calls
    GATE_FUSE = 32      # nobody stands before our send_command and read_response
    GATE_BULK = 64      # nor before send_packed_command and pack_commands
