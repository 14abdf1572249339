"""Lost replies: how often the server executes a command that must not run twice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cpool.tools.servers import EmbeddedServer
from tests.replay.lost_replies import SAFE, SIDES, Tally, count

FEW, MANY = 40, 1000
LIKE_REDIS_PY = [side for side in SIDES if side not in ("redis-py", *SAFE)]


def check_safe(tally: Tally, faults: int) -> None:
    """What was executed twice: nothing. What the caller was not told of: nothing."""
    assert len(tally.executed) == faults
    assert set(tally.executed) == {0, 1}
    for executed, seen in zip(tally.executed, tally.seen, strict=True):
        assert seen == "IndeterminateResultError" or (seen, executed) == ("1", 1)


@pytest.mark.parametrize("side", SAFE)
def test_the_safe_policy_never_executes_a_command_twice(
    redis_server: EmbeddedServer, side: str
) -> None:
    check_safe(count(side, redis_server, FEW, seed=5), FEW)


def test_redis_pys_policy_is_what_redis_py_does(redis_server: EmbeddedServer) -> None:
    theirs = count("redis-py", redis_server, FEW, seed=5)
    assert theirs.counts[2] > FEW / 2, "the faults do not lose replies"
    for side in LIKE_REDIS_PY:
        assert count(side, redis_server, FEW, seed=5) == theirs, side


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("side", SAFE)
def test_a_thousand_faults_execute_nothing_twice(redis_server: EmbeddedServer, side: str) -> None:
    check_safe(count(side, redis_server, MANY, seed=6), MANY)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("side", LIKE_REDIS_PY)
def test_a_thousand_faults_are_what_they_are_to_redis_py(
    redis_server: EmbeddedServer, side: str
) -> None:
    theirs = count("redis-py", redis_server, MANY, seed=6)
    assert count(side, redis_server, MANY, seed=6) == theirs


def test_the_command_prints_the_counts_of_all_sides() -> None:
    command = [sys.executable, "-m", "tests.replay", "--faults", "5"]
    root = Path(__file__).parents[2]
    run = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=50)
    assert run.returncode == 0, run.stderr
    assert all(side in run.stdout for side in SIDES)
