"""What the doctor knows of this process: interpreter, modules, patches, switches."""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import importlib.resources
import json
import os
import platform
import sys
import sysconfig
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import redis
import redis.retry

import cpool
from cpool.tools.doctor.wrappers import Wrapped, wrapped_methods
from cpool.tools.machine import version_of

__all__ = ["Green", "Interpreter", "Module", "Process"]

# The module that knows what was patched, its function that tells, its name for locks.
_PATCHERS = {
    "gevent": ("gevent.monkey", "is_module_patched", "threading"),
    "eventlet": ("eventlet.patcher", "is_monkey_patched", "thread"),
}
PACKAGE = Path(str(importlib.resources.files("cpool")))


@dataclass(frozen=True)
class Interpreter:
    """What this Python does about its global lock."""

    free_threaded: bool
    """Whether it was built to run without the GIL."""
    gil_enabled: bool
    """Whether the GIL is on at this moment."""
    gil_asked: str | None = None
    """What PYTHON_GIL or -X gil says: "1" on, "0" off; None: nothing."""

    @classmethod
    def here(cls) -> Interpreter:
        """Ask this Python."""
        is_gil_enabled: Any = getattr(sys, "_is_gil_enabled", lambda: True)  # since 3.13
        return cls(
            free_threaded=bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
            gil_enabled=is_gil_enabled(),
            gil_asked=str(sys._xoptions.get("gil") or os.environ.get("PYTHON_GIL") or "") or None,
        )


@dataclass(frozen=True)
class Module:
    """One of cpool's compiled modules."""

    name: str
    suffix: str
    """The ending of its file, which names the Python it was built for."""
    directory: str
    """That of its file."""
    is_stale: bool = False
    """Whether its sources, where there are some beside the package, are younger."""


@dataclass(frozen=True)
class Green:
    """gevent or eventlet in this process."""

    library: str
    patched: bool
    """Whether its sockets are in the place of Python's."""
    late: bool | None
    """Whether redis-py was imported before that; None: it can't be told."""
    locks_patched: bool
    """Whether its locks are in the place of Python's."""


@dataclass(frozen=True)
class Process:
    """Everything the checks of the process look at."""

    interpreter: Interpreter
    cpool_version: str
    modules: tuple[Module, ...]
    imported_from: str
    """The directory that holds the package."""
    installed_in: str | None
    """Where the installed distribution has it, whose version is told; None: can't be told."""
    stranger: bool
    """Whether another project's distribution named "cpool" is installed."""
    redis_py: str
    hiredis: str | None
    """The version of hiredis where redis-py has imported it."""
    other_extensions: tuple[str, ...]
    """Packages besides cpool and hiredis that have brought compiled modules."""
    green: tuple[Green, ...]
    wrapped: tuple[Wrapped, ...]
    metrics_on: bool
    """Whether redis-py's own metrics are collected."""
    fast_path_enabled: bool
    fast_path_variable: str | None
    """What CPOOL_FAST_PATH is in the environment."""
    taken: int
    """Commands that were one compiled call, until the examination began."""
    refused: dict[str, int]
    """Those that were not, by reason."""
    installed: bool
    """Whether cpool.install() has replaced redis-py's classes."""

    @classmethod
    def look(cls) -> Process:
        """Look at this process."""
        stats = cpool.fast_path.stats()
        return cls(
            interpreter=Interpreter.here(),
            cpool_version=cpool.__version__,
            modules=compiled_modules(PACKAGE),
            imported_from=str(PACKAGE.resolve().parent),
            installed_in=_installed_in(),
            stranger=version_of("cpool") != "not installed",
            redis_py=redis.__version__,
            hiredis=version_of("hiredis") if "hiredis" in sys.modules else None,
            other_extensions=_other_extensions(),
            green=_green(),
            wrapped=wrapped_methods(),
            metrics_on=_metrics_on(),
            fast_path_enabled=cpool.fast_path.is_enabled(),
            fast_path_variable=os.environ.get("CPOOL_FAST_PATH"),
            taken=stats.taken,
            refused={reason: n for reason, n in stats.refused.items() if n},
            installed=redis.Redis is cpool.Redis,
        )

    def facts(self) -> dict[str, Any]:
        """Return what to show of it."""
        return {
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "system": f"{platform.system()} {platform.machine()}",
            "free_threaded_build": self.interpreter.free_threaded,
            "gil": "on" if self.interpreter.gil_enabled else "off",
            "cpool": self.cpool_version,
            "imported_from": self.imported_from,
            "compiled_modules": [each.name for each in self.modules],
            "compiled_for": sorted({each.suffix for each in self.modules}),
            "redis_py": self.redis_py,
            "hiredis": self.hiredis,
            "green_libraries": [asdict(green) for green in self.green],
            "wrapped_methods": summary(self.wrapped),
            "redis_py_metrics": self.metrics_on,
            "cpool_install": self.installed,
            "fast_path": "on" if self.fast_path_enabled else "off",
            "commands_compiled": self.taken,
            "commands_by_redis_py": self.refused,
        }


def summary(wrapped: tuple[Wrapped, ...]) -> dict[str, list[str]]:
    """Return the wrapped methods by who wraps them; of very many only the first."""
    most = 8
    found: dict[str, list[str]] = {}
    for each in sorted(wrapped, key=lambda each: not each.closes):
        found.setdefault(each.by, []).append(each.method)
    for methods in found.values():
        if len(methods) > most:
            methods[most:] = [f"and {len(methods) - most} more"]
    return found


def compiled_modules(package: Path) -> tuple[Module, ...]:
    """Return cpool's compiled modules that are loaded, wherever they come from."""
    origins = {
        name.partition(".")[2]: Path(str(module.__file__))
        for name, module in sorted(sys.modules.items())
        if name.startswith("cpool.") and _is_extension(module)
    }
    sources = package.parent / "src" / "cpool"
    # A C file is part of some modules only: those must be younger, whichever they are.
    c_is_younger = _youngest_s(sources, "*.c") > max(map(_mtime_s, origins.values()), default=0)
    return tuple(
        Module(
            name,
            origin.name.removeprefix(name),
            str(origin.parent.resolve()),
            c_is_younger or _youngest_s(sources, f"{name}.pyx", "*.pxd", "*.h") > _mtime_s(origin),
        )
        for name, origin in origins.items()
    )


def _is_extension(module: Any) -> bool:
    file = str(getattr(module, "__file__", None))
    return file.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES))


def _youngest_s(directory: Path, *patterns: str) -> float:
    """Return when the youngest of some files was changed; 0 where there are none."""
    found = (path for pattern in patterns for path in directory.glob(pattern))
    return max(map(_mtime_s, found), default=0)


def _mtime_s(path: Path) -> float:
    return path.stat().st_mtime


def _installed_in() -> str | None:
    """Return the directory that the distribution's metadata means by "cpool"."""
    try:
        distribution = importlib.metadata.distribution("redis-cpool")
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in distribution.files or ():
        if file.as_posix() == "cpool/__init__.py":
            return str(Path(str(distribution.locate_file(file))).resolve().parents[1])
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if not origin.get("dir_info", {}).get("editable"):
        return None
    return str(Path(url2pathname(urlsplit(origin["url"]).path)).resolve())


def _other_extensions() -> tuple[str, ...]:
    """Name the packages, but Python's own, whose compiled modules are imported."""
    loaded = list(sys.modules.items())
    found = {name.partition(".")[0] for name, module in loaded if _is_extension(module)}
    return tuple(sorted(found - {"cpool", "hiredis"} - sys.stdlib_module_names))


def _green() -> tuple[Green, ...]:
    return tuple(_patches_of(each) for each in _PATCHERS if each in sys.modules)


def _patches_of(library: str) -> Green:
    module, function, locks = _PATCHERS[library]
    is_patched = getattr(sys.modules.get(module), function, lambda name: False)
    late = None
    if is_patched("socket") and is_patched("time"):
        # redis-py keeps the sleep() that there was when it was imported.
        late = vars(redis.retry)["sleep"] is not time.sleep
    return Green(library, is_patched("socket"), late, is_patched(locks))


def _metrics_on() -> bool:
    providers = sys.modules.get("redis.observability.providers")  # since redis-py 7.2
    return providers is not None and (
        providers.get_observability_instance().get_provider_manager() is not None
    )
