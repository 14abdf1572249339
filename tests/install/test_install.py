"""cpool.install() and cpool.uninstall(): which bindings change, and that all change back."""

from __future__ import annotations

import functools
import gc
import inspect
import pickle
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.cluster
import redis.sentinel

import cpool
from cpool import installation as install_module
from cpool.nodes import NodesManager
from cpool.standin import StandIn, standing_in
from cpool.tools.topology import ClusterTopology

REPLACED = install_module.replacements()

# redis-py's classes, where install() does not look: it would change names of this module.
WAS = types.SimpleNamespace(
    Redis=redis.Redis,
    Pipeline=redis.client.Pipeline,
    ClusterPipeline=redis.cluster.ClusterPipeline,
    ConnectionPool=redis.ConnectionPool,
    Connection=redis.Connection,
    SSLConnection=redis.SSLConnection,
)

THIRD_PARTY = """
import functools
from redis import ConnectionPool, Redis as Client
from redis.connection import *
import redis.client as redis_client

class Backend:
    connection_class = Client
    class Inner:
        pool_class = ConnectionPool
    def make(self, pool_class=ConnectionPool, *, client_class=Client):
        return client_class(connection_pool=pool_class())
    @classmethod
    def make_by_class(cls, client_class=Client):
        return client_class()
    @staticmethod
    def make_static(client_class=Client):
        return client_class()
    @property
    def client_class(self, of=Client):
        return of
    @functools.cached_property
    def cached_class(self, of=Client):
        return of

def make(port, client_class=Client):
    return client_class(port=port)

@functools.lru_cache
def make_once(client_class=Client):
    return client_class()

def make_later():
    return Client(), ConnectionPool(), redis_client.Redis()
"""


def kinds_of(client: Any) -> tuple[type, type, type]:
    """The classes of a client, its pool and its pool's connections."""
    pool = client.connection_pool
    return type(client), type(pool), pool.connection_class


OURS = (cpool.Redis, cpool.ConnectionPool, cpool.Connection)


# -- what is made afterwards ------------------------------------------------------------


def test_a_client_is_ours(installed: None) -> None:
    assert kinds_of(redis.Redis("localhost", 6379)) == OURS
    assert kinds_of(redis.StrictRedis()) == OURS
    assert kinds_of(redis.client.Redis()) == OURS


def test_a_client_takes_our_options(installed: None) -> None:
    client = redis.Redis(timeout=1.5, name="mine")  # type: ignore[call-arg]
    assert (client.connection_pool.timeout, client.connection_pool.name) == (1.5, "mine")
    assert type(cpool.Redis(timeout=1.5).connection_pool) is cpool.ConnectionPool


@pytest.mark.parametrize(
    ("url", "connection_class"),
    [
        ("redis://localhost", cpool.Connection),
        ("rediss://localhost", cpool.SSLConnection),
        ("unix:///tmp/socket", cpool.UnixDomainSocketConnection),
    ],
)
def test_a_client_from_a_url_is_ours(installed: None, url: str, connection_class: type) -> None:
    wanted = (cpool.Redis, cpool.ConnectionPool, connection_class)
    assert kinds_of(redis.from_url(url)) == wanted
    assert kinds_of(redis.Redis.from_url(url)) == wanted
    assert kinds_of(redis.Redis.from_pool(redis.ConnectionPool.from_url(url))) == wanted


def test_tls_and_unix_clients_are_ours(installed: None) -> None:
    assert kinds_of(redis.Redis(ssl=True))[2] is cpool.SSLConnection
    unix = redis.Redis(unix_socket_path="/tmp/socket")
    assert kinds_of(unix)[1:] == (cpool.ConnectionPool, cpool.UnixDomainSocketConnection)


def test_while_installed_a_clients_signature_is_redis_pys() -> None:
    """Who reads it by redis-py's name hands on what he finds, to redis-py's class maybe."""
    theirs = set(inspect.signature(redis.Redis.__init__).parameters)
    ours = set(inspect.signature(cpool.Redis.__init__).parameters)
    assert {"timeout", "max_waiting"} <= ours - theirs
    cpool.install()
    try:
        assert set(inspect.signature(redis.Redis.__init__).parameters) == theirs
    finally:
        cpool.uninstall()
    assert set(inspect.signature(cpool.Redis.__init__).parameters) == ours


def test_pools_are_ours(installed: None) -> None:
    assert type(redis.BlockingConnectionPool()) is cpool.BlockingConnectionPool
    assert redis.connection.ConnectionPool().connection_class is cpool.Connection


def test_a_sentinel_and_its_clients_are_ours(installed: None) -> None:
    sentinel = redis.sentinel.Sentinel([("localhost", 26379)])
    assert type(sentinel) is redis.Sentinel is cpool.Sentinel
    assert kinds_of(sentinel.sentinels[0]) == OURS
    for client in (sentinel.master_for("m"), sentinel.slave_for("m")):
        assert kinds_of(client) == (
            cpool.Redis,
            cpool.SentinelConnectionPool,
            cpool.SentinelManagedConnection,
        )
    tls = sentinel.master_for("m", ssl=True)
    assert kinds_of(tls)[2] is cpool.SentinelManagedSSLConnection


def test_a_cluster_its_pipelines_and_its_nodes_are_ours(
    installed: None, fresh_cluster: ClusterTopology
) -> None:
    host, port = fresh_cluster.startup[0]
    with redis.RedisCluster(host, port, timeout=1.5) as cluster:
        made = (type(cluster), type(cluster.nodes_manager), type(cluster.pipeline()))
        assert made == (cpool.RedisCluster, NodesManager, cpool.ClusterPipeline)
        assert {kinds_of(node.redis_connection) for node in cluster.get_nodes()} == {OURS}
        assert {pool.timeout for pool in cluster.node_pools.values()} == {1.5}
        cpool.fast_path.reset_stats()
        assert cluster.set("a", "1") and cluster.get("a") == b"1"
        assert cpool.fast_path.stats().taken == 2


def test_a_cluster_class_derived_before_gets_our_nodes(fresh_cluster: ClusterTopology) -> None:
    class Derived(redis.RedisCluster):
        pass

    cpool.install()
    host, port = fresh_cluster.startup[0]
    with Derived(host, port) as cluster:
        assert type(cluster.nodes_manager) is NodesManager
        assert {kinds_of(node.redis_connection) for node in cluster.get_nodes()} == {OURS}
        assert cluster.set("a", "1") and cluster.get("a") == b"1"
        assert cluster.pipeline().get("a").get("b").execute() == [b"1", None]


def test_a_clusters_pipelines_are_known_and_its_scripts_run(
    installed: None, fresh_cluster: ClusterTopology
) -> None:
    host, port = fresh_cluster.startup[0]
    with redis.RedisCluster(host, port) as cluster:
        assert isinstance(cluster.pipeline(), WAS.ClusterPipeline)
        script = cluster.register_script("return ARGV[1]")
        assert script(keys=["a"], args=["x"]) == b"x"


def test_asyncio_stays_redis_pys(installed: None) -> None:
    assert redis.asyncio.Redis.__module__ == "redis.asyncio.client"
    pool = redis.asyncio.ConnectionPool()
    assert type(pool).__module__ == pool.connection_class.__module__ == "redis.asyncio.connection"


# -- where names were bound -------------------------------------------------------------


def test_a_third_partys_names_are_ours(third_party: Any) -> None:
    module = third_party(THIRD_PARTY)
    cpool.install()
    client, pool, by_module = module.make_later()
    assert kinds_of(client) == OURS == kinds_of(by_module)
    assert type(pool) is cpool.ConnectionPool
    assert module.SSLConnection is cpool.SSLConnection


def test_defaults_are_ours(third_party: Any) -> None:
    module = third_party(THIRD_PARTY)
    cpool.install()
    made = [
        module.make(6379),
        module.Backend().make(),
        module.Backend.make_by_class(),
        module.Backend.make_static(),
        module.Backend().client_class(),
        module.Backend().cached_class(),
        module.make_once(),
    ]
    assert all(kinds_of(client) == OURS for client in made)


def test_a_wrapped_functions_defaults_are_ours(third_party: Any) -> None:
    module = third_party(
        "import functools, redis\n"
        "def logged(f):\n"
        "    @functools.wraps(f)\n"
        "    def call(*args): return f(*args)\n"
        "    return call\n"
        "@logged\n"
        "def make(cls=redis.Redis): return cls()\n"
    )
    cpool.install()
    assert kinds_of(module.make()) == OURS


def test_class_attributes_are_ours(third_party: Any) -> None:
    module = third_party(THIRD_PARTY)
    cpool.install()
    assert module.Backend.connection_class is cpool.Redis
    assert module.Backend.Inner.pool_class is cpool.ConnectionPool


def test_the_main_module_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "a_name_of_main", redis.Redis, raising=False)
    cpool.install()
    assert vars(main)["a_name_of_main"] is cpool.Redis
    cpool.uninstall()
    assert vars(main)["a_name_of_main"] is WAS.Redis


def test_a_module_imported_afterwards_gets_ours(installed: None, third_party: Any) -> None:
    module = third_party(THIRD_PARTY)
    assert module.Client is cpool.Redis
    assert kinds_of(module.Backend().make()) == OURS


def test_two_connection_classes_can_be_combined_afterwards(installed: None) -> None:
    """As kombu and Celery do at their import."""

    class Combined(redis.sentinel.SentinelManagedConnection, redis.SSLConnection):
        pass

    assert issubclass(Combined, cpool.SSLConnection)


def test_classes_derived_before_keep_their_base_and_get_our_pool() -> None:
    class Derived(redis.Redis):
        def __init__(self, **kwargs: Any) -> None:
            redis.Redis.__init__(self, **kwargs)  # ours by then, on a stranger

    cpool.install()
    assert Derived.__mro__[1] is WAS.Redis
    assert kinds_of(Derived(port=1)) == (Derived, *OURS[1:])
    assert type(Derived.from_url("redis://localhost").connection_pool) is cpool.ConnectionPool


def test_lazy_modules_and_foreign_things_are_not_touched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*args: Any) -> Any:
        raise AssertionError("this must not be asked")

    class Lazy(types.ModuleType):
        __getattr__ = __getattribute__ = __setattr__ = fail  # type: ignore[assignment]

    class Unhashable(type):
        __hash__ = None  # type: ignore[assignment]
        __eq__ = __setattr__ = fail  # type: ignore[assignment]

    class Proxy:
        __class__ = property(fail)  # type: ignore[assignment]
        __eq__ = __hash__ = __getattr__ = fail  # type: ignore[assignment]

    lazy = Lazy("lazy")
    names = object.__getattribute__(lazy, "__dict__")
    names.update(
        {
            "proxy": Proxy(),
            "Client": redis.Redis,
            "__getattr__": fail,
            "Odd": Unhashable("Odd", (), {"client": redis.Redis}),
        }
    )
    monkeypatch.setitem(sys.modules, "lazy", lazy)
    monkeypatch.setitem(sys.modules, "lazy.none", None)
    monkeypatch.setitem(sys.modules, "lazy.thing", Proxy())  # type: ignore[arg-type]
    cpool.install()
    assert names["Client"] is cpool.Redis
    assert vars(names["Odd"])["client"] is cpool.Redis
    cpool.uninstall()
    assert names["Client"] is vars(names["Odd"])["client"] is WAS.Redis


def test_a_type_of_c_that_was_never_readied_is_passed_over() -> None:
    """CPython's own _testcapi has one, without a dictionary."""
    testcapi = pytest.importorskip("_testcapi")
    names_of = type.__dict__["__dict__"].__get__
    if all(names_of(value) for value in vars(testcapi).values() if type(value) is type):
        pytest.skip("this Python's has none")
    cpool.install()
    assert redis.Redis is cpool.Redis


# -- and back ---------------------------------------------------------------------------


def bindings() -> dict[tuple[Any, ...], Any]:
    """Every binding of a class of redis-py or of ours there is, however it is reached:
    found by the garbage collector, not by what install() goes by."""
    gc.collect()
    classes = {id(cls) for pair in REPLACED.items() for cls in pair}
    return {
        (id(holder), kind, name): value
        for holder in gc.get_objects()
        for kind, name, value in _values(holder)
        if id(value) in classes
    }


def _values(holder: Any) -> Iterator[tuple[str, Any, Any]]:
    if type(holder) is types.FunctionType:
        for i, value in enumerate(holder.__defaults__ or ()):
            yield "default", i, value
        for name, value in (holder.__kwdefaults__ or {}).items():
            yield "keyword default", name, value
    elif type in type(holder).__mro__:
        for name, value in type.__dict__["__dict__"].__get__(holder).items():
            yield "attribute", name, value
    elif type(holder) is dict and "__spec__" in holder:
        for name, value in holder.items():
            yield "global", name, value


def test_every_binding_is_restored(third_party: Any) -> None:
    module = third_party(THIRD_PARTY)
    vars(module)["__spec__"] = None  # so that its names count
    before = bindings()
    cpool.install()
    during = bindings()
    changed = {place for place in before if before[place] is not during[place]}
    assert len(changed) == len(install_module._changes) > 30
    cpool.uninstall()
    assert bindings() == before
    assert standing_in == {} and install_module._changes == []


def test_no_binding_of_redis_py_to_a_replaced_class_is_left(installed: None) -> None:
    """But in cpool, in redis.asyncio, and here."""
    left = {
        str(module)
        for name, module in sys.modules.items()
        if not name.startswith(("cpool", "redis.asyncio", "tests.", "conftest"))
        for value in vars(module).values()
        if any(value is redis_class for redis_class in REPLACED)
    }
    assert left == set()


def test_originals_of_cpool_are_the_same_objects(installed: None) -> None:
    assert vars(sys.modules["cpool.pool"])["_redis_pool"] is WAS.ConnectionPool
    assert cpool.Redis.__mro__[2] is WAS.Redis
    assert cpool.ConnectionPool.__mro__[3] is WAS.ConnectionPool


def test_installing_twice_is_installing_once(third_party: Any) -> None:
    before = bindings()
    cpool.install()
    changes = list(install_module._changes)
    cpool.install()
    assert install_module._changes == changes
    cpool.uninstall()
    assert bindings() == before
    cpool.uninstall()
    assert bindings() == before


def test_uninstalling_what_is_not_installed_does_nothing() -> None:
    before = bindings()
    cpool.uninstall()
    assert bindings() == before


def test_it_can_be_installed_again() -> None:
    for _ in range(3):
        cpool.install()
        assert kinds_of(redis.Redis()) == OURS
        cpool.uninstall()
        assert redis.Redis is WAS.Redis


def test_what_somebody_else_has_bound_since_stays(third_party: Any) -> None:
    module = third_party(THIRD_PARTY)
    cpool.install()

    class Theirs(redis.Redis):
        pass

    module.Client = module.Backend.connection_class = Theirs
    module.make.__defaults__ = (Theirs,)
    module.Backend.make.__kwdefaults__["client_class"] = Theirs
    del module.Backend.Inner.pool_class
    del module.SSLConnection
    cpool.uninstall()
    assert module.Client is module.Backend.connection_class is Theirs
    assert module.make.__defaults__ == (Theirs,)
    assert module.Backend.make.__kwdefaults__ == {"client_class": Theirs}
    assert module.Backend.make.__defaults__ == (WAS.ConnectionPool,)
    assert module.ConnectionPool is WAS.ConnectionPool
    assert not hasattr(module, "SSLConnection")
    assert not hasattr(module.Backend.Inner, "pool_class")


def test_modules_of_redis_py_that_came_meanwhile_are_restored(third_party: Any) -> None:
    cpool.install()
    theirs = third_party("import redis\ndef make(cls=redis.Redis): return cls()", "redis.late")
    others = third_party("from redis import Redis", "others_of_meanwhile")
    assert type(theirs.make()) is cpool.Redis
    cpool.uninstall()
    assert type(theirs.make()) is WAS.Redis
    assert others.Redis is cpool.Redis


def test_our_classes_in_redis_pys_place_by_somebody_elses_hand_stay(
    third_party: Any,
) -> None:
    module = third_party("import cpool\nRedis = cpool.Redis", "redis.theirs")
    cpool.install()
    cpool.uninstall()
    assert module.Redis is cpool.Redis


def test_a_default_beside_one_that_somebody_has_changed_is_restored(third_party: Any) -> None:
    module = third_party("import redis\ndef f(a=redis.Redis, b=1): pass")
    cpool.install()
    module.f.__defaults__ = (module.f.__defaults__[0], 2)
    cpool.uninstall()
    assert module.f.__defaults__ == (WAS.Redis, 2)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_install_that_fails_half_way_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    before = bindings()
    put, left = install_module._put, [10]

    def put_some(change: Any, expected: type, value: type) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise error
        put(change, expected, value)

    monkeypatch.setattr(install_module, "_put", put_some)
    with pytest.raises(error):
        cpool.install()
    monkeypatch.undo()
    assert bindings() == before
    assert standing_in == {}
    cpool.install()
    assert kinds_of(redis.Redis()) == OURS


def test_threads_may_install_and_uninstall_at_once() -> None:
    before = bindings()
    start = threading.Barrier(4)

    def work() -> None:
        start.wait()
        for _ in range(5):
            cpool.install()
            cpool.uninstall()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bindings() == before


# -- class checks -----------------------------------------------------------------------


@pytest.mark.parametrize(("theirs", "ours"), REPLACED.items(), ids=lambda cls: cls.__name__)
def test_class_checks_mean_redis_pys_class_while_installed(theirs: type, ours: type) -> None:
    class Derived(theirs):  # type: ignore[misc]
        pass

    instance = object.__new__(Derived)
    for installed in (True, False, True, False):
        (cpool.install if installed else cpool.uninstall)()
        assert isinstance(ours, StandIn)
        assert issubclass(Derived, ours) is isinstance(instance, ours) is installed
        assert issubclass(theirs, ours) is installed
        assert issubclass(ours, theirs) and issubclass(ours, ours)
        assert not isinstance(1, ours) and not issubclass(int, ours)


def test_a_pool_of_one_kind_is_none_of_another(installed: None) -> None:
    plain = WAS.ConnectionPool()
    assert isinstance(plain, redis.ConnectionPool)
    assert not isinstance(plain, redis.BlockingConnectionPool)
    assert not isinstance(plain, redis.sentinel.SentinelConnectionPool)
    cpool.uninstall()
    assert not isinstance(plain, cpool.ConnectionPool)


def test_clients_and_pools_of_before_are_still_known(fresh_db: Any) -> None:
    client = redis.Redis.from_url(fresh_db.url)
    cpool.install()
    assert isinstance(client, redis.Redis)
    assert isinstance(client.connection_pool, redis.ConnectionPool)
    assert type(client) is WAS.Redis
    assert client.set("a", 1) and client.get("a") == b"1"
    client.close()


def test_a_script_knows_a_pipeline(installed: None, fresh_db: Any) -> None:
    with redis.Redis.from_url(fresh_db.url) as client:
        script = client.register_script("return ARGV[1]")
        for pipeline in (client.pipeline(), client.json().pipeline(), client.ft().pipeline()):
            script(args=["x"], client=pipeline)
            assert pipeline.execute() == [b"x"]


@pytest.mark.parametrize("protocol", [2, 3])
def test_modules_of_a_pipeline_know_the_protocol(installed: None, protocol: int) -> None:
    from redis.commands.helpers import get_protocol_version

    client = redis.Redis(protocol=protocol)
    for part in (client, client.pipeline(), client.json().pipeline()):
        assert get_protocol_version(part) == protocol


class FakePipeline(WAS.Pipeline, metaclass=type(cpool.Redis)):  # type: ignore[misc,valid-type]
    """What a pipeline class of cpool's own would be."""


def test_a_pipeline_class_of_ours_would_be_used(
    monkeypatch: pytest.MonkeyPatch, fresh_db: Any
) -> None:
    if not hasattr(cpool, "Pipeline"):
        monkeypatch.setattr(cpool, "Pipeline", FakePipeline, raising=False)

    class Derived(redis.client.Pipeline):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            redis.client.Pipeline.__init__(self, *args, **kwargs)  # as kombu's

    cpool.install()
    assert redis.client.Pipeline is cpool.Pipeline
    with redis.Redis.from_url(fresh_db.url) as client:
        assert type(client.pipeline()) is cpool.Pipeline
        script = client.register_script("return ARGV[1]")
        derived = Derived(client.connection_pool, client.response_callbacks, True, None)
        pipelines = [client.pipeline(), client.json().pipeline(), client.ft().pipeline(), derived]
        for pipeline in pipelines:
            script(args=["x"], client=pipeline)
            assert pipeline.execute() == [b"x"]
    cpool.uninstall()
    assert redis.client.Pipeline is WAS.Pipeline


def test_a_unix_connection_derived_before_is_known_as_one() -> None:
    """redis-py allows no maintenance notifications on those."""

    class Derived(redis.UnixDomainSocketConnection):
        pass

    cpool.install()
    pool = redis.ConnectionPool(connection_class=Derived, path="/tmp/socket")
    assert type(pool) is cpool.ConnectionPool
    if hasattr(pool, "maint_notifications_enabled"):
        assert not pool.maint_notifications_enabled()


def test_an_original_connection_class_with_ssl_is_a_tls_connection(installed: None) -> None:
    """Captured where install() does not look."""
    make = functools.partial(redis.ConnectionPool, connection_class=WAS.Connection)
    assert make().connection_class is cpool.Connection
    assert make(ssl=True).connection_class is cpool.SSLConnection
    keeps = redis.ConnectionPool(connection_class=WAS.SSLConnection)
    assert keeps.connection_class is cpool.SSLConnection


def test_pools_derived_before_use_our_connections(fresh_db: Any) -> None:
    class Derived(WAS.ConnectionPool):
        pass

    cpool.install()
    pool = Derived(host=fresh_db.host, port=fresh_db.port)
    assert pool.connection_class is cpool.Connection
    with redis.Redis(connection_pool=pool) as client:
        assert client.set("a", 1) and client.get("a") == b"1"


# -- the rest ---------------------------------------------------------------------------


@pytest.mark.parametrize("ours", REPLACED.values(), ids=lambda cls: cls.__name__)
def test_our_classes_can_be_pickled(installed: None, ours: type) -> None:
    assert pickle.loads(pickle.dumps(ours)) is ours


def test_commands_pipelines_pubsub_and_locks_work(installed: None, fresh_db: Any) -> None:
    with redis.from_url(fresh_db.url, decode_responses=True) as client:
        cpool.fast_path.reset_stats()
        assert client.set("a", "1") and client.get("a") == "1"
        assert cpool.fast_path.stats().taken == 2
        assert client.pipeline().incr("a").get("a").execute() == [2, "2"]
        with client.lock("lock", timeout=5):
            assert client.exists("lock")
        with client.pubsub() as pubsub:
            pubsub.subscribe("news")
            assert pubsub.get_message(timeout=5)["type"] == "subscribe"
            client.publish("news", "hello")
            assert pubsub.get_message(timeout=5)["data"] == "hello"
