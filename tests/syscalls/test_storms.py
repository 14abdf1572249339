"""What the kernel may do at any time is never noticed: interrupted calls, short reads and
writes, "would block", a poll() that says ready too early.

A child runs the identity workload without retries while a quarter of its system calls fail so,
seeded and bounded. Every command must succeed, with its own reply and executed once. With
`-m slow` for longer; CPOOL_STORM_SCALE multiplies how long, CPOOL_STORM_SEED is the seed.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.syscalls.conftest import TRANSPORTS, RunShimmed

SCRIPT = "tests.syscalls.storm_script"
SEED = int(os.environ.get("CPOOL_STORM_SEED", "1"))
COMMANDS = int(30 * float(os.environ.get("CPOOL_STORM_SCALE", "1")))
N_THREADS = 6
SLOW_FACTOR, SLOW_SEEDS, SLOW_TIMEOUT_S = 10, 2, 500
# A reader with time left polls after "would block"; OpenSSL and Python never peek.
NEVER_BY_TLS = ("PEEK",)

UrlOf = Callable[[str], str]

each_client = pytest.mark.parametrize("client", ["cpool", "redis"])
each_transport = pytest.mark.parametrize("transport", TRANSPORTS)


def never_met(faults: dict[str, int], transport: str) -> list[str]:
    """Return the faults that were not injected though they could have been."""
    missing = [name for name, n in faults.items() if n == 0]
    if transport == "tls":
        missing = [name for name in missing if not name.startswith(NEVER_BY_TLS)]
    return missing


@each_client
@each_transport
def test_many_threads_notice_nothing(
    run_shimmed: RunShimmed, url_of: UrlOf, transport: str, client: str
) -> None:
    url = url_of(transport)
    answer = run_shimmed(SCRIPT, "storm", url, client, SEED, COMMANDS, N_THREADS)
    assert answer["wrong"] == []
    assert never_met(answer["faults"], transport) == []


@each_client
@each_transport
def test_one_thread_notices_nothing_while_signals_come_as_well(
    run_shimmed: RunShimmed, url_of: UrlOf, transport: str, client: str
) -> None:
    answer = run_shimmed(SCRIPT, "alarm", url_of(transport), client, SEED, COMMANDS, 1)
    assert answer["handled"] > COMMANDS
    assert sum(answer["faults"].values()) > COMMANDS


@pytest.mark.slow
@pytest.mark.timeout(600)
@each_client
@each_transport
@pytest.mark.parametrize("seed", range(SEED, SEED + SLOW_SEEDS))
def test_many_threads_notice_nothing_for_long(
    run_shimmed: RunShimmed, url_of: UrlOf, transport: str, client: str, seed: int
) -> None:
    args = ("storm", url_of(transport), client, seed, COMMANDS * SLOW_FACTOR, N_THREADS)
    answer = run_shimmed(SCRIPT, *args, timeout_s=SLOW_TIMEOUT_S)
    assert answer["wrong"] == []
    assert never_met(answer["faults"], transport) == []


def test_a_seed_decides_which_calls_fail(run_shimmed: RunShimmed, url_of: UrlOf) -> None:
    answer = run_shimmed(SCRIPT, "twice", url_of("tcp"), "cpool", SEED, COMMANDS, 1)
    *same, other = answer["traces"]
    assert len(set(same)) < len(same)  # two at least that no late reply has told apart
    assert other not in same


def test_a_storm_finds_a_sender_that_takes_short_writes_for_whole_ones(
    run_shimmed: RunShimmed, url_of: UrlOf
) -> None:
    answer = run_shimmed(SCRIPT, "careless", url_of("tcp"), "redis", SEED, COMMANDS, 1)
    assert answer["wrong"] != []
