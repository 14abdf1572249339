"""Sentinel's pools on redis-py's classes and on ours: who is master, failover, slots."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError, MaxConnectionsError, ReadOnlyError
from redis.sentinel import MasterNotFoundError, Sentinel, SlaveNotFoundError

import cpool
from cpool.tools.sentinels import REPLICATION_ARGS
from tests.pool.support import (
    CPOOL,
    PATIENCE_S,
    REDIS_VERSION,
    Implementation,
    Task,
    all_lent,
    assert_whole,
    is_answering,
    run_in_child,
    wait_for,
)
from tests.support.servers import SentinelSetup, start

FREES_SLOTS = REDIS_VERSION >= (8, 1)  # redis-py, of connections to an old master
NAME = "service"
TIMEOUTS = {"socket_timeout": 5.0}


class Directory:
    """Stands in for the sentinels: tells what the test wants it to."""

    def __init__(self, master: tuple[str, int], *replicas: tuple[str, int]) -> None:
        self.master: tuple[str, int] | None = master
        self.replicas = list(replicas)
        self.asked = 0

    def discover_master(self, name: str) -> tuple[str, int]:
        self.asked += 1
        if self.master is None:
            raise MasterNotFoundError(f"No master found for {name!r}")
        return self.master

    def discover_slaves(self, name: str) -> list[tuple[str, int]]:
        return self.replicas


class Pair:
    """Two servers, the second one a replica of the first."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.master = stack.enter_context(start(args=REPLICATION_ARGS))
        of_master = ("--replicaof", self.master.host, str(self.master.port))
        self.replica = stack.enter_context(start(args=(*REPLICATION_ARGS, *of_master)))
        with redis.Redis(port=self.replica.port) as client:
            wait_for(
                lambda: client.info("replication")["master_link_status"] == "up", "the replica"
            )

    @property
    def addresses(self) -> tuple[tuple[str, int], tuple[str, int]]:
        return (self.master.host, self.master.port), (self.replica.host, self.replica.port)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """Give a master and its replica."""
    with contextlib.ExitStack() as stack:
        yield Pair(stack)


@pytest.fixture
def directory(pair: Pair) -> Directory:
    """Give the truth about the pair, for the test to change."""
    master, replica = pair.addresses
    return Directory(master, replica)


@pytest.fixture
def make_sentinel_pool(impl: Implementation, directory: Directory) -> Any:
    """Give a function that makes a pool which asks `directory`."""
    pools = []

    def make(**kwargs: Any) -> Any:
        pools.append(impl.SentinelConnectionPool(NAME, directory, **{**TIMEOUTS, **kwargs}))
        return pools[-1]

    yield make
    for pool in pools:
        pool.disconnect()


def role_of(connection: Any) -> str:
    """Ask the server at the other end what it is."""
    connection.send_command("ROLE")
    return str(connection.read_response()[0], "ascii")


# -- Whom a pool connects to --------------------------------------------------------------------


def test_a_masters_pool_connects_to_the_master(make_sentinel_pool: Any) -> None:
    pool = make_sentinel_pool()
    connection = pool.get_connection()
    assert role_of(connection) == "master"
    assert pool.master_address == (connection.host, connection.port)
    assert pool.owns_connection(connection)


def test_a_replicas_pool_connects_to_a_replica(make_sentinel_pool: Any) -> None:
    connection = make_sentinel_pool(is_master=False).get_connection()
    assert role_of(connection) == "slave"


def test_a_replicas_pool_takes_the_master_where_there_is_no_replica(
    make_sentinel_pool: Any, directory: Directory
) -> None:
    directory.replicas.clear()
    assert role_of(make_sentinel_pool(is_master=False).get_connection()) == "master"


def test_a_replica_that_cannot_be_reached_is_passed_over(
    make_sentinel_pool: Any, directory: Directory
) -> None:
    directory.replicas.insert(0, ("127.0.0.1", 1))
    pool = make_sentinel_pool(is_master=False, max_connections=4)
    with all_lent(pool, 4) as lent:
        assert {role_of(connection) for connection in lent} == {"slave"}


def test_without_any_server_the_error_is_redis_pys_and_no_slot_is_lost(
    make_sentinel_pool: Any, directory: Directory, impl: Implementation
) -> None:
    directory.replicas.clear()
    true_master, directory.master = directory.master, None
    limit = 1 if impl.is_ours or FREES_SLOTS else 4
    masters = make_sentinel_pool(max_connections=limit)
    replicas = make_sentinel_pool(is_master=False, max_connections=limit)
    for _ in range(3):
        with pytest.raises(MasterNotFoundError):
            masters.get_connection()
        with pytest.raises(SlaveNotFoundError):
            replicas.get_connection()
    directory.master = true_master
    assert role_of(masters.get_connection()) == "master"
    assert role_of(replicas.get_connection()) == "master"


def test_replicas_take_turns(make_sentinel_pool: Any, directory: Directory) -> None:
    directory.replicas[:] = [("a", 1), ("b", 2), ("c", 3)]
    pool = make_sentinel_pool(is_master=False)
    turns = pool.rotate_slaves()
    assert {next(turns) for _ in range(3)} == {("a", 1), ("b", 2), ("c", 3)}
    assert next(turns) == directory.master
    with pytest.raises(SlaveNotFoundError):
        next(turns)


def test_the_reprs_are_redis_pys(impl: Implementation, make_sentinel_pool: Any) -> None:
    pool, replicas = make_sentinel_pool(), make_sentinel_pool(is_master=False)
    module = impl.SentinelConnectionPool.__module__
    assert repr(pool) == f"<{module}.SentinelConnectionPool(service={NAME}(master))>"
    assert repr(replicas) == f"<{module}.SentinelConnectionPool(service={NAME}(slave))>"
    connection = pool.get_connection()
    address = f"host={connection.host},port={connection.port}"
    assert repr(connection) == (f"<{module}.SentinelManagedConnection(service={NAME},{address})>")


@pytest.mark.parametrize("tls", [True, False])
def test_ssl_chooses_the_connection_class(
    impl: Implementation, make_sentinel_pool: Any, tls: bool
) -> None:
    expected = impl.SentinelManagedSSLConnection if tls else impl.SentinelManagedConnection
    assert make_sentinel_pool(ssl=tls).connection_class is expected


def test_connections_are_checked_on_request(make_sentinel_pool: Any) -> None:
    connection = make_sentinel_pool(
        check_connection=True, health_check_interval=30
    ).get_connection()
    assert is_answering(connection)


# -- The master changes ---------------------------------------------------------------------


def test_idle_connections_are_closed_when_the_master_changes(
    make_sentinel_pool: Any, directory: Directory, pair: Pair
) -> None:
    pool = make_sentinel_pool(max_connections=3)
    with all_lent(pool, 2) as (first, second):
        pass
    directory.master = pair.addresses[1]
    assert pool.get_master_address() == pair.addresses[1]
    assert first._sock is None and second._sock is None
    assert (pool.get_connection().port, pool.master_address) == (
        pair.replica.port,
        pair.addresses[1],
    )


@pytest.fixture
def stale_master_pool(make_sentinel_pool: Any, directory: Directory, pair: Pair) -> Any:
    """Give a pool that takes the replica for the master, with one connection in it."""
    truth, directory.master = directory.master, pair.addresses[1]
    pool = make_sentinel_pool(max_connections=2)
    pool.release(pool.get_connection())
    directory.master = truth
    return pool


def test_a_master_that_was_demoted_is_left_at_the_first_write(
    stale_master_pool: Any, pair: Pair
) -> None:
    connection = stale_master_pool.get_connection()
    connection.send_command("SET", "key", "value")
    with pytest.raises(ConnectionError) as caught:
        connection.read_response()
    assert type(caught.value) is ConnectionError
    assert str(caught.value) == "The previous master is now a slave"
    assert connection._sock is None
    stale_master_pool.release(connection)
    again = stale_master_pool.get_connection()
    assert again.port == pair.master.port
    again.send_command("SET", "key", "value")
    assert again.read_response() == b"OK"


def test_a_client_of_a_demoted_master_goes_on_with_the_new_one(
    stale_master_pool: Any,
) -> None:
    client = redis.Redis(connection_pool=stale_master_pool)
    with pytest.raises(ConnectionError, match="The previous master is now a slave"):
        client.set("key", "value")
    assert client.set("key", "value")


def test_a_write_to_a_replica_is_an_error_like_any_other(make_sentinel_pool: Any) -> None:
    connection = make_sentinel_pool(is_master=False).get_connection()
    connection.send_command("SET", "key", "value")
    with pytest.raises(ReadOnlyError):
        connection.read_response()
    assert is_answering(connection)


def test_connections_to_the_old_master_are_closed_at_their_return(
    make_sentinel_pool: Any, directory: Directory, pair: Pair, impl: Implementation
) -> None:
    pool = make_sentinel_pool(max_connections=2)
    old = [pool.get_connection(), pool.get_connection()]
    directory.master = pair.addresses[1]
    pool.get_master_address()
    for connection in old:
        assert not pool.owns_connection(connection)
        pool.release(connection)
        assert connection._sock is None
    if not impl.is_ours and not FREES_SLOTS:
        with pytest.raises(MaxConnectionsError):
            pool.get_connection()  # the slots are gone
        return
    with all_lent(pool, 2) as fresh:
        assert {connection.port for connection in fresh} == {pair.replica.port}
        assert not set(old) & set(fresh)


def test_slots_are_whole_after_many_changes_of_the_master(
    directory: Directory, pair: Pair
) -> None:
    pool = cpool.SentinelConnectionPool(NAME, directory, max_connections=3, **TIMEOUTS)
    for i in range(12):
        with all_lent(pool, 3) as lent:
            directory.master = pair.addresses[(i + 1) % 2]
            pool.get_master_address()
            assert all(is_answering(connection) for connection in lent)
        gc.collect()
        assert pool.stats().in_use == 0
    assert_whole(pool, 3)
    pool.disconnect()


def test_a_reset_pool_asks_again(make_sentinel_pool: Any, directory: Directory) -> None:
    pool = make_sentinel_pool()
    pool.get_connection()
    assert pool.master_address is not None
    before = directory.asked
    pool.reset()
    assert pool.master_address is None
    pool.get_connection()
    assert directory.asked > before


def test_a_child_process_asks_the_sentinels_itself(make_sentinel_pool: Any) -> None:
    pool = make_sentinel_pool()
    connection = pool.get_connection()
    assert run_in_child(lambda: role_of(pool.get_connection())) == "master"
    assert role_of(connection) == "master"


# -- Ours -----------------------------------------------------------------------------------


def test_our_options_work_with_sentinels(directory: Directory) -> None:
    pool = cpool.SentinelConnectionPool(
        NAME, directory, max_connections=2, timeout=0.01, order="fifo", name="masters", **TIMEOUTS
    )
    first, second = pool.get_connection(), pool.get_connection()
    with pytest.raises(cpool.ConnectionPoolTimeoutError):
        pool.get_connection()
    pool.release(first)
    pool.release(second)
    assert pool.get_connection() is first
    assert pool.stats().name == "masters"
    pool.disconnect()


def test_our_connections_are_the_compiled_ones(directory: Directory) -> None:
    pool = cpool.SentinelConnectionPool(NAME, directory, **TIMEOUTS)
    connection = pool.get_connection()
    assert isinstance(connection, cpool.Connection)
    assert connection._session.uses_fd
    pool.disconnect()


def test_waiters_are_served_when_the_master_changes(directory: Directory, pair: Pair) -> None:
    pool = cpool.SentinelConnectionPool(
        NAME, directory, max_connections=1, timeout=PATIENCE_S, **TIMEOUTS
    )
    connection = pool.get_connection()
    waiter = Task(pool.get_connection)
    wait_for(lambda: pool.stats().waiting, "the waiter")
    directory.master = pair.addresses[1]
    pool.get_master_address()
    pool.release(connection)
    assert waiter.result().port == pair.replica.port
    pool.disconnect()


# -- Real sentinels --------------------------------------------------------------------------


def sentinel_clients(impl: Implementation, setup: SentinelSetup, **kwargs: Any) -> Any:
    """Return a client of the master and one of the replica, as programs make them."""
    sentinel = Sentinel(setup.addresses, **TIMEOUTS)
    return (
        sentinel.master_for(
            setup.name, connection_pool_class=impl.SentinelConnectionPool, **kwargs
        ),
        sentinel.slave_for(
            setup.name, connection_pool_class=impl.SentinelConnectionPool, **kwargs
        ),
    )


def test_clients_made_by_sentinel_read_and_write(
    impl: Implementation, sentinel_setup: SentinelSetup
) -> None:
    master, replica = sentinel_clients(impl, sentinel_setup)
    with master, replica:
        assert type(master.connection_pool) is impl.SentinelConnectionPool
        assert master.set("key", impl.name)
        wait_for(lambda: replica.get("key") == impl.name.encode(), "the replication")
        with pytest.raises(ReadOnlyError):
            replica.set("key", "value")


def test_threads_go_on_with_the_new_master_after_a_failover(
    sentinel_setup: SentinelSetup,
) -> None:
    master, replica = sentinel_clients(CPOOL, sentinel_setup, max_connections=3, timeout=5)
    pool = master.connection_pool
    old_port = sentinel_setup.master.port
    over = threading.Event()

    def work() -> int:
        written = 0
        while not over.is_set():
            try:
                written += bool(master.incr("counter"))
            except redis.RedisError:  # while there is no master
                continue
        for _ in range(10):
            master.incr("counter")
        return written

    workers = [Task(work) for _ in range(6)]
    try:
        sentinel_setup.failover()
        wait_for(lambda: pool.master_address != ("127.0.0.1", old_port), "the new master")
    finally:
        over.set()
        written = [worker.result() for worker in workers]
    assert all(written)
    assert pool.master_address == ("127.0.0.1", sentinel_setup.master.port)
    assert_whole(pool, 3)
    assert role_of(pool.get_connection()) == "master"
    wait_for(lambda: replica.get("counter") == master.get("counter"), "the new replica")
    master.close()
    replica.close()
