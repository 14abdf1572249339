"""Options: checks with errors that name the option, and the casts of URL queries."""

from __future__ import annotations

import builtins
import inspect
import queue
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlparse

import redis.connection
import redis.exceptions
from redis.connection import ConnectionPool as _RedisPool  # the original, whoever replaces it

from cpool.connection import Connection, SSLConnection, UnixDomainSocketConnection

# redis-py's own connection classes stand for ours, wherever they come from: a URL's
# scheme, Redis(ssl=True), a keyword that names the default.
_OURS = {
    redis.connection.Connection: Connection,
    redis.connection.SSLConnection: SSLConnection,
    redis.connection.UnixDomainSocketConnection: UnixDomainSocketConnection,
}


class ConnectionKwargs(dict[str, Any]):
    """A pool's connection arguments. redis-py's vector sets look `decode_responses` up
    without asking whether it was given."""

    def __missing__(self, key: str) -> Any:
        if key == "decode_responses":
            return False
        raise KeyError(key)


def connection_class(given: Any, kwargs: dict[str, Any]) -> Any:
    """Return the class to use: ours for redis-py's three, any other as it is."""
    try:
        ours = _OURS.get(given, given)
    except TypeError:  # unhashable: a callable of somebody's making
        ours = given
    if kwargs.pop("ssl", False) and ours is Connection:
        return SSLConnection
    return ours


def max_connections(given: Any) -> int:
    """Return the limit: redis-py's default for None or 0, its error for nonsense."""
    return live_max_connections(given or _DEFAULT_MAX_CONNECTIONS)


def live_max_connections(limit: Any) -> int:
    """Return the limit of a live pool, where 0 means that no connection may be made."""
    if not isinstance(limit, int) or limit < 0:
        raise ValueError('"max_connections" must be a positive integer')
    return limit


# What the installed redis-py allows when nothing is said.
_DEFAULT_MAX_CONNECTIONS = int(_RedisPool().max_connections)


def one_of(option: str, value: Any, allowed: tuple[str, ...]) -> Any:
    """Return a value that must be one of a few words."""
    if value not in allowed:
        raise ValueError(f'"{option}" must be one of {", ".join(allowed)}; not {value!r}')
    return value


def text_or_none(option: str, value: Any) -> str | None:
    """Return a value that must be a str or None."""
    if value is not None and not isinstance(value, str):
        raise ValueError(f'"{option}" must be a string or None')
    return value


def seconds_or_none(option: str, value: Any) -> float | None:
    """Return a time in seconds, which must not be negative; None is for ever."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is not None and not (number and value >= 0):
        raise ValueError(f'"{option}" must be a number of seconds >= 0, or None to wait for ever')
    return value  # type: ignore[no-any-return]


def age_or_none(option: str, value: Any) -> float | None:
    """Return an age in seconds, more than 0; None is any age."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is not None and not (number and value > 0):
        raise ValueError(f'"{option}" must be a number of seconds > 0, or None for no limit')
    return value  # type: ignore[no-any-return]


def count_or_none(option: str, value: Any, least: int = 0) -> int | None:
    """Return a count, which must not be less than that; None is any number."""
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**32:
        raise ValueError(f'"{option}" must be an integer from {least} to 4294967295, or None')
    return value


def min_idle(value: Any, max_connections: int) -> int:
    """Return how many idle connections to keep ready, which the pool must have room for."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= max_connections:
        allowed = f"from 0 to max_connections, which is {max_connections}"
        raise ValueError(f'"min_idle" must be an integer {allowed}')
    return value


def dial_timeout_s(kwargs: dict[str, Any]) -> float | None:
    """Return how long connections with these arguments may dial, by redis-py's rules."""
    known = inspect.signature(redis.connection.AbstractConnection.__init__).parameters
    for name in ("socket_connect_timeout", "socket_timeout"):
        seconds = kwargs.get(name, known[name].default)
        if seconds is not None:
            return float(seconds)
    return None


def order_of(queue_class: Any) -> str:
    """Return the order that a queue class of the standard library stands for."""
    if queue_class is queue.LifoQueue or _is_subclass(queue_class, queue.LifoQueue):
        return "lifo"
    if queue_class is queue.Queue:
        return "fifo"
    raise ValueError('"queue_class" must be queue.LifoQueue or queue.Queue')


def _is_subclass(given: Any, base: type) -> bool:
    return inspect.isclass(given) and issubclass(given, base)


def _integer_or_none(value: str) -> int | None:
    return None if value.lower() == "none" else int(value)


def _number_or_none(value: str) -> float | None:
    return None if value.lower() == "none" else float(value)


def _error_classes(value: str) -> list[type[BaseException]]:
    """Names of exceptions, separated by commas: redis-py's, else Python's own."""
    found: list[type[BaseException]] = []
    for name in filter(None, (part.strip() for part in value.split(","))):
        error = getattr(redis.exceptions, name, None) or getattr(builtins, name, None)
        if error is None or not _is_subclass(error, BaseException):
            raise ValueError(name)
        found.append(error)
    return found


# What redis-py passes on as a string, or takes apart into letters.
_QUERY_CASTS: dict[str, Callable[[str], Any]] = {
    "decode_responses": redis.connection.to_bool,
    "retry_on_error": _error_classes,
    "ssl_validate_ocsp": redis.connection.to_bool,
    "ssl_validate_ocsp_stapled": redis.connection.to_bool,
    "max_waiting": _integer_or_none,
    "min_idle": int,
    "max_connecting": _integer_or_none,
    "max_idle_time": _number_or_none,
    "max_lifetime": _number_or_none,
    "max_bulk_bytes": int,
    "max_nesting_depth": int,
    "socket_type": int,
}


def cast_query(url: str) -> dict[str, Any]:
    """Return the options of a URL's query string that redis-py leaves uncast."""
    cast: dict[str, Any] = {}
    for option, values in parse_qs(urlparse(url).query).items():
        if option in _QUERY_CASTS and values:
            try:
                cast[option] = _QUERY_CASTS[option](values[0])
            except (TypeError, ValueError):
                raise ValueError(f"Invalid value for '{option}' in connection URL.") from None
    return cast
