# cython: language_level=3
"""A command, and a pipeline's commands, as one compiled call. Layer 6."""

from cpython.object cimport PyObject

from cpool._conn cimport ConnBase
from cpool._gates cimport cp_gate


cdef extern from *:
    """
    /* A method that gets its keyword arguments as CPython passes them: a `def` would
     * copy them at each call. */
    static PyObject *cp_method(PyObject *type, const char *name, const char *doc,
                               void *function) {
        PyMethodDef *def = PyMem_RawCalloc(1, sizeof *def); /* lives as long as the method */
        if (def == NULL)
            return PyErr_NoMemory();
        def->ml_name = name;
        def->ml_doc = doc;
        def->ml_meth = (PyCFunction)function;
        def->ml_flags = METH_VARARGS | METH_KEYWORDS;
        return PyDescr_NewMethod((PyTypeObject *)type, def);
    }
    """
    # function: object (*)(object self, object args, PyObject *kwargs), kwargs NULL for none;
    # doc begins with the signature as help() wants it.
    object cp_method(object type, const char *name, const char *doc, void *function)


cdef enum:
    # Why a call was left to redis-py; the names are in REASONS.
    TAKEN = 0
    SWITCHED_OFF = 1
    CLIENT = 2
    POOL = 3
    METRICS = 4
    COMMAND = 5
    PINNED = 6
    CONNECTION = 7
    HEALTH_CHECK = 8
    RETRY = 9
    N_REASONS = 10


cdef class ClientBase:
    """What `cpool.Redis` is made of, beside redis-py's client."""
    cdef cp_gate gate       # CLIENT_*: which of its methods nobody has replaced
    cdef bint patched       # one was replaced on this instance
    # What __setattr__ has last stored under the attribute of nearly the same name, so
    # that it need not be looked up; NEVER_SET where it has stored none (a copy).
    cdef object pool        # connection_pool
    cdef object pinned      # connection
    cdef object single      # _single_connection_client
    cdef object callbacks   # response_callbacks

    cdef int mirror(self, object name, object value) except -1
    cdef bint look_up(self) except -1
    cdef object execute(self, tuple args, dict options)
    cdef object execute_pinned(self, object pool, ConnBase connection, tuple args,
                               dict options, bint plain)
    cdef int refusal(self, tuple args, dict options, bint plain) except -1
    cdef object run(self, object pool, ConnBase connection, bint pinned, tuple args,
                    dict options, bint plain, bint look)
    cdef object begin_again(self, object pool, ConnBase connection, tuple args, dict options,
                            bint plain)
    cdef object drive(self, object pool, object connection, bint pinned, object error,
                      tuple args, dict options)
    cdef int leave(self, object pool, ConnBase connection, bint pinned) except -1


cdef object NEVER_SET
cdef object RESPONSE_ERROR  # redis-py's class of error replies

cdef int note(int why) except -1
cdef int lent_refusal(object pool, object connection) except -1
cdef int pinned_refusal(ConnBase connection) except -1
cdef int connection_refusal(object connection) except -1
cdef object finish(ClientBase client, object name, object reply, dict options, bint plain)
cdef object called_back(object callbacks, object name, object reply, dict options, bint plain,
                        bint all_options)
cdef bint is_ordinary(object name) except -1
cdef bint is_plain_options(dict options) except -1
cpdef bint is_enabled() noexcept
