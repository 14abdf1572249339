# cython: language_level=3
"""The codec's objects: Outbox (requests to send), Packer (objects to bytes),
Reader (bytes to objects). Layer 1: no descriptor, no time, no redis-py."""

from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef extern from "cp_status.h" nogil:
    ctypedef enum cp_status:
        CP_OK
        CP_AGAIN
        CP_BIG
        CP_E_NOMEM
        CP_E_EOF
        CP_E_RTIMEOUT
        CP_E_WTIMEOUT
        CP_E_INTR
        CP_E_READ
        CP_E_WRITE
        CP_E_PROTO


cdef extern from "cp_buf.h" nogil:
    ctypedef struct cp_buf:
        char *data
        size_t pos
        size_t len
        size_t cap
    void cp_buf_free(cp_buf *b)
    cp_status cp_buf_reserve(cp_buf *b, size_t room)
    void cp_buf_shrink(cp_buf *b, size_t keep_bytes)
    size_t cp_buf_size(const cp_buf *b)
    size_t cp_buf_room(const cp_buf *b)
    char *cp_buf_end(cp_buf *b)
    const char *cp_buf_head(const cp_buf *b)
    void cp_buf_commit(cp_buf *b, size_t n)
    void cp_buf_consume(cp_buf *b, size_t n)


cdef extern from "cp_resp.h" nogil:
    const int CP_HEADER_MAX
    ctypedef enum cp_why:
        CP_WHY_NONE
        CP_WHY_TYPE
        CP_WHY_LENGTH
        CP_WHY_LIMIT
        CP_WHY_DEPTH
        CP_WHY_ENDING
        CP_WHY_PUSH
    ctypedef struct cp_scan:
        size_t off
        size_t body
        int64_t body_len
        cp_why why
        uint32_t depth
    void cp_scan_init(cp_scan *s, uint32_t max_depth, int64_t max_bulk_bytes)
    void cp_scan_free(cp_scan *s)
    void cp_scan_reset(cp_scan *s)
    cp_status cp_scan_step(cp_scan *s, const char *data, size_t n)
    cp_status cp_scan_request(const char *data, size_t n, size_t *length,
                              const char **name, size_t *name_len,
                              const char **second, size_t *second_len)
    char *cp_put_header(char *to, char type, uint64_t number)


cdef extern from "cp_utf8.h" nogil:
    ptrdiff_t cp_utf8_size(const void *text, int width, size_t n)
    char *cp_utf8_put(char *to, const void *text, int width, size_t n)


cdef object OK_REPLY            # what "+OK" is, where replies are not decoded


cdef enum:
    # What a buffer keeps after a large reply, and what one without any may keep.
    FIRST_BUFFER_BYTES = 16384
    KEEP_BUFFER_BYTES = 65536


cdef struct Segment:
    size_t upto             # how many bytes of the outbox go out before it
    const char *data        # a large argument, where its owner has it
    size_t size


cdef class Outbox:
    """Encoded requests that are not sent yet. One owner at a time."""
    cdef cp_buf buf         # everything but the large arguments
    cdef Segment *segments  # large arguments, in the order they go out
    cdef int count          # how many of them
    cdef int room           # how many there is room for
    cdef list held          # who keeps the segments' memory in place
    cdef size_t name_off    # in buf: the header of the last command's name
    cdef bint writing       # a command is being written: nobody may take it away

    cdef bint is_empty(self) noexcept
    cdef int add_segment(self, object holder, const char *data, size_t size) except -1
    cdef void truncate(self, size_t length, int count) noexcept
    cdef void clear(self) noexcept


cdef class Packer:
    """Commands to bytes, by the rules of redis-py's Encoder."""
    cdef object encode      # Encoder.encode: the rare types, and the errors
    cdef bint utf8          # str goes out as strict UTF-8, without asking it
    cdef bint split_large   # leave large arguments where they are

    cdef tuple plain(self, tuple args)
    cdef int append(self, Outbox out, tuple args) except -1
    cdef bint append_simple(self, Outbox out, tuple args) except -1
    cdef bint is_simple(self, tuple args) noexcept
    cdef bint is_plain(self, object arg) except -1
    cdef list words_of(self, object name)
    cdef list name_of(self, tuple args)
    cdef int append_name(self, Outbox out, object name, list words) except -1
    cdef int append_arg(self, Outbox out, object arg) except -1
    cdef int append_odd(self, Outbox out, object arg) except -1
    cdef int append_text(self, Outbox out, object text) except -1
    cdef int append_large(self, Outbox out, object holder, const char *data,
                          Py_ssize_t size) except -1
    cdef int append_chunks(self, Outbox out, list chunks, tuple args,
                           bint more=*) except -1
    cdef int append_chunk(self, Outbox out, list chunks, object arg) except -1


cdef class Reader:
    """Replies from bytes, resumable at every byte. One owner at a time."""
    cdef cp_buf buf             # bytes as they came in
    cdef cp_scan scan           # how much of the first reply is at hand
    cdef object make_error      # error text -> exception (redis-py's parse_error)
    cdef object fatal_class     # errors of this class end the connection
    cdef object fatal           # the first such error of the last reply, or None
    cdef bint is_push           # the last reply was a push frame
    cdef int decode_mode        # 0 bytes, 1 strict UTF-8, 2 anything else
    cdef bytes encoding
    cdef bytes encoding_errors
    # A large top-level string is received where it will live:
    cdef object big             # its bytes object, grown as bytes arrive, or None
    cdef size_t big_len         # how long it will be
    cdef size_t big_got         # how much has come in

    cdef cp_status scan_step(self) noexcept nogil
    cdef object take(self, bint decode)
    cdef int begin_big(self) except -1
    cdef int grow_big(self) except -1
    cdef bint big_has_ended(self) noexcept
    cdef object take_big(self, bint decode)
    cdef object text(self, const char *p, Py_ssize_t n)
    cdef object build(self, const char **at, bint decode)
    cdef object build_list(self, const char **at, Py_ssize_t n, bint decode)
    cdef object build_dict(self, const char **at, Py_ssize_t n, bint decode)
    cdef object build_error(self, const char *p, Py_ssize_t n)
    cdef object build_line(self, char type, const char *p, Py_ssize_t n, bint decode)


cdef int raise_protocol_error(Reader reader, cp_status st) except -1
