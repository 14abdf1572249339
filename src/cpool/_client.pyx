# cython: language_level=3
"""A command as one compiled call: checkout, encode, exchange, decode, callback, return.

It stands below `execute_command`, where tracing tools look, and runs only where nothing
that redis-py would do can be observed or has been replaced. Whatever is out of the
ordinary, the first error included, goes on in redis-py's own `_execute_command`.
"""

from copyreg import __newobj__

cimport cython
from cpython.dict cimport PyDict_GetItemWithError, PyDict_Next
from cpython.object cimport PyObject, PyObject_GenericSetAttr
from libc.stdint cimport uint64_t

from cpool._conn cimport ConnBase
from cpool._gates cimport BEHIND, FRONT, NOWHERE, Gates, gates_of, is_patched
from cpool._pool cimport GATE_LEND, PoolBase
from cpool._retry cimport RetryBase

cdef extern from "Python.h":
    bint PyExceptionInstance_Check(object o)
    bint PyUnicode_CheckExact(object o)
    bint PyUnicode_IS_COMPACT_ASCII(object o)
    const unsigned char *PyUnicode_1BYTE_DATA(object o)
    int generic_delattr "PyObject_GenericSetAttr"(object o, object name, void *none) except -1

REASONS = (
    "taken", "switched off", "client overridden", "pool overridden", "metrics on",
    "command", "connection pinned", "connection overridden", "health check due",
    "retry overridden",
)

cdef bint enabled = True
cdef uint64_t counts[N_REASONS]
cdef object OBSERVED = frozenset((
    "parse_response", "_send_command_parse_response",
    "raise_first_error", "_himport_prepare_pipeline",  # of pipelines
))
cdef tuple MIRRORED = (
    "connection_pool", "connection", "_single_connection_client", "response_callbacks",
)
cdef object NEVER_SET = object()

# Of redis-py, set by cpool.client: its driver of a command, its class of callbacks by
# name, and the errors a reply may be.
cdef object EXECUTE = None
cdef object CALLBACKS = None
cdef object RESPONSE_ERROR = None


def set_originals(functions, callbacks, response_error):
    """Tell which functions of redis-py's client the core may stand in for, by name, and
    the classes of its callback tables and of error replies."""
    global EXECUTE, CALLBACKS, RESPONSE_ERROR
    GATES.originals.update({name: frozenset((f,)) for name, f in functions.items()})
    EXECUTE = functions["_execute_command"]
    CALLBACKS = callbacks
    RESPONSE_ERROR = response_error


def set_enabled(bint value):
    """Switch the compiled call on or off, for all clients of the process."""
    global enabled
    enabled = value


def is_enabled():
    return enabled


cdef bint is_switched_on() noexcept:
    return enabled


def counted():
    """How often each of REASONS was met."""
    return [counts[i] for i in range(N_REASONS)]


def forget_counts():
    for i in range(N_REASONS):
        counts[i] = 0


cdef int note(int why) except -1:
    counts[why] += 1
    return 0


cdef class ClientBase:
    """`_execute_command`, compiled. As thread-safe as redis-py's client."""

    def __cinit__(self, *args, **kwargs):
        self.pool = self.pinned = self.single = self.callbacks = NEVER_SET

    def __reduce_ex__(self, protocol):
        """Let copies be made as redis-py's clients can be: the attributes are all there is."""
        return __newobj__, (type(self),), self.__dict__

    def __setattr__(self, name, value):
        PyObject_GenericSetAttr(self, name, value)
        self.mirror(name, value)

    def __delattr__(self, name):
        generic_delattr(self, name, NULL)
        self.mirror(name, NEVER_SET)

    cdef int mirror(self, str name, object value) except -1:
        if name == "connection_pool":
            self.pool = value
        elif name == "connection":
            self.pinned = value
        elif name == "_single_connection_client":
            self.single = value
        elif name == "response_callbacks":
            self.callbacks = value
        elif name in OBSERVED:
            self.patched = is_patched(self, OBSERVED)
        return 0

    cdef int look_up(self) except -1:
        """Fill the mirrors of a client whose attributes were not set one by one."""
        for name in MIRRORED:
            self.mirror(name, getattr(self, name))
        self.patched = is_patched(self, OBSERVED)
        return 0

    cdef object execute(self, tuple args, dict options):
        cdef object pool, pinned, connection
        cdef int why = self.refusal(args)
        pool, pinned = self.pool, self.pinned
        if why != TAKEN:
            note(why)
            return super(ClientBase, self)._execute_command(*args, **(options or {}))
        if pinned is not None:
            with self.single_connection_lock:
                return self.run(pool, pinned, True, args, options)
        connection = (<PoolBase>pool).checkout()
        why = connection_refusal(connection)
        if why != TAKEN:
            note(why)
            return self.drive(pool, connection, False, None, args, options)
        return self.run(pool, connection, False, args, options)

    cdef int refusal(self, tuple args) except -1:
        """Why this call is redis-py's to do, or TAKEN."""
        cdef object pool, pinned
        if not enabled:
            return SWITCHED_OFF
        if self.pool is NEVER_SET or self.pinned is NEVER_SET or self.callbacks is NEVER_SET \
                or self.single is NEVER_SET:
            self.look_up()
        pool, pinned = self.pool, self.pinned
        if self.patched or gates_of(GATES, self, &self.gate) == 0:
            return CLIENT
        if not isinstance(pool, PoolBase) or (<PoolBase>pool).patched \
                or ((<PoolBase>pool).gates() & GATE_LEND) == 0:
            return POOL
        if not (<PoolBase>pool).metrics_off():
            return METRICS
        if not args or not is_ordinary(args[0]):
            return COMMAND
        if pinned is None:
            return PINNED if self.single else TAKEN
        if not self.single or not isinstance(pinned, ConnBase):
            return PINNED
        if (<ConnBase>pinned).session is None or not (<ConnBase>pinned).session.is_clean():
            return PINNED
        return connection_refusal(pinned)

    cdef object run(self, object pool, ConnBase connection, bint pinned, tuple args,
                    dict options):
        cdef object reply, error
        cdef bint plain = options is None or is_plain_options(options)
        counts[TAKEN] += 1
        try:
            reply = connection.exchange(args, plain or "NEVER_DECODE" not in options)
            reply = finish(self, args[0], reply, options, plain)
        except BaseException as e:
            if not isinstance(e, connection.inner_retry._supported_errors):
                self.leave(pool, connection, pinned)
                raise
            error = e
        else:
            self.leave(pool, connection, pinned)
            return reply
        try:
            return self.drive(pool, connection, pinned, error, args, options)
        finally:
            error = None

    cdef object drive(self, object pool, object connection, bint pinned, object error,
                      tuple args, dict options):
        """Let redis-py do it, on this connection, beginning with the error met already."""
        cdef Driver driver = Driver.__new__(Driver)
        driver.client = self
        driver.pool = pool
        driver.lent = connection
        driver.connection = connection if pinned else None
        driver.error = error
        return EXECUTE(driver, *args, **(options or {}))

    cdef int leave(self, object pool, ConnBase connection, bint pinned) except -1:
        """What redis-py does at the end of a command, however it has ended."""
        try:
            if connection.reconnect:
                self._close_connection(connection)
                connection.connect()
        finally:
            if not pinned:
                (<PoolBase>pool).take_back_fused(connection)
        return 0


@cython.internal
@cython.final
cdef class Driver:
    """The client, and its pool, as redis-py's `_execute_command` sees them while it works
    on a connection that is already lent: the first attempt has been made if there is an
    error; anything else is the client's own."""
    cdef object client
    cdef object pool
    cdef object lent
    cdef object error
    cdef readonly object connection

    def __getattr__(self, name):
        return getattr(self.client, name)

    @property
    def connection_pool(self):
        return self

    def get_connection(self):
        return self.lent

    def release(self, connection):
        self.pool.release(connection)

    def _send_command_parse_response(self, *args, **options):
        error, self.error = self.error, None
        if error is None:
            return self.client._send_command_parse_response(*args, **options)
        try:
            raise error
        finally:
            error = None


cdef bint is_ordinary(object name) except -1:
    """Whether a command's name is a str of which nothing depends on the connection."""
    cdef const unsigned char *text
    if not PyUnicode_CheckExact(name) or not PyUnicode_IS_COMPACT_ASCII(name):
        return False
    text = PyUnicode_1BYTE_DATA(name)
    return (text[0] | 0x20) != c"h" or not name.upper().startswith("HIMPORT")


cdef int connection_refusal(object connection) except -1:
    """Why a connection that was lent must be driven by redis-py, or TAKEN."""
    cdef ConnBase ours
    if not isinstance(connection, ConnBase) or not (<ConnBase>connection).may_fuse():
        return CONNECTION
    ours = <ConnBase>connection
    if ours.holder != 0:
        return CONNECTION
    if ours.health_is_due():
        return HEALTH_CHECK
    retry = ours.retry if ours.retry_view is None else ours.retry_view
    return TAKEN if isinstance(retry, RetryBase) and (<RetryBase>retry).is_plain() else RETRY


cdef object finish(ClientBase client, object name, object reply, dict options, bint plain):
    """What parse_response makes of a reply: raise it, or hand it to its callback."""
    if PyExceptionInstance_Check(reply):
        if not plain and "EMPTY_RESPONSE" in options and isinstance(reply, RESPONSE_ERROR):
            return options["EMPTY_RESPONSE"]
        try:
            raise reply
        finally:
            reply = None  # no reference cycle through the traceback
    return called_back(client.callbacks, name, reply, options, plain, False)


cdef object called_back(object callbacks, object name, object reply, dict options, bint plain,
                        bint all_options):
    """The reply as the command's callback returns it, if it has one. all_options: it is to
    get all but the keys, as at the end of a transaction."""
    cdef PyObject *found
    if type(callbacks) is CALLBACKS and is_upper(name):
        found = PyDict_GetItemWithError(callbacks, name)  # its keys are upper case
        if found == NULL:
            return reply
        callback = <object>found
    elif name in callbacks:
        callback = callbacks[name]
    else:
        return reply
    if plain:
        return callback(reply)
    kept_back = KEPT_BACK_AFTER_EXEC if all_options else KEPT_BACK
    return callback(
        reply, **{key: value for key, value in options.items() if key not in kept_back})


cdef bint is_plain_options(dict options) except -1:
    """Whether a callback is to get none of the options: there are none but redis-py's own
    note of the keys."""
    cdef PyObject *name
    cdef Py_ssize_t at = 0
    if len(options) != 1:
        return len(options) == 0
    PyDict_Next(options, &at, &name, NULL)
    return <object>name is KEYS or "keys" in options


cdef object KEYS = "keys"
# Options that no callback gets: those for parse_response itself, which does not see a
# command's options in a transaction.
cdef object KEPT_BACK = frozenset(("NEVER_DECODE", "EMPTY_RESPONSE", "keys"))
cdef object KEPT_BACK_AFTER_EXEC = frozenset(("keys",))


cdef bint is_upper(object name) except -1:
    """Whether a name is ASCII in which upper() would change nothing."""
    cdef const unsigned char *text
    cdef Py_ssize_t i
    if not PyUnicode_CheckExact(name) or not PyUnicode_IS_COMPACT_ASCII(name):
        return False
    text = PyUnicode_1BYTE_DATA(name)
    for i in range(len(name)):
        if c"a" <= text[i] <= c"z":
            return False
    return True


cdef object execute_command_of(object client, object args, PyObject *options):
    return (<ClientBase>client).execute(<tuple>args, None if options == NULL else <dict>options)


cdef extern from *:
    """
    /* The method as CPython calls it, with the keyword arguments as they come: a `def`
     * would copy them. */
    static PyMethodDef cp_execute_command = {
        "_execute_command", NULL, METH_VARARGS | METH_KEYWORDS,
        "Execute a command and return its reply, as redis-py's method does."};
    static PyObject *cp_method(PyObject *type, void *function) {
        cp_execute_command.ml_meth = (PyCFunction)function;
        return PyDescr_NewMethod((PyTypeObject *)type, &cp_execute_command);
    }
    """
    object cp_method(object type, void *function)


#: The method `_execute_command` of clients.
execute_command = cp_method(ClientBase, <void *>execute_command_of)

cdef Gates GATES = Gates(ClientBase, (
    (1, ("parse_response", "_send_command_parse_response"), FRONT),
    (1, ("_execute_command",), BEHIND),
    (1, MIRRORED, NOWHERE),
))


def compiled_init(plain, options, with_options):
    """An `__init__` that leaves no frame behind, so that redis-py's warnings point at who
    calls it: plain(self, ...), or with_options(self, ...) where one of `options` is given."""
    def __init__(self, *args, **kwargs):
        if kwargs and not options.isdisjoint(kwargs):
            with_options(self, *args, **kwargs)
        else:
            plain(self, *args, **kwargs)
    return __init__
