"""Who has put code of his own in the place of redis-py's and cpool's methods.

What matters is whose code runs, not what a function calls itself: functools.wraps copies
names, so a function is asked for its globals, and a wrapper object for what it calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import cpool

__all__ = ["Wrapped", "author_of", "is_derived", "overridden", "patched", "wrapped_methods"]

# The first part of a module's name, and what people call it.
TOOLS = {
    "opentelemetry": "OpenTelemetry",
    "sentry_sdk": "Sentry",
    "ddtrace": "ddtrace",
    "elasticapm": "Elastic APM",
    "newrelic": "New Relic",
}
KINDS: dict[str, tuple[type, ...]] = {
    "client": (cpool.Redis, cpool.Pipeline, cpool.RedisCluster, cpool.ClusterPipeline),
    "pool": (cpool.ConnectionPool, cpool.BlockingConnectionPool, cpool.SentinelConnectionPool),
    "connection": (
        cpool.Connection,
        cpool.SSLConnection,
        cpool.UnixDomainSocketConnection,
        cpool.SentinelManagedConnection,
        cpool.SentinelManagedSSLConnection,
    ),
}
# The methods that the compiled call stands in for, so that it is not taken where somebody
# has his own. `execute_command`, `execute` and the commands stand above it.
CLOSING = {
    "client": {
        *("_execute_command", "_send_command_parse_response", "parse_response"),
        *("_execute_pipeline", "_execute_transaction", "_himport_prepare_pipeline"),
        *("pipeline_execute_command", "raise_first_error", "annotate_exception"),
        *("_internal_execute_command", "_determine_nodes", "determine_slot", "keyslot"),
        *("get_nodes_from_slot", "get_redis_connection", "_process_result", "_get_command_keys"),
        *("__getattribute__", "__setattr__", "__delattr__"),
    },
    "pool": {"get_connection", "release"},
    "connection": {
        *("connect", "send_command", "send_packed_command", "pack_commands"),
        *("can_read", "read_response", "check_health", "re_auth", "should_reconnect"),
    },
}
_OURS = {"redis", "cpool"}
_NOBODY = {"builtins", "_abc", "functools", "abc", "typing", "types", "dataclasses", "enum"}


@dataclass(frozen=True)
class Wrapped:
    """A method of redis-py or cpool that somebody has replaced."""

    kind: str
    """Of what: "client", "pool" or "connection"."""
    method: str
    """As "Redis.execute_command"."""
    by: str
    """A tool, or the module whose code runs."""
    closes: bool
    """Whether the compiled call would pass it by, and so is not taken."""


def wrapped_methods() -> tuple[Wrapped, ...]:
    """Return what somebody has put on redis-py's and cpool's classes."""
    found = [
        Wrapped(kind, f"{cls.__name__}.{name}", by, _closes(kind, cls, name))
        for kind, classes in KINDS.items()
        for cls in _bases(classes)
        for name, value in vars(cls).items()
        if (by := author_of(value)) is not None
    ]
    return tuple(dict.fromkeys(found))


def overridden(cls: type, kind: str) -> tuple[Wrapped, ...]:
    """Return the methods that a class derived from one of ours has instead of those that
    the compiled call stands in for."""
    return tuple(
        Wrapped(kind, f"{base.__name__}.{name}", base.__module__, True)
        for base in cls.__mro__
        if not _is_ours(base) and base is not object
        for name in sorted(CLOSING[kind] & vars(base).keys())
    )


def patched(instance: Any, kind: str) -> tuple[Wrapped, ...]:
    """Return such methods that were put on the instance itself."""
    return tuple(
        Wrapped(kind, f"{type(instance).__name__}.{name}", "the instance itself", True)
        for name in sorted(CLOSING[kind] & vars(instance).keys())
    )


def is_derived(cls: Any, kind: str) -> bool:
    """Tell whether a class is one of cpool's of this kind, or derived from one."""
    return any(base in KINDS[kind] for base in getattr(cls, "__mro__", ()))


def author_of(value: Any) -> str | None:
    """Return whose code a class attribute runs, None for redis-py's, cpool's and Python's."""
    if isinstance(value, (staticmethod, classmethod)):
        value = value.__func__
    elif isinstance(value, property):
        value = value.fget
    module = _module_of(value)
    root = module.partition(".")[0]
    if root in _OURS or root in _NOBODY or root.startswith("_cython"):
        return None
    return TOOLS.get(root, module)


def _module_of(value: Any) -> str:
    """Name the module whose code runs when a value is called."""
    if type(value) is FunctionType:
        return str(value.__globals__.get("__name__", value.__module__))
    for name in ("_self_wrapper", "_nr_wrapper"):  # wrapt's, New Relic's copy of it
        wrapper = getattr(value, name, None)
        if type(wrapper) is FunctionType:
            return str(wrapper.__globals__.get("__name__"))
    return type(value).__module__


def _bases(classes: Iterable[type]) -> Iterator[type]:
    """Give redis-py's and cpool's classes among these and their bases, each once."""
    return filter(_is_ours, dict.fromkeys(base for cls in classes for base in cls.__mro__))


def _is_ours(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in _OURS


def _closes(kind: str, cls: type, name: str) -> bool:
    # Our pools' own methods come before redis-py's, whatever is wrapped there.
    bypassed = kind == "pool" and cls.__module__.partition(".")[0] == "redis"
    return name in CLOSING[kind] and not bypassed
