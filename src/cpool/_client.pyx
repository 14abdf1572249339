# cython: language_level=3
"""A command as one compiled call: checkout, encode, exchange, decode, callback, return.

It stands below `execute_command`, where tracing tools look, and runs only where nothing
that redis-py would do can be observed or has been replaced. Whatever is out of the
ordinary, the first error included, goes on in redis-py's own `_execute_command`.
"""

cimport cython
from cpython.dict cimport PyDict_GetItemWithError, PyDict_Next, PyDict_Size
from cpython.object cimport PyObject, PyObject_GenericSetAttr
from libc.stdint cimport uint64_t

from cpool._conn cimport ConnBase
from cpool._deadline cimport any_in_force, taken
from cpool._gates cimport BEHIND, FRONT, NOWHERE, OWN, Gates, gates_of, generic_delattr, is_patched
from cpool._pool cimport GATE_LEND, PoolBase
from cpool._resp cimport OK_REPLY
from cpool._retry cimport RetryBase
from cpool._session cimport NOT_QUIET

cdef extern from "Python.h":
    bint PyExceptionInstance_Check(object o)
    bint PyUnicode_CheckExact(object o)
    bint PyUnicode_IS_COMPACT_ASCII(object o)
    const unsigned char *PyUnicode_1BYTE_DATA(object o)
    int PyUnicode_Compare(object a, object b) noexcept  # of two str

REASONS = (
    "taken", "switched off", "client overridden", "pool overridden", "metrics on",
    "command", "connection pinned", "connection overridden", "health check due",
    "retry overridden",
)

cdef enum:
    CLIENT_EXECUTE = 1  # the gate of a client: its methods as a whole

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
cdef object SET_RESULT = None
cdef object BOOL_OK = None


def set_originals(functions, callbacks, response_error, set_result, bool_ok):
    """Tell which functions of redis-py's client the core may stand in for, by name; the
    classes of its callback tables and of error replies; its two callbacks that make True
    of an OK."""
    global EXECUTE, CALLBACKS, RESPONSE_ERROR, SET_RESULT, BOOL_OK
    SET_RESULT, BOOL_OK = set_result, bool_ok
    GATES.originals.update({name: frozenset((f,)) for name, f in functions.items()})
    EXECUTE = functions["_execute_command"]
    CALLBACKS = callbacks
    RESPONSE_ERROR = response_error


def set_enabled(bint value):
    """Switch the compiled call on or off, for all clients of the process."""
    global enabled
    enabled = value


cpdef bint is_enabled() noexcept:
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


@cython.auto_pickle(False)
cdef class ClientBase:
    """`_execute_command`, compiled. As thread-safe as redis-py's client."""

    def __cinit__(self, *args, **kwargs):
        self.pool = self.pinned = self.single = self.callbacks = NEVER_SET

    def __setattr__(self, name, value):
        PyObject_GenericSetAttr(self, name, value)
        self.mirror(name, value)

    def __delattr__(self, name):
        generic_delattr(self, name, NULL)
        self.mirror(name, NEVER_SET)

    cdef int mirror(self, object name, object value) except -1:
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
        elif name == "__dict__":  # all of them at once
            self.pool = self.pinned = self.single = self.callbacks = NEVER_SET
        return 0

    cdef bint look_up(self) except -1:
        """Fill the mirrors of a client whose attributes were not set one by one (a copy).
        False: it lacks one of them."""
        cdef bint whole = True
        for name in MIRRORED:
            value = getattr(self, name, NEVER_SET)
            self.mirror(name, value)
            whole = whole and value is not NEVER_SET
        self.patched = is_patched(self, OBSERVED)
        return whole

    def __getnewargs__(self):
        """What a copy is made with, beside its attributes."""
        return ()

    cdef object execute(self, tuple args, dict options):
        cdef object pool, pinned, connection
        cdef bint plain = options is None or is_plain_options(options)
        cdef int why = self.refusal(args, options, plain)
        pool, pinned = self.pool, self.pinned
        if why == TAKEN and not (isinstance(pool, PoolBase) and (
                pinned is None or isinstance(pinned, ConnBase))):
            why = CLIENT  # another thread has put others in meanwhile
        if why != TAKEN:
            note(why)
            return super(ClientBase, self)._execute_command(*args, **(options or {}))
        if pinned is not None:
            return self.execute_pinned(pool, pinned, args, options, plain)
        connection = (<PoolBase>pool).checkout(False)
        why = lent_refusal(pool, connection)
        if why != TAKEN:
            note(why)
            if isinstance(connection, ConnBase):
                (<PoolBase>pool).look_at(connection)
            return self.drive(pool, connection, False, None, args, options)
        return self.run(pool, connection, False, args, options, plain, True)

    cdef object execute_pinned(self, object pool, ConnBase connection, tuple args,
                               dict options, bint plain):
        """The same on a single-connection client's own connection."""
        cdef int why
        lock = self.single_connection_lock
        with taken(lock) if any_in_force() else lock:
            # Only now: who had the lock may have closed it, or left it unclean.
            why = pinned_refusal(connection)
            if why == TAKEN:
                return self.run(pool, connection, True, args, options, plain, False)
            note(why)
            return self.drive(pool, connection, True, None, args, options)

    cdef int refusal(self, tuple args, dict options, bint plain) except -1:
        """Why this call is redis-py's to do, or TAKEN."""
        cdef object pool, pinned
        if not enabled:
            return SWITCHED_OFF
        if self.pool is NEVER_SET or self.pinned is NEVER_SET or self.callbacks is NEVER_SET \
                or self.single is NEVER_SET:
            if not self.look_up():
                return CLIENT
        pool, pinned = self.pool, self.pinned
        if self.patched or (gates_of(GATES, self, &self.gate) & CLIENT_EXECUTE) == 0:
            return CLIENT
        if not isinstance(pool, PoolBase) or (<PoolBase>pool).patched \
                or ((<PoolBase>pool).gates() & GATE_LEND) == 0:
            return POOL
        if not (<PoolBase>pool).metrics_off():
            return METRICS
        if not args or not is_ordinary(args[0]) or not (plain or is_passable(options)):
            return COMMAND
        if self.single:
            return TAKEN if isinstance(pinned, ConnBase) else PINNED
        return TAKEN if pinned is None else PINNED

    cdef object run(self, object pool, ConnBase connection, bint pinned, tuple args,
                    dict options, bint plain, bint look):
        cdef object reply, error
        counts[TAKEN] += 1
        try:
            reply = connection.exchange(args, plain or "NEVER_DECODE" not in options, look)
            reply = finish(self, args[0], reply, options, plain)
        except BaseException as e:
            if not isinstance(e, NOT_QUIET) \
                    and not isinstance(e, connection.inner_retry._supported_errors):
                self.leave(pool, connection, pinned)
                raise
            error = e
        else:
            self.leave(pool, connection, pinned)
            return reply
        if isinstance(error, NOT_QUIET):
            counts[TAKEN] -= 1
            error = None
            return self.begin_again(pool, connection, args, options, plain)
        try:
            return self.drive(pool, connection, pinned, error, args, options)
        finally:
            error = None

    cdef object begin_again(self, object pool, ConnBase connection, tuple args, dict options,
                            bint plain):
        """A connection was lent that is closed, or has something to read: mend it first."""
        cdef int why
        (<PoolBase>pool).look_at(connection)
        why = lent_refusal(pool, connection)
        if why == TAKEN:
            return self.run(pool, connection, False, args, options, plain, False)
        note(why)
        return self.drive(pool, connection, False, None, args, options)

    cdef object drive(self, object pool, object connection, bint pinned, object error,
                      tuple args, dict options):
        """Let redis-py do it, on this connection, beginning with the error met already."""
        cdef Driver driver = Driver.__new__(Driver)
        driver.client = self
        driver.pool = pool
        driver.lent = connection
        driver.connection = connection if pinned else None
        driver.error = error
        try:
            return EXECUTE(driver, *args, **(options or {}))
        finally:
            # An interrupt between redis-py's own statements would lose the slot.
            if not pinned and driver.lent is not None:
                driver.release(driver.lent)

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
    cdef object lent        # None once it was released
    cdef object error
    cdef readonly object connection

    def __getattr__(self, name):
        return getattr(self.client, name)

    @property
    def connection_pool(self):
        return self

    @property
    def _single_connection_client(self):
        return False  # its lock is held already, and need not be re-entrant

    def get_connection(self):
        return self.lent

    def release(self, connection):
        self.lent = None  # first: once it is released it may be another thread's
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


cdef bint is_passable(dict options) except -1:
    """Whether redis-py could pass these options on from method to method: none has the
    name of a parameter on the way."""
    for name in PARAMETERS:
        if name in options:
            return False
    return True


cdef tuple PARAMETERS = ("conn", "command_name", "connection")


cdef int lent_refusal(object pool, object connection) except -1:
    """Why a connection that the pool has lent must be driven by redis-py, or TAKEN."""
    try:
        return connection_refusal(connection)
    except BaseException:  # by what somebody has put in or deleted
        pool.release(connection)
        raise


cdef int pinned_refusal(ConnBase connection) except -1:
    """The same for the one connection of a client. Its lock is held."""
    if connection.session is None or not connection.session.is_clean():
        return PINNED
    return connection_refusal(connection)


cdef int connection_refusal(object connection) except -1:
    """Why a connection must be driven by redis-py, or TAKEN."""
    cdef ConnBase ours
    if not isinstance(connection, ConnBase):
        return CONNECTION
    ours = <ConnBase>connection
    # First, for it may run Python code, and another thread may disconnect meanwhile.
    retry = ours.retry if ours.retry_view is None else ours.retry_view
    if ours.holder != 0 or not ours.may_fuse():
        return CONNECTION
    if ours.health_is_due():
        return HEALTH_CHECK
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
        if is_ok(reply) and (callback is SET_RESULT or callback is BOOL_OK):
            return True
        return callback(reply)
    kept_back = KEPT_BACK_AFTER_EXEC if all_options else KEPT_BACK
    return callback(
        reply, **{key: value for key, value in options.items() if key not in kept_back})


cdef bint is_plain_options(dict options) except -1:
    """Whether a callback is to get none of the options: there are none but redis-py's own
    note of the keys."""
    cdef PyObject *name
    cdef Py_ssize_t at = 0, n = PyDict_Size(options)
    if n != 1:
        return n == 0
    PyDict_Next(options, &at, &name, NULL)
    return name == <PyObject *>KEYS or "keys" in options


cdef object KEYS = "keys"
# Options that no callback gets: those for parse_response itself, which does not see a
# command's options in a transaction.
cdef object KEPT_BACK = frozenset(("NEVER_DECODE", "EMPTY_RESPONSE", "keys"))
cdef object KEPT_BACK_AFTER_EXEC = frozenset(("keys",))


cdef bint is_ok(object reply) noexcept:
    if PyUnicode_CheckExact(reply):
        return PyUnicode_Compare(reply, "OK") == 0
    return reply is OK_REPLY


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


# redis-py's method set(), and its classes that have it: of clients, and of clusters.
cdef object REDIS_SET = None
cdef object REDIS_CLIENT = None
cdef object REDIS_CLUSTER = None


def set_method(base, redis_class, redis_set, bytes doc):
    """A method `set` for the clients made from one compiled base: SET of a name and a value
    goes to execute_command at once, past redis-py's look at a dozen options. doc: begins
    with the signature, and must be kept."""
    global REDIS_SET, REDIS_CLIENT, REDIS_CLUSTER
    REDIS_SET = redis_set
    if base is ClientBase:
        REDIS_CLIENT = redis_class
    else:
        REDIS_CLUSTER = redis_class
    return cp_method(base, b"set", doc, <void *>set_of)


cdef object set_of(object client, object args, PyObject *options):
    cdef object redis_class = REDIS_CLIENT if isinstance(client, ClientBase) else REDIS_CLUSTER
    if options == NULL and len(<tuple>args) == 2 and redis_class.set is REDIS_SET:
        return client.execute_command("SET", (<tuple>args)[0], (<tuple>args)[1])
    return redis_class.set(
        client, *<tuple>args, **({} if options == NULL else <dict>options))


#: The method `_execute_command` of clients.
execute_command = cp_method(
    ClientBase, b"_execute_command",
    b"_execute_command($self, /, *args, **options)\n--\n\n"
    b"Execute a command and return its reply, as redis-py's method does.",
    <void *>execute_command_of)

cdef Gates GATES = Gates(ClientBase, (
    (CLIENT_EXECUTE, ("parse_response", "_send_command_parse_response"), FRONT),
    (CLIENT_EXECUTE, ("_execute_command",), BEHIND),
    (CLIENT_EXECUTE, ("__setattr__", "__delattr__"), OWN),
    (CLIENT_EXECUTE, ("__getattribute__",), FRONT),
    (CLIENT_EXECUTE, MIRRORED, NOWHERE),
))
GATES.originals["__getattribute__"] = frozenset((object.__getattribute__,))


def compiled_init(plain, options, with_options):
    """An `__init__` that leaves no frame behind, so that redis-py's warnings point at who
    calls it: plain(self, ...), or where one of `options` is given what with_options(self,
    args, kwargs) returns in its place, having taken those options out of kwargs."""
    def __init__(self, *args, **kwargs):
        if kwargs and not options.isdisjoint(kwargs):
            with_options(self, args, kwargs)(self, *args, **kwargs)
        else:
            plain(self, *args, **kwargs)
    return __init__
