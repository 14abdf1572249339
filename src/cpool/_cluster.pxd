# cython: language_level=3
"""A cluster's command as one compiled call: routing on top of `_client`. Layer 6."""

from libc.stdint cimport uint64_t

from cpool._client cimport ClientBase
from cpool._conn cimport ConnBase
from cpool._gates cimport cp_gate


cdef extern from "cp_keyslot.h" nogil:
    const int CP_KEYSLOTS
    unsigned cp_keyslot(const char *key, size_t len)


cdef class Route:
    """Where the keys of a command stand among its arguments, its name being the first."""
    cdef int first              # the first key; 0: their number stands before them
    cdef int last               # the last one, -1 the last argument; or where the number stands
    cdef int step               # from key to key
    cdef bint reads             # it may go to a replica


cdef class Routes:
    """What is known of commands, shared by a client and its pipelines."""
    cdef dict known             # name -> Route; None: redis-py has to find out where to
    # What it was found with:
    cdef dict flags             # command_flags
    cdef dict results           # result_callbacks
    cdef object parser          # commands_parser
    cdef object resolver        # what tells _policy_resolver from others


cdef class ManagerBase:
    """What `cpool.nodes.NodesManager` is made of, beside redis-py's."""
    cdef cp_gate gate           # MANAGER_ROUTE: nobody has replaced how it routes
    cdef bint patched           # somebody has on this instance
    cdef list routes            # a Routes for each set of tables that was met
    # What __setattr__ has last stored under redis-py's names:
    cdef object slots           # slots_cache: slot -> [primary, *replicas]
    cdef object moved           # _moved_exception, before redis-py 7: a slot is to be patched

    cdef int mirror(self, object name, object value) except -1
    cdef bint may_route(self) except -1


cdef class ClusterBase:
    """What `cpool.RedisCluster` and its pipelines are made of, beside redis-py's."""
    cdef cp_gate gate           # CLUSTER_EXECUTE
    cdef bint patched           # a method was replaced on this instance
    cdef Routes routes          # None: to be found, command_flags may be others
    cdef uint64_t flags_version, results_version
    # What __setattr__ has last stored under redis-py's names:
    cdef object manager         # nodes_manager
    cdef object callbacks       # cluster_response_callbacks
    cdef object results         # result_callbacks
    cdef object flags           # command_flags
    cdef object encoder
    cdef object from_replicas   # read_from_replicas
    cdef object parser          # commands_parser
    cdef object strategy        # load_balancing_strategy

    cdef int mirror(self, object name, object value) except -1
    cdef bint may_route(self) except -1
    cdef bint is_whole(self) noexcept
    cdef bint find_routes(self) except -1
    cdef Route route_of(self, object name)
    cdef int slot_of(self, Route route, tuple args) except -2
    cdef int slot_of_counted(self, Py_ssize_t place, tuple args) except -2
    cdef int slot_of_key(self, object key) except -2
    cdef object node_of(self, tuple args)
    cdef object execute(self, tuple args, dict options)
    cdef object on_node(self, object node, ClientBase client, tuple args, dict options,
                        bint plain)
    cdef object on_connection(self, object node, ClientBase client, object pool,
                              object connection, tuple args, dict options, bint plain,
                              bint look)
    cdef object look_first(self, object node, ClientBase client, object pool,
                           ConnBase connection, tuple args, dict options, bint plain,
                           bint again)
    cdef object go_on(self, object node, object pool, object connection, object error,
                      tuple args, dict options)


cdef int node_refusal(object client, tuple args, dict options, bint plain) except -1
