# cython: language_level=3
"""A pipeline as one exchange: written and read interleaved, replies built as they come.

It stands below `Pipeline.execute`, where tracing tools look and whose retry drives it,
and follows redis-py's `_execute_pipeline` and `_execute_transaction`. A transaction that
ends in any unusual way is told to redis-py's own method, reply by reply.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_RawFree
from cpython.object cimport PyObject
from libc.stdint cimport int64_t

from cpool._client cimport (
    CLIENT, COMMAND, CONNECTION, HEALTH_CHECK, NEVER_SET, RESPONSE_ERROR, SWITCHED_OFF, TAKEN,
    ClientBase, called_back, cp_method, is_enabled, is_ordinary, is_plain_options, note,
)
from cpool._conn cimport GATE_BULK, ConnBase
from cpool._deadline cimport BEFORE, READING, check
from cpool._gates cimport BEHIND, EVERY, FRONT, NOWHERE, Gates, gates_of
from cpool._resp cimport (
    CP_BIG, CP_E_EOF, CP_E_INTR, CP_E_PROTO, CP_OK, KEEP_BUFFER_BYTES, FIRST_BUFFER_BYTES,
    Outbox, Reader, cp_buf_consume, cp_buf_head, cp_buf_shrink, cp_status,
    raise_protocol_error,
)
from cpool._session cimport (
    BIG_BYTES, Sending, Session, from_status, in_use_elsewhere, lay_out,
)
from cpool._wire cimport CP_FOREVER, cp_patience, cp_patience_of

cdef extern from "Python.h":
    bint PyExceptionInstance_Check(object o)
    bint PyMemoryView_Check(object o)
    bint PyUnicode_CheckExact(object o)
    bint PyUnicode_IS_COMPACT_ASCII(object o)
    Py_ssize_t Py_REFCNT(PyObject *o)
    const unsigned char *PyUnicode_1BYTE_DATA(object o)

cdef enum:
    # How much is encoded before it is sent, in bytes and in large arguments, and how
    # many bytes of replies are received before they are built.
    SLICE_BYTES = 65536
    SLICE_SEGMENTS = 64
    ENOUGH_BYTES = 65536
    # Gates of a pipeline: its methods as a whole, and how it looks for errors.
    PIPELINE_EXECUTE = 1
    PIPELINE_ERRORS = 2
    PIPELINE_STACK = 4


def set_originals(functions):
    """Tell which functions of redis-py's pipeline the core may stand in for, by name."""
    GATES.originals.update(functions)


@cython.final
cdef class Batch:
    cdef int begin(self) except -1:
        """Send the first of the commands only, so that other connections are written to
        before this one is read. Errors as of run()."""
        self.deadline = self.session.begin()
        self.begun = True
        try:
            self.prepare()
            self.encode_some()
            self.session.flush()
        except BaseException as error:
            self.failed(error)
        return 0

    cdef int run(self) except -1:
        """Send all, read all. An error ends it, and is kept for when the replies that
        came before it have been looked at; an interrupt is raised at once."""
        if self.error is not None:
            return 0
        if not self.begun:
            self.deadline = self.session.begin()
        try:
            if not self.begun:
                self.prepare()
            if self.session.wire.by_fd:
                self.by_descriptor()
            else:
                self.by_method()
            self.connection.put_off_health_check()
        except BaseException as error:
            self.failed(error)
        return 0

    cdef int failed(self, object error) except -1:
        """Close the connection and keep the error, or raise it. Called while it is handled."""
        if not isinstance(error, Exception):
            self.session.out.clear()
            self.connection.disconnect()
            raise error
        self.error = error
        if self.encoded == 0:
            raise error  # an argument nobody can encode: nothing was sent
        self.session.out.clear()  # what is not sent yet never is
        self.error = self.session.read_failed(error, self.deadline)
        try:
            self.connection.failed(self.session, self.error, True)
        except Exception as told:
            self.error = told
        return 0

    def prepare(self):
        """Encode what needs Python code for it, so that all errors come before a byte is
        sent and nothing is held twice but that."""
        cdef Py_ssize_t i
        cdef tuple args
        for i in range(len(self.requests)):
            args = <tuple>self.requests[i]
            if not self.session.packer.is_simple(args):
                args = self.session.packer.plain(args)
                self.requests[i] = args
                for arg in args:
                    if PyMemoryView_Check(arg):
                        memoryview(arg)  # raises if it was released

    cdef int by_method(self) except -1:
        """Through the socket's methods: all is sent before the first reply is read."""
        while self.encoded < len(self.requests):
            self.encode_some()
            self.session.flush()
        while len(self.replies) < len(self.requests):
            self.take(self.parser.read(self.session, self.decodes_next(), False, -1))
        return 0

    cdef int by_descriptor(self) except -1:
        cdef Session s = self.session
        cdef int64_t idle_ns = s.wire.idle_ns()
        cdef cp_exchange x
        cdef Sending sending
        cdef Outbox out
        if s.reading:
            raise in_use_elsewhere()
        x.whole = x.replies = 0
        x.enough = ENOUGH_BYTES
        x.big = BIG_BYTES
        x.reading = cp_patience_of(idle_ns, self.deadline)
        x.sent_at = s.sent_at = 0
        x.late = False
        sending.many = NULL
        s.reading = True
        s.users += 1
        try:
            while len(self.replies) < len(self.requests):
                self.encode_some()
                out = s.detach()
                lay_out(&sending, out, idle_ns, self.deadline)
                x.iov = sending.many
                if sending.many == NULL:
                    x.iov = sending.few
                x.count = sending.count
                x.sending = sending.patience
                x.more = self.encoded < len(self.requests)
                self.exchange(&x)
                PyMem_RawFree(sending.many)
                sending.many = NULL
                s.sent(out)
            if self.deadline != CP_FOREVER:
                s.spend(READING)
        finally:
            s.reading = False
            s.leave()
            PyMem_RawFree(sending.many)
        return 0

    cdef int encode_some(self) except -1:
        """Encode as many commands as one send is worth."""
        cdef Session s = self.session
        while self.encoded < len(self.requests) and s.out.buf.len < SLICE_BYTES \
                and s.out.count < SLICE_SEGMENTS:
            s.enter(<tuple>self.requests[self.encoded])
            self.encoded += 1
        return 0

    cdef int exchange(self, cp_exchange *x) except -1:
        """Send what is laid out. If it is the last, read until all replies are there."""
        cdef Session s = self.session
        cdef cp_status st
        cdef int err = 0
        while True:
            x.wanted = <size_t>(self.encoded - len(self.replies))
            with nogil:
                st = cp_exchange_step(x, &s.wire.raw, s.inbox, s.scan, &err)
            s.sent_at = x.sent_at
            self.build(x)
            if st == CP_OK:
                if x.count == 0 and (x.more or len(self.replies) == len(self.requests)):
                    return 0
            elif st == CP_BIG:
                self.take_big(x.reading)
            elif st == CP_E_INTR:
                PyErr_CheckSignals()
            elif st == CP_E_PROTO:
                s.broken = True
                raise_protocol_error(s.reader, st)
            else:
                raise from_status(st, err)

    cdef int build(self, cp_exchange *x) except -1:
        """Build the replies that are whole, and pass on the pushes between them."""
        cdef Reader reader = self.session.reader
        cdef const char *at = cp_buf_head(self.session.inbox)
        cdef const char *end = at + x.whole
        cdef object reply
        while at != end:
            reader.is_push = at[0] == c">"
            reader.fatal = None
            reply = reader.build(&at, reader.decode_mode != 0 and self.decodes_next())
            if not reader.is_push:
                self.accept(reply)
                continue
            self.parser.handle_push_response(reply)
            if self.connection.session is not self.session:
                raise from_status(CP_E_EOF, 0)
        cp_buf_consume(self.session.inbox, x.whole)
        x.whole = x.replies = 0
        if self.session.inbox.cap > 2 * KEEP_BUFFER_BYTES:
            cp_buf_shrink(self.session.inbox, FIRST_BUFFER_BYTES)
        return 0

    cdef int take_big(self, cp_patience patience) except -1:
        """Receive a large string where it will live."""
        cdef Session s = self.session
        s.reader.begin_big()
        s.fill_big(&patience)
        if not s.reader.big_has_ended():
            s.broken = True
        return self.accept(s.reader.take_big(self.decodes_next()))

    cdef int accept(self, object reply) except -1:
        """Enter a reply into the ledger; one that ends the connection is raised."""
        self.session.taken = True
        self.parser.account(self.session, reply)
        return self.take(reply)

    cdef int take(self, object reply) except -1:
        if PyExceptionInstance_Check(reply):
            self.connection.see_error(reply)
        self.replies.append(reply)
        return 0

    cdef bint decodes_next(self) except -1:
        return self.raw is None or len(self.replies) not in self.raw


@cython.auto_pickle(False)
cdef class PipelineBase(ClientBase):
    """`_execute_pipeline` and `_execute_transaction`, compiled. Not thread-safe, as
    redis-py's pipeline."""

    @cython.binding(False)
    def _execute_pipeline(self, connection, commands, raise_on_error):
        cdef Batch batch = self.batch_of(connection, commands, False)
        cdef list answers
        if batch is None:
            return super(PipelineBase, self)._execute_pipeline(
                connection, commands, raise_on_error)
        answers = self.answers(commands, batch.replies, False)
        if batch.error is not None:
            raise batch.error
        if raise_on_error:
            self.raise_first(commands, answers)
        return answers

    @cython.binding(False)
    def _execute_transaction(self, connection, commands, raise_on_error):
        cdef Batch batch = self.batch_of(connection, commands, True)
        cdef list answers
        if batch is None:
            return super(PipelineBase, self)._execute_transaction(
                connection, commands, raise_on_error)
        if not is_ordinary_exec(batch, len(commands)):
            return super(PipelineBase, self)._execute_transaction(
                Retold(connection, batch.replies, batch.error), commands, raise_on_error)
        self.watching = False
        answers = batch.replies[len(batch.replies) - 1]
        if raise_on_error:
            self.raise_first(commands, answers)
        return self.answers(commands, answers, True)

    cdef int mirror(self, object name, object value) except -1:
        if name == "command_stack":
            self.stack = <list>value if type(value) is list else None
            return 0
        if name == "__dict__":
            self.stack = None
        return ClientBase.mirror(self, name, value)

    cdef int why_not(self, object connection) except -1:
        """Why the commands are redis-py's to send, or TAKEN."""
        if not is_enabled():
            return SWITCHED_OFF
        if self.patched or \
                (gates_of(GATES, self, &self.pipeline_gate) & PIPELINE_EXECUTE) == 0:
            return CLIENT
        return bulk_refusal(connection)

    cdef object batch_of(self, object connection, object commands, bint transaction):
        """Send the commands and read the replies; None if redis-py has to."""
        cdef Batch batch
        cdef tuple args
        cdef dict options
        cdef int why
        check(BEFORE)
        why = self.why_not(connection) if are_tuples(commands) else CLIENT
        if why != TAKEN:
            note(why)
            return None
        batch = Batch.__new__(Batch)
        batch.requests = [("MULTI",)] if transaction else []
        batch.connection = <ConnBase>connection
        batch.session = batch.connection.session
        batch.parser = batch.connection.reader
        if batch.session is None or batch.parser is None:
            why = CONNECTION  # closed by another thread meanwhile
        for args, options in <list>commands:
            if not args or not is_ordinary(args[0]) or streams(args[0]):
                why = COMMAND
            elif options and not is_plain_options(options):
                if transaction and "EMPTY_RESPONSE" in options:
                    why = COMMAND  # it is not sent
                elif not transaction and "NEVER_DECODE" in options:
                    batch.raw = batch.raw or set()
                    batch.raw.add(len(batch.requests))
            batch.requests.append(args)
        note(why)
        if why != TAKEN:
            return None
        if transaction:
            batch.requests.append(("EXEC",))
        if self.callbacks is NEVER_SET:
            self.callbacks = self.response_callbacks
        batch.replies = []
        batch.run()
        return batch

    cdef list answers(self, list commands, list replies, bint transaction):
        """What redis-py makes of each reply."""
        cdef list answers = []
        cdef Py_ssize_t i
        cdef tuple command, args
        for i in range(len(replies)):
            command = <tuple?>commands[i]  # a callback may have put in something else
            args = <tuple?>command[0]
            answers.append(self.answer(args[0], replies[i], <dict?>command[1], transaction))
        return answers

    cdef object answer(self, object name, object reply, dict options, bint transaction):
        cdef bint plain = is_plain_options(options)
        if PyExceptionInstance_Check(reply):
            if transaction or plain or "EMPTY_RESPONSE" not in options:
                return reply
            reply = options["EMPTY_RESPONSE"]
        elif transaction:
            return called_back(self.callbacks, name, reply, options, plain, True)
        else:
            try:
                reply = called_back(self.callbacks, name, reply, options, plain, False)
            except RESPONSE_ERROR as error:
                return error
        if may_watch(name):
            if name in self.UNWATCH_COMMANDS:
                self.watching = False
            elif name == "WATCH":
                self.watching = True
        return reply

    cdef int raise_first(self, list commands, list replies) except -1:
        """Raise the first error among the replies, as redis-py words it."""
        if gates_of(GATES, self, &self.pipeline_gate) & PIPELINE_ERRORS:
            for reply in replies:
                if PyExceptionInstance_Check(reply):
                    break
            else:
                return 0
        self.raise_first_error(commands, replies)
        return 0


cdef int bulk_refusal(object connection) except -1:
    """Why many commands at once are redis-py's to send on a connection, or TAKEN."""
    cdef ConnBase ours
    if not isinstance(connection, ConnBase):
        return CONNECTION
    ours = <ConnBase>connection
    if not ours.may_fuse() or (ours.gates() & GATE_BULK) == 0 or not ours.may_begin():
        return CONNECTION
    registry = getattr(ours, "himport_registry", None)
    if registry is not None and registry.revision != ours._himport_reconciled_revision:
        return COMMAND
    return HEALTH_CHECK if ours.health_is_due() else TAKEN


cdef object stack_command_of(object pipeline, object args, PyObject *options):
    cdef PipelineBase self = <PipelineBase>pipeline
    cdef dict kept
    cdef tuple command
    if options == NULL:
        kept = {}
    elif Py_REFCNT(options) == 1:
        kept = <dict>options  # made for this call, as f(**options) does
    else:
        kept = (<dict>options).copy()
    command = (args, kept)
    if (gates_of(GATES, self, &self.pipeline_gate) & PIPELINE_STACK) == 0 \
            or self.stack is None:
        return super(PipelineBase, pipeline).pipeline_execute_command(*args, **kept)
    self.stack.append(command)
    return pipeline


#: The method `pipeline_execute_command` of pipelines.
stack_command = cp_method(
    PipelineBase, b"pipeline_execute_command",
    b"pipeline_execute_command($self, /, *args, **options)\n--\n\n"
    b"Keep a command for execute(), and return the pipeline, as redis-py's method does.",
    <void *>stack_command_of)


cdef bint is_ordinary_exec(Batch batch, Py_ssize_t count) except -1:
    """Whether a transaction was queued without an error and has as many results."""
    if batch.error is not None or len(batch.replies) != count + 2:
        return False
    results = batch.replies[count + 1]
    if type(results) is not list or len(<list>results) != count:
        return False
    for reply in batch.replies:
        if PyExceptionInstance_Check(reply):
            return False
    return True


@cython.internal
@cython.final
cdef class Retold:
    """A connection as redis-py's `_execute_transaction` sees it when the commands were
    sent and their replies have come: reading gives them one by one."""

    cdef object connection
    cdef object replies
    cdef object error

    def __cinit__(self, connection, replies, error):
        self.connection = connection
        self.replies = iter(replies)
        self.error = error

    def __getattr__(self, name):
        return getattr(self.connection, name)

    def pack_commands(self, commands):
        return ()

    def send_packed_command(self, *args, **kwargs):
        pass

    def read_response(self, *args, **kwargs):
        for reply in self.replies:
            if not PyExceptionInstance_Check(reply):
                return reply
            try:
                raise reply
            finally:
                reply = None
        raise self.error


cdef bint are_tuples(object commands) noexcept:
    """Whether commands are what redis-py's pipeline makes of them, and not somebody else."""
    if type(commands) is not list:
        return False
    for command in <list>commands:
        if type(command) is not tuple or len(<tuple>command) != 2 \
                or type((<tuple>command)[0]) is not tuple \
                or type((<tuple>command)[1]) is not dict:
            return False
    return True


cdef bint may_watch(object name) noexcept:
    """Whether a name begins like WATCH, or like what ends it."""
    cdef unsigned char first
    if not PyUnicode_CheckExact(name) or not PyUnicode_IS_COMPACT_ASCII(name):
        return True
    first = PyUnicode_1BYTE_DATA(name)[0]
    return first == c"W" or first == c"U" or first == c"E" or first == c"D"


cdef bint streams(object name) except -1:
    """Whether what answers a command is no reply that could be counted."""
    cdef unsigned char first = PyUnicode_1BYTE_DATA(name)[0] | 0x20
    return (first == c"s" or first == c"p" or first == c"m") and name.upper() in STREAMS


cdef object STREAMS = frozenset(("SYNC", "PSYNC", "MONITOR"))

cdef Gates GATES = Gates(PipelineBase, (
    (PIPELINE_EXECUTE, ("parse_response",), EVERY),
    (PIPELINE_EXECUTE, ("_execute_pipeline", "_execute_transaction"), BEHIND),
    (PIPELINE_EXECUTE, ("_himport_prepare_pipeline",), FRONT),
    (PIPELINE_EXECUTE, ("response_callbacks",), NOWHERE),
    (PIPELINE_STACK, ("pipeline_execute_command",), BEHIND),
    (PIPELINE_STACK, ("__setattr__", "__delattr__", "__getattribute__"), FRONT),
    (PIPELINE_STACK, ("command_stack",), NOWHERE),
    (PIPELINE_ERRORS, ("raise_first_error", "annotate_exception"), FRONT),
))
GATES.originals.update({
    "__setattr__": frozenset((ClientBase.__dict__["__setattr__"],)),
    "__delattr__": frozenset((ClientBase.__dict__["__delattr__"],)),
    "__getattribute__": frozenset((object.__getattribute__,)),
})
