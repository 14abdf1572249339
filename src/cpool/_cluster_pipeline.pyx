# cython: language_level=3
"""A cluster pipeline: written to all nodes before any of them is read.

Only what one route leads to is sent from here. A command that redis-py has to find a node
for leaves the whole pipeline to redis-py, before anything was sent.
"""

cimport cython

from cpool._client cimport (
    CLIENT, COMMAND, CONNECTION, SWITCHED_OFF, TAKEN, ClientBase, called_back,
    is_enabled, is_ordinary, is_plain_options, lent_refusal, note,
)
from cpool._cluster cimport ClusterBase, node_refusal
from cpool._conn cimport ConnBase
from cpool._deadline cimport BEFORE, check
from cpool._pipeline cimport Batch, bulk_refusal, streams
from cpool._pool cimport PoolBase

cdef extern from "Python.h":
    bint PyExceptionInstance_Check(object o)


# Errors of a checkout that say nothing of the node, set by cpool.cluster_pipeline.
cdef object FINAL = ()
cdef object REDIS_ERROR = ()


def set_errors(final, redis_error):
    """Tell the errors of a checkout that the caller of a pipeline is to get, and the class
    of all of redis-py's."""
    global FINAL, REDIS_ERROR
    FINAL, REDIS_ERROR = final, redis_error


@cython.final
cdef class Share:
    cdef int checkout(self) except -1:
        """Take a connection; why it can't be used from here, or TAKEN."""
        cdef int why
        self.pool = self.client.pool
        if not isinstance(self.pool, PoolBase):
            return CONNECTION
        connection = (<PoolBase>self.pool).checkout(True)
        why = lent_refusal(self.pool, connection)  # gives it back if it raises
        self.connection = connection
        return bulk_refusal(<ConnBase>connection) if why == TAKEN else why

    cdef bint make_batch(self) except -1:
        """False: another thread has closed the connection meanwhile."""
        cdef Batch batch = Batch.__new__(Batch)
        batch.connection = <ConnBase>self.connection
        batch.session = batch.connection.session
        batch.parser = batch.connection.reader
        batch.requests = []
        batch.replies = []
        for command in self.commands:
            batch.requests.append(command.args)
        self.batch = batch
        return batch.session is not None and batch.parser is not None

    cdef int give_back(self) except -1:
        connection, self.connection = self.connection, None
        if connection is not None:
            (<PoolBase>self.pool).take_back(connection, False)
        return 0

    cdef int tell_results(self) except -1:
        """Note each command's result: its reply, or what has ended the exchange before."""
        cdef Py_ssize_t i, n = len(self.batch.replies)
        for i in range(len(self.commands)):
            command = self.commands[i]
            command.result = self.result_of(command, self.batch.replies[i]) if i < n \
                else self.batch.error
        return 0

    cdef object result_of(self, object command, object reply):
        if PyExceptionInstance_Check(reply):
            return reply
        try:
            return called_back(
                self.client.callbacks, command.args[0], reply, None, True, False)
        except REDIS_ERROR as error:
            return error


def send_by_node(ClusterBase pipe, list commands):
    """Send each command to the node of its keys, and note what came of it in its `result`.

    False: redis-py is to send them; nothing was sent, and no connection is lent. Raises
    what can't be encoded, before anything is sent."""
    cdef dict shares = {}
    cdef int why
    check(BEFORE)
    why = share_out(pipe, commands, shares)
    if why == TAKEN:
        why = send(sorted_by_name(shares))
    note(why)
    return why == TAKEN


cdef list sorted_by_name(dict shares):
    """In one order for all threads: two that wait for each other's connections would wait
    for ever."""
    return [shares[name] for name in sorted(shares)]


cdef int share_out(ClusterBase pipe, list commands, dict shares) except -1:
    """Find each command's node. Why redis-py has to, or TAKEN."""
    cdef Share share
    cdef int why
    if not is_enabled():
        return SWITCHED_OFF
    if not pipe.may_route():
        return CLIENT
    for command in commands:
        args, options = command.args, command.options
        if type(args) is not tuple or not args or not is_ordinary(args[0]) \
                or type(options) is not dict or not is_plain_options(<dict>options) \
                or streams(args[0]):
            return COMMAND
        node = pipe.node_of(<tuple>args)
        if node is None:
            return COMMAND
        name = node.name
        share = shares.get(name)
        if share is None:
            client = node.redis_connection
            why = node_refusal(client, <tuple>args, <dict>options, True)
            if why != TAKEN:
                return why
            share = shares[name] = Share.__new__(Share)
            share.client = <ClientBase>client
            share.commands = []
        share.commands.append(command)
    return TAKEN


cdef int send(list shares) except -1:
    """Take a connection to each node, write to all, read from all, give them back."""
    cdef Share share
    cdef int why
    try:
        why = checkout_all(shares)
        if why != TAKEN:
            return why
        for share in shares:
            if not share.make_batch():
                return CONNECTION
            share.batch.prepare()  # its errors come before anything is sent
        for share in shares:
            share.batch.begin()
        for share in shares:
            share.batch.run()
        for share in shares:
            share.tell_results()
    finally:
        give_back_all(shares)
    return TAKEN


cdef int give_back_all(list shares) except -1:
    """Give all connections back; what was written to and not read is closed by that."""
    cdef Share share
    error = None
    for share in shares:
        try:
            share.give_back()
        except BaseException as e:
            error = e
    if error is not None:
        raise error
    return 0


cdef int checkout_all(list shares) except -1:
    cdef Share share
    cdef int why
    for share in shares:
        try:
            why = share.checkout()
        except FINAL:
            raise  # no fault of the node's
        except Exception:
            return CONNECTION  # redis-py meets it as well, and knows what to do
        if why != TAKEN:
            return why
    return TAKEN
