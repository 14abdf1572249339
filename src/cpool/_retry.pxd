# cython: language_level=3
"""The base of a connection's retry object. Layer 3."""

from libc.stdint cimport uint32_t, uint64_t

from cpool._deadline cimport Dial


cdef class RetryBase:
    """What the retry object of a connection is made of, beside redis-py's."""
    cdef object inner       # the Retry that decides
    cdef void *connection   # borrowed; NULL once the connection is gone
    cdef tuple final        # errors that end the retries, whatever the policy says
    cdef bint patched       # somebody has put a call_with_retry on this instance
    cdef uint32_t tag       # the version of the policy's type when its call was found to be
    cdef uint64_t version   # redis-py's, and that of the policy's attributes then

    cdef bint is_plain(self) except -1
    cdef Dial dial(self)
