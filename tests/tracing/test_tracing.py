"""What tracing tools tell of a program is the same with `redis.Redis` and `cpool.Redis`.

Whether a tool is loaded before cpool is imported, after that, or when clients exist; and
when it is taken off again the compiled call is taken as if it had never been there.
`pip install -e ".[tracing]" && python -m pytest tests/tracing -m ""` runs all tools and orders.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable
from typing import Any

import pytest

from tests.tracing.conftest import Answers
from tests.tracing.tools import TOOLS, orders_of
from tests.tracing.workload import STEPS

# These stand above `execute_command` only: the compiled call goes on below them.
ABOVE = ("opentelemetry", "opentelemetry-stable", "opentelemetry-client", "sentry", "ddtrace")
QUICK = ("opentelemetry", "sentry", "metrics", "setattr", "wrapt")
REMOVABLE = [name for name, tool in TOOLS.items() if hasattr(tool, "stop")]
ENTRIES_PER_STEP_ONCE_STOPPED = {"metrics": 0}


def cases(names: Iterable[str]) -> pytest.MarkDecorator:
    """Parametrize a test by tools, and each by when it is loaded."""
    pairs = [(name, order) for name in names for order in orders_of(TOOLS[name])]
    slow = [pair for pair in pairs if pair[0] not in QUICK or pair[1] == "late"]
    marked = [
        pytest.param(*pair, marks=pytest.mark.slow if pair in slow else ()) for pair in pairs
    ]
    return pytest.mark.parametrize(("tool", "order"), marked, ids=map("-".join, pairs))


@pytest.fixture(autouse=True)
def _skip_without_tool(tool: str) -> None:
    for module in TOOLS[tool].modules:
        if not is_installed(module):
            pytest.skip(f"{module} is not installed")


def is_installed(module: str) -> bool:
    """Tell whether a module could be imported, without leaving it in this process."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # nor is its package
        return False


def told(answer: Any, tool: str) -> list[Any]:
    """Return a tool's entries; those of metrics have no order."""
    entries: list[Any] = answer["entries"]
    return sorted(entries, key=json.dumps) if tool == "metrics" else entries


@cases(TOOLS)
def test_a_tool_tells_the_same_of_our_client(answers: Answers, tool: str, order: str) -> None:
    theirs, ours = answers(tool, order, "redis"), answers(tool, order, "cpool")
    assert len(theirs["entries"]) > 2 * len(STEPS)
    assert told(ours, tool) == told(theirs, tool)
    assert ours["outcomes"] == theirs["outcomes"]


@cases(ABOVE)
def test_below_a_tool_the_compiled_call_goes_on(answers: Answers, tool: str, order: str) -> None:
    assert answers(tool, order, "cpool")["taken"] > len(STEPS)


@cases(REMOVABLE)
def test_a_tool_that_is_taken_off_leaves_nothing_behind(
    answers: Answers, tool: str, order: str
) -> None:
    per_step = ENTRIES_PER_STEP_ONCE_STOPPED.get(tool, 1)
    for side in ("redis", "cpool"):
        answer = answers(tool, order, side)
        stopped, seen = answer["stopped"], len(answer["entries"])
        assert told(stopped, tool)[:seen] == told(answer, tool)
        assert len(stopped["entries"]) == seen + per_step * len(STEPS)
        assert stopped["outcomes"] == answer["outcomes"]
    assert stopped["taken"] > len(STEPS)
