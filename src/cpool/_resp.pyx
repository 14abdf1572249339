# cython: language_level=3
"""RESP2/RESP3 codec: Python objects to requests, bytes to Python objects.

Sources: the RESP specification (redis.io, "Redis serialization protocol"), and
for arguments the rules of redis-py's `Encoder` and `PythonRespSerializer`.
"""

cimport cython
from cpython.bytearray cimport PyByteArray_CheckExact
from cpython.bytes cimport (
    PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE,
)
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.long cimport PyLong_CheckExact
from cpython.mem cimport PyMem_Free, PyMem_RawFree, PyMem_RawRealloc
from cpython.memoryview cimport PyMemoryView_GET_BUFFER
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.unicode cimport PyUnicode_AsUTF8String, PyUnicode_Decode, PyUnicode_DecodeUTF8
from libc.string cimport memchr, memcpy, strlen
from libc.stdint cimport int64_t, uint64_t

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    bint PyUnicode_CheckExact(object o)
    bint PyMemoryView_Check(object o)
    bint PyUnicode_IS_COMPACT_ASCII(object o)
    const void *PyUnicode_DATA(object o)
    int PyUnicode_KIND(object o)
    Py_ssize_t PyUnicode_GET_LENGTH(object o)
    bint PyFloat_CheckExact(object o)
    double PyFloat_AS_DOUBLE(object o)
    const int Py_DTSF_ADD_DOT_0
    char *PyOS_double_to_string(double value, char format, int precision, int flags,
                                int *type) except NULL
    long long PyLong_AsLongLongAndOverflow(object o, int *overflow) noexcept  # of an int
    int _PyBytes_Resize(PyObject **o, Py_ssize_t size) except -1
    void Py_XDECREF(PyObject *o)

cdef extern from *:
    """
    /* PyOS_string_to_double with no overflow exception: too large is inf. */
    static double cp_double_of(const char *s) {
        return PyOS_string_to_double(s, NULL, NULL);
    }
    """
    double cp_double_of(const char *s) except? -1.0

# Arguments above this many bytes go out from where they are: for less, copying
# them into the outbox is cheaper than another entry in the send vector.
cdef enum:
    LARGE_ARG_BYTES = 16384
    # pack_chunks() splits like redis-py's Python packer, which callers can see.
    CHUNK_BYTES = 6000
    # The first room of a string that is received straight into its bytes object.
    FIRST_BIG_BYTES = 262144

DEFAULT_MAX_DEPTH = 512
DEFAULT_MAX_BULK_BYTES = 512 * 1024 * 1024

cdef object OK_REPLY = b"OK"
# By cp_why: the names cpool.errors knows.
WHY = ("", "type", "length", "limit", "depth", "ending", "push")


class Incomplete:
    """The type of `INCOMPLETE`."""
    __slots__ = ()

    def __repr__(self):
        return "<cpool: reply is incomplete>"


#: What `Reader.gets()` returns while the next reply is not whole.
INCOMPLETE = Incomplete()


@cython.final
cdef class Outbox:
    def __cinit__(self):
        self.held = []

    def __dealloc__(self):
        cp_buf_free(&self.buf)
        PyMem_RawFree(self.segments)

    cdef bint is_empty(self) noexcept:
        return self.buf.len == 0 and self.count == 0

    cdef int add_segment(self, object holder, const char *data, size_t size) except -1:
        """Let memory that its holder keeps in place go out next. No copy is made."""
        cdef Segment *grown
        cdef int room
        if self.count == self.room:
            room = self.room * 2 if self.room else 8
            grown = <Segment *>PyMem_RawRealloc(self.segments, room * sizeof(Segment))
            if grown == NULL:
                raise MemoryError()
            self.segments = grown
            self.room = room
        self.held.append(holder)
        self.segments[self.count].upto = self.buf.len
        self.segments[self.count].data = data
        self.segments[self.count].size = size
        self.count += 1
        return 0

    cdef void truncate(self, size_t length, int count) noexcept:
        """Forget what was written after a mark: a command that could not be encoded."""
        self.buf.len = length
        self.count = count
        del self.held[count:]

    cdef void clear(self) noexcept:
        self.buf.pos = self.buf.len = 0
        if self.count:
            self.count = 0
            self.held.clear()
        if self.buf.cap > KEEP_BUFFER_BYTES:
            cp_buf_shrink(&self.buf, 0)


cdef inline char *room_for(cp_buf *buf, size_t n) except NULL:
    if cp_buf_reserve(buf, n) != CP_OK:
        raise MemoryError()
    return cp_buf_end(buf)


cdef inline int put_string(cp_buf *buf, const char *data, Py_ssize_t size) except -1:
    cdef char *start = room_for(buf, <size_t>size + CP_HEADER_MAX + 2)
    cdef char *to = cp_put_header(start, c"$", <uint64_t>size)
    memcpy(to, data, <size_t>size)
    to[size] = c"\r"
    to[size + 1] = c"\n"
    cp_buf_commit(buf, <size_t>(to + size + 2 - start))
    return 0


cdef inline char *digits_of(long long value, char *digits) noexcept:
    """Write a number so that it ends at digits + 24; returns where it begins."""
    cdef char *at = digits + 24
    cdef unsigned long long rest
    rest = <unsigned long long>value if value >= 0 else 0 - <unsigned long long>value
    while True:
        at -= 1
        at[0] = <char>(c"0" + rest % 10)
        rest = rest / 10
        if rest == 0:
            break
    if value < 0:
        at -= 1
        at[0] = c"-"
    return at


cdef int put_float(cp_buf *buf, double value) except -1:
    """repr(), as redis-py encodes a float."""
    cdef char *text = PyOS_double_to_string(value, c"r", 0, Py_DTSF_ADD_DOT_0, NULL)
    try:
        return put_string(buf, text, <Py_ssize_t>strlen(text))
    finally:
        PyMem_Free(text)


cdef inline int put_integer(cp_buf *buf, long long value) except -1:
    cdef char digits[24]
    cdef char *at = digits_of(value, digits)
    return put_string(buf, at, digits + 24 - at)


cdef inline Py_ssize_t simple_size(object arg, bint utf8) noexcept:
    """How many bytes put_simple() writes for it at most, headers aside; -1: it can't."""
    cdef Py_ssize_t size = 24
    cdef int overflow = 0
    if PyBytes_CheckExact(arg):
        size = PyBytes_GET_SIZE(arg)
    elif PyUnicode_CheckExact(arg):
        size = text_size(arg) if utf8 else -1
    elif not PyLong_CheckExact(arg):
        return -1
    else:
        PyLong_AsLongLongAndOverflow(arg, &overflow)
    return size if overflow == 0 and size <= LARGE_ARG_BYTES else -1


cdef inline Py_ssize_t text_size(object text) noexcept:
    """How many bytes a str is in UTF-8; -1: there is none for it."""
    if PyUnicode_IS_COMPACT_ASCII(text):
        return PyUnicode_GET_LENGTH(text)
    if PyUnicode_KIND(text) == 0:
        return -1  # of an old C extension, before Python 3.12: Python has to ready it
    return cp_utf8_size(PyUnicode_DATA(text), <int>PyUnicode_KIND(text),
                        <size_t>PyUnicode_GET_LENGTH(text))


cdef inline char *put_text(char *to, object text, Py_ssize_t size) noexcept:
    """Write a str of that text_size()."""
    to = cp_put_header(to, c"$", <uint64_t>size)
    if PyUnicode_IS_COMPACT_ASCII(text):
        memcpy(to, PyUnicode_DATA(text), <size_t>size)
    else:
        cp_utf8_put(to, PyUnicode_DATA(text), <int>PyUnicode_KIND(text),
                    <size_t>PyUnicode_GET_LENGTH(text))
    to[size] = c"\r"
    to[size + 1] = c"\n"
    return to + size + 2


cdef inline char *put_simple(char *to, object arg) noexcept:
    """Write an argument of which simple_size() has told the room it needs."""
    cdef const char *data
    cdef Py_ssize_t size
    cdef char digits[24]
    cdef int overflow = 0
    if PyBytes_CheckExact(arg):
        data, size = PyBytes_AS_STRING(arg), PyBytes_GET_SIZE(arg)
    elif not PyUnicode_CheckExact(arg):
        data = digits_of(PyLong_AsLongLongAndOverflow(arg, &overflow), digits)
        size = digits + 24 - data
    elif PyUnicode_IS_COMPACT_ASCII(arg):
        data, size = <const char *>PyUnicode_DATA(arg), PyUnicode_GET_LENGTH(arg)
    else:
        return put_text(to, arg, text_size(arg))
    to = cp_put_header(to, c"$", <uint64_t>size)
    memcpy(to, data, <size_t>size)
    to[size] = c"\r"
    to[size + 1] = c"\n"
    return to + size + 2


cdef bint is_one_word(object name) noexcept:
    """Whether a command's name is a str that goes out as one argument."""
    return (PyUnicode_CheckExact(name) and PyUnicode_IS_COMPACT_ASCII(name)
            and PyUnicode_GET_LENGTH(name) > 0
            and not has_space(<const char *>PyUnicode_DATA(name), PyUnicode_GET_LENGTH(name)))


cdef bint has_space(const char *p, Py_ssize_t n) noexcept:
    """Whether bytes.split() would see a separator, or something close to one."""
    cdef Py_ssize_t i
    for i in range(n):
        if <unsigned char>p[i] <= 32:
            return True
    return False


@cython.final
cdef class Packer:
    """Encode commands.

    encode: redis-py's `Encoder.encode`. utf8: whether it turns str into strict
    UTF-8. split_large: leave large arguments out of the buffer (for sending).
    """

    def __cinit__(self, encode=None, bint utf8=True, bint split_large=False):
        self.encode = encode
        self.utf8 = utf8
        self.split_large = split_large

    cdef tuple plain(self, tuple args):
        """The arguments with those encoded already that need Python code for it: it may
        let another thread run, which must not find a command half written."""
        cdef Py_ssize_t i
        cdef list encoded
        for i in range(1, len(args)):
            if not self.is_plain(args[i]):
                break
        else:
            return args
        encoded = [args[0]]
        for arg in args[1:]:
            if not self.is_plain(arg) and self.encode is not None:
                arg = self.encode(arg)
            encoded.append(arg)
        return tuple(encoded)

    cdef int append(self, Outbox out, tuple args) except -1:
        """Write one command. On an error nothing of it stays in the outbox."""
        cdef size_t mark = out.buf.len
        cdef int segments = out.count
        cdef Py_ssize_t i, n = len(args)
        cdef list words = None
        cdef char *start
        if n == 0:
            raise IndexError("tuple index out of range")
        if out.writing:
            raise_in_use_elsewhere()
        out.writing = True
        try:
            words = self.words_of(args[0])
            start = room_for(&out.buf, CP_HEADER_MAX)
            cp_buf_commit(&out.buf, <size_t>(cp_put_header(
                start, c"*", <uint64_t>(n if words is None else n - 1 + len(words))) - start))
            self.append_name(out, args[0], words)
            for i in range(1, n):
                self.append_arg(out, args[i])
        except BaseException:
            out.truncate(mark, segments)
            raise
        finally:
            out.writing = False
        return 0

    cdef bint append_simple(self, Outbox out, tuple args) except -1:
        """Write a command of short ASCII words, bytes and small integers, as most are.
        Nothing can run meanwhile. False: it is none of these, and nothing was written."""
        cdef size_t room = CP_HEADER_MAX
        cdef Py_ssize_t i, size, n = len(args)
        cdef char *to
        if n == 0 or out.writing or not is_one_word(args[0]):
            return False
        for i in range(n):
            size = simple_size(args[i], self.utf8)
            if size < 0:
                return False
            room += <size_t>size + CP_HEADER_MAX + 2
        to = cp_put_header(room_for(&out.buf, room), c"*", <uint64_t>n)
        out.name_off = <size_t>(to - out.buf.data)
        for i in range(n):
            to = put_simple(to, args[i])
        out.buf.len = <size_t>(to - out.buf.data)
        return True

    cdef bint is_simple(self, tuple args) noexcept:
        """Whether append_simple() can write it, if its name is one word."""
        cdef Py_ssize_t i
        for i in range(len(args)):
            if simple_size(args[i], self.utf8) < 0:
                return False
        return True

    cdef bint is_plain(self, object arg) except -1:
        """Whether append_arg() can write it without any Python code."""
        cdef int overflow = 0
        if PyUnicode_CheckExact(arg):
            return self.utf8 and text_size(arg) >= 0
        if PyFloat_CheckExact(arg):
            return self.encode is not None
        if PyLong_CheckExact(arg):
            PyLong_AsLongLongAndOverflow(arg, &overflow)
            return overflow == 0
        return PyBytes_CheckExact(arg) or PyByteArray_CheckExact(arg) or PyMemoryView_Check(arg)

    cdef list words_of(self, object name):
        """The words of a command name of several ("CONFIG GET"), or None for one."""
        cdef Py_ssize_t size = 0
        cdef const char *text
        if PyUnicode_CheckExact(name):
            text = PyUnicode_AsUTF8AndSize(name, &size)
            return name.encode().split() if size == 0 or has_space(text, size) else None
        if PyBytes_CheckExact(name):
            if memchr(PyBytes_AS_STRING(name), c" ", PyBytes_GET_SIZE(name)) == NULL:
                return None
            return name.split()
        if isinstance(name, str):
            return name.encode().split()
        return name.split() if b" " in name else None

    cdef list name_of(self, tuple args):
        """The words of the command's name as bytes: names are UTF-8 always."""
        cdef list words
        if not args:
            raise IndexError("tuple index out of range")
        words = self.words_of(args[0])
        if words is not None:
            return words
        return [args[0].encode() if isinstance(args[0], str) else args[0]]

    cdef int append_name(self, Outbox out, object name, list words) except -1:
        cdef Py_ssize_t size = 0
        cdef const char *text
        out.name_off = out.buf.len
        if words is not None:
            for word in words:
                self.append_arg(out, word)
        elif PyUnicode_CheckExact(name):
            text = PyUnicode_AsUTF8AndSize(name, &size)
            put_string(&out.buf, text, size)
        else:
            self.append_arg(out, name)
        return 0

    cdef int append_arg(self, Outbox out, object arg) except -1:
        cdef int overflow = 0
        cdef long long number
        if PyBytes_CheckExact(arg):
            if PyBytes_GET_SIZE(arg) > LARGE_ARG_BYTES and self.split_large:
                return self.append_large(out, arg, PyBytes_AS_STRING(arg), PyBytes_GET_SIZE(arg))
            return put_string(&out.buf, PyBytes_AS_STRING(arg), PyBytes_GET_SIZE(arg))
        if PyUnicode_CheckExact(arg) and self.utf8:
            return self.append_text(out, arg)
        if PyLong_CheckExact(arg):
            number = PyLong_AsLongLongAndOverflow(arg, &overflow)
            if overflow == 0:
                return put_integer(&out.buf, number)
        if PyFloat_CheckExact(arg) and self.encode is not None:
            return put_float(&out.buf, PyFloat_AS_DOUBLE(arg))
        return self.append_odd(out, arg)

    cdef int append_text(self, Outbox out, object text) except -1:
        cdef Py_ssize_t size = text_size(text)
        cdef char *start
        if size < 0:
            return self.append_odd(out, text)  # a lone surrogate: its error
        if size > LARGE_ARG_BYTES and self.split_large:
            if not PyUnicode_IS_COMPACT_ASCII(text):
                return self.append_arg(out, PyUnicode_AsUTF8String(text))
            return self.append_large(out, text, <const char *>PyUnicode_DATA(text), size)
        start = room_for(&out.buf, <size_t>size + CP_HEADER_MAX + 2)
        cp_buf_commit(&out.buf, <size_t>(put_text(start, text, size) - start))
        return 0

    cdef int append_odd(self, Outbox out, object arg) except -1:
        """Everything that is not an exact bytes, str, float or small int."""
        cdef object data = arg
        cdef object memory
        cdef Py_buffer view
        if self.encode is not None and not PyByteArray_CheckExact(arg) \
                and not PyMemoryView_Check(arg) and not PyBytes_CheckExact(arg):
            data = self.encode(arg)
        if PyMemoryView_Check(data) and not data.c_contiguous:
            data = bytes(data)
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if view.len <= LARGE_ARG_BYTES or not self.split_large:
                return put_string(&out.buf, <const char *>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)
        memory = memoryview(data)  # keeps a bytearray from being resized
        return self.append_large(out, memory, <const char *>PyMemoryView_GET_BUFFER(memory).buf,
                                 PyMemoryView_GET_BUFFER(memory).len)

    cdef int append_large(self, Outbox out, object holder, const char *data,
                          Py_ssize_t size) except -1:
        """Let memory that its holder keeps in place go out from where it is."""
        cdef char *start = room_for(&out.buf, CP_HEADER_MAX)
        cdef char *to = cp_put_header(start, c"$", <uint64_t>size)
        cp_buf_commit(&out.buf, <size_t>(to - start))
        out.add_segment(holder, data, <size_t>size)
        start = room_for(&out.buf, 2)
        start[0] = c"\r"
        start[1] = c"\n"
        cp_buf_commit(&out.buf, 2)
        return 0

    def pack(self, *args):
        """Encode one command as redis-py's Python packer does.

        Returns a list of bytes-like objects, in which arguments above 6,000 bytes
        and memoryviews stand alone, as they were given."""
        cdef list chunks = []
        self.append_chunks(Outbox(), chunks, args)
        return chunks

    def pack_many(self, commands):
        """Encode many commands; returns (chunks as of `pack`, number of commands)."""
        cdef list chunks = []
        cdef Outbox out = Outbox()
        cdef Py_ssize_t count = 0
        for args in commands:
            self.append_chunks(out, chunks, tuple(args), True)
            count += 1
        if out.buf.len:
            chunks.append(PyBytes_FromStringAndSize(out.buf.data, <Py_ssize_t>out.buf.len))
        return chunks, count

    cdef int append_chunks(self, Outbox out, list chunks, tuple args,
                           bint more=False) except -1:
        cdef list words = self.name_of(args)
        args = tuple(words) + args[1:]
        cdef char *start = room_for(&out.buf, CP_HEADER_MAX)
        cp_buf_commit(&out.buf, <size_t>(cp_put_header(start, c"*", len(args)) - start))
        for arg in args:
            self.append_chunk(out, chunks, arg)
        if not more:
            chunks.append(PyBytes_FromStringAndSize(out.buf.data, <Py_ssize_t>out.buf.len))
        return 0

    cdef int append_chunk(self, Outbox out, list chunks, object arg) except -1:
        cdef object encoded = arg
        cdef Py_ssize_t size
        cdef char *start
        cdef bint alone = False
        if PyUnicode_CheckExact(arg) and self.utf8:
            alone = len(arg) * 4 > CHUNK_BYTES
        elif PyBytes_CheckExact(arg):
            alone = PyBytes_GET_SIZE(arg) > CHUNK_BYTES
        elif not PyLong_CheckExact(arg):
            alone = True
        if not alone:
            return self.append_arg(out, arg)
        if self.encode is not None:
            encoded = self.encode(arg)
        if PyMemoryView_Check(encoded) and not encoded.c_contiguous:
            encoded = bytes(encoded)
        size = encoded.nbytes if PyMemoryView_Check(encoded) else len(encoded)
        if size <= CHUNK_BYTES and not PyMemoryView_Check(encoded):
            return self.append_arg(out, encoded)
        start = room_for(&out.buf, CP_HEADER_MAX)
        cp_buf_commit(&out.buf, <size_t>(cp_put_header(start, c"$", <uint64_t>size) - start))
        chunks.append(PyBytes_FromStringAndSize(out.buf.data, <Py_ssize_t>out.buf.len))
        chunks.append(encoded)
        out.buf.len = 0
        start = room_for(&out.buf, 2)
        start[0] = c"\r"
        start[1] = c"\n"
        cp_buf_commit(&out.buf, 2)
        return 0


cdef Packer default_packer = Packer()


def pack_command(tuple args):
    """Encode one command of bytes, str, int and bytes-like arguments as bytes."""
    cdef Outbox out = Outbox()
    default_packer.append(out, args)
    return PyBytes_FromStringAndSize(out.buf.data, <Py_ssize_t>out.buf.len)


cdef inline int64_t read_number(const char **at) noexcept:
    """The number of a header the scanner has passed; moves behind its CR LF."""
    cdef const char *p = at[0]
    cdef int64_t value = 0
    cdef bint negative = p[0] == c"-"
    if negative or p[0] == c"+":
        p += 1
    while p[0] != c"\r":
        value = value * 10 + (p[0] - c"0")
        p += 1
    at[0] = p + 2
    return -value if negative else value


cdef inline bytes read_bytes(const char **at):
    """A string that is not null."""
    cdef const char *p = at[0] + 1
    cdef Py_ssize_t n = 0
    while p[0] != c"\r":
        n = n * 10 + (p[0] - c"0")
        p += 1
    at[0] = p + n + 4
    return PyBytes_FromStringAndSize(p + 2, n)


cdef inline const char *line_end(const char *p) noexcept:
    """The CR of a line the scanner has passed: the first one an LF follows."""
    while not (p[0] == c"\r" and p[1] == c"\n"):
        p += 1
    return p


@cython.final
cdef class Reader:
    """Turn bytes into replies.

    make_error(text) builds the exception of an error reply; one that is an
    instance of `fatal_class` is also kept as the reader's `fatal`. With an
    `encoding`, strings are decoded, else they are bytes. Sets come as lists,
    attributes are skipped, big numbers are int, verbatim strings lose their
    format. A malformed reply, one nested deeper than `max_depth` or a string
    above `max_bulk_bytes` raises redis-py's InvalidResponse; the reader is then
    of no more use.
    """

    def __cinit__(self, make_error=RuntimeError, encoding=None, errors="strict",
                  fatal_class=(), max_depth=DEFAULT_MAX_DEPTH,
                  max_bulk_bytes=DEFAULT_MAX_BULK_BYTES):
        self.make_error = make_error
        self.fatal_class = fatal_class
        self.set_encoding(encoding, errors)
        cp_scan_init(&self.scan, max_depth, max_bulk_bytes)

    def __dealloc__(self):
        cp_scan_free(&self.scan)
        cp_buf_free(&self.buf)

    def set_encoding(self, encoding, errors="strict"):
        """Decode strings by `encoding` from the next reply on; None: leave them bytes."""
        if encoding is None:
            self.decode_mode = 0
            return
        self.encoding = encoding.encode()
        self.encoding_errors = errors.encode()
        utf8 = encoding.lower().replace("_", "-") in ("utf-8", "utf8")
        self.decode_mode = 1 if utf8 and errors == "strict" else 2

    def feed(self, data):
        """Append bytes as they came from the wire."""
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            memcpy(room_for(&self.buf, <size_t>view.len), view.buf, <size_t>view.len)
            cp_buf_commit(&self.buf, <size_t>view.len)
        finally:
            PyBuffer_Release(&view)

    def gets(self, bint decode=True):
        """Return the next reply, or INCOMPLETE; decode=False leaves strings bytes."""
        cdef cp_status st = self.scan_step()
        if st == CP_AGAIN:
            return INCOMPLETE
        if st != CP_OK:
            raise_protocol_error(self, st)
        return self.take(decode)

    @property
    def unread_bytes(self):
        """How many bytes were fed and not yet returned."""
        return cp_buf_size(&self.buf) + self.big_got

    @property
    def buffer_bytes(self):
        """How much memory the buffer holds."""
        return self.buf.cap

    @property
    def last_was_push(self):
        """Whether the reply that was returned last was a push frame."""
        return self.is_push

    cdef cp_status scan_step(self) noexcept nogil:
        return cp_scan_step(&self.scan, cp_buf_head(&self.buf), cp_buf_size(&self.buf))

    cdef object take(self, bint decode):
        """Build the reply the scanner has found whole, and consume it whatever comes."""
        cdef const char *at = cp_buf_head(&self.buf)
        self.is_push = at[0] == c">"
        self.fatal = None
        try:
            return self.build(&at, decode and self.decode_mode != 0)
        finally:
            cp_buf_consume(&self.buf, self.scan.off)
            cp_scan_reset(&self.scan)
            if self.buf.cap > KEEP_BUFFER_BYTES:
                cp_buf_shrink(&self.buf, FIRST_BUFFER_BYTES)

    cdef int begin_big(self) except -1:
        """Give the unfinished top-level string the scanner stands before a bytes
        object of its own, with what has come in of it."""
        cdef size_t body = self.scan.body
        cdef size_t have = cp_buf_size(&self.buf) - body
        cdef size_t length = <size_t>self.scan.body_len
        cdef size_t room = max(have * 4, <size_t>FIRST_BIG_BYTES)
        have = min(have, length)
        self.big = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>min(room, length))
        memcpy(PyBytes_AS_STRING(self.big), cp_buf_head(&self.buf) + body, have)
        self.big_len = length
        self.big_got = have
        cp_buf_consume(&self.buf, body + have)
        cp_scan_reset(&self.scan)
        return 0

    cdef int grow_big(self) except -1:
        """Make room in step with what has arrived, never with what was announced."""
        cdef object big = self.big
        cdef PyObject *grown
        cdef Py_ssize_t size = <Py_ssize_t>min(self.big_got * 4, self.big_len)
        self.big = None
        grown = <PyObject *>big
        Py_INCREF(big)
        big = None
        _PyBytes_Resize(&grown, size)
        self.big = <object>grown
        Py_XDECREF(grown)
        return 0

    cdef bint big_has_ended(self) noexcept:
        """Whether CR LF is at the head of the buffer, behind the large string."""
        cdef const char *end = cp_buf_head(&self.buf)
        return end[0] == c"\r" and end[1] == c"\n"

    cdef object take_big(self, bint decode):
        """The large string, once all of it is there."""
        cdef object big = self.big
        cdef bint whole = self.big_has_ended()
        self.big = None
        self.big_got = 0
        self.is_push = False
        self.fatal = None
        if not whole:
            self.scan.why = CP_WHY_ENDING
            raise_protocol_error(self, CP_E_PROTO)
        cp_buf_consume(&self.buf, 2)
        if decode and self.decode_mode != 0:
            return self.text(PyBytes_AS_STRING(big), PyBytes_GET_SIZE(big))
        return big

    cdef object text(self, const char *p, Py_ssize_t n):
        if self.decode_mode == 1:
            return PyUnicode_DecodeUTF8(p, n, NULL)
        return PyUnicode_Decode(p, n, self.encoding, self.encoding_errors)

    cdef object build(self, const char **at, bint decode):
        """One value of a reply the scanner has found well formed."""
        cdef const char *p = at[0]
        cdef char type = p[0]
        cdef int64_t n
        cdef const char *end
        at[0] = p + 1
        if type == c"$":
            n = read_number(at)
            if n < 0:
                return None
            p = at[0]
            at[0] = p + n + 2
            return self.text(p, n) if decode else PyBytes_FromStringAndSize(p, n)
        if type == c"*" or type == c"~" or type == c">":
            n = read_number(at)
            return None if n < 0 else self.build_list(at, n, decode)
        if type == c"%":
            return self.build_dict(at, read_number(at), decode)
        if type == c"=" or type == c"!":
            n = read_number(at)
            p = at[0]
            at[0] = p + n + 2
            if type == c"!":
                return self.build_error(p, n)
            return self.text(p + 4, n - 4) if decode else PyBytes_FromStringAndSize(p + 4, n - 4)
        if type == c"|":
            for _ in range(2 * read_number(at)):
                self.build(at, decode)
            return self.build(at, decode)
        end = line_end(p + 1)
        at[0] = end + 2
        return self.build_line(type, p + 1, end - p - 1, decode)

    cdef object build_line(self, char type, const char *p, Py_ssize_t n, bint decode):
        cdef bytes line
        if type == c"+":
            if decode:
                return self.text(p, n)
            return OK_REPLY if n == 2 and p[0] == c"O" and p[1] == c"K" else \
                PyBytes_FromStringAndSize(p, n)
        if type == c":" and n <= 18:
            return read_number(&p)
        if type == c"-":
            return self.build_error(p, n)
        if type == c"_":
            return None
        if type == c"#":
            return p[0] == c"t"
        line = PyBytes_FromStringAndSize(p, n)
        try:
            if type == c",":
                return cp_double_of(line)
            return int(line)
        except ValueError:
            raise_bad_number(type)

    cdef object build_error(self, const char *p, Py_ssize_t n):
        cdef object error = self.make_error(PyUnicode_DecodeUTF8(p, n, "replace"))
        if self.fatal is None and isinstance(error, self.fatal_class):
            self.fatal = error
        return error

    cdef object build_list(self, const char **at, Py_ssize_t n, bint decode):
        cdef list values = PyList_New(n)
        cdef object value
        cdef Py_ssize_t i
        for i in range(n):
            if not decode and at[0][0] == c"$" and at[0][1] != c"-":
                value = read_bytes(at)  # most lists are of nothing else
            else:
                value = self.build(at, decode)
            Py_INCREF(value)
            PyList_SET_ITEM(values, i, value)
        return values

    cdef object build_dict(self, const char **at, Py_ssize_t n, bint decode):
        cdef dict values = {}
        cdef object key
        cdef Py_ssize_t _i
        for _i in range(n):
            key = self.build(at, decode)
            values[key] = self.build(at, decode)
        return values


cdef int raise_in_use_elsewhere() except -1:
    from cpool.errors import in_use_elsewhere

    raise in_use_elsewhere()


cdef int raise_bad_number(char type) except -1:
    from cpool.errors import invalid_response

    raise invalid_response("length", bytes([type]))


cdef int raise_protocol_error(Reader reader, cp_status st) except -1:
    """The only place a malformed reply becomes an exception."""
    from cpool.errors import invalid_response

    cdef size_t off = reader.scan.off
    cdef size_t size = cp_buf_size(&reader.buf)
    cdef bytes first = b""
    if st == CP_E_NOMEM:
        raise MemoryError()
    if off < size:
        first = cp_buf_head(&reader.buf)[off:off + 1]
    raise invalid_response(WHY[<int>reader.scan.why], first)
