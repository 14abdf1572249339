"""Slots: none is lost and none is shared, whatever becomes of a connection or its borrower."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import redis
from redis.exceptions import AuthenticationError, ConnectionError, MaxConnectionsError

import cpool
from tests.pool.conftest import MakePool
from tests.pool.support import (
    StubConnection,
    Task,
    all_lent,
    assert_whole,
    is_answering,
    wait_for,
)

POOLS = [cpool.ConnectionPool, cpool.BlockingConnectionPool]


@pytest.fixture(params=POOLS, ids=lambda cls: cls.__name__)
def our_pool(request: pytest.FixtureRequest, make_pool: MakePool) -> Callable[..., Any]:
    """Give a function that makes a pool of each of our classes, in which nobody waits."""

    def make(**kwargs: Any) -> Any:
        return make_pool(request.param, **{"timeout": 0, **kwargs})

    return make


def counts(pool: Any) -> tuple[int, int, int]:
    """Return how many slots are idle, in use and opening."""
    stats = pool.stats()
    return stats.idle, stats.in_use, stats.opening


# -- Borrowers that vanish --------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_borrower_that_vanishes_gives_its_slot_back(our_pool: Any, protocol: int) -> None:
    pool = our_pool(max_connections=1, protocol=protocol)
    for _ in range(3):
        connection = pool.get_connection()
        assert counts(pool) == (0, 1, 0)
        del connection
        gc.collect()
        assert counts(pool) == (0, 0, 0)
    assert pool.stats().reclaimed == 3
    assert_whole(pool, 1)


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_vanished_borrowers_slot_needs_no_garbage_collector(
    our_pool: Any, protocol: int
) -> None:
    pool = our_pool(max_connections=1, protocol=protocol)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            connection = pool.get_connection()
            del connection
    finally:
        gc.enable()
    assert pool.stats().reclaimed == 3


def test_a_vanished_borrowers_socket_is_closed(our_pool: Any, redis_server: Any) -> None:
    pool = our_pool(protocol=2, client_name="vanishing")
    with redis.Redis(port=redis_server.port) as other:
        connection = pool.get_connection()
        sock = weakref.ref(connection._sock)
        del connection
        gc.collect()
        assert sock() is None
        wait_for(lambda: "vanishing" not in str(other.client_list()), "the socket's end")


def test_a_thread_that_dies_gives_its_slot_back(our_pool: Any) -> None:
    pool = our_pool(max_connections=2, protocol=2)
    local = threading.local()

    def borrow_and_die() -> None:
        local.connection = pool.get_connection()
        raise SystemExit

    for _ in range(4):
        with pytest.raises(SystemExit):
            Task(borrow_and_die).result()
    gc.collect()
    assert_whole(pool, 2)


def test_a_borrower_that_raises_gives_its_slot_back(our_pool: Any) -> None:
    pool = our_pool(max_connections=1, protocol=2)

    def borrow_and_raise() -> None:
        connection = pool.get_connection()
        raise ValueError(connection)

    for _ in range(3):
        with pytest.raises(ValueError):
            borrow_and_raise()
        gc.collect()
    assert_whole(pool, 1)


def test_a_connection_is_lent_again_only_when_its_borrower_has_let_go(our_pool: Any) -> None:
    pool = our_pool(max_connections=1, protocol=2)
    connection = pool.get_connection()
    reference = weakref.ref(connection)
    with pytest.raises(MaxConnectionsError):
        pool.get_connection()
    held = [connection]
    del connection
    with pytest.raises(MaxConnectionsError):
        pool.get_connection()
    held.clear()
    assert reference() is None
    assert_whole(pool, 1)


def test_an_idle_connection_does_not_vanish(our_pool: Any) -> None:
    pool = our_pool(protocol=2)
    connection = pool.get_connection()
    address = connection._sock.getsockname()
    pool.release(connection)
    del connection
    gc.collect()
    assert pool.get_connection()._sock.getsockname() == address


def test_a_pool_that_is_dropped_closes_its_idle_connections(our_pool: Any) -> None:
    pool = cpool.ConnectionPool(
        **{key: our_pool().connection_kwargs[key] for key in ("host", "port")}
    )
    connection = pool.get_connection()
    sock = weakref.ref(connection._sock)
    pool.release(connection)
    gone = weakref.ref(pool)
    del pool, connection
    gc.collect()
    assert gone() is None
    assert sock() is None


def test_a_lent_connection_outlives_its_pool(our_pool: Any) -> None:
    pool = cpool.ConnectionPool(
        **{key: our_pool().connection_kwargs[key] for key in ("host", "port")}, protocol=2
    )
    connection = pool.get_connection()
    del pool
    gc.collect()
    assert is_answering(connection)
    connection.disconnect()


# -- Errors while a connection is opened -------------------------------------------------------


class Fails(StubConnection):
    """Raises in one of its methods while `where` names it."""

    where = ""

    def __init__(self, **kwargs: Any) -> None:
        self._fail("__init__")
        super().__init__(**kwargs)

    def _fail(self, name: str) -> None:
        if self.where == name:
            raise RuntimeError(name)

    def connect(self) -> None:
        self._fail("connect")
        super().connect()

    def can_read(self, timeout: float = 0) -> bool:
        self._fail("can_read")
        return False


@pytest.mark.parametrize("where", ["__init__", "connect", "can_read"])
@pytest.mark.parametrize("pool_class", POOLS)
def test_an_error_while_opening_costs_no_slot(pool_class: Any, where: str) -> None:
    class ThisTime(Fails):
        pass

    ThisTime.where = where
    pool = pool_class(connection_class=ThisTime, max_connections=2, timeout=0)
    for _ in range(5):
        with pytest.raises(RuntimeError, match=where):
            pool.get_connection()
        assert counts(pool)[1:] == (0, 0)
    ThisTime.where = ""
    assert_whole(pool, 2)


def test_an_error_while_reopening_costs_no_slot(our_pool: Any) -> None:
    pool = our_pool(connection_class=Fails, max_connections=1)
    connection = pool.get_connection()
    pool.release(connection)
    connection.where = "connect"
    for _ in range(3):
        with pytest.raises(RuntimeError, match="connect"):
            pool.get_connection()
        assert counts(pool) == (1, 0, 0)
    connection.where = ""
    assert_whole(pool, 1)


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"password": "wrong"}, AuthenticationError),
        ({"username": "nobody", "password": "wrong"}, AuthenticationError),
        ({"db": 999}, redis.RedisError),
        ({"client_name": "no spaces allowed"}, redis.RedisError),
    ],
    ids=["password", "user", "database", "name"],
)
def test_a_refused_handshake_costs_no_slot(
    our_pool: Any, acl_server: Any, kwargs: dict[str, Any], error: Any, protocol: int
) -> None:
    given = {"password": acl_server.password, **kwargs}
    pool = our_pool(port=acl_server.port, max_connections=1, protocol=protocol, **given)
    for _ in range(3):
        with pytest.raises(error):
            pool.get_connection()
        assert counts(pool)[1:] == (0, 0)
    pool.connection_kwargs.update(password=acl_server.password)
    for key in set(kwargs) - {"password"}:
        del pool.connection_kwargs[key]
    pool.reset()
    assert_whole(pool, 1)


def test_a_server_that_is_not_there_costs_no_slot(our_pool: Any) -> None:
    pool = our_pool(port=1, max_connections=1)
    for _ in range(3):
        with pytest.raises(ConnectionError, match="refused"):
            pool.get_connection()
    assert counts(pool) == (1, 0, 0)
    assert pool.stats().created == 1


# -- Returns ----------------------------------------------------------------------------


def test_any_thread_may_return_a_connection(our_pool: Any) -> None:
    pool = our_pool(max_connections=1)
    connection = Task(pool.get_connection).result()
    Task(pool.release, connection).result()
    assert pool.get_connection() is connection


def test_two_threads_that_return_one_connection_return_it_once(our_pool: Any) -> None:
    pool = our_pool(max_connections=3)
    with all_lent(pool, 3):
        pass
    start = threading.Barrier(4)
    connections: list[Any] = []

    def release_all() -> None:
        for i in range(50):
            start.wait(15)
            pool.release(connections[i])

    releasers = [Task(release_all) for _ in range(3)]
    for _ in range(50):
        connection = pool.get_connection()
        connections.append(connection)
        start.wait(15)
        wait_for(lambda: counts(pool) == (3, 0, 0), "the return")
    for releaser in releasers:
        releaser.result()
    assert_whole(pool, 3)


def test_a_second_return_while_others_are_out_frees_nothing(our_pool: Any) -> None:
    pool = our_pool(max_connections=2)
    connection, other = pool.get_connection(), pool.get_connection()
    pool.release(connection)
    pool.release(connection)
    assert counts(pool) == (1, 1, 0)
    assert pool.get_connection() is connection
    with pytest.raises(MaxConnectionsError):
        pool.get_connection()
    pool.release(other)


UNFINISHED: list[tuple[str, Callable[[Any], Any]]] = [
    ("a reply is owed", lambda c: c.send_command("ECHO", "x")),
    ("a reply is owed by packed bytes", lambda c: c.send_packed_command(c.pack_command("PING"))),
    ("a transaction is open", lambda c: (c.send_command("MULTI"), c.read_response())),
    ("a key is watched", lambda c: (c.send_command("WATCH", "k"), c.read_response())),
    ("it subscribes", lambda c: (c.send_command("SUBSCRIBE", "c"), c.read_response())),
    ("it monitors", lambda c: (c.send_command("MONITOR"), c.read_response())),
]


@pytest.mark.parametrize("order", ["lifo", "fifo"])
@pytest.mark.parametrize("leave", [u[1] for u in UNFINISHED], ids=[u[0] for u in UNFINISHED])
def test_a_session_that_was_left_open_is_closed_at_its_return(
    our_pool: Any, leave: Callable[[Any], Any], order: str
) -> None:
    pool = our_pool(max_connections=1, protocol=2, order=order)
    connection = pool.get_connection()
    leave(connection)
    pool.release(connection)
    assert connection._sock is None
    assert pool.stats().discarded == 1
    assert pool.get_connection() is connection
    assert is_answering(connection)


def test_a_session_that_was_ended_is_kept(our_pool: Any) -> None:
    pool = our_pool(max_connections=1)
    connection = pool.get_connection()
    sock = connection._sock
    for command in ("WATCH k", "MULTI", "PING", "EXEC", "WATCH k", "UNWATCH"):
        connection.send_command(*command.split())
        connection.read_response()
    pool.release(connection)
    assert connection._sock is sock
    assert pool.stats().discarded == 0


# -- The whole pool changes -----------------------------------------------------------------


def test_another_thread_may_disconnect_what_is_in_use(our_pool: Any, fresh_db: Any) -> None:
    pool = our_pool(max_connections=1)
    connection = pool.get_connection()
    connection.send_command("BLPOP", "no such list", 0)
    reader = Task(connection.read_response)
    with redis.Redis(port=fresh_db.port) as other:
        wait_for(lambda: other.info("clients")["blocked_clients"], "the blocking command")
    pool.disconnect()
    with pytest.raises(ConnectionError):
        reader.result()
    pool.release(connection)
    assert_whole(pool, 1)


def test_a_reset_pool_ignores_what_was_lent_before(our_pool: Any) -> None:
    pool = our_pool(max_connections=2)
    old = [pool.get_connection(), pool.get_connection()]
    pool.reset()
    assert counts(pool) == (0, 0, 0)
    fresh = pool.get_connection()
    for connection in old:
        assert is_answering(connection)
        pool.release(connection)
    assert counts(pool) == (0, 1, 0)
    del connection, old
    gc.collect()
    assert counts(pool) == (0, 1, 0)
    pool.release(fresh)
    assert_whole(pool, 2)


def test_a_connection_whose_slot_was_reclaimed_can_not_give_it_back(our_pool: Any) -> None:
    """The garbage collector tells the pool of a connection's end before it calls finalisers,
    and one of them may release it: redis-py's PubSub does. The slot is another's by then."""
    pool = our_pool(max_connections=1, timeout=0)
    taken: list[Any] = []

    class Borrower:
        def __init__(self) -> None:
            self.connection = pool.get_connection()
            self.cycle = self

        def __del__(self) -> None:
            taken.append(pool.get_connection())
            pool.release(self.connection)

    Borrower()
    gc.collect()
    assert pool.stats().reclaimed == 1
    (connection,) = taken
    assert pool.stats().in_use == 1
    with pytest.raises(ConnectionError):
        pool.get_connection()
    assert is_answering(connection)
    pool.release(connection)
    assert_whole(pool, 1)


def test_a_drained_pool_replaces_every_connection_once(our_pool: Any) -> None:
    pool = our_pool(max_connections=2)
    idle, lent = pool.get_connection(), pool.get_connection()
    pool.release(idle)
    before = [idle._sock.getsockname(), lent._sock.getsockname()]
    pool.drain()
    assert idle._sock is None
    assert is_answering(lent)  # who has one may go on
    pool.release(lent)
    with all_lent(pool, 2) as again:
        assert lent in again
        after = [connection._sock.getsockname() for connection in again]
        assert not set(before) & set(after)
        assert all(is_answering(connection) for connection in again)
    with all_lent(pool, 2) as later:
        assert {c._sock.getsockname() for c in later} == set(after)


def test_a_pool_may_be_drained_many_times_and_when_empty(our_pool: Any) -> None:
    pool = our_pool(max_connections=1)
    for _ in range(3):
        pool.drain()
        pool.drain()
        connection = pool.get_connection()
        assert is_answering(connection)
        pool.release(connection)
    assert_whole(pool, 1)


def test_a_connection_opened_after_a_drain_is_kept(our_pool: Any) -> None:
    pool = our_pool(max_connections=1)
    pool.drain()
    connection = pool.get_connection()
    sock = connection._sock
    pool.release(connection)
    assert pool.get_connection()._sock is sock


@pytest.mark.parametrize("n", [1, 15, 16, 17, 49, 130])
def test_a_pool_of_any_size_lends_each_connection_once(n: int) -> None:
    pool = cpool.ConnectionPool(StubConnection, max_connections=n)
    assert_whole(pool, n)
    with all_lent(pool, n), pytest.raises(MaxConnectionsError):
        pool.get_connection()


def test_a_pool_with_a_huge_limit_costs_nothing_before_it_is_used() -> None:
    pool = cpool.ConnectionPool(StubConnection, max_connections=2**31)
    assert_whole(pool, 40)
