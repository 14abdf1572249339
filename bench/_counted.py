"""What instructions.py counts: runs of one operation, each in a child under valgrind."""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Sequence
from typing import Any

from _process import CLUSTER_KEYS, KEY, VALUE, Result, Task
from _sides import open_client, require_compiled, side_module

WARM_UP = 100
OPERATIONS = {
    "get": "GET of 64 bytes",
    "set": "SET of 64 bytes",
    "pipeline100": "GET in a pipeline of 100",
    "checkout": "get_connection + release",
}
CLUSTER_OPERATIONS = {
    "get": "cluster: GET of 64 bytes",
    "pipeline300": "cluster: GET in a pipeline of 300",
}
PIPELINED = {"pipeline100": (KEY,) * 100, "pipeline300": CLUSTER_KEYS}
WARM_UPS = {"pipeline100": 10_000, "pipeline300": 3_000}  # GETs: enough pipelines to be warm


def operations_of(task: Task) -> dict[str, str]:
    """Return what is counted for clients of one server, or of a cluster."""
    return CLUSTER_OPERATIONS if task["cluster"] else OPERATIONS


def work(task: Task) -> Result:
    """Fork one child per run; return which process id did what."""
    moved = ["x" * size for size in range(task["layout"] * 37)]
    side_module(task["side"])
    gc.collect()
    gc.freeze()
    children = []
    for operation in operations_of(task):
        for length in lengths_of(task, operation):
            pid = fork_run(task, operation, length)
            children.append({"operation": operation, "length": length, "pid": pid})
    return {"children": children, "moved": len(moved)}


def lengths_of(task: Task, operation: str) -> list[int]:
    """Return the two lengths of an operation's runs; those of a pipeline in whole pipelines."""
    each = len(PIPELINED.get(operation, (KEY,)))
    return [-(-length // each) * each for length in task["lengths"]]


def fork_run(task: Task, operation: str, length: int) -> int:
    """Do one run in a child; return its process id once it has ended well."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            run_operation(task, operation, length)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    if status != 0:
        raise RuntimeError(f"the child for {operation} x {length} failed")
    return pid


def run_operation(task: Task, operation: str, length: int) -> None:
    client = open_client(task)
    for _ in range(WARM_UP):
        client.get(KEY)
    repeat = REPEATS[operation]
    repeat(client, WARM_UPS.get(operation, WARM_UP))
    repeat(client, length)
    require_compiled(task, WARM_UP)


def repeat_get(client: Any, count: int) -> None:
    get = client.get
    for _ in range(count):
        get(KEY)


def repeat_set(client: Any, count: int) -> None:
    set_value = client.set
    for _ in range(count):
        set_value(KEY, VALUE)


def repeat_pipeline(keys: Sequence[str], client: Any, count: int) -> None:
    """Send so many GETs, one of each key in a pipeline."""
    for _ in range(count // len(keys)):
        pipe = client.pipeline(transaction=False)
        for key in keys:
            pipe.get(key)
        pipe.execute()


def repeat_checkout(client: Any, count: int) -> None:
    get_connection, release = client.connection_pool.get_connection, client.connection_pool.release
    for _ in range(count):
        release(get_connection())


REPEATS = {
    "get": repeat_get,
    "set": repeat_set,
    "checkout": repeat_checkout,
    **{name: functools.partial(repeat_pipeline, keys) for name, keys in PIPELINED.items()},
}
