# cython: language_level=3
"""Connections and parsers: redis-py's verbs on a session.

The classes here are bases that `cpool.connection` joins with redis-py's own. Each
verb asks first whether anybody has replaced what it would bypass (a subclass, a
patched class or instance, another parser or packer) and then leaves the work to
redis-py's method.
"""

import weakref
from time import monotonic

cimport cython
from cpython.object cimport PyObject_GenericSetAttr
from libc.stdint cimport int64_t

from cpool._deadline cimport (
    BEFORE, DIALLING, READING, WRITING, Deadline, Dial, any_in_force, check, current, due,
)
from cpool._gates cimport BEHIND, FRONT, OWN, Gates, gates_of, generic_delattr, is_patched
from cpool._resp cimport CP_E_EOF, Packer
from cpool._session cimport (
    CP_SESSION_LEAVING, CP_SESSION_OPEN, CP_SESSION_STREAM, NOT_QUIET, InFlight, append_bytes,
    append_packed, begin_session, can_read,
    from_status, packed, effects_of, note_packed,
)
from cpool._wire cimport CP_FOREVER, cp_clock_now, cp_patience, cp_patience_of, ns_of

cdef extern from "Python.h":
    bint PyExceptionInstance_Check(object o)
    unsigned long PyThread_get_thread_ident() noexcept


class HandshakeMismatch(Exception):
    """The handshake that was predicted is not the one that was asked for."""


cdef object NEVER_GIVEN = object()
cdef object NO_INTERVAL = 0  # Python's own zero: to be told from others by identity
cdef object JOINED_RETRY = None  # the base of what _join_retry() makes
cdef bint READS_WITH_TIMEOUT = False
cdef object SENTINEL = None  # redis-py's own "never given", set by cpool.connection
cdef object READ_ONLY = None  # redis-py's error of a server that is no master, set likewise


cdef object given(object value, str name):
    """The value of an attribute, unless it was deleted."""
    if value is NEVER_GIVEN:
        raise AttributeError(name)
    return value


cdef class ParserBase:
    """A parser that reads from its connection's session.

    It is redis-py's parser to who looks from outside: handlers for push frames,
    `read_response`, `can_read`. Whoever reaches for its inside (`_buffer`) gets
    redis-py's own parser at work from there on."""

    def on_connect(self, connection):
        """Begin a session on the socket the connection has just opened."""
        if self.session is not None and self.session.wire.sock is connection._sock \
                and not self.session.begun and not self.session.has_unread():
            return  # begun already, and nothing was said yet
        self._sock = connection._sock
        self.encoder = connection.encoder
        self.connection = weakref.ref(connection)
        self.session = begin_session(
            connection, error_maker(self.parse_error, self.connection))
        if isinstance(connection, ConnBase):
            (<ConnBase>connection).session = self.session
            self.session.dial = (<ConnBase>connection).dial

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
        cdef bint found
        if s is None:
            return super(ParserBase, self).can_read(timeout)
        if s.reading:
            return False  # another thread reads: what comes is its own
        if s.has_unread():
            return True
        s.flush()
        p = cp_patience_of(ns_of(timeout), s.begin())
        found = can_read(s, &p)
        if p.deadline != CP_FOREVER:
            s.spend(READING)
            if not found:
                check(READING)
        return found

    @cython.binding(False)
    def read_response(self, disable_decoding=False, push_request=False, timeout=NEVER_GIVEN):
        """Read one reply; errors that end the connection are raised, others returned."""
        cdef Session s = self.session
        if s is None:
            return self.read_without_session(disable_decoding, push_request, timeout)
        return self.read(s, not disable_decoding, push_request, idle_of(timeout))

    def read_without_session(self, disable_decoding, push_request, timeout):
        if self._own_buffer is None:
            raise from_status(CP_E_EOF, 0)
        kwargs = timeout_argument(timeout)
        if self.reads_pushes:
            kwargs["push_request"] = push_request
        return super(ParserBase, self).read_response(disable_decoding=disable_decoding, **kwargs)

    cdef object read(self, Session s, bint decode, bint push_request, int64_t idle_ns,
                     bint look=False):
        """One reply of a session; pushes on the way go to their handlers. idle_ns: the
        inactivity timeout, -1 for the socket's own. look: see Session.next_reply()."""
        cdef cp_patience p
        cdef object reply
        cdef bint own = idle_ns < 0
        cdef int64_t deadline = s.begin()
        if own:
            idle_ns = s.wire.idle_ns()
        while True:
            p = cp_patience_of(idle_ns, deadline)
            try:
                reply = s.next_reply(decode, &p, own, look)
                look = False
            except BaseException as error:
                if s.taken and not s.reader.is_push and s.owed:
                    s.owed -= 1  # it has come, though no object could be made of it
                told = s.read_failed(error, deadline)
                if told is not error:
                    raise told from None
                raise
            if deadline != CP_FOREVER:
                s.spend(READING)
            if s.reader.is_push:
                reply = self.handle_push_response(reply)
                if push_request:
                    return reply
                if self.session is not s:
                    raise from_status(CP_E_EOF, 0)
                reply = None
                continue
            if s.owed > 0 and s.flags == 0 and s.reader.fatal is None:
                s.owed -= 1
            else:
                self.account(s, reply)
            return reply

    cdef int account(self, Session s, object reply) except -1:
        """Enter a reply into the ledger; raise the error in it that ends the connection."""
        s.owed -= 1
        if s.flags & CP_SESSION_LEAVING:
            s.left_or_not(reply)
        if s.owed < 0:
            s.owed = 0
            self.not_asked_for(s)
        if s.reader.fatal is not None:
            # No reference from the session to the error, whose traceback holds it.
            reply, s.reader.fatal = s.reader.fatal, None
            try:
                raise reply
            finally:
                reply = None
        return 0

    cdef int not_asked_for(self, Session s) except -1:
        """A reply to nothing the ledger knows of can't be told whose it is, unless
        commands are sent past the ledger by an override that wants it so."""
        connection = self.connection()
        if not isinstance(connection, ConnBase) \
                or (<ConnBase>connection).gates() & GATE_SEND:
            s.flags |= CP_SESSION_OPEN
        return 0

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
        unread = s.reader.buf.data[s.reader.buf.pos:s.reader.buf.len]
        if s.reader.big is not None:  # a large string is under way: as it came in
            begun = bytes(s.reader.big)[:s.reader.big_got]
            unread = b"$%d\r\n" % s.reader.big_len + begun + unread
        return unread

    def __setattr__(self, name, value):
        PyObject_GenericSetAttr(self, name, value)
        if name in PARSER_VERBS:
            self.patched = is_patched(self, PARSER_VERBS)

    def __delattr__(self, name):
        generic_delattr(self, name, NULL)
        if name in PARSER_VERBS:
            self.patched = is_patched(self, PARSER_VERBS)


cdef object PARSER_VERBS = frozenset(("read_response", "can_read", "handle_push_response"))


cdef dict timeout_argument(object timeout):
    """What redis-py's own readers are to be given of it."""
    if timeout is NEVER_GIVEN or timeout is SENTINEL or not READS_WITH_TIMEOUT:
        return {}
    return {"timeout": timeout}


cdef bint is_break(object error) except -1:
    from cpool import errors

    return errors.is_break(error)


@cython.internal
@cython.final
cdef class ErrorMaker:
    """What makes exceptions of error replies: redis-py's parse_error, with an eye on those
    that mean that the pool's other connections are of no use either."""
    cdef object parse_error
    cdef object connection      # weak reference

    def __call__(self, text):
        error = self.parse_error(text)
        if READ_ONLY is not None and isinstance(error, READ_ONLY):
            connection = self.connection()
            if isinstance(connection, ConnBase) and (<ConnBase>connection).dials is not None:
                (<ConnBase>connection).dials.note_read_only(connection)
        return error


cdef object error_maker(object parse_error, object connection):
    cdef ErrorMaker made = ErrorMaker.__new__(ErrorMaker)
    made.parse_error = parse_error
    made.connection = connection
    return made


cdef int clear_frames(object traceback) except -1:
    """Forget the local variables of the frames that an error has come through."""
    while traceback is not None:
        try:
            traceback.tb_frame.clear()
        except RuntimeError:
            pass  # it is running
        traceback = traceback.tb_next
    return 0


cdef int64_t idle_of(object timeout) except -2:
    """The inactivity timeout of one read: as asked for; -1: the socket's own."""
    return -1 if timeout is NEVER_GIVEN or timeout is SENTINEL else ns_of(timeout)


# What a rehearsed handshake calls: whoever has replaced one would see it twice.
cdef tuple HANDSHAKE = (
    "send_command", "send_packed_command", "read_response",
    "activate_maint_notifications_handling_if_enabled", "_enable_maintenance_notifications",
)
cdef object OBSERVED = frozenset((
    "send_packed_command", "check_health", "connect", "can_read", "should_reconnect",
    "re_auth", "read_response", "send_command", "pack_commands",
))


def add_own(name, function):
    """Tell of a method of our own in a class above that may be stood in for: what it does
    besides, compiled code does as well."""
    GATES.originals[name] = GATES.originals[name] | {function}
    GATES.own[name] = frozenset((function,))


def set_originals(functions, sentinel, joined_retry, bint reads_with_timeout, read_only):
    """Tell which functions of redis-py the core may stand in for, by name, the object
    it takes for an argument that was not given, the class of the joined retries, whether
    its read_response() takes a timeout (since redis-py 8), and its READONLY error."""
    global SENTINEL, JOINED_RETRY, READS_WITH_TIMEOUT, READ_ONLY
    READS_WITH_TIMEOUT = reads_with_timeout
    READ_ONLY = read_only
    GATES.originals.update(functions)
    SENTINEL = sentinel
    JOINED_RETRY = joined_retry


@cython.no_gc_clear  # __dealloc__ needs retry_view; no cycle runs through our fields alone
cdef class ConnBase:
    """The compiled verbs of a connection. Not thread-safe, as redis-py's, except
    for what other threads may do to a connection: disconnect() and timeouts."""

    def __cinit__(self, *args, **kwargs):
        self.health_interval = NO_INTERVAL
        self.next_health = 0

    def __dealloc__(self):
        self.part_from_retry()

    cdef int part_from_retry(self) except -1:
        if JOINED_RETRY is not None and isinstance(self.retry_view, JOINED_RETRY):
            self.retry_view.part()
        return 0

    cdef int gates(self) except -1:
        """GATE_* of this instance; looked up again when the class has changed."""
        return 0 if self.patched else gates_of(GATES, self, &self.gate)

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
        return given(self.sock, "_sock")

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
        return given(self.parser, "_parser")

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
        if self.retry_view is None:
            self.retry_view = self._join_retry(given(self.inner_retry, "retry"))
        return self.retry_view

    @retry.setter
    def retry(self, value):
        if JOINED_RETRY is not None and isinstance(value, JOINED_RETRY):
            value = value.joined_inner
        self.part_from_retry()
        self.inner_retry = value
        self.retry_view = None

    @retry.deleter
    def retry(self):
        self.part_from_retry()
        self.inner_retry = NEVER_GIVEN
        self.retry_view = None

    @property
    def _command_packer(self):
        return given(self.packer, "_command_packer")

    @_command_packer.setter
    def _command_packer(self, value):
        self.packer = value

    @_command_packer.deleter
    def _command_packer(self):
        self.packer = NEVER_GIVEN

    @property
    def socket_timeout(self):
        """Seconds; less while the socket is made under a deadline that leaves less."""
        timeout_s = given(self.timeout_s, "socket_timeout")
        return timeout_s if self.dial is None else self.dial.shortened(timeout_s)

    @socket_timeout.setter
    def socket_timeout(self, value):
        self.timeout_s = value

    @socket_timeout.deleter
    def socket_timeout(self):
        self.timeout_s = NEVER_GIVEN

    @property
    def socket_connect_timeout(self):
        """The same for connecting. redis-py asks for it anew at each address of a host."""
        timeout_s = given(self.connect_timeout_s, "socket_connect_timeout")
        return timeout_s if self.dial is None else self.dial.shortened(timeout_s)

    @socket_connect_timeout.setter
    def socket_connect_timeout(self, value):
        self.connect_timeout_s = value

    @socket_connect_timeout.deleter
    def socket_connect_timeout(self):
        self.connect_timeout_s = NEVER_GIVEN

    # Where newer versions of redis-py keep the two.

    @property
    def _socket_timeout(self):
        return given(self.timeout_s, "_socket_timeout")

    @_socket_timeout.setter
    def _socket_timeout(self, value):
        self.timeout_s = value

    @_socket_timeout.deleter
    def _socket_timeout(self):
        self.timeout_s = NEVER_GIVEN

    @property
    def _socket_connect_timeout(self):
        return given(self.connect_timeout_s, "_socket_connect_timeout")

    @_socket_connect_timeout.setter
    def _socket_connect_timeout(self, value):
        self.connect_timeout_s = value

    @_socket_connect_timeout.deleter
    def _socket_connect_timeout(self):
        self.connect_timeout_s = NEVER_GIVEN

    @property
    def _should_reconnect(self):
        return self.reconnect

    @_should_reconnect.setter
    def _should_reconnect(self, bint value):
        self.reconnect = value

    @_should_reconnect.deleter
    def _should_reconnect(self):
        self.reconnect = False

    @property
    def _re_auth_token(self):
        return given(self.re_auth_token, "_re_auth_token")

    @_re_auth_token.setter
    def _re_auth_token(self, value):
        self.re_auth_token = value

    @_re_auth_token.deleter
    def _re_auth_token(self):
        self.re_auth_token = NEVER_GIVEN

    @property
    def health_check_interval(self):
        return given(self.health_interval, "health_check_interval")

    @health_check_interval.setter
    def health_check_interval(self, value):
        self.health_interval = value

    @health_check_interval.deleter
    def health_check_interval(self):
        self.health_interval = NEVER_GIVEN

    @property
    def next_health_check(self):
        return given(self.next_health, "next_health_check")

    @next_health_check.setter
    def next_health_check(self, value):
        self.next_health = value

    @next_health_check.deleter
    def next_health_check(self):
        self.next_health = NEVER_GIVEN

    @cython.binding(False)
    def should_reconnect(self):
        """Tell whether somebody asked for a reconnect before the next use."""
        return self.reconnect

    @property
    def _session(self):
        return self.session

    @property
    def _is_dirty(self):
        """Whether the next borrower may not have it as it is: a reply is owed, bytes are
        unread, a session state was left open, or nobody can tell, because redis-py's
        own parser has taken over."""
        if self.session is None:
            # redis-py's tests have sockets that are none.
            return self.reader is not None and hasattr(self.sock, "shutdown")
        return not self.session.is_clean()

    # Dialling

    def connect_check_health(self, *args, **kwargs):
        """Open the connection and shake hands, as redis-py does: when the pool's other
        dials leave room, and before a deadline."""
        if self.dials is None or self.sock is not None:
            return self.open_in_time(args, kwargs)
        with self.dials.turn(self):
            return self.open_in_time(args, kwargs)

    cdef object open_in_time(self, tuple args, dict kwargs):
        cdef Deadline deadline = current() if any_in_force() else None
        if deadline is None or self.dial is not None or self.sock is not None:
            return super(ConnBase, self).connect_check_health(*args, **kwargs)
        deadline.check(DIALLING)
        return self.dial_in_time(Dial(deadline), args, kwargs)

    cdef object dial_in_time(self, Dial dial, tuple args, dict kwargs):
        self.dial = dial
        try:
            return super(ConnBase, self).connect_check_health(*args, **kwargs)
        finally:
            dial.settle()
            self.dial = None
            if self.session is not None:
                self.session.dial = None

    def _connect(self):
        """Make the socket, as redis-py does. The error of one that can't be made holds on to
        nothing: in redis-py's it is a local variable of a frame of its own traceback, a cycle
        that would keep a connection which is dropped later, and its slot with it."""
        try:
            return self.connect_in_time()
        except Exception as error:
            clear_frames(error.__traceback__)
            if error.__cause__ is not None:
                clear_frames(error.__cause__.__traceback__)
            raise

    cdef object connect_in_time(self):
        """What a deadline has left of the socket's timeouts is for this only."""
        cdef Dial dial = self.dial
        if dial is None:
            return super(ConnBase, self)._connect()
        dial.connecting = True
        try:
            sock = super(ConnBase, self)._connect()
        except OSError as error:
            dial.settle()
            if dial.deadline.left_ns() <= 0:
                raise dial.deadline.exceeded(DIALLING) from error
            raise
        finally:
            dial.connecting = False
        if dial.shortened_any:
            sock.settimeout(self.socket_timeout)
        return sock

    # Sending

    cdef int begin_late(self, tuple args) except -1:
        """Raise if a deadline has passed before a command begins."""
        cdef Deadline deadline = current()
        if deadline is None or deadline.left_ns() > 0:
            return 0
        raise deadline.exceeded(BEFORE if self.dial is None else DIALLING, 0,
                                len(args) == 1 and args[0] == "UNWATCH")

    @cython.binding(False)
    def send_command(self, *args, **kwargs):
        """Encode a command and send it, or hold it for the read that follows."""
        cdef Session s
        if any_in_force():
            self.begin_late(args)
        if (self.gates() & GATE_SEND) == 0 or type(self.packer) is not Packer:
            return super(ConnBase, self).send_command(*args, **kwargs)
        if self.script is not None or self.rehearsing:
            return self.follow_script(args)
        if self.sock is None or self.health_is_due():
            self.packer.pack(*args)  # its errors come before anything is dialled or sent
        s = self.ready(kwargs.get("check_health", True) if kwargs else True)
        if s is None:
            return super(ConnBase, self).send_command(*args, **kwargs)
        s.enter(args)
        self.after_queue(s)

    def send_packed_command(self, command, check_health=True):
        """Send commands that are already encoded: a list of bytes-like objects."""
        cdef Session s
        if any_in_force():
            self.begin_late(())
        if (self.gates() & GATE_SEND) == 0 or self.script is not None or self.rehearsing:
            return self.send_by_redis(command, check_health)
        s = self.ready(check_health)
        if s is None:
            return self.send_by_redis(command, check_health)
        try:
            append_packed(s, [command] if isinstance(command, str) else command)
        except BaseException:
            self.disconnect()
            raise
        self.after_queue(s)

    def send_by_redis(self, command, check_health):
        """Send through redis-py's method, which somebody wants to see or has replaced;
        the ledger is told all the same."""
        if self.sock is None:
            self.connect_check_health(check_health=False)
        if check_health:
            self.check_health()  # it may dial again: the ledger is the new session's then
        if not isinstance(command, (str, bytes, list)):
            command = list(command)
        s = self.session if self.session is not None else self.guarded
        if s is not None and not isinstance(command, str):
            note_packed(s, command)
            if s.in_flight is not None:
                s.wire.raw.sent_bytes += <size_t>sum(map(len, command))
        try:
            return self.by_redis(super(ConnBase, self).send_packed_command, WRITING, (command,),
                                 {"check_health": False})
        except AttributeError:
            if self.sock is not None:
                raise
            raise from_status(CP_E_EOF, 0) from None  # closed by another thread meanwhile
        except Exception as error:
            self.tell_indeterminate(s, error)
            raise

    cdef Session ready(self, bint check_health):
        """The session to send on, connected and healthy; None: leave it to redis-py."""
        if self.sock is None:
            self.connect_check_health(check_health=False)
        if check_health and (self.health_interval or (self.gate.flags & GATE_HEALTH) == 0):
            if self.session is not None and self.holds():
                self.flush_or_close(self.session)
            self.check_health()
        return self.session

    cdef bint holds(self) noexcept:
        """Whether this thread may let a send wait for the read that follows."""
        return self.holder != 0 and self.holder == PyThread_get_thread_ident()

    cdef int after_queue(self, Session s) except -1:
        if s.flags & CP_SESSION_STREAM:
            self.flush_or_close(s)
            self._parser._buffer  # a dump that is no RESP: leave it to redis-py's parser
            return 0
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
        except BaseException as error:
            self.disconnect()
            self.note_break(error)
            self.tell_indeterminate(s, error)
            raise
        return 0

    cdef int note_break(self, object error) except -1:
        """Tell the pool of a connection that somebody else has ended."""
        if self.dials is not None and is_break(error):
            self.dials.note_break(self)
        return 0

    @property
    def _dials(self):
        return self.dials

    def pack_command(self, *args):
        """Encode one command: a list of bytes-like objects, to be sent as it is."""
        cdef list chunks = self.packer.pack(*args)
        if type(self.packer) is not Packer:
            return chunks
        return packed(chunks, [args], 1, effects_of(args))

    def pack_commands(self, commands):
        """Encode many commands: a list of bytes-like objects, to be sent as it is."""
        cdef list effects = []
        if type(self.packer) is not Packer:
            return super(ConnBase, self).pack_commands(commands)
        commands = list(commands)
        chunks, count = (<Packer>self.packer).pack_many(commands)
        for args in commands:
            effects.extend(effects_of(args))
        return packed(chunks, commands, count, effects)

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
            reply = parser.read(s, not disable_decoding, push_request, idle_of(timeout))
        except BaseException as error:
            self.failed(s, error, self.ends_by(disconnect_on_error))
            raise
        self.put_off_health_check()
        if PyExceptionInstance_Check(reply):
            try:
                raise reply
            finally:
                reply = None  # no reference cycle through the traceback
        return reply

    cdef int failed(self, Session s, object error, bint disconnect) except -1:
        """What redis-py does when a read has failed: close, and put the error in words."""
        cdef object told = error
        cdef bint ends = disconnect or s.broken
        if ends:
            self.disconnect()
            self.note_break(error)
        if isinstance(error, OSError):
            told = self.read_error(error)
            told.__cause__ = error
        if ends:
            self.tell_indeterminate(s, told)
        if told is not error:
            raise told
        return 0

    cdef bint ends_by(self, object disconnect_on_error) except -1:
        """Whether an error of a read ends the connection. None is redis-py's sentinel
        connection where nothing was said: it leaves that to who asked for the command,
        unless there may be nothing left to ask."""
        return disconnect_on_error or (disconnect_on_error is None and self.guarded is not None)

    cdef int tell_indeterminate(self, Session s, object error) except -1:
        """Raise IndeterminateResultError in the place of the error that has ended a session
        if nobody is to try again what is in flight."""
        cdef InFlight unknown
        from cpool import errors

        if s is None or not s.may_have_run() or not errors.leaves_unknown(error):
            return 0
        unknown = s.in_flight
        raise errors.indeterminate(
            unknown.names, unknown.count, s.wire.raw.sent_bytes - unknown.sent_before,
            s.wire.raw.received_bytes - unknown.received_before) from error

    cdef int put_off_health_check(self) except -1:
        if self.health_interval is not NO_INTERVAL and self.health_interval:
            self.next_health = monotonic() + self.health_interval
        return 0

    cdef bint may_fuse(self) except -1:
        """Whether a command may be sent and read without any of redis-py's calls."""
        cdef int needed = GATE_SEND | GATE_READ | GATE_POOL | GATE_HEALTH | GATE_FUSE
        return (self.session is not None and (self.gates() & needed) == needed
                and self.reader is not None and not self.reader.patched
                and type(self.packer) is Packer and self.script is None
                and not self.rehearsing)

    cdef bint may_begin(self) noexcept:
        """Whether nothing is under way: the next reply will be to what is sent next."""
        cdef Session s = self.session
        return (s is not None and s.owed == 0 and not s.has_unread() and s.out.is_empty()
                and not s.broken)

    cdef bint health_is_due(self) except -1:
        if self.health_interval is NO_INTERVAL or not self.health_interval:
            return False
        return monotonic() > self.next_health

    cdef object exchange(self, tuple args, bint decode, bint look):
        """Send a command and return its reply; an error reply is returned, not raised.
        After any other error the connection is closed, but for NOT_QUIET, which comes
        only if asked to look. For who may_fuse()."""
        cdef Session s = self.session
        cdef ParserBase parser = self.reader
        cdef object reply
        if s is None or parser is None:
            raise from_status(CP_E_EOF, 0)  # closed by another thread meanwhile
        s.enter(args)
        if s.flags & CP_SESSION_STREAM:
            self.after_queue(s)
            return self.read_by_redis(not decode, NEVER_GIVEN, True, False)
        try:
            reply = parser.read(s, decode, False, -1, look)
        except NOT_QUIET:
            raise
        except BaseException as error:
            self.failed(s, error, True)
            raise
        self.put_off_health_check()
        if PyExceptionInstance_Check(reply):
            self.see_error(reply)
        return reply

    cdef int see_error(self, object error) except -1:
        """Look at an error reply that no read_response() is going to raise."""
        if READ_ONLY is not None and isinstance(error, READ_ONLY):
            self._met_read_only()
        return 0

    def _met_read_only(self):
        """A READONLY has come. What is to be connected to a master raises another error."""

    def read_by_redis(self, disable_decoding, timeout, disconnect_on_error, push_request):
        cdef Session s = self.session if self.session is not None else self.guarded
        kwargs = timeout_argument(timeout)
        if self.session is not None and not self.session.out.is_empty():
            self.flush_or_close(self.session)
        kwargs.update(disable_decoding=disable_decoding, push_request=push_request,
                      disconnect_on_error=disconnect_on_error)
        try:
            if self.session is not None:  # it sees to deadlines itself
                return super(ConnBase, self).read_response(**kwargs)
            return self.by_redis(super(ConnBase, self).read_response, READING, (), kwargs)
        except Exception as error:
            if self.ends_by(disconnect_on_error):
                self.tell_indeterminate(s, error)
            raise

    cdef object by_redis(self, object method, int stage, tuple args, dict kwargs):
        """Let redis-py use the socket itself. What a deadline leaves is the socket's timeout
        meanwhile: that bounds each of its calls."""
        cdef Deadline deadline = current() if any_in_force() else None
        cdef object sock = self.sock
        cdef int64_t began
        if deadline is None or not hasattr(sock, "settimeout"):
            return method(*args, **kwargs)
        from cpool import errors

        deadline.check(stage)
        began = cp_clock_now()
        before = sock.gettimeout()
        sock.settimeout(deadline.shorter(before))
        try:
            return method(*args, **kwargs)
        except errors.Timeout as error:
            if deadline.left_ns() > 0:
                raise
            deadline.add(stage, cp_clock_now() - began)
            began = cp_clock_now()
            raise deadline.exceeded(stage) from error
        finally:
            deadline.add(stage, cp_clock_now() - began)
            if self.sock is sock:
                sock.settimeout(before)

    def read_error(self, error):
        from cpool import errors

        return errors.read_error(error, self._host_error())

    def can_read(self, timeout=0):
        """Tell whether something can be read within `timeout` seconds.

        Connects first if need be; a closed connection raises ConnectionError."""
        if self.session is not None and not self.session.out.is_empty():
            self.flush_or_close(self.session)
        try:
            return super(ConnBase, self).can_read(timeout)
        except Exception as error:
            self.note_break(error)
            raise

    # Replays, see cpool.replay

    def guard(self, table):
        """From now on, tell by this table what of this session may be sent again; None:
        nothing of it was sent to do anything but to connect."""
        self.guarded = None
        if table is None:
            return
        if self.session is None:
            raise ValueError('"retry_policy" can be "safe" only with a parser of cpool')
        self.session.in_flight = InFlight(table)
        self.guarded = self.session

    def raise_if_indeterminate(self, error):
        """Raise IndeterminateResultError from the error that has ended the connection, if
        what was sent must not be sent again."""
        self.tell_indeterminate(self.guarded, error)

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
        if s is None:
            raise from_status(CP_E_EOF, 0)  # closed by another thread meanwhile
        for request in requests:
            append_bytes(s.out, request)
        s.owed += len(requests)
        self.script = requests
        self.script_at = 0

    def end_script(self):
        """Tell whether exactly the requests of the script were asked for."""
        script = self.script
        self.script = None
        return script is None or self.script_at == len(script)

    def follow_script(self, tuple args):
        """Note a request, or take the next one of the script for it."""
        request = b"".join((<Packer>self.packer).pack(*args))
        if self.rehearsing:
            self.script.append(request)
            return
        if self.script_at >= len(self.script) or self.script[self.script_at] != request:
            raise HandshakeMismatch()
        self.script_at += 1

    def rehearsed_reply(self):
        """What a server says to the request before, if all is well."""
        if b"HELLO" in self.script[len(self.script) - 1][:16]:
            return {b"proto": self.protocol, "proto": self.protocol}
        return b"OK"

    # For the pool

    cdef bint pool_may_skip(self) except -1:
        """May a checkout or return do without redis-py's calls on this connection?"""
        cdef int needed = GATE_POOL | GATE_SEND | GATE_READ
        # The session last: while gates are looked up another thread may end it.
        return (self.gates() & needed) == needed and self.session is not None

    def _can_batch(self):
        """Whether requests may be sent before redis-py has asked for them."""
        cdef int needed = GATE_SEND | GATE_READ | GATE_BATCH
        self._parser.on_connect(self)
        return (self.session is not None and self.session.wire.by_fd
                and (self.gates() & needed) == needed
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
            p = cp_patience_of(PUSH_REST_NS, due())
            try:
                reply = s.next_reply(True, &p, False, False)
            except Exception:
                return False  # whatever it was, it was nobody's
            if not s.reader.is_push:
                return False
            parser.handle_push_response(reply)
        return self.session is s and s.is_clean()


cdef Gates GATES = Gates(ConnBase, (
    (GATE_SEND, ("send_command", "send_packed_command"), BEHIND),
    (GATE_SEND, ("send_packed_command",), FRONT),
    (GATE_READ, ("read_response", "can_read"), BEHIND),
    (GATE_POOL, ("connect", "can_read", "should_reconnect", "re_auth"), FRONT),
    (GATE_HEALTH, ("check_health",), FRONT),
    (GATE_BATCH, HANDSHAKE, FRONT),
    (GATE_FUSE, ("send_command", "read_response"), OWN),
    (GATE_BULK, ("send_packed_command", "pack_commands"), OWN),
))


def _get_host(self):
    return self._host


def _set_host(self, value):
    self._host = value


# redis-py's metrics hooks ask for it several times at each command.
host_property = property(_get_host, _set_host)

cdef int64_t PUSH_REST_NS = 50_000_000  # for the rest of a push that has begun to come
