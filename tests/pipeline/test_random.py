"""Pipelines made by chance: whatever they hold, redis-py and cpool agree."""

from __future__ import annotations

import contextlib
import os
import random
import re
from typing import Any

import pytest

from tests.pipeline.support import Twins, make_client, outcome, state_of

ROUNDS = int(os.environ.get("CPOOL_TEST_PIPELINES", "12"))
KEYS = ["a", "b", "é", b"\xff"]
NAMES = (
    "SET GET set Get INCR LPUSH LRANGE SADD SCARD HSET HGETALL ECHO DEL STRLEN APPEND"
    " NONSENSE TYPE OBJECT|ENCODING CONFIG|GET ZADD ZRANGE DUMP LPOS GETEX MSET COMMAND|COUNT"
).split()
RAW = "WATCH UNWATCH MULTI EXEC DISCARD".split()


def argument(rng: random.Random) -> Any:
    """Make an argument of any kind and size."""
    size = rng.choice([0, 1, 5, 100, 6001, 16_384, 16_385, 66_000, 200_000])
    data = rng.randbytes(7) * (size // 7 + 1)
    return rng.choice(
        [rng.choice(KEYS), rng.randint(-5, 10**20), rng.random(), data[:size], "é" * size]
        + [memoryview(data)[:size], "x" * size, rng.choice(KEYS), rng.choice(KEYS)]
    )


def queue(pipe: Any, rng: random.Random, names: list[str]) -> Any:
    """Queue commands by chance, a bad one now and then."""
    for _ in range(rng.choice([1, 3, 10, 40])):
        name = rng.choice(names).replace("|", " ")
        args = [rng.choice(KEYS), *(argument(rng) for _ in range(rng.randint(0, 3)))]
        options: dict[str, Any] = rng.choice(
            [{}, {}, {}, {"keys": ["a"]}, {"NEVER_DECODE": []}, {"EMPTY_RESPONSE": 7}]
        )
        pipe.pipeline_execute_command(name, *args, **options)
    if rng.random() < 0.05:
        pipe.pipeline_execute_command("SET", "bad", rng.choice([None, True, "\ud800"]))
    return pipe


def told(twins: Twins, kind: str, seed: int) -> Any:
    """Run pipelines of that seed on one kind of client."""
    rng = random.Random(seed)
    options: dict[str, Any] = {
        "protocol": rng.choice([2, 3]),
        "decode_responses": rng.choice([False, True]),
        "encoding_errors": "replace",  # else the server may not do what stands behind an error
    }
    twins.other.flushall()
    results = []
    with contextlib.closing(make_client(kind, twins.address, **options)) as client:
        for _ in range(4):
            transaction = rng.random() < 0.5
            names = NAMES + RAW * (not transaction and rng.random() < 0.3)
            pipe = queue(client.pipeline(transaction), rng, names)
            raises = rng.random() < 0.3
            results.append(outcome(lambda pipe=pipe, raises=raises: pipe.execute(raises)))
            results.append(state_of(pipe))
            # A MULTI that was left open would be another's in redis-py's pool.
            client.connection_pool.disconnect()
        return re.sub("<memory at .*?>", "<memory>", repr(results)), twins.other.execute_command(
            "DEBUG DIGEST"
        )


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_pipelines_by_chance_agree(twins: Twins, seed: int) -> None:
    theirs, ours = (told(twins, kind, seed) for kind in ("redis-py", "cpool"))
    assert ours == theirs
