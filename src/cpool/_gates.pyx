# cython: language_level=3
"""Gates: which of redis-py's methods nobody has replaced, so that compiled code may
stand in for them.

A subclass, a tracing tool that wraps a class, a mock: each changes a type's version,
under which the answer is kept. What is put on an instance itself is seen by its
__setattr__ (see is_patched).
"""

import weakref

cimport cython


@cython.final
cdef class Gates:
    def __cinit__(self, base, tuple rules):
        self.base = base
        self.rules = rules
        self.originals = {}
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
                if base is self.base or where == OWN:
                    return base is self.base
                return base.__dict__[name] in self.originals[name]
            if base is self.base:
                begun = True
        return where != OWN  # this redis-py has no such method


cdef bint is_patched(object instance, object names) except -1:
    """Whether somebody has put something of these names on the instance itself."""
    cdef dict own = instance.__dict__
    for name in own:
        if name in names:
            return True
    return False
