"""Scenarios in which redis-py's pools go wrong: how each is written down and collected.

A scenario is a function that acts as a program would and returns what that program sees, in
words. It says which words are right and which are the bug, and is run on both
implementations: that redis-py's gives the wrong ones proves that the test can fail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from cpool.tools.servers import EmbeddedServer
from tests.pool.support import CPOOL, REDIS_PY, Implementation


@dataclass(frozen=True)
class Lab:
    """What scenarios work with: a server, and pools that are closed in the end."""

    server: EmbeddedServer
    pool: Callable[..., Any]


@dataclass(frozen=True)
class Scenario:
    """A function, what it returns when all is well, and what it returned for redis-py.

    fixed: why the installed redis-py does not go wrong, or None if it does.
    """

    run: Callable[[Implementation, Lab], str]
    right: str
    wrong: str
    fixed: str | None


class Scenarios(list[Scenario]):
    """The scenarios of a test module."""

    def add(
        self, *, right: str, wrong: str, affected: bool = True, fixed: str = ""
    ) -> Callable[[Any], Any]:
        """Decorate a scenario; `affected` says whether the installed redis-py has the bug."""

        def register(run: Any) -> Any:
            self.append(Scenario(run, right, wrong, None if affected else fixed))
            return run

        return register

    @property
    def parametrize(self) -> Any:
        """Run a test once per scenario."""
        names = [scenario.run.__name__ for scenario in self]
        return pytest.mark.parametrize("scenario", list(self), ids=names)


def check_theirs(scenario: Scenario, lab: Lab) -> None:
    """Assert that redis-py's classes show the bug."""
    if scenario.fixed is not None:
        pytest.skip(scenario.fixed)
    seen = scenario.run(REDIS_PY, lab)
    assert seen == scenario.wrong, f"the program saw: {seen}"


def check_ours(scenario: Scenario, lab: Lab) -> None:
    """Assert that our classes do not."""
    seen = scenario.run(CPOOL, lab)
    assert seen == scenario.right, f"the program saw: {seen}"
