"""Packing commands and parsing replies: cpool's codec, hiredis-py and redis-py's own classes.

Method: no server, no socket. To pack is one call on a tuple of arguments; to parse is feed() of
one whole message and gets() of its object. redis-py's packers and parsers are driven as its
connection drives them, from a socket object that hands out the same bytes, and shown for
reference. First all must agree on every result. Then one process times short blocks (about
5 ms) of each contestant in turn, again and again in changing order; the ratio to hiredis is
taken within each turn, and the median is over the turns of several fresh processes. The loop
(about 0.01 us per message) counts for everybody, which makes small ratios look smaller.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable
from itertools import repeat
from types import SimpleNamespace
from typing import Any

from _common import (
    VALUE,
    BenchmarkFailed,
    CannotRun,
    Report,
    Result,
    Spread,
    Task,
    call_worker,
    main,
    noise_run,
    progress,
    require_module,
)

HIREDIS, CPOOL = "hiredis", "cpool"
REDIS_PY_C, REDIS_PY = "redis-py + hiredis", "redis-py pure"
CONTESTANTS = (HIREDIS, CPOOL, REDIS_PY_C, REDIS_PY)
SMALL_BAR, LARGE_BAR = 1.3, 1.0
SOCKET_READ_SIZE = 65536

PACKED: dict[str, tuple[Any, ...]] = {
    "pack GET": ("GET", "bench:key64"),
    "pack SET 64 bytes": ("SET", "bench:key64", VALUE),
}


def bulk(value: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(value), value)


def array_of(values: list[bytes]) -> bytes:
    return b"*%d\r\n" % len(values) + b"".join(map(bulk, values))


def map_of(count: int) -> bytes:
    pairs = (bulk(b"field:%d" % i) + bulk(b"value:%d" % i) for i in range(count))
    return b"%%%d\r\n" % count + b"".join(pairs)


PARSED: dict[str, bytes] = {
    "bulk of 64 bytes": bulk(VALUE),
    "integer": b":123456\r\n",
    "status": b"+OK\r\n",
    "array of 10": array_of([b"item:%d" % i for i in range(10)]),
    "array of 1,000": array_of([b"%016d" % i for i in range(1000)]),
    "map of 100": map_of(100),
}
BARS = {name: SMALL_BAR for name in (*PACKED, *PARSED)}
BARS |= {"array of 1,000": LARGE_BAR, "map of 100": LARGE_BAR}

Block = Callable[[int], Any]


# ---- the contestants: a block does one message n times and returns the last result --------


def packers(arguments: tuple[Any, ...]) -> dict[str, Block]:
    import hiredis

    theirs = require_module("redis.connection", "pip install redis")
    pure = theirs.PythonRespSerializer(6000, theirs.Connection().encoder.encode)
    return {
        HIREDIS: pack_tuple(hiredis.pack_command, arguments),
        CPOOL: pack_tuple(cpool_codec().pack_command, arguments),
        REDIS_PY_C: pack_spread(theirs.HiredisRespSerializer().pack, arguments),
        REDIS_PY: pack_spread(pure.pack, arguments),
    }


def pack_tuple(pack: Any, arguments: tuple[Any, ...]) -> Block:
    def block(count: int) -> Any:
        for _ in repeat(None, count):
            packed = pack(arguments)
        return packed

    return block


def pack_spread(pack: Any, arguments: tuple[Any, ...]) -> Block:
    def block(count: int) -> Any:
        for _ in repeat(None, count):
            packed = pack(*arguments)
        return b"".join(packed)

    return block


def parsers(message: bytes) -> dict[str, Block]:
    import hiredis

    theirs = require_module("redis._parsers", "pip install redis")
    return {
        HIREDIS: feed_and_get(hiredis.Reader(), message),
        CPOOL: feed_and_get(cpool_codec().Reader(), message),
        REDIS_PY_C: read_response(theirs._HiredisParser, message),
        REDIS_PY: read_response(theirs._RESP3Parser, message),
    }


def cpool_codec() -> Any:
    return require_module("cpool._resp", "build cpool first")


def feed_and_get(reader: Any, message: bytes) -> Block:
    def block(count: int) -> Any:
        feed, gets = reader.feed, reader.gets
        for _ in repeat(None, count):
            feed(message)
            reply = gets()
        return reply

    return block


def read_response(parser_class: Any, message: bytes) -> Block:
    """Return redis-py's parser reading the message from a socket that always has it."""
    connection = require_module("redis.connection", "pip install redis").Connection()
    parser = parser_class(socket_read_size=SOCKET_READ_SIZE)
    socket = EndlessSocket(message)
    parser.on_connect(
        SimpleNamespace(_sock=socket, socket_timeout=None, encoder=connection.encoder)
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

    def recv_into(self, buffer: bytearray) -> int:
        buffer[: len(self.message)] = self.message
        return len(self.message)


# ---- timing -------------------------------------------------------------------------------


def work(task: Task) -> Result:
    """Time all contestants on one case, in turns."""
    case = task["case"]
    blocks = packers(PACKED[case]) if case in PACKED else parsers(PARSED[case])
    results = {name: block(2) for name, block in blocks.items()}
    disagree = [name for name, result in results.items() if result != results[HIREDIS]]
    if disagree:
        return {"disagree": disagree}
    counts = {name: count_for(block, task["block_ms"]) for name, block in blocks.items()}
    order = list(blocks)
    turns: list[dict[str, float]] = []
    for _ in range(task["turns"]):
        random.shuffle(order)
        turns.append({name: time_us(blocks[name], counts[name]) for name in order})
    return {"turns_us": turns}


def time_us(block: Block, count: int) -> float:
    """Return the microseconds of one message."""
    start_ns = time.perf_counter_ns()
    block(count)
    return (time.perf_counter_ns() - start_ns) / count / 1000


def count_for(block: Block, block_ms: float) -> int:
    time_us(block, 100)
    return max(10, int(block_ms * 1000 / time_us(block, 100)))


# ---- the report ---------------------------------------------------------------------------


def run(args: argparse.Namespace, report: Report) -> None:
    if noise_run():
        raise CannotRun("the codec has no noise run; its turns show the spread")
    cpool_codec()
    report.on_machine(None)
    processes = args.rounds or (1 if args.quick else 3)
    task = {"turns": 15 if args.quick else 40, "block_ms": 2.0 if args.quick else 5.0}
    for case in (*PACKED, *PARSED):
        progress(case)
        report.raw[case] = turns_of(args, {**task, "case": case}, processes)
    progress("")
    columns = ("us per message", *CONTESTANTS, "hiredis/cpool", "bar")
    rows = [row(report, case) for case in (*PACKED, *PARSED)]
    report.table("codec: medians; ratio: median (lowest-highest)", columns, rows)


def turns_of(args: argparse.Namespace, task: Task, processes: int) -> list[dict[str, float]]:
    results = [
        work(task) if args.together else call_worker(__file__, task) for _ in range(processes)
    ]
    wrong = {name for result in results for name in result.get("disagree", ())}
    if wrong:
        raise BenchmarkFailed(f"{task['case']}: {', '.join(sorted(wrong))} disagree with hiredis")
    return [turn for result in results for turn in result["turns_us"]]


def row(report: Report, case: str) -> list[str]:
    turns = report.raw[case]
    ratio = Spread.of([turn[HIREDIS] / turn[CPOOL] for turn in turns])
    bar = report.bar(f"{case}, times hiredis-py's speed", ratio.median, ">=", BARS[case])
    medians = [f"{statistics.median(t[name] for t in turns):.3f}" for name in CONTESTANTS]
    return [case, *medians, ratio.text(), bar]


if __name__ == "__main__":
    sys.exit(main(__file__, __doc__ or "", run, work))
