"""Wraps redis-py's methods as a tracing tool does that is loaded before cpool, then works.

Run as `python -m tests.connection.wrapped_first_script HOST PORT WITH`; WITH is "functools" for
wrappers that tell what they wrap, "closure" for such as do not, or "equal" for objects that are
equal to what they wrap, as wrapt's are. Prints which of the methods were seen, as JSON.
"""

from __future__ import annotations

import functools
import json
import sys
from typing import Any

import redis.connection
import redis.retry

WRAPPED = {
    redis.connection.AbstractConnection: (
        "send_command",
        "send_packed_command",
        "read_response",
        "can_read",
        "connect",
        "re_auth",
        "check_health",
    ),
    redis.connection.ConnectionPool: ("owns_connection",),
    redis.retry.Retry: ("call_with_retry",),
}
seen: set[str] = set()


def wrap(owner: type, name: str, like: str) -> None:
    """Put a function in a method's place that notes the call and passes it on."""
    function = getattr(owner, name)

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.add(name)
        return function(*args, **kwargs)

    setattr(owner, name, WRAPPERS[like](function)(watched))


class Equal(functools.partial):  # type: ignore[type-arg]
    """A method that is equal to what it wraps."""

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __eq__(self, other: object) -> bool:
        return bool(self.__wrapped__ == other)

    def __hash__(self) -> int:
        return hash(self.__wrapped__)


WRAPPERS: dict[str, Any] = {
    "functools": functools.wraps,
    "closure": lambda function: lambda watched: watched,
    "equal": lambda function: lambda watched: functools.update_wrapper(Equal(watched), function),
}


def main(host: str, port: str, like: str) -> None:
    for owner, names in WRAPPED.items():
        for name in names:
            wrap(owner, name, like)

    import cpool

    client = redis.Redis(connection_pool=cpool.ConnectionPool(host=host, port=int(port)))
    client.ping()
    seen.clear()  # from here on a connection that is there is used again
    assert client.echo("x") in (b"x", "x")
    print(json.dumps({"seen": sorted(seen), "wrapped": sorted(sum(WRAPPED.values(), ()))}))


if __name__ == "__main__":
    main(*sys.argv[1:])
