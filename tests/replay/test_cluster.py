"""redis-py's cluster client on pools with the safe policy: its own loop retries nothing either."""

from __future__ import annotations

import functools
import gc
import warnings
from collections.abc import Iterator

import pytest
import redis
from redis.cluster import RedisCluster

import cpool
from cpool.tools.servers import free_port
from tests.pool.support import REDIS_VERSION
from tests.replay.support import no_wait
from tests.support.faultproxy import FaultProxy
from tests.support.servers import StartServer, wait_until


@pytest.fixture
def proxy(start_server: StartServer) -> Iterator[FaultProxy]:
    """Give a proxy that a cluster of one node calls its address."""
    port = free_port(twin=10000)  # the cluster's bus
    with FaultProxy(("127.0.0.1", port)) as proxy:
        address = ("--cluster-announce-ip", proxy.host, "--cluster-announce-port", str(proxy.port))
        start_server(port, ("--cluster-enabled", "yes", *address))
        node = redis.Redis(port=port)
        node.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        wait_until(lambda: node.cluster("info")["cluster_state"] == "ok", "the cluster is up")
        node.close()
        yield proxy


def test_a_cluster_client_executes_nothing_twice(proxy: FaultProxy) -> None:
    pool_class = functools.partial(cpool.ConnectionPool, retry_policy="safe")
    url = f"redis://{proxy.host}:{proxy.port}"
    with RedisCluster.from_url(url, connection_pool_class=pool_class, retry=no_wait()) as client:
        client.ping()
        proxy.replies.cut_after(0)
        with pytest.raises(cpool.IndeterminateResultError):
            client.incr("n")
        if REDIS_VERSION >= (7, 0):  # before it forgets a node that it has lost, the only one too
            proxy.replies.cut_after(0)
            assert client.get("n") == b"1"
    del client
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # of redis-py's first connection
        gc.collect()
