# cython: language_level=3
"""The wire's object: one connected socket behind the same few verbs, whether the
core may use its descriptor or must go through its methods. Layer 2."""

from libc.stdint cimport int64_t, uint64_t


cdef extern from "sys/uio.h" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len


cdef extern from "cp_status.h" nogil:
    ctypedef enum cp_status:
        CP_OK
        CP_E_RTIMEOUT


cdef extern from "cp_clock.h" nogil:
    const int64_t CP_FOREVER
    int64_t cp_clock_now()
    int64_t cp_clock_after(int64_t now, int64_t ns)
    ctypedef struct cp_patience:
        int64_t idle_ns
        int64_t deadline
        int64_t until
    cp_patience cp_patience_of(int64_t idle_ns, int64_t deadline)
    int64_t cp_patience_until(cp_patience *p)
    bint cp_patience_is_over(const cp_patience *p)


cdef extern from "cp_wire.h" nogil:
    ctypedef struct cp_wire:
        int fd
        int64_t rcvtimeo_ns
        uint64_t sent_bytes
        uint64_t received_bytes
    ctypedef enum cp_peeked:
        CP_PEEK_QUIET
        CP_PEEK_DATA
        CP_PEEK_CLOSED
    void cp_wire_open(cp_wire *w, int fd, int64_t idle_ns)
    cp_peeked cp_wire_peek(const cp_wire *w, char *byte)
    cp_status cp_wire_send(cp_wire *w, iovec *iov, int count, cp_patience *p, int *err)
    cp_status cp_wire_recv(cp_wire *w, iovec *iov, int count, size_t *got,
                           cp_patience *p, int *err)
    cp_status cp_wire_wait(const cp_wire *w, cp_patience *p, int *err)


cdef class Wire:
    cdef cp_wire raw        # the descriptor, when by_fd; the counts of bytes, always
    cdef bint by_fd         # the core does the I/O, with the GIL released
    cdef object sock        # the Python socket, whoever made it
    cdef object guard       # a file made of the socket: keeps the descriptor open
                            # past sock.close() while a verb may be using it
    cdef object gettimeout  # bound method, or None where there is none

    cdef int let_go(self) except -1
    cdef int64_t idle_ns(self) except -1
    cdef cp_peeked peek(self, char *byte) noexcept
    cdef object set_idle(self, int64_t idle_ns)
    cdef int send_by_method(self, object data, int64_t deadline) except -1
    cdef Py_ssize_t recv_by_method(self, char *to, size_t room, cp_patience *p) except -1
    cdef Py_ssize_t recv_some(self, char *to, size_t room) except -1
    cdef bint lost_tls(self) except -1
    cdef bint readable_by_method(self) except -1


cdef int64_t ns_of(object timeout_s) except -1
