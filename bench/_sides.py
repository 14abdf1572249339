"""The sides: who is compared, what each needs, and how its client and its pool are opened.

Opening happens in a side's own process: nothing of the others is imported there.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from _process import KEY, VALUE, CannotRun, Task

REDIS_PY, PURE, RESP2 = "redis-py", "redis-py pure", "redis-py RESP2"
VALKEY, GLIDE = "valkey-py", "valkey-glide"
POOL, CPOOL = "cpool pool", "cpool"
HIREDIS, LIBVALKEY = "hiredis", "libvalkey"  # codecs alone
GENERATOR, C_LOOP = "redis-benchmark", "C loop"

OURS = (POOL, CPOOL)
CLIENTS = (REDIS_PY, PURE, VALKEY, GLIDE, POOL, CPOOL)
POOLS = (REDIS_PY, VALKEY, CPOOL)
# Where RESP3 costs redis-py time (handshake, maps), it is compared by RESP2, its faster protocol.
POOLS_RESP2 = (RESP2, VALKEY, CPOOL)
CLIENTS_RESP2 = (RESP2, *CLIENTS[1:])
NOISE_VARIABLE = "CPOOL_BENCH_NOISE"
GLIDE_LIMIT_MS = 10_000  # the default of 250 ms would end a run on a busy machine


@dataclass(frozen=True)
class Side:
    """Say what one side is, and which distributions it needs at its best."""

    meaning: str
    modules: tuple[str, ...] = ()
    install: str = ""


SIDES = {
    REDIS_PY: Side("redis.Redis with hiredis", ("redis", "hiredis"), "redis hiredis"),
    RESP2: Side("redis.Redis with hiredis, protocol=2", ("redis", "hiredis"), "redis hiredis"),
    PURE: Side("redis.Redis with its Python parser and packer", ("redis",), "redis"),
    VALKEY: Side("valkey.Valkey with libvalkey", ("valkey", "libvalkey"), "valkey[libvalkey]"),
    GLIDE: Side(
        "valkey-glide's synchronous client, one multiplexed connection",
        ("glide_sync",),
        "valkey-glide-sync",
    ),
    HIREDIS: Side("hiredis-py's pack_command and Reader", ("hiredis",), "hiredis"),
    LIBVALKEY: Side("libvalkey-py's pack_command and Reader", ("libvalkey",), "libvalkey"),
    POOL: Side("redis.Redis on cpool.ConnectionPool", ("cpool",), "redis-cpool"),
    CPOOL: Side("cpool.Redis", ("cpool",), "redis-cpool"),
}


def require_side(name: str) -> None:
    """Raise CannotRun, with the remedy, unless all that a side needs is installed."""
    side = SIDES.get(name)
    for module in side.modules if side else ():
        if importlib.util.find_spec(module) is None:
            raise CannotRun(f"{name}: {module} is not installed; pip install '{side.install}'")


def noise_run() -> bool:
    """Tell whether redis-py stands on both sides, to learn how far equals differ here."""
    return bool(os.environ.get(NOISE_VARIABLE))


def side_module(side: str) -> ModuleType:
    """Return the module whose classes a side uses; hiredis is hidden from redis-py's pure side."""
    if side == PURE:
        sys.modules["hiredis"] = None  # type: ignore[assignment]  # its import fails
    if side == VALKEY:
        return importlib.import_module("valkey")
    return importlib.import_module("cpool" if side in OURS and not noise_run() else "redis")


def open_client(task: Task) -> Any:
    """Open the client of the task's side on the task's server; all else at its defaults.

    With `connections` in the task it shares a blocking pool of so many, all of them open.
    """
    client = (open_cluster if task["cluster"] else OPENERS[task["side"]])(task)
    require_parser(task["side"], client)
    if client.get(KEY) != VALUE:
        raise RuntimeError("the server does not hold the benchmark's value")
    if counts_calls(task):  # what a cluster client asks while it is made is not judged
        fast_path().reset_stats()
    return client


def open_pool(task: Task, **options: Any) -> Any:
    """Open the pool of the task's side."""
    module = side_module(task["side"])
    kind = "BlockingConnectionPool" if "connections" in task else "ConnectionPool"
    if "connections" in task:
        options["max_connections"] = task["connections"]
    if task["side"] == RESP2:
        options["protocol"] = 2
    return getattr(module, kind)(**address(module, task), **options)


def address(module: ModuleType, task: Task) -> dict[str, Any]:
    """Return how a redis-py-like pool is told where the server is."""
    where = {"host": task["host"], "port": task["port"]}
    if "ca_path" in task:
        where["connection_class"] = module.SSLConnection
        where["ssl_ca_certs"] = task["ca_path"]
    return where


def open_on_pool(task: Task) -> Any:
    pool = open_pool(task)
    # All open before anybody waits: a wait for a dial is no wait for a connection.
    borrow = borrower(task["side"], pool)
    for connection in [borrow() for _ in range(task.get("connections", 0))]:
        pool.release(connection)
    module = (
        importlib.import_module("redis") if task["side"] == POOL else side_module(task["side"])
    )
    return (module.Valkey if task["side"] == VALKEY else module.Redis)(connection_pool=pool)


def open_cluster(task: Task) -> Any:
    """Open the cluster client of the task's side, told of one node."""
    side, where = task["side"], {"host": task["host"], "port": task["port"]}
    if side == GLIDE:
        return open_glide(task)
    module = side_module(side)
    if side == POOL:  # redis-py takes a pool's class with a URL only
        url = "redis://{host}:{port}".format(**where)
        client = importlib.import_module("redis").RedisCluster
        return client.from_url(url, connection_pool_class=module.ConnectionPool)
    return (module.ValkeyCluster if side == VALKEY else module.RedisCluster)(**where)


def open_glide(task: Task) -> Any:
    glide = importlib.import_module("glide_sync")
    options: dict[str, Any] = {"request_timeout": GLIDE_LIMIT_MS}
    if "ca_path" in task:
        config = importlib.import_module("glide_shared.config")
        with open(task["ca_path"], "rb") as file:
            tls = config.TlsAdvancedConfiguration(root_pem_cacerts=file.read())
        options["use_tls"] = True
        options["advanced_config"] = glide.AdvancedGlideClientConfiguration(tls_config=tls)
    where = [glide.NodeAddress(task["host"], task["port"])]
    if task["cluster"]:
        configuration = glide.GlideClusterClientConfiguration(where, **options)
        return glide.GlideClusterClient.create(configuration)
    return glide.GlideClient.create(glide.GlideClientConfiguration(where, **options))


OPENERS: dict[str, Callable[[Task], Any]] = {
    REDIS_PY: open_on_pool,
    RESP2: open_on_pool,
    PURE: open_on_pool,
    VALKEY: open_on_pool,
    GLIDE: open_glide,
    POOL: open_on_pool,
    CPOOL: open_on_pool,
}
PARSERS = {REDIS_PY: "hiredis", RESP2: "hiredis", PURE: "resp", VALKEY: "libvalkey"}


def require_parser(side: str, client: Any) -> None:
    """Raise unless a peer's connection parses with what its side promises."""
    if side in PARSERS:
        pool = pool_of(client)
        connection = borrower(side, pool)()
        # valkey-py's cluster client derives its parser.
        name = " ".join(base.__name__.lower() for base in type(connection._parser).__mro__)
        pool.release(connection)
        if PARSERS[side] not in name:
            raise RuntimeError(f"{side} parses with {name}")


def pool_of(client: Any) -> Any:
    """Return a client's pool, of a cluster client that of one node."""
    if hasattr(client, "connection_pool"):
        return client.connection_pool
    node = client.get_default_node()
    of_node = getattr(client, "get_redis_connection", None) or client.get_valkey_connection
    return of_node(node).connection_pool


def borrower(side: str, pool: Any) -> Callable[[], Any]:
    """Return the pool's checkout; valkey-py's wants the name of a command."""
    return functools.partial(pool.get_connection, "_") if side == VALKEY else pool.get_connection


def counts_calls(task: Task) -> bool:
    """Tell whether this process counts the compiled calls of the client that is measured."""
    return task["side"] == CPOOL and not noise_run()


def fast_path() -> ModuleType:
    return importlib.import_module("cpool.fast_path")


def require_compiled(task: Task, calls: int) -> None:
    """Raise unless all calls of cpool.Redis, but one in a thousand, were compiled ones."""
    if not counts_calls(task):
        return
    counts = fast_path().stats()
    refused = sum(counts.refused.values())
    if counts.taken < calls or refused * 1000 > counts.taken:
        raise RuntimeError(f"commands did not take the compiled path: {counts}")
