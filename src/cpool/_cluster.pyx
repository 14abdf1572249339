# cython: language_level=3
"""A cluster's command as one compiled call: key slot, node, checkout, exchange, return.

It stands below `execute_command`, where tracing tools look, and only for commands whose
keys, all in one slot, stand where the server's own table of commands says. An error
of any kind goes to redis-py's own loop, as what its first attempt has met.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItemWithError
from cpython.object cimport PyObject, PyObject_GenericSetAttr

from cpool._client cimport (
    CLIENT, COMMAND, NEVER_SET, PINNED, POOL, TAKEN, ClientBase, called_back, cp_method, finish,
    is_ordinary, is_plain_options, lent_refusal, note,
)
from cpool._conn cimport ConnBase
from cpool._gates cimport (
    BEHIND, EVERY, FRONT, NOWHERE, OWN, Gates, dict_version, gates_of, generic_delattr, is_patched,
    watch_dict,
)
from cpool._pool cimport PoolBase
from cpool._session cimport NOT_QUIET

cdef extern from "Python.h":
    bint PyUnicode_CheckExact(object o)
    bint PyUnicode_IS_COMPACT_ASCII(object o)
    const char *PyUnicode_DATA(object o)
    Py_ssize_t PyUnicode_GET_LENGTH(object o)

cdef enum:
    CLUSTER_EXECUTE = 1     # the gate of a client: its methods as a whole
    MANAGER_ROUTE = 1       # the gate of a manager
    NO_SLOT = -1            # not to be told here
    MOST_ROUTES = 8         # tables of routes kept for one cluster

cdef object OBSERVED = frozenset((
    "_execute_command", "_determine_nodes", "determine_slot", "keyslot",
    "get_nodes_from_slot", "get_redis_connection", "_process_result", "_get_command_keys",
))
cdef tuple MIRRORED = (
    "nodes_manager", "cluster_response_callbacks", "result_callbacks", "command_flags",
    "encoder", "read_from_replicas", "load_balancing_strategy", "commands_parser",
)
cdef object OBSERVED_MANAGER = frozenset(("get_node_from_slot",))


def set_originals(functions, manager_functions):
    """Tell which functions of redis-py's cluster client, and of its manager of nodes, the
    core may stand in for: name -> functions."""
    GATES.originals.update(functions)
    MANAGER_GATES.originals.update(manager_functions)


@cython.final
cdef class Route:
    def __init__(self, int first, int last, int step, bint reads):
        self.first, self.last, self.step, self.reads = first, last, step, reads


@cython.final
cdef class Routes:
    def __cinit__(self):
        self.known = {}


cdef class ManagerBase:
    """The slots of a cluster, where compiled code finds them."""

    def __cinit__(self, *args, **kwargs):
        self.routes = []

    def __setattr__(self, name, value):
        PyObject_GenericSetAttr(self, name, value)
        self.mirror(name, value)

    def __delattr__(self, name):
        generic_delattr(self, name, NULL)
        self.mirror(name, None)

    cdef int mirror(self, object name, object value) except -1:
        if name == "slots_cache":
            self.slots = value
        elif name == "_moved_exception":
            self.moved = value
        elif name in OBSERVED_MANAGER:
            self.patched = is_patched(self, OBSERVED_MANAGER)
        return 0

    cdef bint may_route(self) except -1:
        return not self.patched and self.moved is None \
            and gates_of(MANAGER_GATES, self, &self.gate) & MANAGER_ROUTE


@cython.auto_pickle(False)
cdef class ClusterBase:
    """`_internal_execute_command`, compiled. As thread-safe as redis-py's client."""

    def __cinit__(self, *args, **kwargs):
        self.manager = self.callbacks = self.results = self.flags = NEVER_SET
        self.encoder = self.from_replicas = self.strategy = self.parser = NEVER_SET

    def __setattr__(self, name, value):
        PyObject_GenericSetAttr(self, name, value)
        self.mirror(name, value)

    def __delattr__(self, name):
        generic_delattr(self, name, NULL)
        self.mirror(name, NEVER_SET)

    def __getnewargs__(self):
        """What a copy is made with, beside its attributes."""
        return ()

    cdef int mirror(self, object name, object value) except -1:
        if value is NEVER_SET:
            self.routes = None  # look whether all is there
        if name == "nodes_manager":
            self.manager, self.routes = value, None
        elif name == "cluster_response_callbacks":
            self.callbacks = value
        elif name == "result_callbacks":
            self.results, self.routes = value, None
        elif name == "command_flags":
            self.flags, self.routes = value, None
        elif name == "encoder":
            self.encoder = value
        elif name == "read_from_replicas":
            self.from_replicas = value
        elif name == "load_balancing_strategy":
            self.strategy = value
        elif name == "commands_parser":
            self.parser, self.routes = value, None
        elif name == "_policy_resolver":
            self.routes = None
        elif name in OBSERVED:
            self.patched = is_patched(self, OBSERVED)
        return 0

    cdef bint may_route(self) except -1:
        """Whether nobody has replaced what this stands in for."""
        if self.patched or not isinstance(self.manager, ManagerBase) \
                or not (<ManagerBase>self.manager).may_route() \
                or (gates_of(GATES, self, &self.gate) & CLUSTER_EXECUTE) == 0:
            return False
        if self.routes is not None and self.flags_version != 0 \
                and self.flags_version == dict_version(<dict>self.flags) \
                and self.results_version == dict_version(<dict>self.results):
            return True
        return self.is_whole() and self.find_routes()

    cdef bint is_whole(self) noexcept:
        """Whether all that is mirrored was set (it is not on a copy, or half way in __init__)."""
        return type(self.flags) is dict and self.callbacks is not NEVER_SET \
            and isinstance(self.results, dict) and self.encoder is not NEVER_SET \
            and self.from_replicas is not NEVER_SET and self.strategy is not NEVER_SET \
            and self.parser is not NEVER_SET

    cdef bint find_routes(self) except -1:
        """Take the routes of this cluster that were found with the same tables; a client and
        its pipelines may have different ones."""
        cdef dict flags = <dict>self.flags, results = <dict>self.results
        cdef list all_routes = (<ManagerBase>self.manager).routes
        cdef object resolver = self._policies()
        cdef Routes routes
        watch_dict(flags)
        watch_dict(results)
        self.flags_version = dict_version(flags)
        self.results_version = dict_version(results)
        for routes in all_routes:
            if routes.parser is self.parser and routes.resolver is resolver \
                    and routes.flags == flags and routes.results == results:
                break
        else:
            routes = Routes()
            routes.flags, routes.results = flags.copy(), dict(results)
            routes.parser, routes.resolver = self.parser, resolver
            all_routes.append(routes)
            if len(all_routes) > MOST_ROUTES:
                del all_routes[0]
        self.routes = routes
        return True

    cdef Route route_of(self, object name):
        """Where the keys of a command stand, or None."""
        cdef PyObject *found = PyDict_GetItemWithError(self.routes.known, name)
        if found != NULL:
            return <Route>found if <object>found is not None else None
        route = self._find_route(name)
        self.routes.known[name] = route
        return route

    cdef int slot_of(self, Route route, tuple args) except -2:
        """The slot of a command's keys, or NO_SLOT: redis-py is to find out, or to refuse."""
        cdef Py_ssize_t n = len(args), at, last
        cdef int slot, other
        if route.first == 0:
            return self.slot_of_counted(route.last, args)
        last = route.last if route.last >= 0 else n + route.last
        if route.first >= n or last >= n:
            return NO_SLOT
        slot = self.slot_of_key(args[route.first])
        at = route.first + route.step
        while at <= last:
            other = self.slot_of_key(args[at])
            if other != slot:
                return NO_SLOT
            at += route.step
        return slot

    cdef int slot_of_counted(self, Py_ssize_t place, tuple args) except -2:
        """The same where the number of keys stands before them, at this place."""
        cdef Py_ssize_t n = len(args), count, i
        cdef int slot, other
        if place >= n or type(args[place]) is not int:
            return NO_SLOT
        count = args[place]
        if count < 1 or count >= n - place:
            return NO_SLOT
        slot = self.slot_of_key(args[place + 1])
        for i in range(place + 2, place + 1 + count):
            other = self.slot_of_key(args[i])
            if other != slot:
                return NO_SLOT
        return slot

    cdef int slot_of_key(self, object key) except -2:
        if type(key) is bytes:
            return cp_keyslot(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
        if PyUnicode_CheckExact(key) and PyUnicode_IS_COMPACT_ASCII(key) \
                and self.encoder.encoding == "utf-8":
            return cp_keyslot(PyUnicode_DATA(key), PyUnicode_GET_LENGTH(key))
        encoded = self.encoder.encode(key)
        if type(encoded) is not bytes:
            return NO_SLOT
        return cp_keyslot(PyBytes_AS_STRING(encoded), PyBytes_GET_SIZE(encoded))

    cdef object node_of(self, tuple args):
        """The node a command is to go to, or None. May_route() has been asked."""
        cdef Route route = self.route_of(args[0])
        cdef PyObject *found
        cdef list nodes
        cdef int slot
        if route is None:
            return None
        slot = self.slot_of(route, args)
        if slot == NO_SLOT:
            return None
        slots = (<ManagerBase>self.manager).slots
        if type(slots) is not dict:
            return None
        found = PyDict_GetItemWithError(<dict>slots, slot)
        if found == NULL or type(<object>found) is not list:
            return None
        nodes = <list>found
        if not nodes:
            return None
        if route.reads and (self.from_replicas or self.strategy is not None) \
                and node_refusal(nodes[0].redis_connection, args, None, True) == TAKEN:
            # Not before: redis-py's own path would go one further in the round.
            return self.manager.get_node_from_slot(
                slot, bool(self.from_replicas), self.strategy)
        return nodes[0]

    cdef object execute(self, tuple args, dict options):
        cdef bint plain = options is None or is_plain_options(options)
        cdef object node = None, client = None
        cdef int why = COMMAND
        if not self.may_route():
            why = CLIENT
        elif plain and args and is_ordinary(args[0]):
            node = self.node_of(args)
            if node is not None:
                client = node.redis_connection
                why = node_refusal(client, args, options, plain)
        if why == TAKEN:
            return self.on_node(node, <ClientBase>client, args, options, plain)
        note(why)
        return super(ClusterBase, self)._internal_execute_command(*args, **(options or {}))

    cdef object on_node(self, object node, ClientBase client, tuple args, dict options,
                        bint plain):
        cdef object pool = client.pool, connection, error
        if not isinstance(pool, PoolBase):  # another thread has put another one in
            note(POOL)
            return super(ClusterBase, self)._internal_execute_command(
                *args, **(options or {}))
        try:
            connection = (<PoolBase>pool).checkout(False)
        except Exception as e:
            error = e
        else:
            return self.on_connection(
                node, client, pool, connection, args, options, plain, True)
        try:
            return self.go_on(node, pool, None, error, args, options)
        finally:
            error = None

    cdef object on_connection(self, object node, ClientBase client, object pool,
                              object connection, tuple args, dict options, bint plain,
                              bint look):
        """The exchange itself. look: the connection has not been looked at yet."""
        cdef object reply, error
        cdef int why = lent_refusal(pool, connection)
        if why != TAKEN:
            note(why)
            if look and isinstance(connection, ConnBase):
                return self.look_first(
                    node, client, pool, connection, args, options, plain, False)
            return self.go_on(node, pool, connection, None, args, options)
        try:
            reply = (<ConnBase>connection).exchange(args, True, look)
            reply = finish(client, args[0], reply, options, plain)
            reply = called_back(self.callbacks, args[0], reply, options, plain, False)
        except Exception as e:
            error = e
        except BaseException:
            (<PoolBase>pool).take_back_fused(connection)
            raise
        else:
            note(TAKEN)
            (<PoolBase>pool).take_back_fused(connection)
            return reply
        try:
            if isinstance(error, NOT_QUIET):
                return self.look_first(
                    node, client, pool, connection, args, options, plain, True)
            note(TAKEN)
            return self.go_on(node, pool, connection, error, args, options)
        finally:
            error = None

    cdef object look_first(self, object node, ClientBase client, object pool,
                           ConnBase connection, tuple args, dict options, bint plain,
                           bint again):
        """Mend a connection that is closed, or has something to read; then begin again, or
        leave the command to redis-py."""
        cdef object error
        try:
            (<PoolBase>pool).look_at(connection)
        except Exception as e:
            error = e
        else:
            if again:
                return self.on_connection(
                    node, client, pool, connection, args, options, plain, False)
            return self.go_on(node, pool, connection, None, args, options)
        try:
            return self.go_on(node, pool, None, error, args, options)
        finally:
            error = None

    cdef object go_on(self, object node, object pool, object connection, object error,
                      tuple args, dict options):
        """Let redis-py's loop do it, beginning at this node, on this connection if there is
        one, with the error met already if there is one."""
        try:
            return self._go_on(node, pool, connection, error, args, options or {})
        finally:
            error = None


cdef int node_refusal(object client, tuple args, dict options, bint plain) except -1:
    """Why a command can't be sent through this client of a node, or TAKEN."""
    cdef int why
    if not isinstance(client, ClientBase):
        return POOL  # it is not made yet, or somebody's own
    why = (<ClientBase>client).refusal(args, options, plain)
    if why == TAKEN and (<ClientBase>client).pinned is not None:
        return PINNED
    return why


cdef object execute_command_of(object client, object args, PyObject *options):
    return (<ClusterBase>client).execute(<tuple>args, None if options == NULL else <dict>options)


#: The method `_internal_execute_command` of cluster clients.
execute_command = cp_method(
    ClusterBase, b"_internal_execute_command",
    b"_internal_execute_command($self, /, *args, **options)\n--\n\n"
    b"Execute a command on the node of its keys, as redis-py's method does.",
    <void *>execute_command_of)

cdef Gates GATES = Gates(ClusterBase, (
    (CLUSTER_EXECUTE, tuple(OBSERVED - {"_execute_command"}), FRONT),
    (CLUSTER_EXECUTE, ("_execute_command",), EVERY),
    (CLUSTER_EXECUTE, ("_internal_execute_command",), BEHIND),
    (CLUSTER_EXECUTE, ("__setattr__", "__delattr__"), OWN),
    (CLUSTER_EXECUTE, ("__getattribute__",), FRONT),
    (CLUSTER_EXECUTE, MIRRORED, NOWHERE),
))
GATES.originals["__getattribute__"] = frozenset((object.__getattribute__,))
cdef Gates MANAGER_GATES = Gates(ManagerBase, (
    (MANAGER_ROUTE, tuple(OBSERVED_MANAGER), FRONT),
    (MANAGER_ROUTE, ("slots_cache", "_moved_exception"), NOWHERE),
    (MANAGER_ROUTE, ("__setattr__", "__delattr__"), OWN),
))
