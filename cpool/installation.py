"""cpool.install(): redis-py's classes replaced by cpool's, wherever their names are bound.

For programs whose clients and pools are made by somebody else: Celery and kombu, RQ,
Django, any package that names `redis.ConnectionPool` itself. `uninstall()` undoes it.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from types import FunctionType, MethodType
from typing import Any

import redis.client
import redis.cluster
import redis.connection
import redis.sentinel

import cpool
from cpool.client import show_pool_options
from cpool.standin import standing_in

__all__ = ["Change", "install", "replacements", "uninstall"]

# Where redis-py defines a class, its name, and the name in cpool of ours that replaces it.
_TABLE = (
    (redis.client, "Redis", "Redis"),
    (redis.client, "Pipeline", "Pipeline"),
    (redis.connection, "ConnectionPool", "ConnectionPool"),
    (redis.connection, "BlockingConnectionPool", "BlockingConnectionPool"),
    (redis.connection, "Connection", "Connection"),
    (redis.connection, "SSLConnection", "SSLConnection"),
    (redis.connection, "UnixDomainSocketConnection", "UnixDomainSocketConnection"),
    (redis.cluster, "RedisCluster", "RedisCluster"),
    (redis.cluster, "ClusterPipeline", "ClusterPipeline"),
    (redis.cluster, "NodesManager", "nodes.NodesManager"),
    (redis.sentinel, "Sentinel", "Sentinel"),
    (redis.sentinel, "SentinelConnectionPool", "SentinelConnectionPool"),
    (redis.sentinel, "SentinelManagedConnection", "SentinelManagedConnection"),
    (redis.sentinel, "SentinelManagedSSLConnection", "SentinelManagedSSLConnection"),
)
# redis-py's classes as they were when cpool was imported: nobody has replaced them yet.
_REDIS_CLASSES = [(vars(module)[name], ours) for module, name, ours in _TABLE]

# Their bindings stay: our classes are built on redis-py's, and redis.asyncio has its own.
_LEFT_ALONE = ("cpool", "redis.asyncio")


@dataclass(frozen=True)
class Change:
    """One binding that install() has changed.

    kind: "global" (holder: a module's dictionary), "attribute" (a class), "default" (a
    function; name: the position) or "keyword default" (the function's dictionary).
    """

    holder: Any
    kind: str
    name: Any
    old: type
    new: type


_lock = threading.Lock()
_changes: list[Change] = []
_modules_before: set[str] = set()


def install() -> None:
    """Let every redis-py client, pool, cluster and sentinel made from now on be cpool's.

    Replaced, by identity and whatever their name, are the classes of `redis`,
    `redis.client`, `redis.cluster`, `redis.connection` and `redis.sentinel` that cpool has
    one for, in every imported module but redis.asyncio's: global names, class attributes, defaults
    of functions and methods. Modules imported later get cpool's from redis-py's. So
    call it before clients are made; before or after the imports does not matter.

    What there is already stays as it is: clients and pools, and classes derived from
    redis-py's (their pools are cpool's all the same, unless they make them otherwise).
    So do references that sit in a dict, a list, a functools.partial or an instance.

    `isinstance(x, redis.Redis)` and issubclass() give the answers they gave before: while
    installed, cpool's classes answer for those they replace, so `isinstance(x,
    cpool.Redis)` is true of redis-py's clients too (`type(x)` tells). redis-py relies on
    that (scripts, JSON and search in pipelines), as do Celery (Sentinel with TLS) and
    django-redis. A class derived before that says `super(Redis, self)`, naming redis-py's
    class and not itself, gets a TypeError. redis-py's classes can't be pickled while
    their names mean cpool's; cpool's can. Tracing tools may come before or after.

    A child process inherits it by fork; one that is spawned has to call it too. For
    gevent or eventlet call it after monkey-patching. Thread-safe; a second call does
    nothing. If it fails, nothing has changed.
    """
    with _lock:
        if _changes:
            return
        table, modules = replacements(), sys.modules.copy()
        try:
            for change in list(_find(table, modules)):
                _changes.append(change)
                _put(change, change.old, change.new)
            _modules_before.update(modules)
            standing_in.update({ours: redis_class for redis_class, ours in table.items()})
            show_pool_options(False)
        except BaseException:
            _undo()
            raise


def uninstall() -> None:
    """Undo install(): every binding that is still cpool's becomes what it was.

    What somebody else has bound since stays. So do clients and pools that exist, and
    modules (but redis-py's) and classes that came meanwhile: they keep cpool's classes,
    which go on working. Thread-safe; does nothing where nothing is installed.
    """
    with _lock:
        if _changes:
            _undo_in_new_modules_of_redis()
        _undo()


def replacements() -> dict[type, type]:
    """Return redis-py's classes and for each the one of cpool that replaces it."""
    return {theirs: attrgetter(ours)(cpool) for theirs, ours in _REDIS_CLASSES}


def _undo_in_new_modules_of_redis() -> None:
    """redis-py imports some of its modules late. They got our classes from the others."""
    table = {ours: redis_class for redis_class, ours in replacements().items()}
    new = {
        name: module
        for name, module in sys.modules.copy().items()
        if name.startswith("redis.") and name not in _modules_before
    }
    for change in list(_find(table, new)):
        _put(change, change.old, change.new)


def _undo() -> None:
    standing_in.clear()
    show_pool_options(True)
    _modules_before.clear()
    while _changes:
        change = _changes[-1]
        _put(change, change.new, change.old)
        _changes.pop()  # only now: an interrupt before would forget it


# One binding


def _put(change: Change, expected: type, value: type) -> None:
    """Bind `value`, provided that `expected` is what is bound."""
    if change.kind == "attribute":
        if vars(change.holder).get(change.name) is expected:
            type.__setattr__(change.holder, change.name, value)  # past metaclasses
    elif change.kind == "default":
        defaults = list(change.holder.__defaults__ or ())
        if change.name < len(defaults) and defaults[change.name] is expected:
            defaults[change.name] = value
            change.holder.__defaults__ = tuple(defaults)
    elif change.holder.get(change.name) is expected:
        change.holder[change.name] = value


# All bindings. Nothing here may run code of those that are looked at: a lazy module, a
# proxy, a property. Hence type(x) where isinstance(x) would ask x, and id() for hash().


def _find(table: dict[type, type], modules: dict[str, Any]) -> Iterator[Change]:
    """Give a change for each binding of a class on the left side of the table."""
    by_id = {id(old): (old, new) for old, new in table.items()}

    def changes(holder: Any, kind: str, items: Any) -> Iterator[Change]:
        for name, value in items:
            if id(value) in by_id:
                yield Change(holder, kind, name, *by_id[id(value)])

    seen: set[int] = set()
    for names in _dicts_of(modules):
        yield from changes(names, "global", names.copy().items())
        for kind, holder in _holders(names, seen):
            if kind == "attribute":
                yield from changes(holder, kind, _names_of(holder).items())
                continue
            yield from changes(holder, kind, enumerate(holder.__defaults__ or ()))
            by_keyword = holder.__kwdefaults__ or {}
            yield from changes(by_keyword, "keyword default", by_keyword.copy().items())


def _dicts_of(modules: dict[str, Any]) -> Iterator[dict[str, Any]]:
    seen = set()
    for name, module in modules.items():
        if not _is_left_alone(name):
            try:
                names = object.__getattribute__(module, "__dict__")
            except AttributeError:  # None, or what somebody has put there
                continue
            if type(names) is dict and id(names) not in seen:
                seen.add(id(names))
                yield names


def _is_left_alone(module: Any) -> bool:
    return any(module == name or str(module).startswith(f"{name}.") for name in _LEFT_ALONE)


def _names_of(cls: type) -> dict[str, Any]:
    names: Any = type.__dict__["__dict__"].__get__(cls)
    return dict(names or {})  # None: a type of C that was never readied


def _holders(names: dict[str, Any], seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Give each class ("attribute") and function ("default") that is reached from here."""
    pending = list(names.copy().values())
    while pending:
        value = pending.pop()
        look_into = _INSIDE.get(id(type(value)))
        if look_into is None and type in type(value).__mro__:
            look_into = _inside_class
        if look_into is None or id(value) in seen:
            continue
        seen.add(id(value))
        inside = look_into(value)
        if look_into is _inside_class and inside:
            yield "attribute", value
        elif look_into is _inside_function:
            yield "default", value
        pending += inside


def _inside_class(cls: type) -> list[Any]:
    names = _names_of(cls)
    return [] if _is_left_alone(names.get("__module__")) else list(names.values())


def _inside_function(function: FunctionType) -> list[Any]:
    return [vars(function).get("__wrapped__")]


_INSIDE: dict[int, Callable[[Any], list[Any]]] = {
    id(FunctionType): _inside_function,
    id(MethodType): lambda method: [method.__func__],
    id(classmethod): lambda method: [method.__func__],
    id(staticmethod): lambda method: [method.__func__],
    id(property): lambda prop: [prop.fget, prop.fset, prop.fdel],
    id(functools.cached_property): lambda prop: [prop.func],
    id(functools._lru_cache_wrapper): lambda cached: [cached.__wrapped__],
}
