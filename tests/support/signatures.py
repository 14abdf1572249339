"""What constructors take, read off the installed classes."""

from __future__ import annotations

import inspect
from typing import Any

import redis

import cpool

NEWEST_REDIS_PY = (8, 1)  # whose arguments cpool's types and documents name


def redis_py_is_the_newest() -> bool:
    """Tell whether the installed redis-py is the one that types and documents describe."""
    return tuple(int(part) for part in redis.__version__.split(".")[:2]) == NEWEST_REDIS_PY


def keywords_of(cls: type) -> dict[str, inspect.Parameter]:
    """Return what a constructor takes by name, and what it hands on to its bases'."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        init = vars(base).get("__init__")
        if init is None:
            continue
        parameters = inspect.signature(init).parameters.values()
        for parameter in parameters:
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                found.setdefault(parameter.name, parameter)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    del found["self"]
    return found


def own_options() -> dict[str, Any]:
    """Return cpool's own options of pools and connections, with their defaults."""
    pairs = [(cpool.ConnectionPool, redis.ConnectionPool), (cpool.Connection, redis.Connection)]
    return {
        name: parameter.default
        for ours, theirs in pairs
        for name, parameter in keywords_of(ours).items()
        if name not in keywords_of(theirs)
    }
