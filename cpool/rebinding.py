"""redis-py's own functions, run as if their module had other names: no copy of their code,
and no change of redis-py."""

from __future__ import annotations

import functools
import sys
from types import CellType, FunctionType
from typing import Any

__all__ = ["with_names"]


class _Scope(dict[str, Any]):
    """A module's names as they are at any moment, but for a few."""

    def __init__(self, names: dict[str, Any], function: Any) -> None:
        super().__init__(names, __builtins__=function.__globals__["__builtins__"])
        self._module = sys.modules[function.__module__]

    def __missing__(self, name: str) -> Any:
        return vars(self._module)[name]


def with_names(function: Any, names: dict[str, Any]) -> Any:
    """Return redis-py's function, its decorators included, as if its module had `names`."""
    inner = getattr(function, "__wrapped__", None)
    if inner is None:
        scope: dict[str, Any] = _Scope(names, function)
        closure = function.__closure__
    else:
        scope, ours = function.__globals__, CellType(with_names(inner, names))
        closure = tuple(
            ours if cell.cell_contents is inner else cell for cell in function.__closure__
        )
    made = FunctionType(function.__code__, scope, function.__name__, None, closure)
    made.__defaults__, made.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    return functools.update_wrapper(made, function if inner is None else ours.cell_contents)
