"""Each system call of a command fails once with each errno: redis-py's errors, and no more.

A child does one command after the other, without retries, and lets the first, the second, ...
call of each kind fail until there are no more. After each fault it checks that the error is
redis-py's, that nothing was executed twice, that no slot is lost and that the next reply is
its caller's own. redis-py's pool under the same faults says which errors there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.syscalls.conftest import RunShimmed

SCRIPT = "tests.syscalls.each_call_script"
FATAL = ("ECONNRESET", "EPIPE", "ETIMEDOUT", "ECONNREFUSED", "ENOMEM", "ENOBUFS", "EINVAL")
ACTIONS = ("get", "incr", "large_set", "pipeline", "transaction", "dial")
CALLS_OF_ALL = ("RECV", "SEND", "PEEK")

LONG = [pytest.mark.slow, pytest.mark.timeout(600)]
LONG_S = 250

UrlOf = Callable[[str], str]
Outcomes = dict[str, dict[str, int]]

each_client = pytest.mark.parametrize("client", ["cpool", "redis"])
each_transport = pytest.mark.parametrize(
    "transport", ["tcp", "unix", pytest.param("tls", marks=LONG)]
)


@pytest.fixture(scope="module")
def oracle() -> dict[str, Outcomes]:
    """Give what redis-py's own pool made of the faults, by transport."""
    return {}


def outcomes_of(run_shimmed: RunShimmed, url: str, client: str) -> Outcomes:
    answer: dict[str, Any] = run_shimmed(SCRIPT, url, client, timeout_s=LONG_S)
    assert answer["faults"] > 0
    outcomes: Outcomes = answer["outcomes"]
    return outcomes


def errors(outcomes: Outcomes, name: str) -> set[str]:
    """Types and texts; types alone where redis-py's parsers do not agree on the text."""
    met = set(outcomes.get(name, {})) - {"ok"}
    return {error.partition(":")[0] for error in met} if "ETIMEDOUT" in name else met


def is_fatal(name: str) -> bool:
    """Whether the command can't go on; a dead idle connection is replaced before it begins."""
    _, call, fault = name.split()
    return fault in FATAL and call != "PEEK"


def may_be_passed_over(name: str) -> bool:
    """Whether it can go on at least sometimes: without a timeout in the kernel, say."""
    return name.split()[1] in ("OPTION", "FLAGS")


@each_client
@each_transport
def test_only_what_ends_a_connection_is_an_error_and_it_is_redis_pys(
    run_shimmed: RunShimmed,
    url_of: UrlOf,
    oracle: dict[str, Outcomes],
    transport: str,
    client: str,
) -> None:
    url = url_of(transport)
    if transport not in oracle:
        oracle[transport] = outcomes_of(run_shimmed, url, "original")
    ours = outcomes_of(run_shimmed, url, client)
    unexpected = {
        name: came
        for name, came in ours.items()
        if not is_fatal(name)
        and set(came) != {"ok"}
        or is_fatal(name)
        and "ok" in came
        and not may_be_passed_over(name)
        or not errors(ours, name) <= errors(oracle[transport], name)
    }
    assert unexpected == {}
    met = {tuple(name.split()[:2]) for name in ours}
    for call in CALLS_OF_ALL[: 2 if transport == "tls" else 3]:
        # A pool without a connection has none to look at.
        assert {action for action, of in met if of == call} >= set(ACTIONS) - (
            {"dial"} if call == "PEEK" else set()
        )
    for call in ("CONNECT", "OPTION", "FLAGS", "POLL"):
        assert ("dial", call) in met or (transport, call) == ("unix", "OPTION")
