# cython: language_level=3
"""One socket: by its descriptor with the GIL released where nobody can tell, by
its methods where somebody could (TLS, gevent, eventlet, mocks, patched sockets).

Timeouts are read anew for each verb, because another thread may change them.
"""

import _socket

try:
    import ssl
except ImportError:  # a Python without OpenSSL
    ssl = None

cimport cython
from cpython.buffer cimport PyBUF_WRITE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.string cimport memcpy

cdef extern from "Python.h":
    object PyObject_CallNoArgs(object callable)
    bint PyFloat_CheckExact(object o)
    double PyFloat_AS_DOUBLE(object o)

# What a plain socket must still have for its descriptor to be used behind its
# back: whoever has replaced one of these wants to see the calls.
_VERBS = ("recv", "recv_into", "send", "sendall", "sendmsg")
_PLAIN = {name: getattr(_socket.socket, name) for name in _VERBS}

WOULD_BLOCK = (BlockingIOError,) if ssl is None else (
    BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def is_plain(sock):
    """Tell whether the core may use this socket's descriptor directly."""
    cls = type(sock)
    if not (isinstance(sock, _socket.socket) and cls.__module__ == "socket"
            and cls.__name__ == "socket"):
        return False
    return all(getattr(cls, name) is _PLAIN[name] for name in _VERBS)


cdef bint is_tls(object sock) except -1:
    return ssl is not None and isinstance(sock, ssl.SSLSocket)


cdef int64_t ns_of(object timeout_s) except -1:
    """Nanoseconds of a Python timeout: None is for ever, negative is none left."""
    return CP_FOREVER if timeout_s is None else ns_of_seconds(timeout_s)


cdef int64_t ns_of_seconds(double seconds) noexcept:
    if seconds <= 0:
        return 0
    if seconds > 9e9:
        return CP_FOREVER
    return max(<int64_t>(seconds * 1e9), 1)


@cython.final
cdef class Wire:
    """A connected socket. One borrower at a time; the socket stays its owner's."""

    def __cinit__(self, sock):
        self.raw.fd = -1
        self.sock = sock
        self.gettimeout = getattr(sock, "gettimeout", None)
        self.by_fd = is_plain(sock)
        if self.by_fd or is_tls(sock):  # OpenSSL goes by the number of the descriptor too
            self.guard = sock.makefile("rb", buffering=0)
        if self.by_fd:
            cp_wire_open(&self.raw, sock.fileno(), self.idle_ns())

    @property
    def uses_fd(self):
        """Whether I/O goes by the descriptor, with the GIL released."""
        return self.by_fd

    cdef int let_go(self) except -1:
        """Hold the descriptor open no longer. Every later verb fails."""
        guard, self.guard = self.guard, None
        self.raw.fd = -1
        if guard is not None:
            guard.close()
        return 0

    cdef int64_t idle_ns(self) except -1:
        """The socket's own timeout, as it is at this moment."""
        cdef object timeout_s
        if self.gettimeout is None:
            return CP_FOREVER
        timeout_s = PyObject_CallNoArgs(self.gettimeout)
        if PyFloat_CheckExact(timeout_s):
            return ns_of_seconds(PyFloat_AS_DOUBLE(timeout_s))
        if timeout_s is not None and not isinstance(timeout_s, (float, int)):
            return CP_FOREVER  # a mock
        return ns_of(timeout_s)

    cdef cp_peeked peek(self, char *byte) noexcept:
        """What recv() would find now. Only for a descriptor."""
        return cp_wire_peek(&self.raw, byte)

    cdef Py_ssize_t recv_by_method(self, char *to, size_t room, cp_patience *p) except -1:
        """Receive by the socket's own method. Returns 0 at the end of the stream.

        Raises what redis-py's parsers raise: its TimeoutError, ConnectionError for
        a would-block that is none, OSError as the socket gave it.
        """
        cdef object before = self.set_idle(before_deadline(p.idle_ns, p.deadline))
        cdef Py_ssize_t got
        try:
            got = self.recv_some(to, room)
            self.raw.received_bytes += <size_t>got
            return got
        except WOULD_BLOCK as error:
            raise from_would_block(error, p.idle_ns == 0) from None
        except TimeoutError:
            raise from_status(<int>CP_E_RTIMEOUT, 0) from None
        finally:
            if before is not NOT_SET:
                self.sock.settimeout(before)

    cdef object set_idle(self, int64_t idle_ns):
        """Set the socket's timeout. Returns what it was, or NOT_SET if it need not be set."""
        cdef object before
        if self.gettimeout is None or idle_ns == self.idle_ns():
            return NOT_SET
        before = self.gettimeout()
        self.sock.settimeout(None if idle_ns == CP_FOREVER else idle_ns / 1e9)
        return before

    cdef int send_by_method(self, object data, int64_t deadline) except -1:
        """Send all by the socket's own method, which does not tell how much of it went out
        before an error: all of it counts. Raises what the socket raises."""
        cdef object before = NOT_SET
        self.raw.sent_bytes += <size_t>len(data)
        if deadline != CP_FOREVER:
            before = self.set_idle(before_deadline(self.idle_ns(), deadline))
        try:
            self.sock.sendall(data)
        finally:
            if before is not NOT_SET:
                self.sock.settimeout(before)
        return 0

    cdef Py_ssize_t recv_some(self, char *to, size_t room) except -1:
        cdef object view
        cdef bytes data
        cdef Py_ssize_t got
        if hasattr(self.sock, "recv_into"):
            view = PyMemoryView_FromMemory(to, <Py_ssize_t>room, PyBUF_WRITE)
            try:
                got = self.sock.recv_into(view)
            finally:
                view.release()
            check_got(got, room)
            return 0 if self.lost_tls() else got
        data = self.sock.recv(room)
        got = PyBytes_GET_SIZE(data)
        check_got(got, room)
        memcpy(to, PyBytes_AS_STRING(data), <size_t>got)
        return got

    cdef bint lost_tls(self) except -1:
        """Whether another thread has shut a TLS socket down: from then on its recv() gives
        what still comes as it is, encrypted."""
        return is_tls(self.sock) and self.sock.version() is None

    cdef bint readable_by_method(self) except -1:
        """Whether recv() would find something (bytes, or the end) at this moment.

        Asks the kernel where there is a descriptor, which blocks no event loop.
        Some sockets cannot be asked; then the answer is "maybe", true."""
        cdef object fileno = getattr(self.sock, "fileno", None)
        cdef object number = fileno() if fileno is not None else -1
        cdef cp_wire raw
        cdef cp_patience none_left = cp_patience_of(0, CP_FOREVER)
        cdef int err = 0
        if type(number) is not int or number < 0:
            return True
        pending = getattr(self.sock, "pending", None)
        if pending is not None and pending():
            return True
        raw.fd = number
        return cp_wire_wait(&raw, &none_left, &err) != CP_E_RTIMEOUT


cdef object NOT_SET = object()


cdef int64_t before_deadline(int64_t idle_ns, int64_t deadline) noexcept:
    """How long a socket may wait at a time; not zero, which would stand for "do not block"."""
    if deadline == CP_FOREVER:
        return idle_ns
    return min(idle_ns, max(deadline - cp_clock_now(), 1000))


cdef int check_got(Py_ssize_t got, size_t room) except -1:
    """A socket of somebody's making may claim or give more than it was asked for."""
    if got < 0 or <size_t>got > room:
        raise OSError(f"the socket gave {got} bytes where {room} were asked for")
    return 0


cdef object from_status(int status, int err):
    from cpool import errors

    return errors.from_status(status, err)


cdef object from_would_block(object error, bint none_left):
    """A would-block error is "nothing there" only for who asked without waiting."""
    from cpool import errors

    if none_left:
        return from_status(<int>CP_E_RTIMEOUT, 0)
    return errors.read_blocked(error)
