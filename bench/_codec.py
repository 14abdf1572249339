"""Packing and parsing without a server: cpool's codec beside those of the others.

To pack is one call on a tuple of arguments; to parse is feed() of one whole message and gets()
of its object. redis-py's own packer and parser are driven as its connection drives them, from a
socket object that hands out the same bytes. All must agree on each result before they are timed,
in short blocks that take turns in one process: nothing here waits for anybody else.
"""

from __future__ import annotations

import importlib
import random
import statistics
import time
from collections.abc import Callable
from itertools import repeat
from types import SimpleNamespace
from typing import Any

from _process import VALUE, BenchmarkFailed, Result, Task
from _sides import CPOOL, HIREDIS, LIBVALKEY, PURE

CODECS = (HIREDIS, LIBVALKEY, PURE, CPOOL)
SOCKET_READ_SIZE, BLOCK_S = 65536, 0.003

Block = Callable[[int], Any]


def bulk(value: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(value), value)


def aggregate(kind: bytes, parts: list[bytes], count: int | None = None) -> bytes:
    return b"%b%d\r\n" % (kind, len(parts) if count is None else count) + b"".join(parts)


def nested(depth: int) -> bytes:
    """Return arrays of a string, an integer and the next array."""
    inner = bulk(b"end")
    for level in range(depth):
        inner = aggregate(b"*", [bulk(b"level"), b":%d\r\n" % level, inner])
    return inner


def resp3() -> bytes:
    """Return a map of a double, a boolean, a null, an integer and a map."""
    values = [b",3.25\r\n", b"#t\r\n", b"_\r\n", b":12345678901\r\n"]
    values.append(aggregate(b"%", [bulk(b"a"), b":1\r\n", bulk(b"b"), b":2\r\n"], 2))
    fields = [part for i, v in enumerate(values) for part in (bulk(b"field:%d" % i), v)]
    return aggregate(b"%", fields, len(values))


PACKED: dict[str, tuple[Any, ...]] = {
    "pack GET": ("GET", "bench:key64"),
    "pack SET of 64 bytes": ("SET", "bench:key64", VALUE),
}
PARSED: dict[str, bytes] = {
    "parse 64 bytes": bulk(VALUE),
    "parse an integer": b":123456\r\n",
    "parse 1,000 elements": aggregate(b"*", [bulk(b"%016d" % i) for i in range(1000)]),
    "parse nested arrays": nested(20),
    "parse a RESP3 map": resp3(),
}


# ---- the contestants: a block does one message n times and returns the last result --------


def packers(arguments: tuple[Any, ...]) -> dict[str, Block]:
    theirs = importlib.import_module("redis.connection")
    pure = theirs.PythonRespSerializer(6000, theirs.Connection().encoder.encode)
    blocks = {
        HIREDIS: pack_tuple("hiredis", arguments),
        LIBVALKEY: pack_tuple("libvalkey", arguments),
        CPOOL: pack_tuple("cpool._resp", arguments),
    }
    return {name: b for name, b in blocks.items() if b} | {PURE: pack_pure(pure.pack, arguments)}


def pack_tuple(module: str, arguments: tuple[Any, ...]) -> Block | None:
    pack = getattr(import_or_none(module), "pack_command", None)

    def block(count: int) -> Any:
        for _ in repeat(None, count):
            packed = pack(arguments)
        return packed

    return block if pack is not None else None


def pack_pure(pack: Any, arguments: tuple[Any, ...]) -> Block:
    def block(count: int) -> Any:
        for _ in repeat(None, count):
            packed = pack(*arguments)
        return b"".join(packed)

    return block


def parsers(message: bytes) -> dict[str, Block]:
    modules = {HIREDIS: "hiredis", LIBVALKEY: "libvalkey", CPOOL: "cpool._resp"}
    found = {name: import_or_none(module) for name, module in modules.items()}
    blocks = {name: feed_and_get(m.Reader(), message) for name, m in found.items() if m}
    return blocks | {PURE: read_response(message)}


def import_or_none(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        return None


def feed_and_get(reader: Any, message: bytes) -> Block:
    def block(count: int) -> Any:
        feed, gets = reader.feed, reader.gets
        for _ in repeat(None, count):
            feed(message)
            reply = gets()
        return reply

    return block


def read_response(message: bytes) -> Block:
    """Return redis-py's Python parser reading the message from a socket that always has it."""
    connection = importlib.import_module("redis.connection").Connection()
    parser = importlib.import_module("redis._parsers")._RESP3Parser(
        socket_read_size=SOCKET_READ_SIZE
    )
    source = EndlessSocket(message)
    parser.on_connect(
        SimpleNamespace(_sock=source, socket_timeout=None, encoder=connection.encoder)
    )

    def block(count: int) -> Any:
        read = parser.read_response
        for _ in repeat(None, count):
            reply = read()
        return reply

    return block


class EndlessSocket:
    """Give out the same message at each receive."""

    def __init__(self, message: bytes) -> None:
        self.message = message

    def recv(self, size: int) -> bytes:
        return self.message


# ---- timing -------------------------------------------------------------------------------


def work(task: Task) -> Result:
    """Time all contestants on one case, in turns; return each one's result of this round."""
    case = task["case"]
    blocks = packers(PACKED[case]) if case in PACKED else parsers(PARSED[case])
    require_agreement(case, blocks)
    counts = {name: count_for(block) for name, block in blocks.items()}
    took_s: dict[str, list[float]] = {name: [] for name in blocks}
    order = list(blocks)
    until_s = time.perf_counter() + task["seconds"]
    while time.perf_counter() < until_s or not took_s[order[0]]:
        random.shuffle(order)
        for name in order:
            took_s[name].append(time_s(blocks[name], counts[name]))
    return {name: {"s": statistics.median(each)} for name, each in took_s.items()}


def require_agreement(case: str, blocks: dict[str, Block]) -> None:
    results = {name: block(2) for name, block in blocks.items()}
    disagree = [name for name, result in results.items() if result != results[PURE]]
    if disagree:
        raise BenchmarkFailed(f"{case}: {', '.join(disagree)} disagree with {PURE}")


def time_s(block: Block, count: int) -> float:
    """Return the seconds of one message."""
    start_ns = time.perf_counter_ns()
    block(count)
    return (time.perf_counter_ns() - start_ns) / count / 1e9


def count_for(block: Block) -> int:
    time_s(block, 100)
    return max(10, int(BLOCK_S / time_s(block, 100)))
