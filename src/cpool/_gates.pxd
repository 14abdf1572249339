# cython: language_level=3
"""What compiled code may bypass, found out once per version of a type. Layer 3."""

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t


cdef extern from *:
    """
    /* Changes whenever an attribute of the type or of one of its bases changes;
     * 0 means that it is not assigned, so nothing may be cached under it. */
    static inline unsigned int cp_type_version(PyObject *o) {
        return (unsigned int)Py_TYPE(o)->tp_version_tag;
    }
    """
    unsigned int cp_type_version(PyObject *o)


cdef extern from *:
    """
    #if PY_VERSION_HEX < 0x030C0000
    #define CP_DICT_VERSION(dict, events) (((PyDictObject *)(dict))->ma_version_tag)
    #else
    #define CP_DICT_VERSION(dict, events) (events)
    #endif
    """
    uint64_t CP_DICT_VERSION(object dict, uint64_t events)


cdef extern from "Python.h":
    int generic_delattr "PyObject_GenericSetAttr"(object o, object name, void *none) except -1


cdef uint64_t dict_events   # changes of watched dictionaries, from 1; 0: can't be told


cdef enum:
    # Where a lookup begins, and what it may end at.
    FRONT = 0       # at the type: our base's method, or an original
    BEHIND = 1      # behind our base, as super() does: an original
    OWN = 2         # at the type: our base's method, or one of our own
    NOWHERE = 3     # at the type: there must be nothing of that name
    EVERY = 4       # at the type: every one of that name is our base's or an original


cdef struct cp_gate:
    # What one instance remembers.
    uint32_t tag    # the type's version when flags was found
    int flags       # which gates are open


cdef class Gates:
    """The gates of the classes made from one compiled base. Thread-safe by the GIL."""
    cdef object base            # the compiled class
    cdef tuple rules            # (flag, names, where): all of a flag's must hold
    cdef dict originals         # name -> frozenset of functions we may stand in for
    cdef dict own               # name -> the same of our own, in classes above the base
    cdef object known           # weakly: type -> (version tag, flags)

    cdef int look_up(self, object instance, cp_gate *gate) except -1
    cdef int find(self, object cls) except -1
    cdef bint holds(self, object cls, str name, int where) except -1


cdef inline int gates_of(Gates gates, object instance, cp_gate *gate) except -1:
    """The open gates of an instance; looked up again when its class has changed."""
    if gate.tag != 0 and gate.tag == cp_type_version(<PyObject *>instance):
        return gate.flags
    return gates.look_up(instance, gate)


cdef inline uint64_t dict_version(dict watched) noexcept:
    """Another number whenever a watched dictionary has changed; 0: look each time."""
    return CP_DICT_VERSION(watched, dict_events)


cdef int watch_dict(dict watched) except -1
cdef bint is_patched(object instance, object names) except -1
