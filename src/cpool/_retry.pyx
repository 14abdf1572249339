# cython: language_level=3
"""Retry policies joined to a connection: a command is sent and read in one go.

redis-py's client drives each command through its connection's Retry, which makes that
the place to know that a read will follow a send.
"""

cimport cython
from cpython.object cimport PyObject, PyObject_GenericSetAttr
from libc.stdint cimport uint32_t

from cpool._conn cimport ConnBase
from cpool._deadline cimport Dial, any_in_force, bounded
from cpool._gates cimport cp_type_version, dict_version, generic_delattr, watch_dict
from cpool._session cimport Session

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident() noexcept
    Py_ssize_t Py_REFCNT(PyObject *o)
    object PyObject_GenericGetDict(object o, void *context)

# Retry.call_with_retry as redis-py has it, set by cpool.connection.
cdef object ORIGINAL_CALL = None


def set_original(call_with_retry):
    """Tell which call_with_retry the joined policies may stand in for."""
    global ORIGINAL_CALL
    ORIGINAL_CALL = call_with_retry


@cython.internal
@cython.final
cdef class Ending:
    """Attempts, until an error that no policy is to see: it gets the attempts themselves
    as their result then."""
    cdef object do
    cdef tuple errors
    cdef object error

    def __cinit__(self, do, tuple errors):
        self.do = do
        self.errors = errors

    def __call__(self):
        try:
            return self.do()
        except self.errors as error:
            self.error = error
            return self


cdef class RetryBase:
    """A connection's retry policy, through which a command is sent and read at once.

    While the policy's first attempt runs, a send is held back and goes out with the
    read that follows, or before anything else happens. The first error enters the
    policy itself, as its first attempt, so that counts, backoff and callbacks are
    its own."""

    @cython.binding(False)
    def call_with_retry(self, do, fail, is_retryable=None, with_failure_count=False):
        cdef ConnBase connection
        cdef object error
        if self.connection == NULL or Py_REFCNT(<PyObject *>self.connection) == 0:
            # No connection, or one that is ending: its attributes' finalisers run first.
            return self.by_policy(do, fail, is_retryable, with_failure_count)
        connection = <ConnBase>self.connection
        if not self.is_plain():
            return self.by_policy(do, fail, is_retryable, with_failure_count)
        if connection.holder or connection.session is None or connection.rehearsing \
                or not connection.session.wire.by_fd or connection.script is not None:
            return self.by_policy(do, fail, is_retryable, with_failure_count)
        try:
            return held(connection, do)
        except self.inner._supported_errors as e:
            error = e
        try:
            return self.by_policy(Replay(connection, do, error), fail, is_retryable,
                                  with_failure_count)
        finally:
            error = None

    cdef bint is_plain(self) except -1:
        """Whether redis-py's own call is what the policy and its view would run."""
        cdef dict own = <dict>PyObject_GenericGetDict(self.inner, NULL)
        cdef uint32_t tag = cp_type_version(<PyObject *>self.inner)
        if self.patched:
            return False
        if tag != 0 and tag == self.tag and dict_version(own) == self.version \
                and self.version != 0:
            return True
        if type(self.inner).call_with_retry is not ORIGINAL_CALL or "call_with_retry" in own:
            return False
        watch_dict(own)
        self.tag = tag
        self.version = dict_version(own)
        return True

    def __setattr__(self, name, value):
        PyObject_GenericSetAttr(self, name, value)
        if name == "call_with_retry":
            self.patched = True

    def __delattr__(self, name):
        generic_delattr(self, name, NULL)
        if name == "call_with_retry":
            self.patched = False

    def by_policy(self, do, fail, is_retryable, with_failure_count):
        """The wrapped policy's own call, with the arguments its version knows."""
        cdef Ending ending
        kwargs = {}
        if is_retryable is not None:
            kwargs["is_retryable"] = is_retryable
        if with_failure_count:
            kwargs["with_failure_count"] = True
        policy = self.inner
        if any_in_force():
            policy = bounded(policy, self.dial())
        if not self.final:
            return policy.call_with_retry(do, fail, **kwargs)
        ending = Ending(do, self.final)
        result = policy.call_with_retry(ending, fail, **kwargs)
        if result is not ending:
            return result
        error, ending.error = ending.error, None
        try:
            raise error
        finally:
            error = None  # no reference cycle through the traceback

    cdef Dial dial(self):
        """What is being dialled through this policy, under a deadline, or None."""
        if self.connection == NULL or Py_REFCNT(<PyObject *>self.connection) == 0:
            return None
        return (<ConnBase>self.connection).dial

    def part(self):
        """The connection is gone, or has another policy: be the wrapped one only."""
        self.connection = NULL

    @property
    def joined_inner(self):
        """The wrapped policy."""
        return self.inner

    @property
    def _backoff(self):
        return self.inner._backoff

    @_backoff.setter
    def _backoff(self, value):
        self.inner._backoff = value

    @property
    def _retries(self):
        return self.inner._retries

    @_retries.setter
    def _retries(self, value):
        self.inner._retries = value

    @property
    def _supported_errors(self):
        return self.inner._supported_errors

    @_supported_errors.setter
    def _supported_errors(self, value):
        self.inner._supported_errors = value

    def __copy__(self):
        return self.inner

    def __deepcopy__(self, memo):
        from copy import deepcopy

        return deepcopy(self.inner, memo)

    def __reduce__(self):
        return self.inner.__reduce_ex__(2)


cdef object held(ConnBase connection, object do):
    """Call do() with sends held back; what is left unsent goes out at the end."""
    cdef Session s
    connection.holder = PyThread_get_thread_ident()
    try:
        result = do()
        s = connection.session
        if s is not None and not s.out.is_empty():
            connection.flush_or_close(s)
        return result
    except Exception:
        s = connection.session
        if s is not None and not s.out.is_empty():
            connection.flush_or_close(s)  # its error is the one redis-py would have met
        raise
    except BaseException:
        connection.send_held(connection.session)  # an interrupt must not be lost to it
        raise
    finally:
        connection.holder = 0


@cython.internal
@cython.final
cdef class Replay:
    """An attempt whose first call raises the error that was already met."""
    cdef ConnBase connection
    cdef object do
    cdef object error

    def __cinit__(self, ConnBase connection, do, error):
        self.connection = connection
        self.do = do
        self.error = error

    def __call__(self):
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                error = None
        return held(self.connection, self.do) if self.connection.session is not None \
            else self.do()


def bind_retry(RetryBase retry, ConnBase connection, inner, tuple final=()):
    """Join a retry object to a connection; the reference back is not counted. final:
    errors that end the retries."""
    retry.inner = inner
    retry.final = final
    retry.connection = <void *>connection
    return retry
