"""redis-py's own functions, which compiled code may stand in for while nobody else has."""

from __future__ import annotations

from types import FunctionType
from typing import Any

__all__ = ["original"]


def original(owner: Any, name: str) -> Any:
    """Return redis-py's function of that name, or None where there is none to be had.

    A tracing tool that was loaded before cpool may have put a wrapper in its place;
    to take that for redis-py's would hide every call from the tool."""
    function = getattr(owner, name, None)
    while not _is_redis_py(function):
        function = getattr(function, "__wrapped__", None)
        if function is None:
            return None
    return function


def _is_redis_py(function: Any) -> bool:
    if type(function) is not FunctionType:
        return False
    return str(function.__globals__.get("__name__")).partition(".")[0] == "redis"
