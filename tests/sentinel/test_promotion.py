"""A pool whose master moves: dials under way, connections that are lent, the compiled call."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError

import cpool
from tests.client.support import counted
from tests.pool.support import Task, wait_for
from tests.pool.test_sentinel import NAME, Directory, Pair, directory, pair

__all__ = ["directory", "pair"]

DEMOTED = "The previous master is now a slave"
MakePool = Callable[..., cpool.SentinelConnectionPool]


@pytest.fixture
def make_pool(directory: Directory) -> Iterator[MakePool]:
    """Give a function that makes a pool of the master that `directory` names."""
    with contextlib.ExitStack() as stack:

        def make(**options: Any) -> cpool.SentinelConnectionPool:
            made = cpool.SentinelConnectionPool(NAME, directory, **options)  # type: ignore[arg-type]
            return stack.enter_context(made)

        yield make


def move(directory: Directory, pair: Pair) -> int:
    """Let the replica be the master from now on; return its port."""
    directory.master = pair.addresses[1]
    return pair.replica.port


# -- Dials under way ----------------------------------------------------------------------------


def test_a_dial_to_the_old_master_ends_at_the_new_one(
    make_pool: MakePool, directory: Directory, pair: Pair
) -> None:
    class Promoting(cpool.SentinelManagedConnection):
        def connect_to(self, address: tuple[str, int]) -> None:
            super().connect_to(address)
            if address == pair.addresses[0]:
                move(directory, pair)
                pool.get_master_address()

    pool = make_pool(connection_class=Promoting)
    connection = pool.get_connection()
    assert connection.port == pair.replica.port
    pool.release(connection)
    assert pool.get_connection() is connection  # of the generation there is now


class Port:
    """An address that refuses connections first, and then takes them and says nothing."""

    def __init__(self) -> None:
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.address: tuple[str, int] = self.socket.getsockname()


def test_who_dials_the_old_master_or_waits_for_a_turn_to_goes_to_the_new_one(
    make_pool: MakePool, directory: Directory, pair: Pair
) -> None:
    old = Port()
    directory.master = old.address
    pool = make_pool(socket_timeout=3600)
    with pytest.raises(ConnectionError):
        pool.get_connection()
    old.socket.listen()
    pool._dials.hanging_s = 3600
    hangs = Task(pool.get_connection)
    wait_for(lambda: pool._dials.under_way, "the dial that hangs")
    waits = Task(pool.get_connection)
    wait_for(lambda: pool._dials.waiting, "the one that waits for its turn")
    new_port = move(directory, pair)
    pool.get_master_address()
    assert waits.result().port == new_port
    assert hangs.result().port == new_port
    old.socket.close()


def test_without_a_new_master_the_error_of_a_dial_is_its_own(
    make_pool: MakePool, directory: Directory
) -> None:
    old = Port()
    directory.master = old.address
    with pytest.raises(ConnectionError, match="refused"):
        make_pool().get_connection()
    old.socket.close()


# -- Connections that are lent, and the background ------------------------------------------------


@pytest.mark.parametrize("client_class", [redis.Redis, cpool.Redis])
def test_a_lent_connection_to_the_old_master_is_closed_when_it_comes_back(
    make_pool: MakePool, directory: Directory, pair: Pair, client_class: type[redis.Redis]
) -> None:
    pool = make_pool(max_connections=1)
    client = client_class(connection_pool=pool)
    with client.pipeline() as pipe:
        pipe.watch("key")
        move(directory, pair)
        pool.get_master_address()
        old = pipe.connection
        pipe.multi()
        pipe.echo("text")
        assert pipe.execute() == [b"text"]  # nobody is disturbed
    assert old is not None and old._sock is None
    assert client.role()[0] == b"slave"  # of the new address
    assert pool.stats().open == 1


def test_commands_that_are_one_call_move_as_well(
    make_pool: MakePool, directory: Directory, pair: Pair
) -> None:
    client = cpool.Redis(connection_pool=make_pool(max_connections=2))
    with counted() as counts:
        assert client.role()[0] == b"master"
        move(directory, pair)
        client.connection_pool.get_master_address()
        assert client.role()[0] == b"slave"
    assert counts() == {"taken": 2}


def test_a_master_that_has_moved_is_noticed_though_nobody_dials(
    make_pool: MakePool, directory: Directory, pair: Pair
) -> None:
    pool = make_pool(master_check_interval=0.01)
    client = cpool.Redis(connection_pool=pool)
    client.ping()
    (idle,) = pool._idle()
    directory.master = None
    asked = directory.asked
    wait_for(lambda: directory.asked > asked + 1, "questions while there is no master")
    assert idle._sock is not None
    move(directory, pair)
    wait_for(lambda: pool.master_address == pair.addresses[1], "the new master")
    wait_for(lambda: idle._sock is None, "the end of the old connection")
    assert client.role()[0] == b"slave"


def test_nothing_is_asked_in_the_background_while_the_pool_holds_no_connection(
    make_pool: MakePool, directory: Directory
) -> None:
    pool = make_pool(master_check_interval=0.01)
    pool.release(pool.get_connection())
    pool.drain()
    asked, rounds = directory.asked, pool._keep_house()
    assert rounds == 0.01 and directory.asked == asked


def test_a_pool_of_replicas_asks_nothing_in_the_background(
    make_pool: MakePool, directory: Directory
) -> None:
    pool = make_pool(master_check_interval=0.01, is_master=False)
    pool.release(pool.get_connection())
    assert not pool._needs_house_kept()


# -- A master that was demoted --------------------------------------------------------------------


@pytest.fixture(params=[redis.Redis, cpool.Redis])
def stale_client(
    request: pytest.FixtureRequest, make_pool: MakePool, directory: Directory, pair: Pair
) -> redis.Redis:
    """Give a client that is connected to a replica which it takes for the master."""
    truth = directory.master
    move(directory, pair)
    client: redis.Redis = request.param(connection_pool=make_pool(max_connections=2))
    client.ping()
    directory.master = truth
    return client


def run_pipeline(client: redis.Redis, transaction: bool) -> Any:
    with client.pipeline(transaction=transaction) as pipe:
        return pipe.echo("text").set("key", "value").get("key").execute()


WRITES: dict[str, Callable[[redis.Redis], Any]] = {
    "command": lambda client: client.set("key", "value"),
    "pipeline": lambda client: run_pipeline(client, transaction=False),
    "transaction": lambda client: run_pipeline(client, transaction=True),
    "script": lambda client: client.eval("return redis.call('SET', 'key', 'value')", 0),
}
each_write = pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)


@each_write
def test_a_write_to_a_demoted_master_is_redis_pys_error_and_ends_the_connection(
    stale_client: redis.Redis, write: Callable[[redis.Redis], Any]
) -> None:
    pool: Any = stale_client.connection_pool
    with pytest.raises(ConnectionError, match=f"^{DEMOTED}$") as caught:
        write(stale_client)
    assert type(caught.value) is ConnectionError
    assert pool.stats().in_use == 0
    assert [connection._sock for connection in pool._idle()] == [None]
    assert write(stale_client)
    assert pool.master_address[1] == stale_client.info("server")["tcp_port"]


@each_write
def test_with_a_retry_the_caller_of_a_demoted_master_notices_nothing(
    stale_client: redis.Redis, write: Callable[[redis.Redis], Any]
) -> None:
    stale_client.set_retry(Retry(NoBackoff(), 1))
    assert write(stale_client)
    assert stale_client.role()[0] == b"master"


@pytest.mark.parametrize("implementation", [redis.sentinel, cpool])
def test_a_retry_asks_the_sentinels_again_where_redis_py_dials_the_old_master(
    directory: Directory, pair: Pair, implementation: Any
) -> None:
    truth = directory.master
    move(directory, pair)
    pool = implementation.SentinelConnectionPool(NAME, directory)
    client = redis.Redis(connection_pool=pool)
    client.set_retry(Retry(NoBackoff(), 3))
    client.ping()
    directory.master = truth
    if implementation is cpool:
        assert client.set("key", "value")
    else:
        with pytest.raises(ConnectionError, match=DEMOTED):
            client.set("key", "value")
    client.close()


def test_under_the_safe_policy_a_write_that_was_refused_runs_on_the_new_master(
    make_pool: MakePool, directory: Directory, pair: Pair
) -> None:
    truth = directory.master
    move(directory, pair)
    client = cpool.Redis(connection_pool=make_pool(retry_policy="safe"))
    client.set_retry(Retry(NoBackoff(), 1))
    client.ping()
    directory.master = truth
    client.delete("counter")
    assert client.incr("counter") == 1


@pytest.mark.parametrize("client_class", [redis.Redis, cpool.Redis])
@each_write
def test_a_write_to_a_replica_of_a_pool_of_replicas_is_an_error_of_the_server(
    make_pool: MakePool, client_class: type[redis.Redis], write: Callable[[redis.Redis], Any]
) -> None:
    client = client_class(connection_pool=make_pool(is_master=False))
    with pytest.raises(redis.ResponseError, match="read only replica|read only slave") as caught:
        write(client)
    assert not isinstance(caught.value, ConnectionError)
    assert client.connection_pool.stats().open == 1  # type: ignore[attr-defined]


def test_without_any_master_a_command_fails_at_once(
    make_pool: MakePool, directory: Directory
) -> None:
    directory.master = None
    client = cpool.Redis(connection_pool=make_pool(max_connections=1))
    for _ in range(3):
        with pytest.raises(MasterNotFoundError):
            client.ping()


# -- redis-py's own Sentinel ----------------------------------------------------------------------


def test_a_subclass_with_its_own_read_response_reads_every_reply(
    make_pool: MakePool,
) -> None:
    class Reading(cpool.SentinelManagedConnection):
        read = 0

        def read_response(self, *args: Any, **kwargs: Any) -> Any:
            type(self).read += 1
            return super().read_response(*args, **kwargs)

    client = cpool.Redis(connection_pool=make_pool(connection_class=Reading))
    client.ping()
    before = Reading.read
    with counted() as counts:
        client.ping()
    assert Reading.read == before + 1 and counts() == {"connection overridden": 1}
