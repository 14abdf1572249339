# cython: language_level=3
"""What each node gets of a cluster pipeline. Layer 6."""

from cpool._client cimport ClientBase
from cpool._pipeline cimport Batch


cdef class Share:
    """The commands of a pipeline that go to one node, and the connection they go by."""
    cdef ClientBase client      # the node's
    cdef object pool            # its pool when the connection was lent
    cdef object connection      # lent, or None
    cdef list commands          # redis-py's PipelineCommands
    cdef Batch batch            # their exchange

    cdef int checkout(self) except -1
    cdef bint make_batch(self) except -1
    cdef int give_back(self) except -1
    cdef int tell_results(self) except -1
    cdef object result_of(self, object command, object reply)
