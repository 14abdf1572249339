"""What type checkers must make of cpool: mypy and pyright (.ci/lint). Nothing runs it."""

from __future__ import annotations

from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, LoadBalancingStrategy
from redis.connection import Connection
from redis.exceptions import MaxConnectionsError
from redis.retry import Retry
from redis.sentinel import Sentinel
from typing_extensions import Unpack, assert_type

import cpool
from cpool.arguments import RedisArguments, RedisClusterArguments
from cpool.tools.doctor import Diagnosis, examine

# Pools

pool = cpool.ConnectionPool(host="localhost", max_connections=3, timeout=None, order="fifo")
cpool.ConnectionPool(cpool.SSLConnection, 3, ssl_ca_certs="ca.pem", max_bulk_bytes=2**20)
cpool.ConnectionPool(connection_class=cpool.UnixDomainSocketConnection, path="/redis.sock")
assert_type(cpool.ConnectionPool.from_url("redis://localhost"), cpool.ConnectionPool)
assert_type(
    cpool.BlockingConnectionPool.from_url("unix:///s", db=1, max_waiting=8),
    cpool.BlockingConnectionPool,
)
with cpool.BlockingConnectionPool(timeout=0.5, decode_responses=True) as entered:
    assert_type(entered, cpool.BlockingConnectionPool)

assert_type(pool.get_connection(), Connection)
assert_type(pool.timeout, float | None)
assert_type(pool.name, str | None)
assert_type(pool.stats(), cpool.PoolStats)
assert_type(pool.stats().waiting, int)
assert_type(pool.stats().longest_wait_s, float)


class TenantPool(cpool.ConnectionPool):
    """A subclass: `from_url` returns it."""


class TenantConnection(cpool.Connection):
    """A connection class of one's own, with a keyword of its own."""

    def __init__(self, tenant: str, **kwargs: Any) -> None: ...


assert_type(TenantPool.from_url("redis://localhost"), TenantPool)
cpool.ConnectionPool(connection_class=TenantConnection, tenant="a", timeout=1)
cpool.BlockingConnectionPool(connection_class=TenantConnection, tenant="a")
TenantPool.from_url("redis://localhost", connection_class=TenantConnection, tenant="a")

as_redis_py: redis.ConnectionPool = pool
redis.Redis(connection_pool=pool)
redis.Redis.from_pool(cpool.BlockingConnectionPool())
sentinel = Sentinel([("localhost", 26379)])
sentinel.master_for("mymaster", connection_pool_class=cpool.SentinelConnectionPool)
cpool.SentinelConnectionPool("mymaster", sentinel, is_master=False, max_connections=3)
our_sentinel = cpool.Sentinel([("localhost", 26379)], max_connections=3, order="fifo")
assert_type(our_sentinel.master_for("mymaster", timeout=1), cpool.Redis)
assert_type(our_sentinel.replica_for("mymaster", redis_class=redis.Redis), redis.Redis)
assert_type(our_sentinel.discover_master("mymaster"), tuple[str, int])
as_redis_pys: Sentinel = our_sentinel
try:
    pool.get_connection()
except MaxConnectionsError as error:
    assert isinstance(error, cpool.ConnectionPoolTimeoutError)

# Clients

r = cpool.Redis("localhost", 6379, 0, "secret", max_connections=3, timeout=1, order="lifo")
cpool.Redis(retry=Retry(NoBackoff(), 3), ssl=True, ssl_cert_reqs="none")
client_of_redis_py: redis.Redis = r
assert_type(r.get("key"), bytes | str | None)
assert_type(r.incr("key"), int)
assert_type(r.pipeline(), cpool.Pipeline)
assert_type(r.client(), cpool.Redis)
assert_type(r.connection_pool, cpool.ConnectionPool)
assert_type(r.connection_pool.stats(), cpool.PoolStats)
r.connection_pool.drain()
assert_type(cpool.from_url("redis://localhost"), cpool.Redis)
assert_type(cpool.Redis.from_url("redis://localhost", max_waiting=3), cpool.Redis)
assert_type(cpool.Redis.from_pool(pool), cpool.Redis)
with cpool.Redis() as entered_client, entered_client.pipeline(transaction=False) as pipe:
    assert_type(entered_client, cpool.Redis)
    assert_type(pipe, cpool.Pipeline)
    assert_type(pipe.execute(), list[Any])


class TenantClient(cpool.Redis):
    """A subclass, which hands its arguments on and keeps their names for the editor."""

    def __init__(self, tenant: str, **kwargs: Unpack[RedisArguments]) -> None:
        super().__init__(**kwargs)


TenantClient("a", host="localhost", port=6379, db=1, password="secret", socket_timeout=None)
assert_type(TenantClient("a", health_check_interval=30).client(), TenantClient)
assert_type(TenantClient.from_url("redis://localhost"), TenantClient)

# Clusters

cluster = cpool.RedisCluster("localhost", 7000, max_connections=8, timeout=1, order="fifo")
cpool.RedisCluster(startup_nodes=[ClusterNode("localhost", 7000)], require_full_coverage=False)
cpool.RedisCluster(url="redis://localhost:7000", retry=Retry(NoBackoff(), 3), ssl=True)
cpool.RedisCluster("localhost", load_balancing_strategy=LoadBalancingStrategy.ROUND_ROBIN)
redis.RedisCluster.from_url("redis://localhost", connection_pool_class=cpool.ConnectionPool)
cluster_of_redis_py: redis.RedisCluster = cluster
assert_type(cpool.RedisCluster.from_url("redis://h", retry_policy="safe"), cpool.RedisCluster)
assert_type(cluster.pipeline(), cpool.ClusterPipeline)
with cpool.RedisCluster("localhost") as entered_cluster, cluster.pipeline() as cluster_pipe:
    assert_type(entered_cluster, cpool.RedisCluster)
    assert_type(cluster_pipe, cpool.ClusterPipeline)
assert_type(cluster.node_pools, cpool.NodePools)
assert_type(cluster.node_pools.stats(), cpool.ClusterStats)
assert_type(cluster.node_pools.stats().total, cpool.PoolStats)
assert_type(cluster.node_pools.slots(), dict[str, list[tuple[int, int]]])


class TenantCluster(cpool.RedisCluster):
    """A subclass, which hands its arguments on and keeps their names for the editor."""

    def __init__(self, tenant: str, **kwargs: Unpack[RedisClusterArguments]) -> None:
        super().__init__(**kwargs)


TenantCluster("a", host="localhost", port=7000, reinitialize_steps=1, min_idle=2)

# The switch

assert_type(cpool.fast_path.stats().taken, int)
assert_type(cpool.fast_path.stats().refused, dict[str, int])
assert_type(examine(pool), Diagnosis)
assert_type([finding.fix for finding in examine(processes=4).findings], list[str])

# An ignored error that is none is an error: these must be refused.
pool.stats().open = 1  # type: ignore[misc]
cpool.ConnectionPool(timeout="1")  # type: ignore[call-overload]
cpool.ConnectionPool(order=1)  # type: ignore[call-overload]
cpool.ConnectionPool(order="newest")  # type: ignore[call-overload]
cpool.ConnectionPool(hots="localhost")  # type: ignore[call-overload]
cpool.BlockingConnectionPool(max_connections="3")  # type: ignore[call-overload]
cpool.BlockingConnectionPool(max_wait=3)  # type: ignore[call-overload]
cpool.SentinelConnectionPool("mymaster", sentinel, is_mastr=True)  # type: ignore[call-overload]
cpool.Sentinel([], ordr="fifo")  # type: ignore[call-arg]
our_sentinel.slave_for("mymaster", order="newest")  # type: ignore[arg-type]
TenantPool.from_url("redis://localhost", max_conections=3)  # type: ignore[call-overload]
cpool.Connection(hots="localhost")  # type: ignore[call-arg]
cpool.SSLConnection(ssl_keyfil="key.pem")  # type: ignore[call-arg]
cpool.UnixDomainSocketConnection(path=3)  # type: ignore[arg-type]
cpool.Redis(max_conections=3)  # type: ignore[call-arg]
cpool.Redis(timeout="1")  # type: ignore[arg-type]
cpool.Redis.from_url("redis://localhost", max_conections=3)  # type: ignore[call-overload]
cpool.from_url("redis://localhost", max_conections=3)  # type: ignore[call-overload]
TenantClient("a", hots="localhost")  # type: ignore[call-arg]
cpool.RedisCluster(max_conections=3)  # type: ignore[call-arg]
cpool.RedisCluster(timeout="1")  # type: ignore[arg-type]
cpool.RedisCluster(db=1)  # type: ignore[call-arg]
cpool.RedisCluster.from_url("redis://localhost", max_conections=3)  # type: ignore[call-arg]
TenantCluster("a", hots="localhost")  # type: ignore[call-arg]
r.no_such_command()  # type: ignore[attr-defined]
