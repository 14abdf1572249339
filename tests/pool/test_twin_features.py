"""redis-py's features that reach into the pool, on redis-py's pools and on ours.

Maintenance notifications, client-side caching, re-authentication, listeners; and what the
clients built on a pool do with it.
"""

from __future__ import annotations

import inspect
import os
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis.cache import CacheConfig
from redis.event import AfterConnectionReleasedEvent, EventDispatcher, EventListenerInterface

from tests.pool.conftest import MakePool
from tests.pool.support import (
    CPOOL,
    HAS_MAINTENANCE,
    REDIS_PY,
    Implementation,
    Task,
    is_answering,
    that_may_be_cached,
    wait_for,
)

needs_maintenance = pytest.mark.skipif(
    not HAS_MAINTENANCE, reason="maintenance notifications came with redis-py 7.0"
)


@pytest.fixture
def idle_and_lent(pool_class: Any, make_pool: MakePool) -> Any:
    """Give a pool with maintenance notifications on, one connection in it, one lent."""
    pool = make_pool(pool_class, protocol=3, max_connections=4)
    idle, lent = pool.get_connection(), pool.get_connection()
    pool.release(idle)
    return pool, idle, lent


# -- Maintenance notifications ----------------------------------------------------------------


@needs_maintenance
def test_settings_reach_idle_and_lent_connections(idle_and_lent: Any) -> None:
    from redis.maint_notifications import MaintenanceState

    pool, *both = idle_and_lent
    pool.update_connections_settings(state=MaintenanceState.MOVING, relaxed_timeout=33)
    for connection in both:
        assert connection.maintenance_state is MaintenanceState.MOVING
        assert connection.socket_timeout == 33
        assert connection._sock.gettimeout() == 33
        assert is_answering(connection)


@needs_maintenance
def test_settings_can_spare_the_idle_connections(idle_and_lent: Any) -> None:
    pool, idle, lent = idle_and_lent
    before = idle.socket_timeout
    pool.update_connections_settings(relaxed_timeout=33, include_free_connections=False)
    assert (idle.socket_timeout, lent.socket_timeout) == (before, 33)


@needs_maintenance
def test_settings_reach_only_connections_to_the_address_named(idle_and_lent: Any) -> None:
    pool, *both = idle_and_lent
    before = both[0].socket_timeout
    pool.update_connections_settings(relaxed_timeout=33, matching_address="192.0.2.1")
    assert [c.socket_timeout for c in both] == [before, before]
    pool.update_connections_settings(relaxed_timeout=33, matching_address="127.0.0.1")
    assert [c.socket_timeout for c in both] == [33, 33]


@needs_maintenance
def test_lent_connections_are_marked_and_idle_ones_closed(idle_and_lent: Any) -> None:
    pool, idle, lent = idle_and_lent
    pool.update_active_connections_for_reconnect()
    assert (idle.should_reconnect(), lent.should_reconnect()) == (False, True)
    pool.disconnect_free_connections()
    assert idle._sock is None
    assert is_answering(lent)
    pool.release(lent)
    assert lent._sock is None


@needs_maintenance
def test_connections_to_another_address_are_left_alone(idle_and_lent: Any) -> None:
    pool, idle, lent = idle_and_lent
    pool.update_active_connections_for_reconnect(moving_address_src="192.0.2.1")
    pool.disconnect_free_connections(moving_address_src="192.0.2.1")
    assert not lent.should_reconnect()
    assert idle._sock is not None


@needs_maintenance
def test_updated_kwargs_hold_for_new_connections_only(idle_and_lent: Any) -> None:
    pool, idle, lent = idle_and_lent
    pool.update_connection_kwargs(client_name="new")
    assert pool.get_connection() is idle
    assert pool.get_connection().client_name == "new"
    assert lent.client_name is None


# redis-py's blocking pool does not keep these promises.
LOCKED_POOLS = [
    pytest.param(REDIS_PY, REDIS_PY.ConnectionPool, id="redis-py"),
    pytest.param(CPOOL, CPOOL.ConnectionPool, id="cpool"),
    pytest.param(CPOOL, CPOOL.BlockingConnectionPool, id="cpool blocking"),
]


@needs_maintenance
@pytest.mark.parametrize(("impl", "locked_pool"), LOCKED_POOLS)
def test_nobody_slips_through_between_marking_and_closing(
    impl: Implementation, locked_pool: Any, make_pool: MakePool
) -> None:
    """As a cluster client does it: both under the pool's lock, for one reason."""
    pool = make_pool(locked_pool, protocol=3, max_connections=1)
    connection = pool.get_connection()
    before = connection._sock.getsockname()
    pool.release(connection)
    with pool._lock:
        pool.update_active_connections_for_reconnect()
        borrower = Task(pool.get_connection)
        borrower.is_over(0.1)  # it may have to wait for the lock
        pool.disconnect_free_connections()
    assert borrower.result() is connection
    pool.release(connection)
    assert connection._sock is None or connection._sock.getsockname() != before


@needs_maintenance
@pytest.mark.parametrize(("impl", "locked_pool"), LOCKED_POOLS)
def test_no_setting_is_missed_by_a_connection_that_is_lent_meanwhile(
    impl: Implementation, locked_pool: Any, make_pool: MakePool
) -> None:
    hooks: list[Callable[[], Any]] = []

    class Hooked(impl.Connection):
        def set_tmp_settings(self, **settings: Any) -> None:
            super().set_tmp_settings(**settings)
            if hooks:
                hooks.pop()()

    pool = make_pool(locked_pool, connection_class=Hooked, protocol=3, max_connections=2)
    idle, lent = pool.get_connection(), pool.get_connection()
    pool.release(idle)
    borrowers: list[Task] = []

    def borrow() -> None:  # while the lent ones are told, before the idle ones are
        borrowers.append(Task(pool.get_connection))
        borrowers[0].is_over(0.1)

    hooks.append(borrow)
    pool.update_connections_settings(relaxed_timeout=33)
    assert borrowers[0].result() is idle
    assert (lent.socket_timeout, idle.socket_timeout) == (33, 33)


@needs_maintenance
@pytest.mark.parametrize(("impl", "locked_pool"), LOCKED_POOLS)
def test_a_change_of_notifications_cuts_nobody_off(
    impl: Implementation, locked_pool: Any, make_pool: MakePool
) -> None:
    from redis.maint_notifications import MaintNotificationsConfig

    hooks: list[Callable[[], Any]] = []

    class Hooked(impl.Connection):
        def set_maint_notifications_pool_handler_for_connection(self, handler: Any) -> None:
            super().set_maint_notifications_pool_handler_for_connection(handler)
            if hooks:
                hooks.pop()()

    off, on = MaintNotificationsConfig(enabled=False), MaintNotificationsConfig(enabled="auto")
    pool = make_pool(
        locked_pool,
        connection_class=Hooked,
        protocol=3,
        max_connections=1,
        maint_notifications_config=off,
    )
    connection = pool.get_connection()
    pool.release(connection)
    borrowers: list[Task] = []

    def borrow() -> None:
        borrowers.append(Task(pool.get_connection))
        borrowers[0].is_over(0.1)

    hooks.append(borrow)
    pool.update_maint_notifications_config(on)
    assert borrowers[0].result() is connection
    assert connection._sock is not None


@needs_maintenance
def test_a_moving_notification_moves_the_pool_and_is_undone(
    idle_and_lent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from redis import maint_notifications

    timers: list[tuple[Any, ...]] = []

    def note_timer(interval: float, function: Any, args: Any = ()) -> Any:
        timers.append((function, args))
        return types.SimpleNamespace(start=lambda: None)

    fake = types.SimpleNamespace(Timer=note_timer)
    monkeypatch.setattr(maint_notifications, "threading", fake)
    pool, idle, lent = idle_and_lent
    handler = pool._maint_notifications_pool_handler
    moving = maint_notifications.NodeMovingNotification(1, "localhost", lent.port, ttl=30)
    handler.handle_notification(moving)
    assert pool.connection_kwargs["host"] == "localhost"
    assert idle.host == lent.host == "localhost"
    assert idle._sock is None and lent.should_reconnect()
    assert is_answering(pool.get_connection())

    ((undo, args),) = timers
    undo(*args)
    assert pool.connection_kwargs["host"] == "127.0.0.1"
    assert lent.host == "127.0.0.1"
    assert str(lent.maintenance_state).lower().endswith("none")


@needs_maintenance
def test_a_blocking_pool_in_maintenance_still_lends(
    impl: Implementation, make_pool: MakePool
) -> None:
    pool = make_pool(impl.BlockingConnectionPool, protocol=3, max_connections=1)
    pool.set_in_maintenance(True)
    connection = pool.get_connection()
    pool.release(connection)
    pool.set_in_maintenance(False)
    assert pool.get_connection() is connection


@needs_maintenance
def test_notifications_can_be_switched_on_later(pool_class: Any, make_pool: MakePool) -> None:
    from redis.maint_notifications import MaintNotificationsConfig

    off, on = MaintNotificationsConfig(enabled=False), MaintNotificationsConfig(enabled="auto")
    pool = make_pool(pool_class, protocol=3, maint_notifications_config=off)
    idle, lent = pool.get_connection(), pool.get_connection()
    pool.release(idle)
    assert not pool.maint_notifications_enabled()
    pool.update_maint_notifications_config(on)
    assert pool.maint_notifications_enabled()
    assert idle._sock is None and lent.should_reconnect()
    assert pool.connection_kwargs["maint_notifications_config"] is on
    with pytest.raises(ValueError, match="Cannot disable"):
        pool.update_maint_notifications_config(off)


@needs_maintenance
def test_the_pools_lock_may_be_taken_twice(pool_class: Any) -> None:
    pool = pool_class()
    with pool._lock, pool._get_pool_lock():
        assert list(pool._get_free_connections()) == []
        assert set(pool._get_in_use_connections()) == set()


# -- Client-side caching ------------------------------------------------------------------


@pytest.fixture
def cached_pool(impl: Implementation, make_pool: MakePool) -> Any:
    """Give a pool with a cache, whatever the version of the server."""
    return make_pool(
        impl.ConnectionPool,
        connection_class=that_may_be_cached(impl.Connection),
        protocol=3,
        cache_config=CacheConfig(max_size=16),
        max_connections=2,
        decode_responses=True,
    )


def test_a_cached_pool_keeps_replies_and_forgets_what_others_change(
    cached_pool: Any, fresh_db: Any
) -> None:
    cached = redis.Redis(connection_pool=cached_pool)
    with redis.Redis(port=fresh_db.port) as other:
        other.set("key", "one")
        assert [cached.get("key"), cached.get("key")] == ["one", "one"]
        assert cached_pool.cache.size == 1
        other.set("key", "two")
        wait_for(lambda: cached.get("key") == "two", "the invalidation")


def test_a_cached_pool_takes_no_cache_options_to_its_connections(cached_pool: Any) -> None:
    assert not {"cache", "cache_config"} & set(cached_pool.connection_kwargs)


def test_a_cached_pool_reuses_its_connections(cached_pool: Any) -> None:
    first = cached_pool.get_connection()
    cached_pool.release(first)
    assert cached_pool.get_connection() is first
    assert cached_pool._created_connections == 1


# -- Re-authentication and listeners --------------------------------------------------------


class Token:
    """What a credential provider sends when it has new credentials."""

    def __init__(self, user: str, password: str) -> None:
        self._user, self._password = user, password

    def try_get(self, key: str) -> str:
        return self._user

    def get_value(self) -> str:
        return self._password


def user_of(connection: Any) -> str:
    """Ask the server who a connection is."""
    connection.send_command("ACL", "WHOAMI")
    return str(connection.read_response(), "ascii")


def test_new_credentials_reach_idle_connections_now_and_lent_ones_at_their_return(
    impl: Implementation, acl_server: Any
) -> None:
    pool = impl.ConnectionPool(
        host=acl_server.host, port=acl_server.port, password=acl_server.password
    )
    idle, lent = pool.get_connection(), pool.get_connection()
    pool.release(idle)
    pool.re_auth_callback(Token(acl_server.app_user, acl_server.app_password))
    assert (user_of(idle), user_of(lent)) == ("app", "default")
    pool.release(lent)
    assert user_of(lent) == "app"
    assert lent._re_auth_token is None
    pool.disconnect()


def test_refused_credentials_raise_at_the_return_and_cost_no_slot(
    impl: Implementation, acl_server: Any
) -> None:
    pool = impl.ConnectionPool(
        host=acl_server.host,
        port=acl_server.port,
        password=acl_server.password,
        max_connections=1,
    )
    connection = pool.get_connection()
    descriptor = connection._sock.fileno()
    connection.set_re_auth_token(Token("nobody", "wrong"))
    with pytest.raises(redis.AuthenticationError):
        pool.release(connection)
    assert connection._sock is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    assert pool.get_connection() is connection
    pool.disconnect()


class Listener(EventListenerInterface):
    """Notes the connections whose return it hears of."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def listen(self, event: Any) -> None:
        self.heard.append(event.connection)


@pytest.mark.skipif(
    "event_listeners" not in inspect.signature(EventDispatcher).parameters,
    reason="the installed redis-py's dispatcher takes no listeners",
)
def test_listeners_hear_of_every_return(impl: Implementation, make_pool: MakePool) -> None:
    listener = Listener()
    dispatcher = EventDispatcher({AfterConnectionReleasedEvent: [listener]})
    pool = make_pool(impl.ConnectionPool, event_dispatcher=dispatcher)
    connection = pool.get_connection()
    pool.release(connection)
    pool.release(connection)
    assert listener.heard == [connection]


@pytest.mark.skipif(
    not hasattr(EventDispatcher, "register_listeners"),
    reason="the installed redis-py's dispatcher takes no listeners",
)
def test_a_listener_that_comes_later_hears_too(impl: Implementation, make_pool: MakePool) -> None:
    pool = make_pool(impl.ConnectionPool)
    connection = pool.get_connection()
    pool.release(connection)
    listener = Listener()
    pool._event_dispatcher.register_listeners({AfterConnectionReleasedEvent: [listener]})
    pool.release(pool.get_connection())
    assert listener.heard == [connection]


# -- Clients on a pool --------------------------------------------------------------------


@pytest.fixture
def client(pool_class: Any, make_pool: MakePool, fresh_db: Any) -> Iterator[Any]:
    """Give redis-py's client on a pool of three connections, and an empty database."""
    with redis.Redis(connection_pool=make_pool(pool_class, max_connections=3)) as client:
        yield client


def test_commands_share_one_connection_one_after_another(client: Any) -> None:
    ids = {client.client_id() for _ in range(5)}
    assert len(ids) == 1


def test_a_transaction_runs_whole(client: Any) -> None:
    assert client.pipeline().incr("n").incr("n").execute() == [1, 2]


def test_a_watched_change_is_noticed_and_the_watch_ends(client: Any) -> None:
    with client.pipeline() as pipe:
        pipe.watch("n")
        client.set("n", 5)
        pipe.multi()
        pipe.incr("n")
        with pytest.raises(redis.WatchError):
            pipe.execute()
    assert client.pipeline().incr("n").execute() == [6]


def test_a_subscriber_gets_messages_and_gives_its_connection_back(client: Any) -> None:
    for _ in range(4):  # more often than the pool has connections
        with client.pubsub(ignore_subscribe_messages=True) as pubsub:
            pubsub.subscribe("news")
            assert pubsub.get_message(timeout=5) is None  # the subscription itself
            client.publish("news", "hello")
            assert pubsub.get_message(timeout=5)["data"] == b"hello"


def test_a_monitor_sees_commands_and_gives_its_connection_back(client: Any) -> None:
    for _ in range(4):
        with client.monitor() as monitor:
            client.set("key", "value")
            commands = (monitored["command"] for monitored in monitor.listen())
            assert "SET key value" in commands
    assert client.get("key") == b"value"


def test_a_single_connection_client_keeps_one_connection(client: Any) -> None:
    with client.client() as single:
        assert single.ping()
        connection = single.connection
        assert single.ping()
        assert single.connection is connection
    assert client.ping()


def test_a_client_that_owns_its_pool_closes_it(pool_class: Any, make_pool: MakePool) -> None:
    pool = make_pool(pool_class)
    client = redis.Redis.from_pool(pool)
    assert client.ping()
    connection = pool.get_connection()
    pool.release(connection)
    client.close()
    assert connection._sock is None


def test_an_error_reply_costs_no_connection(client: Any) -> None:
    before = client.client_id()
    client.set("text", "x")
    with pytest.raises(redis.ResponseError, match="not an integer"):
        client.incr("text")
    assert client.client_id() == before
