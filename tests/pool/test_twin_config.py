"""How pools are configured, asked of redis-py's classes and of ours: arguments, URLs, repr."""

from __future__ import annotations

import inspect
import queue
from collections.abc import Callable
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, MaxConnectionsError, RedisError, TimeoutError
from redis.retry import Retry

from tests.pool.conftest import MakePool
from tests.pool.support import (
    CPOOL,
    HAS_MAINTENANCE,
    IMPLEMENTATIONS,
    REDIS_PY,
    REDIS_VERSION,
    Implementation,
    StubConnection,
    is_answering,
)

# -- URLs -------------------------------------------------------------------------------

URLS = [
    "redis://",
    "redis://localhost",
    "redis://localhost:6380",
    "redis://example.org:6380/5",
    "redis://localhost/",
    "redis://localhost/not-a-number",
    "redis://localhost//7",
    "redis://localhost/3?db=4",
    "redis://localhost?db=4",
    "redis://user@localhost",
    "redis://user:secret@localhost:6380/1",
    "redis://:secret@localhost",
    "redis://us%40er:p%3Aa%2Fss%20word@localhost",
    "redis://my%20host",
    "redis://[::1]:6380/0",
    "redis://localhost?password=a%2520b",
    "redis://localhost?client_name=one&client_name=two",
    "redis://localhost?client_name=",
    "redis://localhost?unknown_option=kept+as+text",
    "redis://localhost?socket_timeout=1.5&socket_connect_timeout=2",
    "redis://localhost?socket_read_size=1024&health_check_interval=30",
    "redis://localhost?socket_keepalive=yes&retry_on_timeout=no",
    "redis://localhost?socket_keepalive=",
    "redis://localhost?retry_on_timeout=F",
    "redis://localhost?max_connections=7",
    "redis://localhost?protocol=3",
    "redis://localhost?protocol=2&encoding=latin-1&encoding_errors=replace",
    "rediss://localhost",
    "rediss://localhost:6380/2?ssl_cert_reqs=none&ssl_check_hostname=False",
    "rediss://localhost?ssl_ca_certs=/ca.pem&ssl_certfile=/c.pem&ssl_keyfile=/k.pem",
    "rediss://localhost?ssl_min_version=771&ssl_ciphers=AES128",
    "unix:///tmp/redis.sock",
    "unix:///tmp/redis%20two.sock?db=3",
    "unix://user:secret@/tmp/redis.sock",
    "unix://user@/tmp/redis.sock?db=3&password=secret",
    "unix://",
]
URL_KWARGS: list[dict[str, Any]] = [
    {},
    {"host": "from-kwargs", "db": 9, "client_name": "from-kwargs", "password": "from-kwargs"},
    {"max_connections": 3, "socket_timeout": 9, "decode_responses": True},
]

# Objects that a pool makes for its connections: to be compared by type.
_MADE = ("himport_registry", "maint_notifications_pool_handler", "maint_notifications_config")


def configuration(pool: Any) -> dict[str, Any]:
    """What a pool was told, in terms that do not name the implementation."""
    kwargs = {
        key: type(value).__name__ if key in _MADE else value
        for key, value in pool.connection_kwargs.items()
    }
    return {
        "connection_class": pool.connection_class.__name__,
        "max_connections": pool.max_connections,
        "timeout": getattr(pool, "timeout", None) if hasattr(pool, "pool") else None,
        "kwargs": kwargs,
        "order": list(kwargs),
    }


@pytest.mark.parametrize("kwargs", URL_KWARGS, ids=["plain", "overridden", "more"])
@pytest.mark.parametrize("url", URLS)
def test_a_url_gives_the_same_configuration(url: str, kwargs: dict[str, Any]) -> None:
    ours = CPOOL.ConnectionPool.from_url(url, **kwargs)
    theirs = REDIS_PY.ConnectionPool.from_url(url, **kwargs)
    assert configuration(ours) == configuration(theirs)


@pytest.mark.parametrize("query", ["", "?timeout=1.5&max_connections=2", "?timeout=30"])
def test_a_url_gives_a_blocking_pool_the_same_configuration(query: str) -> None:
    url = f"redis://localhost/1{query}"
    ours = CPOOL.BlockingConnectionPool.from_url(url)
    theirs = REDIS_PY.BlockingConnectionPool.from_url(url)
    assert configuration(ours) == configuration(theirs)


BAD_URLS = [
    "localhost:6379",
    "http://localhost",
    "blah://localhost",
    "redis://localhost?socket_timeout=soon",
    "redis://localhost?max_connections=many",
    "redis://localhost?db=first",
    "redis://localhost?protocol=three",
    "rediss://localhost?ssl_min_version=TLSv1_2",
    "redis://localhost?max_connections=-1",
]


def outcome_of(impl: Implementation, url: str) -> Any:
    """Return the text of the error, or the configuration if there is none."""
    try:
        return configuration(impl.ConnectionPool.from_url(url))
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_bad_url_is_refused_in_the_same_words(url: str) -> None:
    assert outcome_of(CPOOL, url) == outcome_of(REDIS_PY, url)


@pytest.mark.parametrize("url", ["localhost:6379", "redis://localhost?db=first"])
def test_a_bad_url_is_refused(pool_class: Any, url: str) -> None:
    with pytest.raises(ValueError):
        pool_class.from_url(url)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://localhost", "Connection"),
        ("rediss://localhost", "SSLConnection"),
        ("unix:///tmp/redis.sock", "UnixDomainSocketConnection"),
    ],
)
def test_the_scheme_of_a_url_chooses_the_connection_class(
    pool_class: Any, impl: Implementation, url: str, name: str
) -> None:
    assert pool_class.from_url(url).connection_class is getattr(impl, name)


def test_a_connection_class_that_is_given_wins_over_the_scheme(pool_class: Any) -> None:
    pool = pool_class.from_url("rediss://localhost", connection_class=StubConnection)
    assert pool.connection_class is StubConnection


def test_a_client_from_a_url_of_a_pool_reaches_the_server(
    pool_class: Any, redis_server: Any
) -> None:
    with redis.Redis(connection_pool=pool_class.from_url(redis_server.url)) as client:
        assert client.ping()


def test_from_url_of_a_subclass_gives_the_subclass(impl: Implementation) -> None:
    class Mine(impl.BlockingConnectionPool):
        pass

    assert type(Mine.from_url("redis://localhost")) is Mine


# -- Arguments --------------------------------------------------------------------------


def test_the_arguments_may_be_given_by_position(impl: Implementation) -> None:
    pool = impl.ConnectionPool(StubConnection, 7)
    assert (pool.connection_class, pool.max_connections) == (StubConnection, 7)
    pool = impl.BlockingConnectionPool(8, 9, StubConnection, queue.LifoQueue)
    assert (pool.max_connections, pool.timeout) == (8, 9)
    assert (pool.connection_class, pool.queue_class) == (StubConnection, queue.LifoQueue)


@pytest.mark.parametrize("given", [None, 0])
def test_the_default_limit_is_that_of_the_installed_redis_py(given: int | None) -> None:
    limits = {
        impl.ConnectionPool(max_connections=given).max_connections for impl in IMPLEMENTATIONS
    }
    assert len(limits) == 1
    assert limits == {REDIS_PY.ConnectionPool().max_connections}


def test_a_blocking_pool_has_the_same_defaults() -> None:
    ours, theirs = (impl.BlockingConnectionPool() for impl in (CPOOL, REDIS_PY))
    for name in ("max_connections", "timeout", "queue_class"):
        assert getattr(ours, name) == getattr(theirs, name)


@pytest.mark.parametrize("limit", [-1, "10", 1.5, object()])
def test_a_limit_that_is_no_count_is_refused(pool_class: Any, limit: Any) -> None:
    with pytest.raises(ValueError, match='^"max_connections" must be a positive integer$'):
        pool_class(max_connections=limit)


def test_a_queue_class_decides_the_order(impl: Implementation) -> None:
    pool = impl.BlockingConnectionPool(2, connection_class=StubConnection, queue_class=queue.Queue)
    first, second = pool.get_connection(), pool.get_connection()
    pool.release(first)
    pool.release(second)
    assert [pool.get_connection(), pool.get_connection()] == [first, second]


def test_an_argument_the_connection_does_not_know_is_refused_by_it(
    impl: Implementation,
) -> None:
    pool = impl.ConnectionPool(no_such_option=1)
    with pytest.raises(TypeError, match="no_such_option"):
        pool.get_connection()


def test_the_pools_arguments_can_be_inspected(pool_class: Any) -> None:
    names = inspect.signature(pool_class).parameters
    assert {"connection_class", "max_connections"} <= set(names)


@pytest.mark.parametrize("given", ["protocol", "password"])
def test_what_was_not_given_is_not_in_the_connection_kwargs(pool_class: Any, given: str) -> None:
    assert given not in pool_class().connection_kwargs


def refusal(make: Callable[[], Any]) -> str:
    """Return the text of the error, without the names of modules, or "none"."""
    try:
        make()
    except RedisError as error:
        return str(error).replace("cpool.", "redis.")
    return "none"


@pytest.mark.skipif(not HAS_MAINTENANCE, reason="maintenance notifications came with 7.0")
@pytest.mark.parametrize("name", ["ConnectionPool", "BlockingConnectionPool"])
@pytest.mark.parametrize(
    ("connection", "protocol"),
    [("UnixDomainSocketConnection", 3), ("Connection", 2), ("Connection", 3)],
)
def test_maintenance_notifications_are_refused_where_they_cannot_be(
    name: str, connection: str, protocol: int
) -> None:
    from redis.maint_notifications import MaintNotificationsConfig

    def make(impl: Implementation) -> Any:
        return getattr(impl, name)(
            connection_class=getattr(impl, connection),
            maint_notifications_config=MaintNotificationsConfig(enabled=True),
            protocol=protocol,
        )

    ours, theirs = (refusal(lambda impl=impl: make(impl)) for impl in (CPOOL, REDIS_PY))
    assert ours == theirs
    assert (protocol == 2) == ("RESP version 3" in ours)


def test_a_cache_is_refused_where_it_cannot_be(impl: Implementation) -> None:
    from redis.cache import CacheConfig

    with pytest.raises(RedisError, match="only supported with RESP version 3"):
        impl.ConnectionPool(cache_config=CacheConfig(), protocol=2)
    with pytest.raises(ValueError, match="Cache must implement CacheInterface"):
        impl.ConnectionPool(cache=object(), protocol=3)


# -- repr -------------------------------------------------------------------------------


def normalised(pool: Any) -> str:
    """Return a pool's repr with our module names replaced by redis-py's."""
    text = repr(pool)
    for ours in ("cpool.pool.", "cpool.blocking_pool.", "cpool.connection."):
        text = text.replace(ours, "redis.connection.")
    return text


REPR_KWARGS: list[dict[str, Any]] = [
    {"host": "h", "port": 1, "db": 2, "client_name": "n"},
    {"username": "user", "password": "secret", "ssl_password": "secret"},
    {"password": None, "credential_provider": None},
    {"host": "h", "protocol": 2, "socket_timeout": None, "retry_on_error": [TimeoutError]},
]


@pytest.mark.parametrize("name", ["ConnectionPool", "BlockingConnectionPool"])
@pytest.mark.parametrize("kwargs", REPR_KWARGS)
def test_the_repr_differs_in_module_names_only(name: str, kwargs: dict[str, Any]) -> None:
    protocol = {"protocol": 2, **kwargs}  # RESP3 adds objects whose repr has an address
    ours, theirs = (getattr(impl, name)(**protocol) for impl in (CPOOL, REDIS_PY))
    assert normalised(ours) == repr(theirs)
    assert repr(ours).startswith(f"<{type(ours).__module__}.{name}(<cpool.connection.Connection(")


@pytest.mark.skipif(
    not hasattr(redis.ConnectionPool, "SENSITIVE_REPR_KEYS"),
    reason="the installed redis-py shows secrets",
)
def test_the_repr_shows_no_secret(pool_class: Any) -> None:
    pool = pool_class(host="h", username="hunter", password="hunter2", ssl_password="hunter3")
    assert "hunter" not in repr(pool)
    assert "password=<REDACTED>" in repr(pool)
    assert "host=h" in repr(pool)


def test_the_repr_of_a_client_shows_its_pool(pool_class: Any) -> None:
    pool = pool_class(host="h")
    assert repr(pool) in repr(redis.Redis(connection_pool=pool))


def test_the_repr_of_a_connection_is_redis_pys(impl: Implementation) -> None:
    pool = impl.ConnectionPool(host="h", port=7, db=3, client_name="n")
    assert repr(pool.make_connection()).endswith("Connection(host=h,port=7,db=3,client_name=n)>")


# -- Connection classes ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Connection", "SSLConnection", "UnixDomainSocketConnection"])
def test_redis_pys_connection_classes_stand_for_ours(name: str) -> None:
    theirs = getattr(redis.connection, name)
    for ours in CPOOL.pools:
        assert ours(connection_class=theirs).connection_class is getattr(CPOOL, name)


def test_ssl_true_chooses_tls_connections_of_ours() -> None:
    assert CPOOL.ConnectionPool(ssl=True).connection_class is CPOOL.SSLConnection
    assert CPOOL.ConnectionPool(ssl=False).connection_class is CPOOL.Connection
    assert "ssl" not in CPOOL.ConnectionPool(ssl=True).connection_kwargs


def test_a_subclass_of_redis_pys_connection_is_used_as_it_is(
    pool_class: Any, make_pool: MakePool
) -> None:
    class Theirs(redis.connection.Connection):
        pass

    pool = make_pool(pool_class, connection_class=Theirs)
    connection = pool.get_connection()
    assert type(connection) is Theirs
    assert is_answering(connection)
    pool.release(connection)
    assert pool.get_connection() is connection


def test_a_class_with_the_least_methods_will_do(pool_class: Any) -> None:
    pool = pool_class(connection_class=StubConnection, max_connections=2, flavour="any")
    first, second = pool.get_connection(), pool.get_connection()
    assert first.kwargs["flavour"] == "any"
    assert first.is_open and second.is_open
    pool.release(first)
    assert pool.get_connection() is first
    pool.disconnect()
    assert not first.is_open and not second.is_open


def test_a_factory_function_will_do_for_a_connection_class(pool_class: Any) -> None:
    def make(**kwargs: Any) -> StubConnection:
        return StubConnection(**kwargs)

    assert isinstance(pool_class(connection_class=make).get_connection(), StubConnection)


def test_a_subclass_that_overrides_disconnect_with_any_arguments_works(
    impl: Implementation, make_pool: MakePool
) -> None:
    """As kombu makes one at run time, from whatever class the parameters name."""
    told = []

    class Polled(impl.Connection):
        def disconnect(self, *args: Any) -> None:
            super().disconnect(*args)
            told.append(self)

    pool = make_pool(impl.ConnectionPool, connection_class=Polled)
    connection = pool.get_connection()
    assert is_answering(connection)
    pool.release(connection)
    pool.disconnect()
    assert told == [connection]
    assert is_answering(pool.get_connection())


def constructor_arguments(cls: Any) -> set[str]:
    """The names kombu finds: of the class and of its bases, nothing deeper, unwrapped."""
    specs = [inspect.getfullargspec(c.__init__) for c in (cls, *cls.__bases__)]
    return {name for spec in specs for name in spec.args + spec.kwonlyargs}


@pytest.mark.parametrize("name", ["Connection", "SSLConnection", "UnixDomainSocketConnection"])
def test_whoever_inspects_the_constructor_finds_what_redis_py_shows(name: str) -> None:
    """kombu drops `health_check_interval` unless it finds that name."""
    ours, theirs = (constructor_arguments(getattr(impl, name)) for impl in (CPOOL, REDIS_PY))
    assert theirs <= ours


# -- Subclasses of pools ------------------------------------------------------------------


def test_a_subclass_may_make_the_connections_itself(pool_class: Any, make_pool: MakePool) -> None:
    class Naming(pool_class):
        made = 0

        def make_connection(self) -> Any:
            connection = super().make_connection()
            self.made += 1
            connection.nickname = f"number {self.made}"
            return connection

    pool = make_pool(Naming, max_connections=2)
    first = pool.get_connection()
    assert first.nickname == "number 1"
    assert is_answering(first)
    pool.release(first)
    assert pool.get_connection() is first
    assert pool.get_connection().nickname == "number 2"


def test_a_subclass_may_make_connections_of_its_own(impl: Implementation) -> None:
    class Stubs(impl.ConnectionPool):
        def make_connection(self) -> Any:
            return StubConnection(origin="own")

    pool = Stubs()
    connection = pool.get_connection()
    assert connection.kwargs == {"origin": "own"}
    pool.release(connection)
    assert pool.get_connection() is connection


def test_a_subclass_sees_every_checkout_and_every_return(
    pool_class: Any, make_pool: MakePool
) -> None:
    class Watching(pool_class):
        def get_connection(self, *args: Any, **kwargs: Any) -> Any:
            self.balance = getattr(self, "balance", 0) + 1
            return super().get_connection(*args, **kwargs)

        def release(self, connection: Any) -> None:
            self.balance -= 1
            self.returned = connection
            super().release(connection)

    pool = make_pool(Watching)
    with redis.Redis(connection_pool=pool) as client:
        assert client.set("key", "value")
        assert pool.balance == 0
        with client.pubsub() as pubsub:
            pubsub.subscribe("channel")
            assert pool.balance == 1
        assert pool.balance == 0
        assert client.pipeline().get("key").execute() == [b"value"]
    assert pool.balance == 0
    assert pool.get_connection() is pool.returned


def test_a_subclass_sees_the_return_after_a_failed_connect(pool_class: Any) -> None:
    class Watching(pool_class):
        def release(self, connection: Any) -> None:
            self.returned = connection
            super().release(connection)

    pool = Watching(host="127.0.0.1", port=1)
    with pytest.raises(ConnectionError):
        pool.get_connection()
    assert pool.returned.port == 1


def test_make_connection_counts_towards_the_limit(impl: Implementation) -> None:
    pool = impl.ConnectionPool(max_connections=2)
    made = [pool.make_connection(), pool.make_connection()]
    assert made[0] is not made[1]
    with pytest.raises(MaxConnectionsError, match="^Too many connections(\n|$)"):
        pool.make_connection()


def test_a_retry_that_is_given_is_copied_for_each_connection(pool_class: Any) -> None:
    retry = Retry(NoBackoff(), 3)
    pool = pool_class(retry=retry)
    first, second = pool.make_connection(), pool.make_connection()
    assert pool.connection_kwargs["retry"] is retry
    retry._retries = 9
    assert [c.retry._retries for c in (first, second)] == [3, 3]


def test_a_pool_without_retry_has_none_like_redis_pys() -> None:
    counts = [impl.ConnectionPool().make_connection().retry._retries for impl in IMPLEMENTATIONS]
    assert counts[0] == counts[1]


@pytest.mark.skipif(REDIS_VERSION < (7, 2), reason="pool ids came with redis-py 7.2")
def test_each_pool_has_an_id_of_its_own(pool_class: Any) -> None:
    ids = {pool_class()._pool_id for _ in range(3)}
    assert len(ids) == 3
    assert all(len(i) == 8 and int(i, 16) >= 0 for i in ids)
