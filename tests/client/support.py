"""What the client tests share: one scenario, asked of redis-py's client and of ours."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import cpool
from cpool import fast_path

LIBRARIES = (redis, cpool)
ARGUMENTS = inspect.signature(redis.Redis.__init__).parameters
HAS_LEGACY_RESPONSES = "legacy_responses" in ARGUMENTS  # redis-py 8
HAS_RECONNECT = hasattr(redis.connection.AbstractConnection, "mark_for_reconnect")  # 7
HAS_BYTEARRAYS = HAS_LEGACY_RESPONSES  # as arguments


def typed(value: Any) -> Any:
    """Return what tells a value from all others, the types inside it included."""
    if isinstance(value, BaseException):
        return type(value), str(value)
    if isinstance(value, dict):
        return type(value), [(typed(k), typed(v)) for k, v in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [typed(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(repr(typed(item)) for item in value)
    return type(value), repr(value)


def outcome_of(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call, and return what was returned or raised: type, text and cause."""
    try:
        return "returned", typed(call(*args, **kwargs))
    except BaseException as error:
        text = re.sub(r"(?<=Timeout reading from )\S+:\d+", "socket", str(error))  # before 8
        return "raised", type(error), text, type(error.__cause__)


def outcomes_of(client: Any, *commands: tuple[Any, ...]) -> list[Any]:
    """Run commands, and return each with what came of it."""
    return [(args, outcome_of(client.execute_command, *args)) for args in commands]


def no_retry(retries: int = 0, **options: Any) -> Retry:
    """Return a policy that does not wait."""
    return Retry(NoBackoff(), retries, **options)


def both(server: Any, scenario: Callable[..., Any], **options: Any) -> Any:
    """Run `scenario(client)` on each library's client and an empty database; assert that
    it returns the same, and return that."""
    results = []
    for library in LIBRARIES:
        with client_of(library, server, **options) as client:
            client.flushall()
            results.append(scenario(client))
    theirs, ours = results
    assert ours == theirs, difference(theirs, ours)
    return ours


def difference(theirs: Any, ours: Any) -> str:
    """Describe the first place where two results differ."""
    if isinstance(theirs, (list, tuple)) and isinstance(ours, (list, tuple)):
        if len(theirs) == len(ours):
            a, b = next((a, b) for a, b in zip(theirs, ours, strict=True) if a != b)
            return difference(a, b) + (f"\nin {theirs!r:.300}" if len(theirs) < 5 else "")
    return f"redis-py: {theirs!r:.300}\ncpool:    {ours!r:.300}"


@contextlib.contextmanager
def client_of(library: Any, server: Any, **options: Any) -> Iterator[Any]:
    """Give a client whose pool is closed at the end."""
    address = {"host": server.host, "port": server.port}
    client = library.Redis(**{**address, "retry": no_retry(), **options})
    try:
        yield client
    finally:
        client.connection_pool.disconnect()


@contextlib.contextmanager
def counted() -> Iterator[Callable[[], dict[str, int]]]:
    """Give a function that tells what was counted since the beginning, zeros left out."""
    before = {"taken": fast_path.stats().taken, **fast_path.stats().refused}

    def difference() -> dict[str, int]:
        now = {"taken": fast_path.stats().taken, **fast_path.stats().refused}
        return {why: n - before[why] for why, n in now.items() if n != before[why]}

    yield difference


def counts_of(pool: Any) -> tuple[int, int]:
    """Return how many connections of a pool are idle and how many are lent."""
    return len(pool._available_connections), len(pool._in_use_connections)


def asked(server: Any, name: str) -> int:
    """Return how often a fake server was asked for a command, on all its connections."""
    batches = [batch for connection in server.connections for batch in connection]
    return sum(words[0] == name.encode() for batch in batches for words in batch)


def note(seen: list[Any], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function, to be a method, that notes its calls and passes them on."""

    def noting(*args: Any, **kwargs: Any) -> Any:
        seen.append(name)
        return function(*args, **kwargs)

    return noting


def that_notes(cls: Any, seen: list[Any], *names: str) -> Any:
    """Return a subclass that notes the calls of these methods."""
    return type("Noting", (cls,), {name: note(seen, name, getattr(cls, name)) for name in names})
