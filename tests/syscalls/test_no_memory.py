"""Memory that runs out at any allocation costs no slot and no caller its own reply.

A child lets the n-th allocation fail, for one n after the other, in each thing a pool does: of
Python's objects, and of the core's C code, which the interpreter's hooks do not see.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from tests.syscalls.conftest import RunShimmed
from tests.wire.scripts import run_module

SCRIPT = "tests.syscalls.no_memory_script"
# A waiter that could not be woken in time; everything else says that there was no memory.
OUTCOMES = {"ok", "MemoryError"}
BY_ACTION = {"be_served": OUTCOMES | {"ConnectionPoolTimeoutError"}}

UrlOf = Callable[[str], str]
Outcomes = dict[str, dict[str, int]]


def unexpected(outcomes: Outcomes) -> Outcomes:
    return {
        action: came
        for action, came in outcomes.items()
        if not set(came) <= BY_ACTION.get(action, OUTCOMES)
    }


def failures(outcomes: Outcomes) -> set[str]:
    """The actions that have met a MemoryError."""
    return {action for action, came in outcomes.items() if "MemoryError" in came}


@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="the interpreter's own code crashes without memory"
)
@pytest.mark.parametrize(
    "group, met",
    [
        ("compiled", {"get", "set_large", "nested", "pipeline", "wait_in_vain", "read_nested"}),
        ("redis-py", {"redis_pys_client", "leave_dirty", "dial"}),
        pytest.param("new pool", {"begin"}, marks=pytest.mark.slow),
    ],
)
def test_an_object_that_could_not_be_made_costs_no_slot(
    url_of: UrlOf, group: str, met: set[str]
) -> None:
    pytest.importorskip("_testcapi")
    outcomes = run_module(SCRIPT, "python", url_of("tcp"), 1, group)
    assert unexpected(outcomes) == {}
    assert failures(outcomes) >= met


@pytest.mark.parametrize("together", [1, 3])
def test_a_buffer_of_the_core_that_could_not_grow_costs_no_slot(
    run_shimmed: RunShimmed, url_of: UrlOf, together: int
) -> None:
    groups = ("compiled", "redis-py", "new pool")
    outcomes = run_shimmed(SCRIPT, "core", url_of("tcp"), together, *groups)
    assert unexpected(outcomes) == {}
    met = {"set_large", "long_list", "deep", "pipeline", "read_nested", "dial", "begin"}
    assert failures(outcomes) >= met
