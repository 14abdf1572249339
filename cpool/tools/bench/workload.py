"""What the benchmark sends: a mix of commands on a bounded number of keys that expire."""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import redis

ELEMENTS = 10
MOST_KEYS = 1000  # of each type
MOST_BYTES = 16 << 20  # of all values of one type
BATCH = 100
DELETE_ATTEMPTS = 5
FEWEST_SCHEDULED = 1000

T = TypeVar("T")
Operation = tuple[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Workload:
    """The settings of what is sent.

    mix: weights by the commands' names; value_bytes: size of a value; depth: commands in a
    pipeline, 1 without; ttl_s: the life of the keys, all of which begin with `prefix`.
    """

    mix: dict[str, int]
    value_bytes: int
    depth: int
    prefix: str
    ttl_s: int

    def key(self, family: str, number: int) -> str:
        """Name a key. All share a hash tag: a node of a cluster has either all or none."""
        return f"{{{self.prefix}}}:{family}:{number}"

    def key_count(self, family: str) -> int:
        """Tell how many keys of a type there are."""
        size = 8 if family == "counter" else self.value_bytes
        return max(1, min(MOST_KEYS, MOST_BYTES // size))

    def value(self, number: int) -> bytes:
        """Make the value that belongs to a key: replies meant for others are found out."""
        return (b"%d." % number).ljust(self.value_bytes, b"x")[: self.value_bytes]

    def element(self, number: int) -> bytes:
        """Make the element of a hash or list; ELEMENTS of them are about one value."""
        return self.value(number)[: max(1, self.value_bytes // ELEMENTS)]

    def families(self) -> list[str]:
        """Name the types of keys that the mix needs."""
        return sorted({COMMANDS[name].family for name in self.mix} - {""})

    def keys(self) -> list[str]:
        """Name all keys."""
        return [
            self.key(family, number)
            for family in self.families()
            for number in range(self.key_count(family))
        ]


@dataclass(frozen=True)
class Command:
    """One command of a mix: its arguments for a key's number, and the reply it must get."""

    help: str
    family: str
    arguments: Callable[[Workload, int], tuple[Any, ...]]
    reply: Callable[[Workload, int], Any]


def _several(load: Workload, first: int) -> list[int]:
    """Number the keys of an MGET."""
    return [(first + i) % load.key_count("string") for i in range(ELEMENTS)]


COUNT = object()  # in place of a reply: any whole number from 1 on

COMMANDS = {
    "ping": Command("PING", "", lambda load, i: (), lambda load, i: True),
    "get": Command(
        "GET a value",
        "string",
        lambda load, i: (load.key("string", i),),
        lambda load, i: load.value(i),
    ),
    "set": Command(
        "SET a value, with EX",
        "string",
        lambda load, i: (load.key("string", i), load.value(i), load.ttl_s),
        lambda load, i: True,
    ),
    "mget": Command(
        f"MGET {ELEMENTS} values",
        "string",
        lambda load, i: ([load.key("string", j) for j in _several(load, i)],),
        lambda load, i: [load.value(j) for j in _several(load, i)],
    ),
    "incr": Command(
        "INCR a counter",
        "counter",
        lambda load, i: (load.key("counter", i),),
        lambda load, i: COUNT,
    ),
    "hset": Command(
        f"HSET one of {ELEMENTS} fields",
        "hash",
        lambda load, i: (load.key("hash", i), "0", load.element(i)),
        lambda load, i: 0,
    ),
    "hgetall": Command(
        f"HGETALL {ELEMENTS} fields, one value together",
        "hash",
        lambda load, i: (load.key("hash", i),),
        lambda load, i: {b"%d" % j: load.element(i) for j in range(ELEMENTS)},
    ),
    "lmove": Command(
        f"LMOVE from the head to the tail of a list of {ELEMENTS}",
        "list",
        lambda load, i: (load.key("list", i), load.key("list", i), "LEFT", "RIGHT"),
        lambda load, i: load.element(i),
    ),
    "lrange": Command(
        f"LRANGE {ELEMENTS} elements, one value together",
        "list",
        lambda load, i: (load.key("list", i), 0, -1),
        lambda load, i: [load.element(i)] * ELEMENTS,
    ),
}


def parse_mix(text: str) -> dict[str, int]:
    """Read "get=90,set=10": commands with their weights; a bare name has the weight 1.

    Raises argparse.ArgumentTypeError.
    """
    mix: dict[str, int] = {}
    for part in text.split(","):
        name, _, weight = (word.strip().lower() for word in part.partition("="))
        if name not in COMMANDS:
            raise argparse.ArgumentTypeError(
                f"{name!r} is none of the commands: {', '.join(COMMANDS)}"
            )
        if name in mix:
            raise argparse.ArgumentTypeError(f"{name} is named twice")
        mix[name] = _weight(name, weight if "=" in part else "1")
    return mix


def _weight(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:10]) <= 1_000_000):
        raise argparse.ArgumentTypeError(
            f"the weight of {name} must be a whole number from 1 to 1000000; not {text!r}"
        )
    return int(text)


# -- keys -------------------------------------------------------------------------------


def seed(client: redis.Redis, load: Workload) -> None:
    """Write all keys anew, so that each measurement begins with the same data.

    In transactions: whenever we are killed, no key is left without its time to live.
    """
    for family in load.families():
        for numbers in _batches(range(load.key_count(family))):
            with client.pipeline(transaction=True) as pipe:
                for number in numbers:
                    SEEDERS[family](pipe, load, number)
                pipe.execute()


def _seed_string(pipe: Any, load: Workload, number: int) -> None:
    pipe.set(load.key("string", number), load.value(number), ex=load.ttl_s)


def _seed_counter(pipe: Any, load: Workload, number: int) -> None:
    pipe.set(load.key("counter", number), 0, ex=load.ttl_s)


def _seed_hash(pipe: Any, load: Workload, number: int) -> None:
    key = load.key("hash", number)
    fields = {str(j): load.element(number) for j in range(ELEMENTS)}
    pipe.delete(key).hset(key, mapping=fields).expire(key, load.ttl_s)


def _seed_list(pipe: Any, load: Workload, number: int) -> None:
    key = load.key("list", number)
    elements = [load.element(number)] * ELEMENTS
    pipe.delete(key).rpush(key, *elements).expire(key, load.ttl_s)


SEEDERS = {
    "string": _seed_string,
    "counter": _seed_counter,
    "hash": _seed_hash,
    "list": _seed_list,
}


def remove(client: redis.Redis, load: Workload) -> None:
    """Remove all keys.

    A killed process may have commands on their way, which write a key again: so until
    nothing is found.
    """
    for _ in range(DELETE_ATTEMPTS):
        if not sum(client.delete(*batch) for batch in _batches(load.keys())):
            return


def _batches(whole: Sequence[T]) -> Iterator[Sequence[T]]:
    for first in range(0, len(whole), BATCH):
        yield whole[first : first + BATCH]


# -- what is called ---------------------------------------------------------------------


@dataclass(frozen=True)
class Scheduled:
    """One call of the schedule: a command or a pipeline's commands, and how to judge it."""

    operations: tuple[Operation, ...]
    numbers: tuple[int, ...]


def schedule(load: Workload, seed_number: int = 0) -> list[Scheduled]:
    """Draw the calls to be repeated; equal seeds give equal schedules."""
    draw = random.Random(seed_number)
    values = _Shared(load)
    calls = max(1, math.ceil(FEWEST_SCHEDULED / load.depth))
    return [_scheduled(load, values, draw) for _ in range(calls)]


class _Shared:
    """Hold each value once, however often it is sent."""

    def __init__(self, load: Workload) -> None:
        self.load = load
        self.operations: dict[tuple[str, int], Operation] = {}

    def operation(self, name: str, number: int) -> Operation:
        if (name, number) not in self.operations:
            arguments = COMMANDS[name].arguments(self.load, number)
            self.operations[name, number] = (name, arguments)
        return self.operations[name, number]


def _scheduled(load: Workload, shared: _Shared, draw: random.Random) -> Scheduled:
    names = draw.choices(list(load.mix), list(load.mix.values()), k=load.depth)
    numbers = [draw.randrange(load.key_count(COMMANDS[name].family)) for name in names]
    operations = map(shared.operation, names, numbers)
    return Scheduled(tuple(operations), tuple(numbers))


class WrongReply(Exception):
    """A reply is not what it must be."""


def check_replies(load: Workload, call: Scheduled, replies: list[Any]) -> None:
    """Raise WrongReply, without the reply's text: it may be somebody else's data."""
    for (name, _), number, reply in zip(call.operations, call.numbers, replies, strict=True):
        expected, got = COMMANDS[name].reply(load, number), _as_bytes(reply)
        is_count = isinstance(got, int) and got >= 1
        if not (is_count if expected is COUNT else got == expected):
            raise WrongReply(f"to {name.upper()}, of type {type(reply).__name__}")


def _as_bytes(reply: Any) -> Any:
    """Return a reply as it is without decode_responses."""
    if isinstance(reply, str):
        return reply.encode()
    if isinstance(reply, list):
        return [_as_bytes(one) for one in reply]
    if isinstance(reply, dict):
        return {_as_bytes(key): _as_bytes(value) for key, value in reply.items()}
    return reply
