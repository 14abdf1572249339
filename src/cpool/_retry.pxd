# cython: language_level=3
"""The base of a connection's retry object. Layer 3."""


cdef class RetryBase:
    """What the retry object of a connection is made of, beside redis-py's."""
    cdef object inner       # the Retry that decides
    cdef void *connection   # borrowed; NULL once the connection is gone
    cdef bint patched       # somebody has put a call_with_retry on this instance

    cdef bint is_plain(self) except -1
