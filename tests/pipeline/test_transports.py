"""Pipelines by unix socket and TLS, across a fork, from many threads, of redis-py's modules."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import redis

import cpool
from cpool.tools.servers import EmbeddedServer
from tests.pipeline.support import KINDS, Twins, make_client, outcome
from tests.pool.support import REDIS_VERSION, Task, run_in_child
from tests.support.servers import TLSServer
from tests.wire.conftest import forget_the_systems_authorities

N_THREADS = 6


def everything(client: Any, pipe: Any) -> Any:
    """Small and large commands, errors, WATCH; all that differs between transports."""
    large = bytes(range(256)) * 1000
    pipe.set("a", large).get("a").incr("a").set("b", memoryview(large)).get("b").get("a")
    results = [outcome(lambda: pipe.execute(raise_on_error=False))]
    pipe.watch("a")
    pipe.multi()
    pipe.get("none")
    results.append(outcome(pipe.execute))
    pipe.set("a", "x").incr("a")
    results.append(outcome(pipe.execute))
    return results


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_pipeline_by_unix_socket(unix_server: EmbeddedServer, protocol: int) -> None:
    if protocol == 3 and (7, 0) <= REDIS_VERSION < (8, 0):
        pytest.skip("redis-py 7 wants a host for maintenance notifications, which RESP3 brings")
    twins = Twins({"unix_socket_path": unix_server.unixsocket})
    twins.agree(everything, taken=3, protocol=protocol)
    twins.close()


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_pipeline_by_tls(
    request: pytest.FixtureRequest, tls_server: TLSServer, protocol: int
) -> None:
    ca = tls_server.certificates.ca
    forget_the_systems_authorities(request, ca)
    address = {"host": tls_server.host, "port": tls_server.port, "ssl": True}
    twins = Twins({**address, "ssl_ca_certs": ca})
    twins.agree(everything, taken=3, protocol=protocol)
    twins.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_forked_child_has_pipelines_of_its_own(twins: Twins, kind: str) -> None:
    with make_client(kind, twins.address) as client:
        pipe = client.pipeline()
        pipe.watch("a")

        def in_child() -> Any:
            pid = client.pipeline().client_id().execute()
            return pid, client.pipeline(False).set("b", 1).get("b").execute()

        child, results = run_in_child(in_child)
        assert results == [True, b"1"]
        assert child != [pipe.client_id()]
        pipe.multi()
        assert pipe.set("a", 1).get("b").execute() == [True, b"1"]


def test_threads_that_share_a_client_get_their_own_results(redis_server: EmbeddedServer) -> None:
    with cpool.Redis(
        host=redis_server.host, port=redis_server.port, max_connections=3, timeout=20
    ) as client:

        def work(number: int) -> int:
            right = 0
            for i in range(40):
                words = [f"{number}:{i}:{j}" * (1 + 4000 * (j == 5)) for j in range(10)]
                pipe = client.pipeline(transaction=i % 2 == 0)
                for word in words:
                    pipe.echo(word)
                right += pipe.execute() == [word.encode() for word in words]
            return right

        tasks = [Task(work, number) for number in range(N_THREADS)]
        assert [task.result() for task in tasks] == [40] * N_THREADS
        stats = client.connection_pool.stats()
        assert (stats.in_use, stats.waiting) == (0, 0)


def test_a_pool_that_is_disconnected_meanwhile_breaks_no_result(
    redis_server: EmbeddedServer,
) -> None:
    over = threading.Event()
    retry = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
    with cpool.Redis(host=redis_server.host, port=redis_server.port, retry=retry) as client:

        def work(number: int) -> int:
            right = i = 0
            while not over.is_set() or i < 20:
                i += 1
                words = [f"{number}:{i}:{j}" for j in range(100)]
                pipe = client.pipeline(transaction=i % 2 == 0)
                for word in words:
                    pipe.echo(word)
                try:
                    assert pipe.execute() == [word.encode() for word in words]
                    right += 1
                except redis.ConnectionError:
                    assert pipe.connection is None
            return right

        tasks = [Task(work, number) for number in range(3)]
        for _ in range(30):
            client.connection_pool.disconnect()
        over.set()
        assert all(task.result() > 0 for task in tasks)
        assert client.connection_pool.stats().in_use == 0


def test_pipelines_of_redis_pys_modules_are_the_same(twins: Twins) -> None:
    def run(client: Any, _: Any) -> Any:
        json, series = client.json().pipeline(), client.ts().pipeline()
        made = [type(json).__mro__[1].__name__, isinstance(json, redis.client.Pipeline)]
        json.jsonset("a", "$", {}) if hasattr(json, "jsonset") else json.set("a", "$", {})
        series.get("a")
        return made[1], outcome(json.execute), outcome(series.execute)

    twins.agree(run, taken=0)


def test_a_pipeline_is_redis_pys_to_who_asks(twins: Twins) -> None:
    with make_client("cpool", twins.address) as client:
        pipe = client.pipeline()
        assert isinstance(pipe, redis.client.Pipeline) and isinstance(pipe, cpool.Redis)
        assert type(pipe.pipeline()) is type(pipe)
        assert len(pipe) == 0 and bool(pipe)
        with pipe as entered:
            assert entered is pipe
