"""Pytest plugin: put cpool's classes where redis-py binds its own, and count who was used.

Loaded with ``-p redis_swap``, so it runs before any conftest: what the tests then import from
``redis`` is ours. ``REDIS_SUITE_SWAP`` names the configuration; without it, importing this file
changes nothing. ``REDIS_SUITE_CPOOL_PATH`` is a directory to find cpool in, if need be.

Only names and defaults in redis-py's modules are changed. Class bodies keep their bases (cpool
subclasses the originals, and ``super()`` there needs no name), and cpool's own modules keep
the originals they imported. Of cpool's classes nothing but ``__init__`` is wrapped: a wrapped
``get_connection`` would be seen as a patched one and close the fast path that is to be tested.
Checkouts are therefore read from ``pool.stats()`` of the pools alive after each test, a lower
bound.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import os
import sys
import threading
import traceback
import types
import weakref
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PROVIDERS = (
    *("cpool", "cpool.connection", "cpool.pool", "cpool.sentinel"),
    *("cpool.client", "cpool.cluster"),
)
TESTS_PER_PROOF = 50
MAX_PLAIN_POOLS_NAMED = 20


@dataclass(frozen=True)
class Swap:
    """One class of redis-py to be replaced by the class of the same name in cpool.

    role: "pool", "connection" or "client"; what the proof counts it as.
    required: whether a cpool without it is an error rather than a note in the report.
    """

    module: str
    name: str
    role: str
    required: bool = True


POOLS = (
    Swap("redis.connection", "ConnectionPool", "pool"),
    Swap("redis.connection", "BlockingConnectionPool", "pool"),
    Swap("redis.sentinel", "SentinelConnectionPool", "pool"),
    Swap("redis.connection", "Connection", "connection"),
    Swap("redis.connection", "SSLConnection", "connection"),
    Swap("redis.connection", "UnixDomainSocketConnection", "connection"),
    Swap("redis.sentinel", "SentinelManagedConnection", "connection", required=False),
    Swap("redis.sentinel", "SentinelManagedSSLConnection", "connection", required=False),
    Swap("redis.connection", "CacheProxyConnection", "connection", required=False),
)
CLIENTS = (
    Swap("redis.client", "Redis", "client"),
    Swap("redis.client", "Pipeline", "client"),
    Swap("redis.cluster", "RedisCluster", "client", required=False),
    Swap("redis.cluster", "ClusterPipeline", "client", required=False),
    Swap("redis.cluster", "NodesManager", "topology", required=False),
    Swap("redis.sentinel", "Sentinel", "client"),
)
# A configuration is a row here; the runner offers the keys.
CONFIGURATIONS: dict[str, tuple[Swap, ...]] = {"pools": POOLS, "clients": (*POOLS, *CLIENTS)}


class SwapError(Exception):
    """A class that has to be replaced has no counterpart in cpool."""


# -- finding the pairs -----------------------------------------------------------------------


def import_providers() -> list[types.ModuleType]:
    """Import cpool and those of its modules that exist."""
    extra = os.environ.get("REDIS_SUITE_CPOOL_PATH")
    if extra and extra not in sys.path:
        sys.path.append(extra)
    modules = [importlib.import_module("cpool")]
    for name in PROVIDERS[1:]:
        if importlib.util.find_spec(name) is not None:
            modules.append(importlib.import_module(name))
    return modules


def find_replacement(original: type, providers: list[types.ModuleType]) -> type | None:
    """Return cpool's subclass of an original, or None; a re-exported original is none."""
    for module in providers:
        candidate = getattr(module, original.__name__, None)
        if isinstance(candidate, type) and candidate is not original:
            if not issubclass(candidate, original):
                raise SwapError(f"{candidate!r} is not a subclass of {original!r}")
            return candidate
    return None


def pairs_of(swaps: tuple[Swap, ...]) -> tuple[dict[type, type], list[str]]:
    """Return {original: replacement} and the names cpool does not replace."""
    providers = import_providers()
    pairs: dict[type, type] = {}
    missing: list[str] = []
    for swap in swaps:
        original = getattr(importlib.import_module(swap.module), swap.name, None)
        if original is None:
            continue
        replacement = find_replacement(original, providers)
        if replacement is not None:
            pairs[original] = replacement
        elif swap.required:
            raise SwapError(f"cpool has no class of its own called {swap.name}")
        else:
            missing.append(swap.name)
    return pairs, missing


# -- rebinding -------------------------------------------------------------------------------


def is_sync_redis(name: str) -> bool:
    """Tell whether a module is redis-py's and not its asyncio side."""
    parts = name.split(".")
    return parts[0] == "redis" and parts[1:2] != ["asyncio"]


def functions_in(value: Any) -> Iterator[types.FunctionType]:
    """Yield the functions behind a function, method object, property or decorator."""
    if isinstance(value, (classmethod, staticmethod)):
        yield from functions_in(value.__func__)
    elif isinstance(value, property):
        for accessor in (value.fget, value.fset, value.fdel):
            yield from functions_in(accessor)
    elif isinstance(value, types.FunctionType):
        yield value
        yield from functions_in(getattr(value, "__wrapped__", None))


def replaced(value: Any, pairs: Mapping[type, type]) -> Any:
    """Return the replacement of an original, anything else unchanged."""
    return pairs.get(value, value) if isinstance(value, type) else value


def rewrite_defaults(function: types.FunctionType, pairs: Mapping[type, type]) -> None:
    """Replace the originals among the defaults a function captured when it was defined."""
    old = function.__defaults__
    if old and any(replaced(item, pairs) is not item for item in old):
        function.__defaults__ = tuple(replaced(item, pairs) for item in old)
    by_keyword = function.__kwdefaults__ or {}
    by_keyword.update({name: replaced(item, pairs) for name, item in by_keyword.items()})


def rewrite_class(cls: type, pairs: Mapping[type, type]) -> None:
    """Replace the originals held by a class: attributes, defaults, dataclass fields."""
    for name, value in list(vars(cls).items()):
        if replaced(value, pairs) is not value:
            setattr(cls, name, replaced(value, pairs))
        for function in functions_in(value):
            rewrite_defaults(function, pairs)
    for field in vars(cls).get("__dataclass_fields__", {}).values():
        field.default = replaced(field.default, pairs)


def rewrite_module(module: types.ModuleType, pairs: Mapping[type, type]) -> int:
    """Rebind the originals in a module; return how many names changed."""
    changed = 0
    for name, value in list(vars(module).items()):
        if isinstance(value, type) and is_sync_redis(value.__module__):
            rewrite_class(value, pairs)
        for function in functions_in(value):
            rewrite_defaults(function, pairs)
        if replaced(value, pairs) is not value:
            setattr(module, name, replaced(value, pairs))
            changed += 1
    return changed


def rewrite_loaded_modules(pairs: Mapping[type, type]) -> int:
    """Rebind the originals in every loaded module of sync redis-py."""
    modules = [module for name, module in list(sys.modules.items()) if is_sync_redis(name)]
    return sum(rewrite_module(module, pairs) for module in modules if module is not None)


# -- counting --------------------------------------------------------------------------------


class Proof:
    """Counts the objects made of cpool's and of redis-py's classes, and cpool's checkouts."""

    def __init__(self, pairs: Mapping[type, type], missing: list[str]) -> None:
        self.missing = missing
        self.pairs = dict(pairs)
        self.names_rebound = 0
        self.plain_pools: list[str] = []
        self.made: Counter[tuple[str, str, str]] = Counter()
        self._ours = tuple(pairs.values())
        self._lock = threading.RLock()
        self._under_construction = threading.local()
        self._alive: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._serial = 0
        self._checkouts_of_the_dead = 0

    def watch(self, cls: type, role: str) -> None:
        """Wrap the __init__ a class defines, so that each object made is counted once."""
        if "__init__" in vars(cls):
            setattr(cls, "__init__", self._counting(vars(cls)["__init__"], role))  # noqa: B010

    def _counting(self, inner: Callable[..., None], role: str) -> Callable[..., None]:
        @functools.wraps(inner)
        def __init__(self_: Any, *args: Any, **kwargs: Any) -> None:
            __tracebackhide__ = True
            busy: set[int] = self._under_construction.__dict__.setdefault("ids", set())
            if id(self_) in busy:
                return inner(self_, *args, **kwargs)
            busy.add(id(self_))
            try:
                inner(self_, *args, **kwargs)
            finally:
                busy.discard(id(self_))
            self._count(self_, role)

        # getfullargspec() does not follow __wrapped__, and libraries call it on __init__.
        __init__.__signature__ = inspect.signature(inner)  # type: ignore[attr-defined]
        return __init__

    def _count(self, made: Any, role: str) -> None:
        ours = isinstance(made, self._ours)
        with self._lock:
            self.made["cpool" if ours else "redis-py", role, type(made).__name__] += 1
            if ours and role == "pool":
                self._serial += 1
                self._alive[self._serial] = (weakref.ref(made), 0)
            elif role == "pool" and len(self.plain_pools) < MAX_PLAIN_POOLS_NAMED:
                self.plain_pools.append(where_made())

    def sample(self) -> None:
        """Read the checkouts of every pool alive, and settle those that are gone."""
        with self._lock:
            for serial, (ref, seen) in list(self._alive.items()):
                pool = ref()
                if pool is None:
                    del self._alive[serial]
                    self._checkouts_of_the_dead += seen
                else:
                    self._alive[serial] = (ref, max(seen, checkouts_of(pool)))

    @property
    def checkouts(self) -> int:
        """Checkouts seen so far, a lower bound."""
        return self._checkouts_of_the_dead + sum(seen for _, seen in self._alive.values())

    def total(self, maker: str, role: str) -> int:
        """Count the objects of one role made of one side's classes."""
        return sum(n for (who, what, _), n in self.made.items() if (who, what) == (maker, role))

    def as_dict(self) -> dict[str, Any]:
        """Return the proof as plain JSON values."""
        cpool = sys.modules.get("cpool")
        return {
            "cpool": {name: getattr(cpool, name, None) for name in ("__version__", "__file__")},
            "checkouts": self.checkouts,
            "fast_path": fast_path_counts(),
            "names_rebound": self.names_rebound,
            "replaced": sorted(original.__name__ for original in self.pairs),
            "not_replaced": self.missing,
            "plain_pools": self.plain_pools,
            "made": [[*key, n] for key, n in sorted(self.made.items())],
        }


def fast_path_counts() -> dict[str, int]:
    """Return how often cpool's clients took the compiled call, and why they did not."""
    stats = importlib.import_module("cpool").fast_path.stats()
    return {"taken": stats.taken, **stats.refused}


def checkouts_of(pool: Any) -> int:
    """Return a pool's own count of checkouts; 0 if a test left it unable to tell."""
    try:
        return int(pool.stats().checkouts)
    except Exception:
        return 0


def where_made() -> str:
    """Name the running test and the lines that led to the constructor, innermost last."""
    stack = [frame for frame in traceback.extract_stack()[:-2] if frame.filename != __file__]
    lines = " > ".join(f"{Path(f.filename).name}:{f.lineno}" for f in stack[-3:])
    return f"{os.environ.get('PYTEST_CURRENT_TEST', 'no test')}: {lines}"


def install(configuration: str) -> Proof:
    """Replace the classes of a configuration everywhere and start counting."""
    swaps = CONFIGURATIONS[configuration]
    pairs, missing = pairs_of(swaps)
    proof = Proof(pairs, missing)
    roles = {swap.name: swap.role for swap in swaps}
    for original, replacement in pairs.items():
        proof.watch(original, roles[original.__name__])
        proof.watch(replacement, roles[original.__name__])
    proof.names_rebound = rewrite_loaded_modules(pairs)
    return proof


# -- pytest ----------------------------------------------------------------------------------


class ProofWriter:
    """Samples the proof after each test and writes it down now and then and at the end."""

    def __init__(self, proof: Proof, emit: Callable[..., None]) -> None:
        self._proof = proof
        self._emit_event = emit
        self._tests = 0

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, Any, Any]:
        try:
            return (yield)
        finally:
            # Before teardown: the fixtures' pools are still alive.
            self._proof.sample()

    def pytest_runtest_logfinish(self) -> None:
        self._tests += 1
        if self._tests % TESTS_PER_PROOF == 0:
            self._emit()

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        self._proof.sample()
        self._emit()

    def _emit(self) -> None:
        self._emit_event("proof", **self._proof.as_dict())

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        proof = self._proof
        terminalreporter.section("cpool in the place of redis-py")
        for maker in ("cpool", "redis-py"):
            pools, connections = (proof.total(maker, role) for role in ("pool", "connection"))
            terminalreporter.write_line(f"{maker}: {pools} pools, {connections} connections made")
        terminalreporter.write_line(f"checkouts from cpool's pools: at least {proof.checkouts}")
        if proof.missing:
            terminalreporter.write_line(f"left as redis-py's: {', '.join(proof.missing)}")


def pytest_configure(config: pytest.Config) -> None:
    events = config.pluginmanager.get_plugin("suite_events")
    if PROOF is not None and events is not None:
        config.pluginmanager.register(ProofWriter(PROOF, events.emit), "suite-proof-writer")


# At import, because a conftest may take the classes before any hook is called.
_CONFIGURATION = os.environ.get("REDIS_SUITE_SWAP")
PROOF = install(_CONFIGURATION) if _CONFIGURATION else None
