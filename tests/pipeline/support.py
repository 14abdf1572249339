"""Three clients, one scenario: redis-py's pipeline is the oracle, ours must agree.

"redis-py" is a redis.Redis on redis-py's pool, "on our pool" the same on ours, "cpool" a
cpool.Redis, whose pipelines are one compiled exchange.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis

import cpool
from cpool import fast_path
from tests.wire.peer import Wire

KINDS = ("redis-py", "on our pool", "cpool")
HAS_LEGACY_RESPONSES = "legacy_responses" in inspect.signature(redis.Redis).parameters
Scenario = Callable[[Any, Any], Any]


def make_client(kind: str, address: dict[str, Any], **options: Any) -> redis.Redis:
    """Make a client of one kind; who has made it closes it."""
    if kind == "cpool":
        return cpool.Redis(**address, **options)
    client = redis.Redis(**address, **options)
    if kind == "on our pool":
        theirs = client.connection_pool
        client.connection_pool = cpool.ConnectionPool(**_for_our_pool(theirs))
    return client


def _for_our_pool(pool: Any) -> dict[str, Any]:
    """redis-py's pool's options, with our class of connections in place of redis-py's."""
    ours = getattr(cpool, pool.connection_class.__name__)
    return {"connection_class": ours, **pool.connection_kwargs}


def plain(value: Any) -> Any:
    """What can be compared of a value: an error's class and arguments."""
    if isinstance(value, BaseException):
        return (type(value), value.args)
    if isinstance(value, (list, tuple)):  # hiredis has a list of its own for pushes
        kind = "list" if isinstance(value, list) else "tuple"
        return (kind, [plain(item) for item in value])
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return (type(value), repr(value) if isinstance(value, float) else value)


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returned or raised, comparable."""
    try:
        return plain(call())
    except Exception as error:
        return ("raised", plain(error))


def state_of(pipe: Any) -> tuple[Any, ...]:
    """What a pipeline shows of itself after the fact."""
    return (
        pipe.watching,
        pipe.connection is None,
        pipe.explicit_transaction,
        len(pipe),
        len(pipe.scripts),
    )


def dump_of(client: redis.Redis) -> dict[Any, Any]:
    """All data of a server."""
    keys = sorted(client.keys())
    pipe = client.pipeline(transaction=False)
    for key in keys:
        pipe.dump(key).ttl(key)
    values = pipe.execute()
    return {key: (values[2 * i], values[2 * i + 1] > 0) for i, key in enumerate(keys)}


def pipelines_taken() -> int:
    """How many compiled calls were made."""
    return fast_path.stats().taken


@dataclass(frozen=True)
class Told:
    """What came of a scenario."""

    value: Any
    state: Any
    data: Any
    connections: int


class Twins:
    """Runs scenarios on clients of each kind, and lets them agree."""

    def __init__(self, address: dict[str, Any]) -> None:
        self.address = address
        self.other = redis.Redis(**address)

    def close(self) -> None:
        """Close the client for looking on."""
        self.other.close()

    def agree(
        self,
        scenario: Scenario,
        transaction: bool | None = None,
        taken: int | None = 1,
        same_connections: bool = True,
        **options: Any,
    ) -> Any:
        """Run `scenario(client, pipe)` on each kind of client; what it returns or raises, the
        pipeline's state, the data and the connections made must be the same. transaction:
        None is both. taken: how many compiled calls cpool makes of it, None is any number.
        Return redis-py's value."""
        for mode in (False, True) if transaction is None else (transaction,):
            theirs, *ours = (self.tell(kind, scenario, mode, taken, options) for kind in KINDS)
            for told in ours:
                assert told.value == theirs.value
                assert told.state == theirs.state
                assert told.data == theirs.data
                assert told.connections == theirs.connections or not same_connections
        return theirs.value

    def tell(
        self, kind: str, scenario: Scenario, transaction: bool, taken: int | None, options: Any
    ) -> Told:
        """Run a scenario on one kind of client, on an empty database."""
        self.other.pipeline(transaction=False).flushall().script_flush().execute()
        with contextlib.closing(make_client(kind, self.address, **options)) as client:
            client.ping()
            made, calls = self._connections_made(), pipelines_taken()
            pipe = client.pipeline(transaction=transaction)
            value = outcome(lambda: scenario(client, pipe))
            calls = pipelines_taken() - calls
            assert kind != "cpool" or taken is None or calls == taken, (calls, value)
            state = state_of(pipe)
            data = dump_of(self.other)
            client.ping()
            return Told(value, state, data, self._connections_made() - made)

    def _connections_made(self) -> int:
        return int(self.other.info("stats")["total_connections_received"])


class OneConnection:
    """As much of a pool as a pipeline needs at its end."""

    def release(self, connection: Any) -> None:
        """Keep it: it is the test's."""


def open_link(wire: Wire, **options: Any) -> tuple[Any, Any]:
    """A pipeline on a connection whose server end is the test's."""
    link = wire.connect(cpool, **options)
    callbacks = redis.Redis().response_callbacks
    pipe = cpool.Pipeline(OneConnection(), callbacks, False, None)
    pipe.connection = link.conn
    return link, pipe


@contextlib.contextmanager
def switched_off() -> Iterator[None]:
    """Leave everything to redis-py's code for a while."""
    fast_path.disable()
    try:
        yield
    finally:
        fast_path.enable()


needs_legacy_responses = pytest.mark.skipif(
    not HAS_LEGACY_RESPONSES, reason="this redis-py has one way only"
)
