"""What stands beside commands in redis-py's client, on ours."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from redis.sentinel import Sentinel

import cpool
from cpool.tools.servers import EmbeddedServer
from tests.client.support import both, client_of, counted, outcome_of
from tests.support.servers import SentinelSetup


@pytest.mark.parametrize("protocol", [2, 3])
def test_publish_and_subscribe(redis_server: EmbeddedServer, protocol: int) -> None:
    def scenario(client: Any) -> Any:
        with client.pubsub() as pubsub:
            pubsub.subscribe("news")
            got = [pubsub.get_message(timeout=5), client.publish("news", "today")]
            got.append(pubsub.get_message(timeout=5))
        return got, client.ping()

    both(redis_server, scenario, protocol=protocol)


def test_monitor(redis_server: EmbeddedServer) -> None:
    def scenario(client: Any) -> Any:
        with client.monitor() as monitor:
            client.echo("watched")
            while "watched" not in monitor.next_command()["command"]:
                pass
        return client.ping()

    both(redis_server, scenario, protocol=2)


def test_locks(redis_server: EmbeddedServer) -> None:
    def scenario(client: Any) -> Any:
        with client.lock("lock", timeout=10) as lock:
            got = lock.owned(), client.lock("lock", blocking=False).acquire(), lock.extend(5)
        return *got, client.exists("lock"), outcome_of(lock.release)

    both(redis_server, scenario)


def test_scripts(redis_server: EmbeddedServer) -> None:
    def scenario(client: Any) -> Any:
        client.script_flush()
        script = client.register_script("return {KEYS[1], ARGV[1]}")
        first = script(keys=["k"], args=[1])
        pipeline = client.pipeline()
        script(keys=["p"], args=[2], client=pipeline)
        return first, script(keys=["k"], args=[3]), pipeline.execute()

    both(redis_server, scenario)


def test_pipelines_and_transactions(redis_server: EmbeddedServer) -> None:
    def scenario(client: Any) -> Any:
        def add(pipeline: Any) -> None:
            n = int(pipeline.get("n") or 0)
            pipeline.multi()
            pipeline.set("n", n + 1)

        got = [client.transaction(add, "n") for _ in range(2)]
        with client.pipeline() as pipeline:
            pipeline.watch("n")
            client.set("n", 5)
            pipeline.multi()
            pipeline.incr("n")
            got.append(outcome_of(pipeline.execute))
        with client.pipeline(transaction=False) as pipeline:
            pipeline.get("n").hset("n", "f", 1)
            got.append(outcome_of(pipeline.execute))
            got.append(pipeline.get("n").execute())
        return got, client.get("n")

    both(redis_server, scenario)


def test_iterators(redis_server: EmbeddedServer) -> None:
    def scenario(client: Any) -> Any:
        client.mset({f"k{i}": i for i in range(50)})
        client.zadd("z", {f"m{i}": i for i in range(5)})
        client.hset("h", mapping={"a": 1, "b": 2})
        found = sorted(client.scan_iter("k*", count=7)), list(client.zscan_iter("z"))
        return *found, sorted(client.hscan_iter("h")), list(client.sscan_iter("missing"))

    both(redis_server, scenario, decode_responses=True)


def test_functions_loaded_from_elsewhere(redis_server: EmbeddedServer) -> None:
    def scenario(client: Any) -> Any:
        client.load_external_module("shout", lambda: client.echo("HEY"))
        return client.shout()

    both(redis_server, scenario)


def test_sentinels_may_make_clients_of_ours(sentinel_setup: SentinelSetup) -> None:
    sentinel = Sentinel(sentinel_setup.addresses)
    options = {"redis_class": cpool.Redis, "connection_pool_class": cpool.SentinelConnectionPool}
    master = sentinel.master_for(sentinel_setup.name, **options)
    with counted() as counts:
        assert type(master) is cpool.Redis
        assert master.set("k", "v") and master.get("k") == b"v"
    assert counts() == {"taken": 2}
    master.close()


def test_names_of_the_package() -> None:
    assert cpool.StrictRedis is cpool.Redis
    assert issubclass(cpool.Redis, redis.Redis)


def test_a_cluster_node_may_be_one_of_ours(redis_server: EmbeddedServer) -> None:
    """redis-py takes a client for one of its own wherever it looks at classes."""
    with client_of(cpool, redis_server) as client:
        assert isinstance(client, redis.StrictRedis)
        assert client.get_encoder().encode("x") == b"x"
        assert client.get_connection_kwargs() is client.connection_pool.connection_kwargs
        assert client.get_retry() == client.connection_pool.connection_kwargs["retry"]
