"""The pieces of work, each done in a process of its own for one side: `python _work.py < TASK`.

A piece returns the seconds of one operation as `s`, and what else its group shows. Replies are
compared with what they must be, and cpool's commands must have been compiled calls.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from itertools import cycle, islice
from itertools import repeat as times
from typing import Any

import _codec
import _counted
from _load import Load, memory_kib, repeat
from _process import CLUSTER_KEYS, KEY, VALUE, Result, Task
from _sides import (
    CPOOL,
    GLIDE,
    REDIS_PY,
    borrower,
    noise_run,
    open_client,
    open_pool,
    require_compiled,
    side_module,
)

PREFIX = "bench:work"
COUNT = 1_000
SPARE_FDS, WARM_CONNECTIONS = 64, 10
Call = Callable[[], Any]


# ---- many threads on one client -----------------------------------------------------------


def keys_of(task: Task) -> tuple[str, ...]:
    """Return the keys that hold the 64 bytes; those of a cluster are on all of its nodes."""
    return CLUSTER_KEYS if task["cluster"] else (KEY,)


def threads(task: Task) -> Result:
    """Send GETs or SETs from some threads: counted first, then, for half as long, clocked."""
    with contextlib.closing(open_client(task)) as client:
        call, reply = VERBS[task.get("verb", "GET")](client, task)
        load = Load(call, reply, keys_of(task), task["threads"])
        load.run(task["seconds"] / 4)
        counted = load.run(task["seconds"])
        clocked = load.run(task["seconds"] / 2, clocked=True)
        waits = longest_wait(client) if task["side"] == CPOOL and "connections" in task else {}
        require_compiled(task, counted["ops"])
    kept = ("ops_per_s", "cpu_us_per_op")
    latencies = {name: clocked[name] for name in clocked if name.startswith("command_")}
    return {"s": 1 / counted["ops_per_s"], **{k: counted[k] for k in kept}, **latencies, **waits}


def get_of_a_key(client: Any, task: Task) -> tuple[Callable[[str], Any], Any]:
    return client.get, VALUE


def set_of_a_key(client: Any, task: Task) -> tuple[Callable[[str], Any], Any]:
    return functools.partial(client.set, value=VALUE), ok_of(task)


VERBS = {"GET": get_of_a_key, "SET": set_of_a_key}


def ok_of(task: Task) -> Any:
    return "OK" if task["side"] == GLIDE else True


def longest_wait(client: Any) -> Result:
    if noise_run():
        return {}
    return {"longest_wait_ms": client.connection_pool.stats().longest_wait_s * 1e3}


# ---- one call, repeated: it is made with its data, and the reply it must get ----------------


def calls(task: Task) -> Result:
    """Repeat one call on one thread; `per` commands count as one call's."""
    with contextlib.closing(open_client(task)) as client:
        call, reply = CALLS[task["call"]](client, task)
        if call() != reply:
            raise RuntimeError("a wrong reply")
        found = repeat(call, task["seconds"])
        if call() != reply:
            raise RuntimeError("a wrong reply at the end")
        big = f"{PREFIX}:big"
        client.delete([big] if task["side"] == GLIDE else big)
        require_compiled(task, found["calls"])
    each = {"cpu_us_per_op": found["cpu_s_per_call"] / task.get("per", 1) * 1e6}
    return {"s": found["s_per_call"] / task.get("per", 1), **each}


def pipeline_of_gets(client: Any, task: Task) -> tuple[Call, Any]:
    keys = list(islice(cycle(keys_of(task)), task["per"]))

    def call() -> Any:
        pipe = client.pipeline(transaction=False)
        for key in keys:
            pipe.get(key)
        return pipe.execute()

    def glide_call() -> Any:
        glide = importlib.import_module("glide_sync")
        batch = (glide.ClusterBatch if task["cluster"] else glide.Batch)(is_atomic=False)
        for key in keys:
            batch.get(key)
        return client.exec(batch, raise_on_error=True)

    return glide_call if task["side"] == GLIDE else call, [VALUE] * len(keys)


def mget_over_nodes(client: Any, task: Task) -> tuple[Call, Any]:
    call = client.mget if task["side"] == GLIDE else client.mget_nonatomic
    return functools.partial(call, list(CLUSTER_KEYS)), [VALUE] * len(CLUSTER_KEYS)


def hgetall(client: Any, task: Task) -> tuple[Call, Any]:
    fields = {f"field:{number}": f"value:{number}" for number in range(COUNT)}
    more = [fields] if task["side"] == GLIDE else []
    client.hset(f"{PREFIX}:hash", *more, **({} if more else {"mapping": fields}))
    reply = {key.encode(): value.encode() for key, value in fields.items()}
    return functools.partial(client.hgetall, f"{PREFIX}:hash"), reply


def set_value(client: Any, task: Task) -> tuple[Call, Any]:
    value = os.urandom(task["bytes"])
    return functools.partial(client.set, f"{PREFIX}:big", value), ok_of(task)


def get_value(client: Any, task: Task) -> tuple[Call, Any]:
    value = os.urandom(task["bytes"])
    client.set(f"{PREFIX}:big", value)
    return functools.partial(client.get, f"{PREFIX}:big"), value


CALLS: dict[str, Callable[[Any, Task], tuple[Call, Any]]] = {
    "pipeline of GETs": pipeline_of_gets,
    "MGET over nodes": mget_over_nodes,
    "HGETALL": hgetall,
    "SET": set_value,
    "GET": get_value,
}


# ---- the pool and its connections ---------------------------------------------------------


def checkout(task: Task) -> Result:
    """Borrow and return a warm connection; then prove that a checkout looks at the socket."""
    pool = open_pool(task)

    borrow, release = borrower(task["side"], pool), pool.release

    def borrow_and_return() -> None:
        for _ in times(None, COUNT):
            release(borrow())

    found = repeat(borrow_and_return, task["seconds"])
    if not replaces_killed_connection(borrow, pool, task):
        raise RuntimeError("a checkout handed out a connection that the server had closed")
    pool.disconnect()
    return {"s": found["s_per_call"] / COUNT}


def replaces_killed_connection(borrow: Call, pool: Any, task: Task) -> bool:
    """Kill the pool's idle connection; True if the next checkout gives one that works."""
    import redis

    killed = borrow()
    before = ask(killed, "CLIENT", "ID")
    pool.release(killed)
    with redis.Redis(task["host"], task["port"]) as other:
        other.client_kill_filter(_id=str(before))
        while other.client_list(client_id=[str(before)]):
            time.sleep(0.001)
    connection = borrow()
    try:
        return bool(ask(connection, "CLIENT", "ID") != before)
    finally:
        pool.release(connection)


def ask(connection: Any, *command: str) -> Any:
    connection.send_command(*command)
    return connection.read_response()


def opening(task: Task) -> Result:
    """Open one connection again and again, closings not counted."""
    pool = open_pool(task)
    connection = borrower(task["side"], pool)()
    took_s: list[float] = []
    until_s = time.perf_counter() + task["seconds"]
    while time.perf_counter() < until_s or len(took_s) < WARM_CONNECTIONS:
        connection.disconnect()
        start_s = time.perf_counter()
        connection.connect()
        took_s.append(time.perf_counter() - start_s)
    if ask(connection, "GET", KEY) != VALUE:
        raise RuntimeError("a wrong reply")
    pool.release(connection)
    pool.disconnect()
    return {"s": statistics.median(took_s)}


def opened_once(task: Task) -> Result:
    """Open one connection, for a relay that counts the round trips."""
    pool = open_pool(task)
    borrower(task["side"], pool)().disconnect()
    return {}


def idle_memory(task: Task) -> Result:
    """Return the resident KiB that an open, used and returned connection costs (Linux)."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = COUNT if soft == resource.RLIM_INFINITY else min(COUNT, soft - SPARE_FDS)
    pool = open_pool(task, max_connections=count)
    use_and_release(task["side"], pool, WARM_CONNECTIONS)
    gc.collect()
    before_kib = memory_kib("VmRSS")
    use_and_release(task["side"], pool, count)
    gc.collect()
    each_kib = (memory_kib("VmRSS") - before_kib) / (count - WARM_CONNECTIONS)
    pool.disconnect()
    return {"kib": each_kib}


def use_and_release(side: str, pool: Any, count: int) -> None:
    borrow = borrower(side, pool)
    borrowed = [borrow() for _ in range(count)]
    for connection in borrowed:
        if ask(connection, "GET", KEY) != VALUE:
            raise RuntimeError("a wrong reply")
    for connection in borrowed:
        pool.release(connection)


def importing(task: Task) -> Result:
    """Import redis, and cpool on top of it for our side."""
    start_s = time.perf_counter()
    side_module(REDIS_PY)
    side_module(task["side"])
    return {"s": time.perf_counter() - start_s}


WORKS: dict[str, Callable[[Task], Result]] = {
    "threads": threads,
    "calls": calls,
    "checkout": checkout,
    "opening": opening,
    "opened once": opened_once,
    "idle memory": idle_memory,
    "importing": importing,
    "codec": _codec.work,
    "counted": _counted.work,
}


if __name__ == "__main__":
    task = json.load(sys.stdin)
    print(json.dumps(WORKS[task["work"]](task)))
