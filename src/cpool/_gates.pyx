# cython: language_level=3
"""Gates: which of redis-py's methods nobody has replaced, so that compiled code may
stand in for them.

A subclass, a tracing tool that wraps a class, a mock: each changes a type's version,
under which the answer is kept. What is put on an instance itself is seen by its
__setattr__ (see is_patched).
"""

import weakref

cimport cython
from libc.stdint cimport uint64_t

cdef extern from *:
    """
    /* Python 3.12 has no versions of dictionaries, but tells who watches them. */
    #if PY_VERSION_HEX < 0x030C0000
    static int cp_start_watching(uint64_t *events) { *events = 1; return 0; }
    static int cp_watch_dict(int id, PyObject *dict) { (void)id; (void)dict; return 0; }
    #else
    static uint64_t *cp_dict_events;
    static int cp_on_dict_event(PyDict_WatchEvent event, PyObject *dict, PyObject *key,
                                PyObject *value) {
        (void)event; (void)dict; (void)key; (void)value;
        ++*cp_dict_events;
        return 0;
    }
    static int cp_start_watching(uint64_t *events) {
        /* 3.13.0 does not tell of attributes set on an instance (gh-125608). */
        int id = Py_Version >> 8 == 0x030D00 ? -1 : PyDict_AddWatcher(cp_on_dict_event);
        if (id < 0)
            PyErr_Clear(); /* all taken, or of no use: events stay 0 */
        else
            *events = 1;
        cp_dict_events = events;
        return id;
    }
    static int cp_watch_dict(int id, PyObject *dict) {
        return id < 0 ? 0 : PyDict_Watch(id, dict);
    }
    #endif
    """
    int cp_start_watching(uint64_t *events) noexcept
    int cp_watch_dict(int id, object dict) except -1

cdef uint64_t dict_events = 0
cdef int watcher = cp_start_watching(&dict_events)


cdef int watch_dict(dict watched) except -1:
    """Let dict_version() tell of changes of this dictionary from now on."""
    return cp_watch_dict(watcher, watched)


@cython.final
cdef class Gates:
    def __cinit__(self, base, tuple rules):
        self.base = base
        self.rules = rules
        self.originals = {}
        self.own = {}
        self.known = weakref.WeakKeyDictionary()

    cdef int look_up(self, object instance, cp_gate *gate) except -1:
        cdef uint32_t tag = cp_type_version(<PyObject *>instance)
        cls = type(instance)
        known = self.known.get(cls)
        if tag == 0 or known is None or known[0] != tag:
            known = (tag, self.find(cls))
            self.known[cls] = known
        gate.tag = tag
        gate.flags = known[1]
        return gate.flags

    cdef int find(self, object cls) except -1:
        cdef int opened = 0, closed = 0
        for flag, names, where in self.rules:
            opened |= flag
            for name in names:
                if not self.holds(cls, name, where):
                    closed |= flag
        return opened & ~closed

    cdef bint holds(self, object cls, str name, int where) except -1:
        """Whether a lookup of `name` ends where the rule wants it to."""
        cdef bint begun = where != BEHIND
        for base in cls.__mro__:
            if begun and name in base.__dict__:
                if where == NOWHERE:
                    return False
                if base is self.base:
                    return True
                if where == OWN:
                    return is_one_of(base.__dict__[name], self.own.get(name, ()))
                if not is_one_of(base.__dict__[name], self.originals[name]):
                    return False
                if where != EVERY:
                    return True
            if base is self.base:
                begun = True
        return where != OWN  # this redis-py has no such method


cdef bint is_one_of(object found, object functions) except -1:
    """Whether it is one of these itself: wrapt's wrappers are equal to what they wrap."""
    for function in functions:
        if found is function:
            return True
    return False


cdef bint is_patched(object instance, object names) except -1:
    """Whether somebody has put something of these names on the instance itself."""
    cdef dict own = instance.__dict__
    for name in own:
        if name in names:
            return True
    return False
