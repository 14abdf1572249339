"""What a pool does, asked of redis-py's classes and of ours: lending, limits, errors, life."""

from __future__ import annotations

import os
import warnings
import weakref
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, MaxConnectionsError
from redis.retry import Retry

from tests.pool.conftest import MakePool
from tests.pool.support import (
    CPOOL,
    REDIS_PY,
    REDIS_VERSION,
    Implementation,
    StubConnection,
    Task,
    all_lent,
    is_answering,
)

NOBODY_LISTENS = {"host": "127.0.0.1", "port": 1, "socket_connect_timeout": 2}


# -- Lending ----------------------------------------------------------------------------


def test_the_connection_returned_last_is_lent_first(pool_class: Any, make_pool: MakePool) -> None:
    pool = make_pool(pool_class, max_connections=3)
    first, second, third = (pool.get_connection() for _ in range(3))
    for connection in (second, third, first):
        pool.release(connection)
    assert [pool.get_connection() for _ in range(3)] == [first, third, second]


def test_a_lent_connection_is_connected_and_answers(pool_class: Any, make_pool: MakePool) -> None:
    pool = make_pool(pool_class)
    connection = pool.get_connection()
    assert connection._sock is not None
    assert is_answering(connection)


def test_connections_lent_at_the_same_time_are_different(
    pool_class: Any, make_pool: MakePool
) -> None:
    pool = make_pool(pool_class, max_connections=4)
    with all_lent(pool, 4) as lent:
        assert len({id(connection) for connection in lent}) == 4
        assert len({connection._sock.getsockname() for connection in lent}) == 4


def test_an_exhausted_pool_raises_at_once(impl: Implementation, make_pool: MakePool) -> None:
    pool = make_pool(impl.ConnectionPool, max_connections=1)
    with all_lent(pool, 1), pytest.raises(MaxConnectionsError) as caught:
        pool.get_connection()
    assert type(caught.value) is MaxConnectionsError
    assert str(caught.value) == "Too many connections"


def test_a_connection_that_comes_back_ends_the_exhaustion(
    pool_class: Any, make_pool: MakePool
) -> None:
    pool = make_pool(pool_class, max_connections=1)
    connection = pool.get_connection()
    pool.release(connection)
    assert pool.get_connection() is connection


def test_an_exhausted_blocking_pool_raises_when_its_time_is_over(
    impl: Implementation, make_pool: MakePool
) -> None:
    pool = make_pool(impl.BlockingConnectionPool, max_connections=1, timeout=0.01)
    with all_lent(pool, 1), pytest.raises(ConnectionError) as caught:
        pool.get_connection()
    assert str(caught.value).startswith("No connection available.")


def test_a_changed_limit_holds_from_now_on(impl: Implementation, make_pool: MakePool) -> None:
    pool = make_pool(impl.ConnectionPool, max_connections=1)
    with all_lent(pool, 1):
        pool.max_connections = 2
        with all_lent(pool, 1), pytest.raises(MaxConnectionsError):
            pool.get_connection()


def test_a_lowered_limit_holds_for_connections_not_made_yet(
    impl: Implementation, make_pool: MakePool
) -> None:
    pool = make_pool(impl.ConnectionPool, max_connections=3)
    with all_lent(pool, 2):
        pool.max_connections = 2
        with pytest.raises(MaxConnectionsError):
            pool.get_connection()
    with all_lent(pool, 2):
        pass


def test_a_changed_timeout_of_a_blocking_pool_holds_from_now_on(
    impl: Implementation, make_pool: MakePool
) -> None:
    pool = make_pool(impl.BlockingConnectionPool, max_connections=1, timeout=None)
    pool.timeout = 0.01
    with all_lent(pool, 1), pytest.raises(ConnectionError, match="No connection available"):
        Task(pool.get_connection).result()


# -- Connections that are not what they should be ------------------------------------------


def test_a_server_that_cannot_be_reached_costs_no_slot(pool_class: Any) -> None:
    pool = pool_class(max_connections=1, **NOBODY_LISTENS)
    for _ in range(3):
        with pytest.raises(ConnectionError, match="refused") as caught:
            pool.get_connection()
        assert type(caught.value) is ConnectionError


def test_a_connection_the_server_has_closed_is_replaced(
    pool_class: Any, make_pool: MakePool, redis_server: Any
) -> None:
    pool = make_pool(pool_class, protocol=2)
    connection = pool.get_connection()
    old_address = connection._sock.getsockname()
    host, port = old_address
    pool.release(connection)
    with redis.Redis(port=redis_server.port) as client:
        client.client_kill(f"{host}:{port}")
    assert pool.get_connection() is connection
    assert connection._sock.getsockname() != old_address
    assert is_answering(connection)


def test_an_unread_reply_never_reaches_the_next_borrower(
    pool_class: Any, make_pool: MakePool
) -> None:
    pool = make_pool(pool_class, protocol=2)
    connection = pool.get_connection()
    connection.send_command("ECHO", "stale")
    assert connection.can_read(timeout=5)
    pool.release(connection)
    assert is_answering(pool.get_connection())


class Chatterbox(StubConnection):
    """Always has something to read, so it is never fit to be lent."""

    def can_read(self, timeout: float = 0) -> bool:
        return True


def test_a_connection_that_stays_unfit_is_refused_and_costs_no_slot(pool_class: Any) -> None:
    pool = pool_class(connection_class=Chatterbox, max_connections=1)
    for _ in range(3):
        with pytest.raises(ConnectionError, match="^Connection not ready$"):
            pool.get_connection()


@pytest.mark.parametrize("error", [ConnectionError, redis.TimeoutError, OSError])
def test_a_connection_that_fails_its_check_is_connected_again(
    pool_class: Any, error: type[Exception]
) -> None:
    class FailsOnce(StubConnection):
        def can_read(self, timeout: float = 0) -> bool:
            if self.disconnects == 0:
                raise error("gone")
            return False

    connection = pool_class(connection_class=FailsOnce).get_connection()
    assert (connection.connects, connection.disconnects) == (2, 1)
    assert connection.is_open


def test_an_error_of_the_check_that_is_no_network_error_is_raised(pool_class: Any) -> None:
    class Broken(StubConnection):
        def can_read(self, timeout: float = 0) -> bool:
            raise RuntimeError("broken")

    pool = pool_class(connection_class=Broken, max_connections=1)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="broken"):
            pool.get_connection()


# -- Giving back ------------------------------------------------------------------------


def test_a_connection_of_another_pool_is_ignored(
    impl: Implementation, make_pool: MakePool
) -> None:
    pool, other = make_pool(impl.ConnectionPool), make_pool(impl.ConnectionPool)
    stranger = other.get_connection()
    pool.release(stranger)
    assert is_answering(stranger)
    assert pool.get_connection() is not stranger
    other.release(stranger)
    assert other.get_connection() is stranger


def test_a_connection_of_nobody_is_ignored(impl: Implementation, make_pool: MakePool) -> None:
    pool = make_pool(impl.ConnectionPool, max_connections=1)
    pool.release(impl.Connection())
    pool.release(StubConnection())
    pool.release(None)
    with all_lent(pool, 1), pytest.raises(MaxConnectionsError):
        pool.get_connection()


def test_a_second_release_is_harmless(impl: Implementation, make_pool: MakePool) -> None:
    pool = make_pool(impl.ConnectionPool, max_connections=2)
    connection = pool.get_connection()
    pool.release(connection)
    pool.release(connection)
    first, second = pool.get_connection(), pool.get_connection()
    assert first is not second


@pytest.mark.skipif(REDIS_VERSION < (7, 0), reason="should_reconnect() came with redis-py 7.0")
def test_a_connection_marked_for_reconnect_is_closed_at_its_return(
    pool_class: Any, make_pool: MakePool
) -> None:
    pool = make_pool(pool_class)
    connection = pool.get_connection()
    connection.mark_for_reconnect()
    pool.release(connection)
    assert connection._sock is None
    assert not connection.should_reconnect()
    assert is_answering(pool.get_connection())


def test_a_pool_that_does_not_own_a_connection_closes_it(
    impl: Implementation, make_pool: MakePool
) -> None:
    class Disowning(impl.ConnectionPool):
        def owns_connection(self, connection: Any) -> bool:
            return False

    pool = make_pool(Disowning)
    connection = pool.get_connection()
    pool.release(connection)
    assert connection._sock is None
    assert pool.get_connection() is not connection


# -- The life of a pool -------------------------------------------------------------------


def test_disconnect_closes_all_connections_and_keeps_them(
    pool_class: Any, make_pool: MakePool
) -> None:
    pool = make_pool(pool_class, max_connections=2)
    idle, lent = pool.get_connection(), pool.get_connection()
    pool.release(idle)
    pool.disconnect()
    assert idle._sock is None and lent._sock is None
    assert pool.get_connection() is idle
    assert is_answering(idle)


def test_disconnect_can_spare_the_connections_in_use(
    pool_class: Any, make_pool: MakePool, impl: Implementation
) -> None:
    if not impl.is_ours and REDIS_VERSION < (7, 0) and "Blocking" in pool_class.__name__:
        pytest.skip("redis-py's blocking pool learned it in 7.0")
    pool = make_pool(pool_class, max_connections=2)
    idle, lent = pool.get_connection(), pool.get_connection()
    pool.release(idle)
    pool.disconnect(inuse_connections=False)
    assert idle._sock is None
    assert is_answering(lent)


def test_close_disconnects_and_the_pool_stays_usable(pool_class: Any, make_pool: MakePool) -> None:
    pool = make_pool(pool_class)
    connection = pool.get_connection()
    pool.release(connection)
    pool.close()
    assert connection._sock is None
    assert is_answering(pool.get_connection())


@pytest.mark.skipif(REDIS_VERSION < (8, 1), reason="pools are context managers since 8.1")
def test_a_pool_is_a_context_manager(pool_class: Any, make_pool: MakePool) -> None:
    with make_pool(pool_class) as pool:
        connection = pool.get_connection()
    assert isinstance(pool, pool_class)
    assert connection._sock is None


def test_reset_forgets_all_connections_and_closes_none(
    pool_class: Any, make_pool: MakePool
) -> None:
    pool = make_pool(pool_class, max_connections=2)
    idle, lent = pool.get_connection(), pool.get_connection()
    pool.release(idle)
    pool.reset()
    assert is_answering(idle) and is_answering(lent)
    with all_lent(pool, 2) as fresh:
        assert {idle, lent}.isdisjoint(fresh)


def test_a_pool_is_true_hashable_and_can_be_referred_to_weakly(pool_class: Any) -> None:
    pool = pool_class()
    pool.note = "attributes can be set"
    assert pool
    assert {pool: pool.note}[pool] == "attributes can be set"
    assert weakref.ref(pool)() is pool
    assert pool != pool_class()


def test_a_pool_is_what_redis_py_calls_a_pool(pool_class: Any) -> None:
    assert isinstance(pool_class(), redis.ConnectionPool)
    assert isinstance(pool_class(), redis.BlockingConnectionPool) == (
        "Blocking" in pool_class.__name__
    )


def test_a_pool_knows_its_process_and_its_connections(
    pool_class: Any, make_pool: MakePool
) -> None:
    pool = make_pool(pool_class)
    connection = pool.get_connection()
    assert pool.pid == connection.pid == os.getpid()
    assert pool.owns_connection(connection)
    connection.pid -= 1
    assert not pool.owns_connection(connection)


# -- Configuration that is asked of a pool ---------------------------------------------------


def test_the_encoder_follows_the_pools_arguments(pool_class: Any) -> None:
    encoder = pool_class(
        encoding="latin-1", encoding_errors="replace", decode_responses=True
    ).get_encoder()
    assert (encoder.encoding, encoder.encoding_errors) == ("latin-1", "replace")
    assert encoder.decode_responses is True
    assert pool_class().get_encoder().decode_responses is False


@pytest.mark.parametrize("protocol", [2, 3, "3"])
def test_the_protocol_is_the_one_that_was_given(pool_class: Any, protocol: Any) -> None:
    assert pool_class(protocol=protocol).get_protocol() == protocol
    assert pool_class().get_protocol() is None


def test_changed_connection_kwargs_hold_for_new_connections(
    pool_class: Any, make_pool: MakePool
) -> None:
    pool = make_pool(pool_class)
    before = pool.get_connection()
    pool.connection_kwargs["client_name"] = "renamed"
    pool.connection_kwargs.update(socket_timeout=7)
    after = pool.get_connection()
    assert (before.client_name, after.client_name) == (None, "renamed")
    assert after.socket_timeout == 7


def test_replaced_connection_kwargs_hold_for_new_connections(
    pool_class: Any, make_pool: MakePool
) -> None:
    pool = make_pool(pool_class)
    pool.connection_kwargs = {**pool.connection_kwargs, "client_name": "replaced"}
    assert pool.get_connection().client_name == "replaced"


def test_set_retry_reaches_every_connection(impl: Implementation, make_pool: MakePool) -> None:
    pool = make_pool(impl.ConnectionPool)
    idle, lent = pool.get_connection(), pool.get_connection()
    pool.release(idle)
    retry = Retry(NoBackoff(), 7)
    pool.set_retry(retry)
    later = pool.make_connection()
    assert pool.connection_kwargs["retry"] is retry
    assert [c.retry._retries for c in (idle, lent, later)] == [7, 7, 7]


def test_the_collections_other_packages_look_at(impl: Implementation, make_pool: MakePool) -> None:
    pool = make_pool(impl.ConnectionPool)
    first, second, third = (pool.get_connection() for _ in range(3))
    pool.release(second)
    pool.release(first)
    assert list(pool._available_connections) == [second, first]
    assert set(pool._in_use_connections) == {third}
    assert pool._created_connections == 3


def test_the_collections_of_a_blocking_pool_other_packages_look_at(
    impl: Implementation, make_pool: MakePool
) -> None:
    pool = make_pool(impl.BlockingConnectionPool, max_connections=4)
    first, second = pool.get_connection(), pool.get_connection()
    pool.release(first)
    assert set(pool._connections) == {first, second}
    assert pool.pool.queue == [None, None, first]
    assert pool.pool.qsize() == 3
    assert not pool.pool.full() and not pool.pool.empty()


@pytest.mark.skipif(REDIS_VERSION < (7, 2), reason="connection counts came with redis-py 7.2")
def test_connections_are_counted_for_metrics(pool_class: Any, make_pool: MakePool) -> None:
    pool = make_pool(pool_class)
    first, second, third = (pool.get_connection() for _ in range(3))
    pool.release(first)
    (idle, of_idle), (used, of_used) = pool.get_connection_count()
    assert (idle, used) == (1, 2)
    assert of_idle != of_used
    assert {*of_idle.values()} & {*of_used.values()}  # they share the pool's name


# -- Deprecated arguments --------------------------------------------------------------------

DEPRECATED_CALLS = [
    (("GET",), {}),
    (("GET", "key"), {}),
    (("GET", "key", "other"), {}),
    (("_",), {}),
    ((), {"command_name": "GET"}),
    ((), {"shard_hint": None}),
    (("GET",), {"shard_hint": "x"}),
    ((None,), {}),
    ((None, "key"), {}),
    ((), {}),
]


def deprecations(pool: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Return what get_connection() warns of, and of which file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pool.get_connection(*args, **kwargs)
    return [(w.category, str(w.message), w.filename) for w in caught]


@pytest.mark.parametrize(("args", "kwargs"), DEPRECATED_CALLS)
@pytest.mark.parametrize("name", ["ConnectionPool", "BlockingConnectionPool"])
def test_deprecated_arguments_are_warned_of_in_the_same_words(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    ours, theirs = (
        deprecations(getattr(impl, name)(connection_class=StubConnection), args, kwargs)
        for impl in (CPOOL, REDIS_PY)
    )
    assert ours == theirs


def test_a_connection_returned_while_all_are_closed_is_closed_too(
    impl: Implementation, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(impl.ConnectionPool)
    with all_lent(pool, 2) as (idle, lent):
        pool.release(idle)
        returned = []
        disconnect = idle.disconnect

        def meanwhile(*args: Any) -> None:
            returned.append(Task(pool.release, lent))
            returned[0].join(0.05)  # redis-py's release waits for the lock that is held
            disconnect(*args)

        monkeypatch.setattr(idle, "disconnect", meanwhile)
        pool.disconnect()
        returned[0].result()
        assert lent._sock is None
