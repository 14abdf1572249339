"""Dials: how many at a time, who is told of a failure, and that no turn is ever lost."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.cache import CacheConfig
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    MaxConnectionsError,
    TimeoutError,
)
from redis.retry import Retry

import cpool
from cpool._dials import Dials
from cpool.tools.servers import free_port
from tests.pool.conftest import MakePool
from tests.pool.support import (
    PATIENCE_S,
    Task,
    assert_whole,
    fork,
    is_answering,
    run_in_child,
    that_may_be_cached,
    wait_for,
)
from tests.support.faultproxy import FaultProxy

N_THREADS = 12


class Gate:
    """Where stub connections wait while they dial, and what becomes of them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.begun = 0
        self.under_way = 0
        self.most = 0
        self.error: BaseException | None = None
        self.peers: list[socket.socket] = []
        self.opened = threading.Semaphore(0)

    def pass_through(self) -> None:
        with self.lock:
            self.begun += 1
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        assert self.opened.acquire(timeout=PATIENCE_S)
        with self.lock:
            self.under_way -= 1
        if self.error is not None:
            raise self.error

    def let(self, n: int) -> None:
        self.opened.release(n)


def refusal() -> ConnectionError:
    """Return redis-py's error of a refused dial."""
    error = ConnectionError("Error 111 connecting to h:1. Connection refused.")
    error.__context__ = ConnectionRefusedError(111, "Connection refused")
    return error


def waiting_for_a_turn(dials: Dials) -> int:
    return dials.waiting


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.let(1000)
    for peer in made.peers:
        peer.close()


@pytest.fixture
def make_gated(gate: Gate) -> Iterator[Callable[..., Any]]:
    """Give a function that makes a pool whose connections dial through the gate, to nobody."""

    class Gated(cpool.Connection):
        def _connect(self) -> Any:
            gate.pass_through()
            mine, peer = socket.socketpair()
            gate.peers += (mine, peer)
            return mine

        def on_connect_check_health(self, check_health: bool = True) -> None:
            self._parser.on_connect(self)

    pools = []

    def make(cls: Any = cpool.ConnectionPool, **options: Any) -> Any:
        pools.append(
            cls(**{"connection_class": Gated, "socket_connect_timeout": PATIENCE_S, **options})
        )
        return pools[-1]

    yield make
    gate.let(1000)
    for pool in pools:
        wait_for(lambda pool=pool: pool.stats().opening == 0)
        pool.disconnect()


# -- How many at a time -------------------------------------------------------------------


def test_without_a_limit_everybody_dials(gate: Gate, make_gated: Callable[..., Any]) -> None:
    pool = make_gated(max_connections=N_THREADS)
    tasks = [Task(pool.get_connection) for _ in range(N_THREADS)]
    wait_for(lambda: gate.under_way == N_THREADS)
    assert pool.stats().dialling == N_THREADS
    gate.let(N_THREADS)
    assert len({id(task.result()) for task in tasks}) == N_THREADS


@pytest.mark.parametrize("pool_class", [cpool.ConnectionPool, cpool.BlockingConnectionPool])
def test_no_more_dial_at_a_time_than_may(
    gate: Gate, make_gated: Callable[..., Any], pool_class: Any
) -> None:
    pool = make_gated(pool_class, max_connections=N_THREADS, max_connecting=2)
    tasks = [Task(pool.get_connection) for _ in range(N_THREADS)]
    wait_for(lambda: pool.stats().waiting + pool._dials.waiting == N_THREADS - 2)
    for _ in range(N_THREADS):
        gate.let(1)
    lent = [task.result() for task in tasks]
    assert gate.begun == N_THREADS
    assert gate.most == 2
    for connection in lent:
        pool.release(connection)
    assert_whole(pool, N_THREADS)


def test_a_connection_that_comes_back_serves_who_waits_for_a_turn(
    gate: Gate, make_gated: Callable[..., Any]
) -> None:
    pool = make_gated(max_connections=8, max_connecting=1)
    gate.let(1)
    first = pool.get_connection()
    dialler = Task(pool.get_connection)
    wait_for(lambda: gate.under_way == 1)
    waiter = Task(pool.get_connection)
    wait_for(lambda: pool.stats().waiting == 1)
    pool.release(first)
    assert waiter.result() is first
    assert gate.begun == 2
    gate.let(1)
    dialler.result()


def test_who_waits_for_a_turn_too_long_is_told_that_dialling_is_slow(
    gate: Gate, make_gated: Callable[..., Any]
) -> None:
    pool = make_gated(max_connections=8, max_connecting=1, socket_connect_timeout=0.02)
    dialler = Task(pool.get_connection)
    wait_for(lambda: gate.under_way == 1)
    with pytest.raises(TimeoutError, match="^Timeout connecting to server .*dialling is slow: 1 "):
        pool.get_connection()
    pool.timeout = 0.02
    with pytest.raises(cpool.ConnectionPoolTimeoutError, match=r"1 opening"):
        pool.get_connection()
    gate.let(1)
    pool.release(dialler.result())
    assert pool.stats().waiting == 0


def test_a_borrower_that_dials_again_waits_for_its_turn_as_well(make_pool: MakePool) -> None:
    pool = make_pool(cpool.ConnectionPool, max_connections=N_THREADS, max_connecting=1)
    lent = [pool.get_connection() for _ in range(N_THREADS)]
    for connection in lent:
        connection.disconnect()
    most = 0
    original = cpool.Connection._connect

    def counting(self: Any) -> Any:
        nonlocal most
        most = max(most, pool.stats().dialling)
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpool.Connection, "_connect", counting)
        tasks = [Task(connection.connect) for connection in lent]
        for task in tasks:
            task.result()
    assert most == 1
    assert all(connection._sock is not None for connection in lent)
    for connection in lent:
        pool.release(connection)
    assert_whole(pool, N_THREADS)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, ConnectionError, ValueError])
def test_a_dial_that_ends_in_any_way_frees_its_turn(
    gate: Gate, make_gated: Callable[..., Any], error: type[BaseException]
) -> None:
    pool = make_gated(max_connections=2, max_connecting=1)
    gate.error = error("no")
    gate.let(1)
    with pytest.raises(error):
        pool.get_connection()
    assert pool.stats().dialling == 0
    gate.error = None
    gate.let(2)
    assert_whole(pool, 2)


def test_a_thread_that_dials_may_dial_meanwhile(make_pool: MakePool) -> None:
    """A finaliser that runs then may send something, or who is asked for a password."""
    pool: Any = None

    def on_connect(connection: Any) -> None:
        connection.on_connect()
        if pool.stats().dialling == 1:
            cpool.Redis(connection_pool=pool).ping()

    options: dict[str, Any] = {"max_connecting": 1, "socket_connect_timeout": None}
    pool = make_pool(cpool.ConnectionPool, redis_connect_func=on_connect, **options)
    pool.release(Task(pool.get_connection).result())
    assert (pool.stats().created, pool.stats().dialling) == (2, 0)


# -- A server that is down ----------------------------------------------------------------


def test_one_dials_and_the_others_share_its_refusal(
    gate: Gate, make_gated: Callable[..., Any]
) -> None:
    pool = make_gated(max_connections=N_THREADS)
    gate.error = refusal()
    gate.let(1)
    with pytest.raises(ConnectionError):
        pool.get_connection()
    pool._dials.hanging_s = PATIENCE_S
    tasks = [Task(pool.get_connection) for _ in range(N_THREADS)]
    wait_for(lambda: waiting_for_a_turn(pool._dials) == N_THREADS - 1)
    gate.let(1)
    for task in tasks:
        with pytest.raises(ConnectionError, match=r"^Error 111 connecting to h:1\.") as caught:
            task.result()
        assert type(caught.value) is ConnectionError
    assert gate.begun == 2
    assert pool.stats().failed_dials == 2
    assert pool.stats().opening == 0


def test_nobody_is_told_of_a_refusal_that_came_before_he_asked(
    gate: Gate, make_gated: Callable[..., Any]
) -> None:
    pool = make_gated(max_connections=2)
    gate.error = refusal()
    gate.let(1)
    with pytest.raises(ConnectionError):
        pool.get_connection()
    gate.error = None
    gate.let(1)
    assert pool.get_connection()._sock is not None


def test_a_failure_that_others_need_not_meet_is_not_shared(
    gate: Gate, make_gated: Callable[..., Any]
) -> None:
    pool = make_gated(max_connections=3)
    gate.error = TimeoutError("Timeout connecting to server")
    gate.let(1)
    with pytest.raises(TimeoutError):
        pool.get_connection()
    pool._dials.hanging_s = PATIENCE_S
    first, second = Task(pool.get_connection), Task(pool.get_connection)
    wait_for(lambda: waiting_for_a_turn(pool._dials) == 1)
    gate.let(1)
    wait_for(lambda: gate.begun == 3)
    gate.error = None
    gate.let(1)
    outcomes = []
    for task in (first, second):
        try:
            outcomes.append(task.result())
        except TimeoutError as error:
            outcomes.append(error)
    assert sum(isinstance(outcome, TimeoutError) for outcome in outcomes) == 1


def test_a_dial_that_hangs_holds_up_nobody_for_ever(
    gate: Gate, make_gated: Callable[..., Any]
) -> None:
    pool = make_gated(max_connections=N_THREADS)
    gate.error = TimeoutError("Timeout connecting to server")
    gate.let(1)
    with pytest.raises(TimeoutError):
        pool.get_connection()
    gate.error = None
    tasks = [Task(pool.get_connection) for _ in range(N_THREADS)]
    wait_for(lambda: gate.under_way > 1, "another one to begin beside it")
    gate.let(N_THREADS)
    for task in tasks:
        task.result()


def test_an_answer_of_the_server_means_that_it_is_up(
    gate: Gate, make_gated: Callable[..., Any]
) -> None:
    pool = make_gated(max_connections=2)
    gate.error = refusal()
    gate.let(2)
    with pytest.raises(ConnectionError):
        pool.get_connection()
    assert pool._dials.failures == 1
    gate.error = AuthenticationError("invalid username-password pair")
    with pytest.raises(AuthenticationError):
        pool.get_connection()
    assert pool._dials.failures == 0


def test_an_exhausted_pool_tells_that_the_server_is_down() -> None:
    pool = cpool.ConnectionPool(port=free_port(), max_connections=1, timeout=0.02)
    held = pool.make_connection()
    with pytest.raises(ConnectionError):
        held.connect()
    with pytest.raises(
        cpool.ConnectionPoolTimeoutError, match="the server can't be reached: Error 111 "
    ):
        pool.get_connection()


def test_failures_are_counted_anew_after_a_reset() -> None:
    pool = cpool.ConnectionPool(port=free_port())
    with pytest.raises(ConnectionError):
        pool.get_connection()
    pool.reset()
    assert pool.stats().failed_dials == 0


def test_a_refused_dial_of_a_unix_socket_is_shared_as_well(tmp_path: Any) -> None:
    pool = cpool.ConnectionPool(
        connection_class=cpool.UnixDomainSocketConnection, path=str(tmp_path / "none")
    )
    with pytest.raises(ConnectionError, match="No such file"):
        pool.get_connection()
    assert pool.stats().failed_dials == 1


def test_an_address_that_is_down_says_nothing_of_another(
    gate: Gate, make_gated: Callable[..., Any]
) -> None:
    """Behind sentinels a pool's connections lead to several replicas."""
    pool = make_gated(max_connections=4)
    here, there = pool.make_connection(), pool.make_connection()
    there.port = 7
    gate.error = refusal()
    gate.let(1)
    with pytest.raises(ConnectionError):
        there.connect()
    dead = Task(there.connect)
    wait_for(lambda: gate.under_way == 1)
    alive = Task(here.connect)
    wait_for(lambda: gate.under_way == 2)
    gate.error = None
    gate.let(2)
    dead.result()
    alive.result()
    for connection in (here, there):
        pool.release(connection)


def test_who_waits_for_a_turn_is_told_when_the_pool_is_exhausted(
    gate: Gate, make_gated: Callable[..., Any]
) -> None:
    pool = make_gated(max_connections=2, max_connecting=1, socket_connect_timeout=None)
    first = Task(pool.get_connection)
    wait_for(lambda: gate.under_way == 1)
    others = [Task(pool.get_connection) for _ in range(2)]
    wait_for(lambda: pool.stats().waiting == 2)
    gate.let(2)
    lent = [first.result()]
    for task in others:
        try:
            lent.append(task.result())
        except MaxConnectionsError:
            assert pool.stats().refused == 1
    assert len(lent) == 2


def test_a_full_server_is_up(gate: Gate, make_gated: Callable[..., Any]) -> None:
    pool = make_gated(max_connections=2)
    gate.error = ConnectionError("max number of clients reached")
    gate.let(1)
    with pytest.raises(ConnectionError):
        pool.get_connection()
    assert (pool._dials.failures, pool.stats().failed_dials) == (0, 0)


# -- Restarts and failovers ---------------------------------------------------------------


@pytest.fixture
def proxy(redis_server: Any) -> Iterator[FaultProxy]:
    with FaultProxy((redis_server.host, redis_server.port)) as running:
        yield running


def make_client(address: Any, **options: Any) -> cpool.Redis:
    return cpool.Redis(
        host=address.host, port=address.port, retry=Retry(NoBackoff(), 0), **options
    )


def open_idle(pool: Any, n: int) -> list[Any]:
    lent = [pool.get_connection() for _ in range(n)]
    for connection in lent:
        pool.release(connection)
    return lent


CACHED = {
    "connection_class": that_may_be_cached(cpool.Connection),
    "protocol": 3,
    "cache_config": CacheConfig(),
}


@pytest.mark.parametrize("options", [{}, CACHED])
def test_after_a_break_and_a_refused_dial_all_connections_are_replaced(
    proxy: FaultProxy, options: Any
) -> None:
    pool = cpool.ConnectionPool(
        host=proxy.host, port=proxy.port, max_connections=4, retry=Retry(NoBackoff(), 0), **options
    )
    open_idle(pool, 4)
    assert pool.stats().dial.count == 4
    lent = pool.get_connection()
    lent.send_command("PING")
    lent.read_response()
    proxy.refuse_connections()
    lent._sock.shutdown(socket.SHUT_RDWR)  # this one only: the others stay open
    with pytest.raises(ConnectionError):
        lent.send_command("PING")
        lent.read_response()
    lent.disconnect()
    with pytest.raises(ConnectionError):
        lent.connect()
    assert pool.stats().evictions == 0
    before = proxy.connections
    proxy.accept_connections()
    pool.release(lent)
    open_idle(pool, 4)
    assert pool.stats().evictions == 1
    assert proxy.connections == before + 4
    open_idle(pool, 4)
    assert proxy.connections == before + 4
    pool.disconnect()


def test_what_was_dialled_while_the_pool_was_drained_is_replaced(
    gate: Gate, make_gated: Callable[..., Any]
) -> None:
    pool = make_gated(max_connections=1)
    task = Task(pool.get_connection)
    wait_for(lambda: gate.under_way == 1)
    pool.drain()
    gate.let(1)
    pool.release(task.result())
    gate.let(1)
    pool.get_connection()
    assert gate.begun == 2


def test_a_break_alone_replaces_nothing_else(proxy: FaultProxy) -> None:
    pool = make_client(proxy, max_connections=4).connection_pool
    lent = open_idle(pool, 4)
    lent[0]._sock.shutdown(socket.SHUT_RDWR)
    open_idle(pool, 4)
    assert pool.stats().evictions == 0
    assert proxy.connections == 5
    pool.disconnect()


def test_a_refused_dial_alone_replaces_nothing(proxy: FaultProxy) -> None:
    pool = make_client(proxy, max_connections=4).connection_pool
    open_idle(pool, 2)
    held = [pool.get_connection() for _ in range(2)]
    proxy.refuse_connections()
    with pytest.raises(ConnectionError):
        pool.get_connection()
    proxy.accept_connections()
    held.append(pool.get_connection())
    for connection in held:
        pool.release(connection)
    assert pool.stats().evictions == 0
    pool.disconnect()


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_restart_is_seen_by_the_numbers_of_clients(start_server: Any, protocol: int) -> None:
    """Under RESP3 the server says how many clients it has counted; under RESP2 nothing tells,
    and each connection is found closed when it is met."""
    server = start_server()
    client = make_client(server, max_connections=4, protocol=protocol)
    pool = client.connection_pool
    open_idle(pool, 4)
    server.kill()
    server.restart()
    assert client.ping()
    assert pool.stats().evictions == (protocol == 3)
    open_idle(pool, 4)
    assert client.ping()
    pool.disconnect()


def test_read_only_replaces_all_connections_once_a_second_at_most(start_server: Any) -> None:
    server = start_server()
    client = make_client(server, max_connections=3)
    pool = client.connection_pool
    open_idle(pool, 3)
    with redis.Redis(host=server.host, port=server.port) as admin:
        admin.replicaof("127.0.0.1", free_port())
        for _ in range(3):
            with pytest.raises(redis.exceptions.ReadOnlyError):
                client.set("k", 1)
        assert pool.stats().evictions == 1
        admin.replicaof("NO", "ONE")
    assert client.set("k", 1)
    pool.disconnect()


@pytest.mark.parametrize("call", ["pipeline", "transaction", "plain client", "switched off"])
def test_read_only_is_seen_however_the_command_goes(
    start_server: Any, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_server()
    client: Any = make_client(server)
    pool = client.connection_pool
    if call == "plain client":
        client = redis.Redis(connection_pool=pool)
    client.ping()
    with redis.Redis(host=server.host, port=server.port) as admin:
        admin.replicaof("127.0.0.1", free_port())
    if call == "switched off":
        cpool.fast_path.disable()
    try:
        with pytest.raises(redis.exceptions.RedisError):
            if call in ("pipeline", "transaction"):
                client.pipeline(transaction=call == "transaction").set("k", 1).execute()
            else:
                client.set("k", 1)
    finally:
        cpool.fast_path.enable()
    assert pool.stats().evictions == 1
    pool.disconnect()


# -- Forks --------------------------------------------------------------------------------


def test_a_child_that_is_born_during_dials_may_dial(
    gate: Gate, make_gated: Callable[..., Any]
) -> None:
    pool = make_gated(max_connections=2, max_connecting=1)
    dialler = Task(pool.get_connection)
    wait_for(lambda: gate.under_way == 1)

    def child() -> bool:
        gate.opened = threading.Semaphore(2)
        gate.lock = threading.Lock()
        return pool.get_connection()._sock is not None

    assert run_in_child(child)
    gate.let(1)
    dialler.result()


def test_a_child_that_is_born_in_a_dial_may_end_it(make_pool: MakePool) -> None:
    """A connect hook that forks, and a child that comes back through it."""
    pids: list[int] = []

    def on_connect(connection: Any) -> None:
        connection.on_connect()
        if not pids:
            pids.append(fork())

    pool = make_pool(cpool.ConnectionPool, redis_connect_func=on_connect, max_connecting=1)
    connection = pool.get_connection()
    if pids == [0]:
        status = 99
        try:
            status = int(pool.stats().dialling) + (not is_answering(pool.get_connection()))
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 0
    assert pool.stats().dialling == 0
    pool.release(connection)
