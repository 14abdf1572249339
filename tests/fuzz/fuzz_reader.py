"""Fuzz the Reader through the extension: in one piece and in many, against the reference.

    python -m tests.fuzz.fuzz_reader --seconds 60             mutates the seeds
    python -m tests.fuzz.fuzz_reader --runs 10000 --seed 3    a repeatable number of runs
    python -m tests.fuzz.fuzz_reader --engine atheris -- -max_total_time=60
    python -m tests.fuzz.fuzz_reader --input FILE             one input, as a finding left it

A finding ends the run with a traceback and leaves its input in a file.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redis.exceptions import InvalidResponse

from cpool._resp import INCOMPLETE, Reader
from tests.codec.oracles import Refused, hiredis_py, plain, redis_py
from tests.codec.replies import reader, same
from tests.fuzz import seeds
from tests.fuzz.reference import Cut, Malformed, Reference, Unbuildable

# A few levels are enough to meet the limit; few bytes, to meet that one.
DEPTHS = (1, 3, 20, 512)
BULKS = (3, 60, 5000, 1 << 29)
WORDS = [
    b"\r\n", b"$-1\r\n", b"*-1\r\n", b"_\r\n", b"$0\r\n\r\n", b"*2\r\n", b"%1\r\n", b"~1\r\n",
    b">1\r\n", b"|1\r\n", b"=4\r\ntxt:\r\n", b"!1\r\nE\r\n", b",nan\r\n", b"#t\r\n", b"(12\r\n",
    b"$1\r\nk\r\n", b"$10\r\n0123456789\r\n", b"-1", b"999999999999999999", b"\xff", b"\0",
]  # fmt: skip


class Finding(AssertionError):
    """The Reader and its oracle disagree."""


def check(condition: bool, what: str, *shown: Any) -> None:
    if not condition:
        raise Finding(what, *shown)


Outcome = tuple[str, Any]


def next_of(r: Reader) -> Outcome | None:
    """One reply or refusal; None when the rest is incomplete."""
    before = r.unread_bytes
    try:
        reply = r.gets()
    except (InvalidResponse, TypeError) as error:
        # What can't be built is consumed; the stream behind what is malformed is lost.
        return ("malformed" if r.unread_bytes == before else "unbuildable", str(error))
    return None if reply is INCOMPLETE else ("reply", reply)


def by_reader(pieces: list[bytes], depth: int, bulk: int) -> list[Outcome]:
    """Everything a Reader makes of these bytes, until it refuses them."""
    r = reader(max_depth=depth, max_bulk_bytes=bulk)
    size = sum(map(len, pieces))
    outcomes: list[Outcome] = []
    for piece in pieces:
        r.feed(piece)
        check(r.buffer_bytes <= 65536 + 8 * size, "the buffer is too large")
        while outcome := next_of(r):
            outcomes.append(outcome)
            if outcome[0] == "malformed":
                check(next_of(r) == outcome, "refused once only")
                return outcomes
            check(len(outcomes) <= size, "more replies than bytes")
    return outcomes


def by_reference(data: bytes, depth: int, bulk: int) -> list[Outcome]:
    """The same by the reference."""
    outcomes: list[Outcome] = []
    while data:
        reference = Reference(data, depth, bulk)
        try:
            outcomes.append(("reply", reference.read()))
        except Cut:
            break
        except Malformed:
            outcomes.append(("malformed", ""))
            break
        except Unbuildable:
            outcomes.append(("unbuildable", ""))
        data = data[reference.at :]
    return outcomes


def alike(left: Outcome, right: Outcome) -> bool:
    return left[0] == right[0] and (left[0] != "reply" or same(left[1], right[1]))


def check_oracles(data: bytes, first: Outcome) -> None:
    """hiredis and redis-py on the first reply, but for what the table of choices names."""
    if first[0] != "reply" or any(byte in data for byte in (b"|", b"!", b"(", b"-1\r\n", b">")):
        return
    theirs = plain(hiredis_py(data))
    if b"%" not in data:  # hiredis-py loses the value of a key that comes twice
        check(isinstance(theirs, Refused) or same(theirs, first[1]), "hiredis", theirs, first[1])
    if data.replace(b"\r\n", b"").isascii() and b"\n" not in data.replace(b"\r\n", b""):
        theirs = redis_py(data, 3)
        check(same(theirs, first[1]), "redis-py", theirs, first[1])


def cut(data: bytes, pattern: int) -> list[bytes]:
    """Pieces whose sizes follow from the input, so that a finding can be repeated."""
    rng = random.Random(pattern)
    sizes = rng.choices((1, 2, 3, 10, 100), k=len(data))
    ends = [0, *itertools.takewhile(lambda end: end < len(data), itertools.accumulate(sizes))]
    return [data[a:b] for a, b in zip(ends, [*ends[1:], len(data)], strict=True)]


def one_input(raw: bytes) -> None:
    """Check one input: two bytes of options, then a stream."""
    if len(raw) < 3:
        return
    depth, bulk, data = DEPTHS[raw[0] % 4], BULKS[raw[1] % 4], bytes(raw[2:])
    whole = by_reader([data], depth, bulk)
    pieces = by_reader(cut(data, raw[0] * 256 + raw[1]), depth, bulk)
    expected = by_reference(data, depth, bulk)
    check(same([*map(list, whole)], [*map(list, pieces)]), "pieces", whole, pieces)
    check(len(whole) == len(expected), "number of replies", whole, expected)
    check(all(map(alike, whole, expected)), "reference", whole, expected)
    if whole and depth > 20 and bulk > 5000:
        check_oracles(data, whole[0])


def mutated(data: bytes, rng: random.Random) -> bytes:
    text = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        at = rng.randrange(len(text) + 1)
        match rng.randrange(5):
            case 0 if at < len(text):
                text[at] = rng.randrange(256)
            case 1:
                del text[at : at + rng.randrange(1, 4)]
            case 2:
                text[at:at] = rng.choice(WORDS)
            case 3:
                text[at : at + 1] = rng.choice(b"0123456789$*+-:_#,(!=~%>|\r\n").to_bytes(1, "big")
            case _:
                other = rng.choice(seeds.STREAMS)
                start = rng.randrange(len(other))
                text[at:at] = other[start : start + rng.randrange(40)]
    return bytes(text)


def save(raw: bytes) -> Path:
    path = Path(f"finding-{abs(hash(raw)) % 10**10}.bin")
    path.write_bytes(raw)
    return path


def run_random(runs: int | None, seconds: float | None, seed: int) -> int:
    """Mutate the seeds for as long, or as often, as asked; returns the number of runs."""
    rng = random.Random(seed)
    until = None if seconds is None else time.monotonic() + seconds
    done = 0
    while (runs is None or done < runs) and (until is None or time.monotonic() < until):
        raw = rng.randbytes(2) + mutated(rng.choice(seeds.STREAMS), rng)
        try:
            one_input(raw)
        except BaseException as error:
            if not isinstance(error, KeyboardInterrupt):
                print(f"the input is in {save(raw)}", file=sys.stderr)
            raise
        done += 1
    return done


def run_atheris(arguments: list[str]) -> None:
    """Coverage-guided, for an extension built with CPOOL_SANITIZE=fuzzer-no-link,address."""
    import atheris

    atheris.Setup([sys.argv[0], *arguments], one_input)
    atheris.Fuzz()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", choices=("random", "atheris"), default="random")
    parser.add_argument("--runs", type=int, help="stop after so many inputs")
    parser.add_argument("--seconds", type=float, help="stop after so long")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--input", type=Path, help="check this one and stop")
    parser.add_argument("rest", nargs="*", help="after --: for atheris")
    options = parser.parse_args(argv)
    if options.input is not None:
        one_input(options.input.read_bytes())
        return 0
    if options.engine == "atheris":
        run_atheris(options.rest)
        return 0
    if options.runs is None and options.seconds is None:
        parser.error("give --runs or --seconds")
    begun = time.monotonic()
    done = run_random(options.runs, options.seconds, options.seed)
    print(f"{done} inputs, {time.monotonic() - begun:.0f} s, no findings")
    return 0


if __name__ == "__main__":
    sys.exit(main())
