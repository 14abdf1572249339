"""How often a server executes an INCR whose connection breaks, by policy and implementation.

Each INCR has a key of its own and meets one fault: its reply is lost, or cut, or the command is.
All sides meet the same faults in the same order.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import redis

from cpool.tools.servers import EmbeddedServer
from tests.replay.support import CLIENTS, closing, no_wait
from tests.support.faultproxy import FaultProxy

COMMAND_BYTES = 20  # less than an INCR is long
REPLY_BYTES = 4  # of ":1", and CR LF


@dataclass
class Tally:
    """What came of each INCR: how often it was executed, and what the caller saw."""

    executed: list[int] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)

    @property
    def counts(self) -> Counter[int]:
        """How many were executed how often."""
        return Counter(self.executed)


@contextlib.contextmanager
def redis_pys(**options: Any) -> Iterator[Any]:
    """Give redis-py's own client on its own pool."""
    with closing(redis.Redis.from_pool(redis.ConnectionPool(**options))) as client:
        yield client


SIDES: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "redis-py": (redis_pys, {}),
    **{
        f"{kind}, {policy}": (make, {"retry_policy": policy})
        for policy in ("redis-py", "safe")
        for kind, make in CLIENTS.items()
    },
}
SAFE = [name for name, (_, options) in SIDES.items() if options.get("retry_policy") == "safe"]


def break_next(proxy: FaultProxy, chance: random.Random) -> None:
    """Let the next command's connection break, four times of five after its execution."""
    how = chance.choice(("close", "reset"))
    if chance.random() < 0.8:
        proxy.replies.cut_after(chance.randrange(REPLY_BYTES), how)  # type: ignore[arg-type]
    else:
        proxy.requests.cut_after(chance.randrange(COMMAND_BYTES), how)  # type: ignore[arg-type]


def count(side: str, server: EmbeddedServer, faults: int, seed: int) -> Tally:
    """Send one INCR per fault, with redis-py's Retry, and count what the server has done."""
    make, options = SIDES[side]
    tally, chance = Tally(), random.Random(seed)
    with contextlib.closing(redis.Redis(port=server.port)) as direct:
        direct.flushall()
        with FaultProxy((server.host, server.port)) as proxy:
            address = {"host": proxy.host, "port": proxy.port}
            with make(**address, **options, retry=no_wait()) as client:
                for number in range(faults):
                    client.ping()
                    break_next(proxy, chance)
                    tally.seen.append(outcome_of(client, f"n:{number:06}"))
        keys = [f"n:{number:06}" for number in range(faults)]
        tally.executed = [int(value or 0) for value in direct.mget(keys)]
    return tally


def outcome_of(client: Any, key: str) -> str:
    try:
        return str(client.incr(key))
    except redis.RedisError as error:
        return type(error).__name__
