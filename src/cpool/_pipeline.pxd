# cython: language_level=3
"""A pipeline's commands as one exchange. Layer 6."""

from libc.stdint cimport int64_t

from cpool._client cimport ClientBase
from cpool._conn cimport ConnBase, ParserBase
from cpool._gates cimport cp_gate
from cpool._resp cimport cp_buf, cp_scan, cp_status
from cpool._session cimport Session
from cpool._wire cimport cp_patience, cp_wire, iovec


cdef extern from "cp_exchange.h" nogil:
    ctypedef struct cp_exchange:
        iovec *iov
        int count
        bint more
        size_t wanted
        size_t enough
        int64_t big
        cp_patience sending
        cp_patience reading
        bint late
        int64_t sent_at
        size_t whole
        size_t replies
    cp_status cp_exchange_step(cp_exchange *x, cp_wire *wire, cp_buf *inp, cp_scan *scan,
                               int *err)


cdef class Batch:
    """Commands on their way, and their replies as far as they have come. One use."""
    cdef ConnBase connection
    cdef Session session
    cdef ParserBase parser
    cdef list requests          # argument tuples
    cdef set raw                # which of them have replies that are not to be decoded
    cdef Py_ssize_t encoded     # how many of them are in the outbox or sent
    cdef list replies           # error replies are exceptions among them
    cdef int64_t deadline       # when the exchange must have ended
    cdef object error           # what ended the exchange before all had come, or None
    cdef bint begun             # the first of them were sent already

    cdef int begin(self) except -1
    cdef int run(self) except -1
    cdef int failed(self, object error) except -1
    cdef int by_descriptor(self) except -1
    cdef int by_method(self) except -1
    cdef int encode_some(self) except -1
    cdef int exchange(self, cp_exchange *x) except -1
    cdef int build(self, cp_exchange *x) except -1
    cdef int take_big(self, cp_patience patience) except -1
    cdef int accept(self, object reply) except -1
    cdef int take(self, object reply) except -1
    cdef bint decodes_next(self) except -1


cdef class PipelineBase(ClientBase):
    """What `cpool.Pipeline` is made of, beside redis-py's pipeline."""
    cdef cp_gate pipeline_gate  # PIPELINE_*: which of its methods nobody has replaced
    cdef list stack             # command_stack, as __setattr__ has last stored it

    cdef int why_not(self, object connection) except -1
    cdef object batch_of(self, object connection, object commands, bint transaction)
    cdef list answers(self, list commands, list replies, bint transaction)
    cdef object answer(self, object name, object reply, dict options, bint transaction)
    cdef int raise_first(self, list commands, list replies) except -1


cdef int bulk_refusal(object connection) except -1
cdef bint streams(object name) except -1
