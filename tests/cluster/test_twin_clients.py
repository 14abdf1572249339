"""Clients as they are made and used: targets, replicas, pub/sub, TLS, caches, odd options."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest
import redis
from redis.cache import CacheConfig
from redis.cluster import ClusterNode, LoadBalancingStrategy
from redis.exceptions import RedisClusterException

import cpool
from cpool.tools.servers import free_port
from cpool.tools.topology import ClusterTopology
from tests.client.support import counted
from tests.cluster.support import (
    CLASSES,
    MANY_SLOTS,
    OURS,
    both,
    calls_of,
    client_of,
    outcome_of,
    reset_counts,
)
from tests.pool.support import REDIS_VERSION
from tests.support.servers import StartServer, wait_until
from tests.support.tls import Certificates, TLSProxy

FLAGS = ("primaries", "replicas", "all", "random", "default")


# -- targets -----------------------------------------------------------------------------


def test_target_nodes_and_flags_go_where_redis_pys_go(redis_cluster: ClusterTopology) -> None:
    def scenario(client: Any) -> list[Any]:
        client.set("a", 1)
        node = client.get_node_from_key("a")
        targets: list[Any] = [node, [node], {"x": node}, "primaries", "nowhere", 5, []]
        targets += [getattr(OURS, name, None) for name in ("PRIMARIES", "REPLICAS", "ALL_NODES")]
        found = []
        for target in targets:
            random.seed(1)
            found.append(outcome_of(client.execute_command, "GET", "a", target_nodes=target))
            found.append(outcome_of(client.execute_command, "DBSIZE", target_nodes=target))
        found.append(outcome_of(client.ping, target_nodes=OURS.PRIMARIES))
        found.append(outcome_of(client.dbsize))
        found.append(outcome_of(lambda: sorted(client.keys())))
        found.append(outcome_of(client.cluster_keyslot, "a"))
        found.append(outcome_of(client.cluster_countkeysinslot, client.keyslot("a")))
        found.append(outcome_of(client.config_set, "slowlog-max-len", 128))
        return found

    both(redis_cluster, scenario)


def test_nodes_and_slots_are_told_as_by_redis_pys(redis_cluster: ClusterTopology) -> None:
    def scenario(client: Any) -> list[Any]:
        return [
            sorted(node.name for node in client.get_nodes()),
            sorted(node.name for node in client.get_primaries()),
            sorted(node.name for node in client.get_replicas()),
            [client.get_node_from_key(key).name for key in MANY_SLOTS],
            [client.get_node_from_key(key, replica=True).server_type for key in MANY_SLOTS],
            client.get_node(*redis_cluster.startup[1]).name,
            client.get_node("nowhere", 1),
            [client.keyslot(key) for key in MANY_SLOTS],
            [client.determine_slot("GET", key) for key in MANY_SLOTS],
            client.get_encoder().encode("\u00e9"),
            outcome_of(client.set_default_node, None),
        ]

    both(redis_cluster, scenario)


# -- replicas ----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Call to '__init__'.*read_from_replicas:DeprecationWarning")
@pytest.mark.parametrize(
    "options",
    [
        {"read_from_replicas": True},
        *({"load_balancing_strategy": strategy} for strategy in LoadBalancingStrategy),
    ],
    ids=lambda options: "-".join(str(value) for value in options.values()),
)
def test_reads_are_spread_over_replicas_as_by_redis_pys(
    redis_cluster: ClusterTopology, options: dict[str, Any]
) -> None:
    def scenario(client: Any) -> Any:
        client.set("a", 1)
        master = redis_cluster.owner(client.keyslot("a"))
        master.call("WAIT", 1, 5000)
        client.get("a")
        reset_counts(redis_cluster)
        random.seed(1)
        client.nodes_manager.read_load_balancer.reset()
        got = [client.get("a") for _ in range(9)], client.set("a", 2), client.ttl("a")
        return got, calls_of(redis_cluster, "get"), calls_of(redis_cluster, "ttl")

    both(redis_cluster, scenario, **options)


def test_reads_from_replicas_are_compiled_calls(redis_cluster: ClusterTopology) -> None:
    strategy = LoadBalancingStrategy.ROUND_ROBIN_REPLICAS
    with client_of(OURS, redis_cluster, load_balancing_strategy=strategy) as client:
        client.get("a")
        with counted() as counts:
            for _ in range(4):
                client.get("a")
        assert counts() == {"taken": 4}


# -- pub/sub -----------------------------------------------------------------------------


def next_message(pubsub: Any, method: str = "get_message") -> Any:
    """Wait for the next message; return it without what differs between nodes."""
    found: list[Any] = []

    def came() -> bool:
        message = getattr(pubsub, method)(timeout=0.1)
        if message is not None:
            found.append(message)
        return bool(found)

    wait_until(came, "a message")
    return found[0]


def test_a_channel_is_heard_at_any_node(redis_cluster: ClusterTopology) -> None:
    def scenario(client: Any) -> list[Any]:
        pubsub = client.pubsub()
        pubsub.subscribe("channel")
        pubsub.psubscribe("chan*")
        found = [next_message(pubsub) for _ in range(2)]
        found.append(outcome_of(client.publish, "channel", "text"))
        found += [next_message(pubsub) for _ in range(2)]
        pubsub.unsubscribe()
        pubsub.punsubscribe()
        found += [next_message(pubsub) for _ in range(2)]
        pubsub.close()
        return found

    both(redis_cluster, scenario)


@pytest.mark.skipif(
    REDIS_VERSION < (7, 0), reason="redis-py loops over a dictionary that unsubscribing changes"
)
def test_a_sharded_channel_is_heard_at_its_node(redis_cluster: ClusterTopology) -> None:
    def scenario(client: Any) -> list[Any]:
        pubsub = client.pubsub()
        found = []
        for key in MANY_SLOTS:
            pubsub.ssubscribe(key)
            found.append(next_message(pubsub, "get_sharded_message"))
        for key in MANY_SLOTS:
            found.append(outcome_of(client.spublish, key, f"to {key}"))
            found.append(next_message(pubsub, "get_sharded_message"))
        pubsub.close()
        return found

    if not hasattr(redis.cluster.ClusterPubSub, "ssubscribe"):
        pytest.skip("redis-py has no sharded channels")
    both(redis_cluster, scenario)


def test_a_subscription_gives_its_connection_back(fresh_cluster: ClusterTopology) -> None:
    with client_of(OURS, fresh_cluster) as client:
        pubsub = client.pubsub()
        pubsub.subscribe("channel")
        next_message(pubsub)
        assert client.node_pools.stats().total.in_use == 1
        pubsub.close()
        assert client.node_pools.stats().total.in_use == 0


# -- ways to make a client ---------------------------------------------------------------


def test_all_forms_of_construction_make_the_same_client(redis_cluster: ClusterTopology) -> None:
    (host, port), *rest = redis_cluster.startup
    forms: list[Any] = [
        lambda cls: cls(host, port),
        lambda cls: cls(host=host, port=str(port)),
        lambda cls: cls(startup_nodes=[ClusterNode(*one) for one in rest]),
        lambda cls: cls(url=f"redis://{host}:{port}/0"),
        lambda cls: cls.from_url(f"redis://{host}:{port}"),
        lambda cls: cls.from_url(f"redis://{host}:{port}?decode_responses=true"),
        lambda cls: cls(startup_nodes=[ClusterNode("127.0.0.1", 1), ClusterNode(host, port)]),
        lambda cls: cls(),
        lambda cls: cls(host="127.0.0.1", port=1),
        lambda cls: cls(host=host, port=port, db=1),
        lambda cls: cls(host=host, port=port, retry=5),
        lambda cls: cls(host=host),
        lambda cls: cls.from_url(f"redis://{host}:{port}/1"),
        lambda cls: cls.from_url("unix:///tmp/none"),
    ]

    def outcome(form: Any, cls: Any) -> Any:
        def run() -> Any:
            with contextlib.closing(form(cls)) as client:
                return client.set("key", 1), client.get("key"), len(client.get_nodes())

        return outcome_of(run)

    for number, form in enumerate(forms):
        theirs, ours = (outcome(form, cls) for cls in CLASSES)
        assert ours == theirs, number


def test_single_options_do_what_redis_pys_do(redis_cluster: ClusterTopology) -> None:
    def scenario(client: Any) -> list[Any]:
        node = client.get_node_from_key("a")
        connection = client.get_redis_connection(node)
        return [
            outcome_of(client.set, "a", "\u00e9"),
            outcome_of(client.get, "a"),
            outcome_of(connection.client_getname),
            connection.connection_pool.connection_kwargs.get("socket_timeout"),
            client.reinitialize_steps,
            outcome_of(lambda: dict(client.cluster_info())["cluster_state"]),
        ]

    for options in (
        {"client_name": "me"},
        {"socket_timeout": 3.5},
        {"encoding": "latin-1", "decode_responses": True},
        {"health_check_interval": 1},
        {"reinitialize_steps": 2},
        {"require_full_coverage": False},
        {"dynamic_startup_nodes": False},
        {"protocol": 3},
    ):
        both(redis_cluster, scenario, **options)


def test_addresses_are_remapped_as_by_redis_pys(redis_cluster: ClusterTopology) -> None:
    def remap(address: Any) -> Any:
        return "localhost", address[1]

    def scenario(client: Any) -> list[Any]:
        return [sorted(n.name for n in client.get_nodes()), client.set("a", 1), client.get("a")]

    both(redis_cluster, scenario, address_remap=remap)


def test_a_cache_answers_what_it_has_and_forgets_what_changes(
    fresh_cluster: ClusterTopology,
) -> None:
    options = {"protocol": 3, "cache_config": CacheConfig()}
    with client_of(OURS, fresh_cluster) as other:
        other.set("a", 1)
        try:
            client = OURS(*fresh_cluster.startup[0], **options)
        except RedisClusterException as error:
            pytest.skip(f"the server is too old for a cache: {error}")
        with contextlib.closing(client):
            assert client.get("a") == client.get("a") == b"1"
            other.set("a", 2)
            wait_until(lambda: client.get("a") == b"2", "it is forgotten")


def test_nodes_by_tls_are_reached_by_compiled_calls(
    certificates: Certificates, start_server: StartServer
) -> None:
    port = free_port(twin=10000)
    with TLSProxy(("127.0.0.1", port), certificates.server_context()) as proxy:
        announced = ("--cluster-announce-ip", "127.0.0.1")
        announced += ("--cluster-announce-port", str(proxy.port))
        server = start_server(port, ("--cluster-enabled", "yes", *announced))
        with contextlib.closing(redis.Redis(port=server.port)) as node:
            node.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
            wait_until(lambda: node.cluster("info")["cluster_state"] == "ok", "it is up")
        url = f"rediss://127.0.0.1:{proxy.port}?ssl_ca_certs={certificates.ca}"
        with contextlib.closing(OURS.from_url(url)) as client:
            assert client.set("a", "x" * 100_000)
            with counted() as counts:
                assert client.get("a") == b"x" * 100_000
            assert counts() == {"taken": 1}
            assert client.pipeline().set("b", 1).get("b").execute() == [True, b"1"]


# -- what somebody has replaced ----------------------------------------------------------


def test_a_subclass_with_a_method_of_its_own_is_asked(redis_cluster: ClusterTopology) -> None:
    def derived(cls: Any, name: str, seen: list[Any]) -> Any:
        def noting(self: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(args[:1] if name != "get_redis_connection" else name)
            return getattr(cls, name)(self, *args, **kwargs)

        return type("Derived", (cls,), {name: noting})

    for name in ("determine_slot", "keyslot", "_determine_nodes", "get_redis_connection"):
        results = []
        for cls in CLASSES:
            seen: list[Any] = []
            with client_of(derived(cls, name, seen), redis_cluster) as client:
                seen.clear()
                results.append((client.set("a", 1), client.get("a"), seen))
        assert results[0] == results[1], name
        assert results[0][2], name


def test_a_patched_instance_is_asked(redis_cluster: ClusterTopology) -> None:
    for name in ("determine_slot", "get_redis_connection", "_execute_command"):
        with client_of(OURS, redis_cluster) as client:
            client.get("a")
            seen: list[Any] = []
            before = getattr(client, name)
            setattr(client, name, lambda *a, s=seen, b=before, **k: s.append(1) or b(*a, **k))
            client.get("a")
            assert seen, name
            delattr(client, name)
            with counted() as counts:
                client.get("a")
            assert counts() == {"taken": 1}, name


def test_a_patched_manager_is_asked(redis_cluster: ClusterTopology) -> None:
    with client_of(OURS, redis_cluster) as client:
        seen: list[Any] = []
        manager = client.nodes_manager
        before = manager.get_node_from_slot
        manager.get_node_from_slot = lambda *a, **k: seen.append(1) or before(*a, **k)
        client.get("a")
        assert seen == [1]


@pytest.mark.parametrize("owner", [redis.Redis, redis.RedisCluster])
def test_a_patched_redis_py_is_noticed(
    redis_cluster: ClusterTopology, monkeypatch: pytest.MonkeyPatch, owner: Any
) -> None:
    name = "parse_response" if owner is redis.Redis else "determine_slot"
    seen: list[Any] = []
    before = getattr(owner, name)

    def noting(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(1)
        return before(self, *args, **kwargs)

    with client_of(OURS, redis_cluster) as client:
        client.get("a")
        monkeypatch.setattr(owner, name, noting)
        client.get("a")
        assert seen
        monkeypatch.undo()
        with counted() as counts:
            client.get("a")
        assert counts() == {"taken": 1}


def test_a_node_whose_client_was_replaced_is_used_as_it_is(
    redis_cluster: ClusterTopology,
) -> None:
    with client_of(OURS, redis_cluster) as client:
        node = client.get_node_from_key("a")
        own = redis.Redis(host=node.host, port=node.port, decode_responses=True)
        node.redis_connection = own
        client.set("a", "text")
        assert client.get("a") == "text"
        assert client.pipeline().get("a").execute() == ["text"]
        own.close()


def test_other_command_flags_lead_elsewhere(redis_cluster: ClusterTopology) -> None:
    def scenario(client: Any) -> list[Any]:
        client.set("a", 1)
        client.get("a")
        client.command_flags["GET"] = OURS.PRIMARIES
        found = [outcome_of(client.get, "a")]
        del client.command_flags["GET"]
        found.append(outcome_of(client.get, "a"))
        client.result_callbacks["GET"] = lambda command, result, **options: "called"
        found.append(outcome_of(client.get, "a"))
        return found

    both(redis_cluster, scenario)


def test_the_fast_path_can_be_switched_off(redis_cluster: ClusterTopology) -> None:
    with client_of(OURS, redis_cluster) as client:
        cpool.fast_path.disable()
        try:
            with counted() as counts:
                assert client.set("a", 1)
                assert client.pipeline().get("a").execute() == [b"1"]
            assert "taken" not in counts()
        finally:
            cpool.fast_path.enable()
        with counted() as counts:
            client.get("a")
        assert counts() == {"taken": 1}
