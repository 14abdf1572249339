"""What a type checker must make of cpool. mypy checks it (see .ci/lint); nothing runs it."""

from __future__ import annotations

import redis
from redis.connection import Connection
from redis.sentinel import Sentinel
from typing_extensions import assert_type

import cpool
from cpool.tools.doctor import Diagnosis, examine

pool = cpool.ConnectionPool(host="localhost", max_connections=3, timeout=None, order="fifo")
assert_type(cpool.ConnectionPool.from_url("redis://localhost"), cpool.ConnectionPool)
assert_type(cpool.BlockingConnectionPool.from_url("unix:///s"), cpool.BlockingConnectionPool)
with cpool.BlockingConnectionPool(timeout=0.5) as entered:
    assert_type(entered, cpool.BlockingConnectionPool)

assert_type(pool.get_connection(), Connection)
assert_type(pool.stats(), cpool.PoolStats)
assert_type(pool.stats().waiting, int)
assert_type(pool.stats().longest_wait_s, float)

as_redis_py: redis.ConnectionPool = pool
redis.Redis(connection_pool=pool)
redis.Redis.from_pool(cpool.BlockingConnectionPool())
Sentinel([("localhost", 26379)]).master_for(
    "mymaster", connection_pool_class=cpool.SentinelConnectionPool
)
try:
    pool.get_connection()
except redis.exceptions.MaxConnectionsError as error:
    assert isinstance(error, cpool.ConnectionPoolTimeoutError)

assert_type(examine(pool), Diagnosis)
assert_type([finding.fix for finding in examine(processes=4).findings], list[str])

# An ignored error that is none is an error: these must be refused.
pool.stats().open = 1  # type: ignore[misc]
cpool.ConnectionPool(timeout="1")  # type: ignore[arg-type]
cpool.ConnectionPool(order=1)  # type: ignore[arg-type]
cpool.BlockingConnectionPool(max_connections="3")  # type: ignore[arg-type]
