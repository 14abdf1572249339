"""The format of the specification files, checked: what README.md says, as a table.

A key that is not in the table is an error, so that no expectation is overlooked.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.spec import implementations

DIRECTORY = Path(__file__).parent / "pool"

Check = Callable[[Any], bool]


class FormatError(ValueError):
    """A file says what the format has no place for."""


def _is(*types: type) -> Check:
    return lambda value: type(value) in types


def _one_of(*words: str) -> Check:
    return lambda value: value in words


def _list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _numbers(*names: str) -> Check:
    def check(value: Any) -> bool:
        return isinstance(value, dict) and value.keys() <= set(names) and all_numbers(value)

    def all_numbers(value: dict[str, Any]) -> bool:
        return all(map(_is(int), value.values()))

    return check


_TEXT, _NUMBER, _FLAG = _is(str), _is(int), _is(bool)
_DIAL = _one_of("accept", "refuse", "timeout")
NOW = (
    *("open", "idle", "in_use", "opening", "dialling", "waiting", "waiting_to_dial"),
    "max_connections",
)
TOTALS = (
    *("checkouts", "created", "failed_dials", "replaced", "discarded", "reclaimed"),
    *("closed_idle", "closed_old", "evictions", "waits", "timeouts", "refused"),
    *("wait", "use", "dial"),
)
_KINDS = sorted({kind for each in implementations.ALL.values() for kind in each.errors})

STATE: dict[str, Check] = {
    "stats": _numbers(*NOW),
    "totals": _numbers(*TOTALS),
    "connected": _list_of(_NUMBER),
    "dials": _NUMBER,
    "dials_under_way": _NUMBER,
    "most_dials_at_a_time": _NUMBER,
    "served": _list_of(_TEXT),
    "closed_to_callers": _FLAG,
}


def _is_state(value: Any) -> bool:
    _check_object("a state", value, {}, STATE)
    return bool(value)


def _are_operations(value: Any) -> bool:
    for operation in value:
        _check_operation(operation)
    return bool(value)


_LABEL, _OTHER = {"label": _TEXT}, {"pool": _TEXT}
_CONNECTION = {"connection": _NUMBER}
# By name: what an operation must say, and what it may say besides.
OPERATIONS: dict[str, tuple[dict[str, Check], dict[str, Check]]] = {
    "check_out": ({}, {**_LABEL, **_OTHER, **_CONNECTION}),
    "check_in": (_LABEL, _OTHER),
    "drop": (_LABEL, {}),
    "send": ({**_LABEL, "command": _TEXT}, {}),
    "exchange": ({**_LABEL, "command": _TEXT, "reply": _TEXT}, {}),
    "drain": ({}, {}),
    "resize": ({"max_connections": _NUMBER}, {}),
    "prewarm": ({}, {"n": _NUMBER, "result": _NUMBER}),
    "close": ({}, {"timeout": _is(int, float), "result": _FLAG}),
    "keep_house": ({}, {}),
    "set": ({"option": _one_of("timeout", "max_waiting"), "value": _is(int, float)}, {}),
    "interrupt": ({}, {}),
    "fork": ({"operations": _are_operations}, {"outcome": _is_state}),
    "wait_for_thread": ({"target": _TEXT}, {}),
    "wait_for": ({}, {"state": _is_state, "passed_ms": _NUMBER}),
    "check": ({"state": _is_state}, {}),
    "end_dial": ({"dial": _NUMBER, "outcome": _DIAL}, {}),
    "end_closing": ({}, {}),
    "server_closes": (_CONNECTION, {}),
    "server_sends": ({**_CONNECTION, "text": _TEXT}, {}),
    "server_counts_anew": ({}, {}),
}


def _is_error(value: Any) -> bool:
    _check_object("an error", value, {"kind": _one_of(*_KINDS)}, {"text": _TEXT})
    return True


def _check_operation(operation: Any) -> None:
    name = operation.get("name")
    if name not in OPERATIONS:
        raise FormatError(f"no operation is called {name!r}; there are {', '.join(OPERATIONS)}")
    must, may = OPERATIONS[name]
    common: dict[str, Check] = {"thread": _TEXT, "error": _is_error, "comment": _TEXT}
    _check_object(f"operation {name}", operation, {"name": _TEXT, **must}, {**may, **common})


def _is_server(value: Any) -> bool:
    dials = _list_of(_one_of("accept", "refuse", "timeout", "hang"))
    constructors = _list_of(_one_of("works", "raises"))
    may = {"dials": dials, "constructors": constructors, "closings": _list_of(_one_of("hang"))}
    _check_object("the server", value, {}, may)
    return True


def check(spec: Any) -> None:
    """Raise FormatError, which names the key, unless a file's content is as README.md says."""
    must = {
        "description": _TEXT,
        "pools": _list_of(_one_of("ConnectionPool", "BlockingConnectionPool")),
        "options": _is(dict),
        "operations": _are_operations,
        "outcome": _is_state,
    }
    also = _list_of(_one_of(*(each.name for each in implementations.REDIS_PY)))
    may = {"also": also, "server": _is_server, "valid_within_s": _is(int, float)}
    _check_object("the file", spec, must, may)


def _check_object(what: str, value: Any, must: dict[str, Check], may: dict[str, Check]) -> None:
    missing, unknown = must.keys() - value.keys(), value.keys() - must.keys() - may.keys()
    if missing or unknown:
        raise FormatError(f"{what}: missing {sorted(missing)}, unknown {sorted(unknown)}")
    for key, fits in {**must, **may}.items():
        if key in value and not fits(value[key]):
            raise FormatError(f"{what}: {key!r} may not be {value[key]!r}")


def load(name: str) -> Any:
    """Return a checked specification by the name of its file, without the ending."""
    spec = json.loads((DIRECTORY / f"{name}.json").read_text())
    check(spec)
    return spec


def pools_of(spec: Any) -> list[implementations.Implementation]:
    """Return what a specification is to be run on here."""
    ours = [f"cpool.{name}" for name in spec["pools"]]
    return [implementations.ALL[name] for name in [*ours, *spec.get("also", [])]]


def names() -> list[str]:
    """Return the names of all files, without the ending."""
    return sorted(path.stem for path in DIRECTORY.glob("*.json"))
