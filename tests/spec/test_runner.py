"""The runner and the format: a pool that does otherwise fails, and nothing is overlooked."""

from __future__ import annotations

import copy
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

import cpool
from tests.spec import fileformat, runner
from tests.spec.implementations import ALL, CPOOL

OURS = CPOOL[0]
README = (Path(__file__).parent / "README.md").read_text()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the runner give up early on what a spoilt pool is never going to do."""
    monkeypatch.setattr(runner, "PATIENCE_S", 0.5)


# -- Spoilt pools ---------------------------------------------------------------------------


class TakesNothingBack(cpool.ConnectionPool):
    def release(self, connection: Any) -> None:
        pass


class IgnoresOrder(cpool.ConnectionPool):
    def __init__(self, *args: Any, order: str = "lifo", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


class LimitsNoDials(cpool.ConnectionPool):
    def __init__(self, *args: Any, max_connecting: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


class KeepsIdleForEver(cpool.ConnectionPool):
    def __init__(self, *args: Any, max_idle_time: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


class LetsNobodyWait(cpool.ConnectionPool):
    def __init__(self, *args: Any, timeout: float | None = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


class HoldsWhatIsLent(cpool.ConnectionPool):
    def get_connection(self, *args: Any, **kwargs: Any) -> Any:
        connection = super().get_connection(*args, **kwargs)
        vars(self).setdefault("held", []).append(connection)
        return connection


class DrainsNothing(cpool.ConnectionPool):
    def drain(self) -> None:
        pass


class ShrinksForNewConnectionsOnly(cpool.ConnectionPool):
    def resize(self, max_connections: int) -> None:
        self.max_connections = max_connections


class ClosesAtOnce(cpool.ConnectionPool):
    def close(self, timeout: float | None = None) -> bool:
        return super().close(timeout=0)


class WarmsTooMuch(cpool.ConnectionPool):
    def prewarm(self, n: int | None = None) -> int:
        return super().prewarm(99)


class CountsOneTooMany(cpool.ConnectionPool):
    def stats(self) -> cpool.PoolStats:
        stats = super().stats()
        return dataclasses.replace(stats, checkouts=stats.checkouts + 1)


@pytest.mark.parametrize(
    ("spoilt", "name"),
    [
        (TakesNothingBack, "the-connection-used-last-is-lent-first"),
        (TakesNothingBack, "drain-closes-idle-connections-at-once"),
        (IgnoresOrder, "with-order-fifo-the-connection-used-least-recently-is-lent-first"),
        (LimitsNoDials, "at-most-max-connecting-dial-at-a-time"),
        (KeepsIdleForEver, "an-idle-connection-is-closed-after-max-idle-time"),
        (LetsNobodyWait, "a-caller-waits-for-a-connection-that-comes-back"),
        (LetsNobodyWait, "a-newcomer-does-not-pass-who-has-waited-for-more-than-5-ms"),
        (HoldsWhatIsLent, "a-borrower-that-vanishes-gives-its-slot-back"),
        (DrainsNothing, "drain-replaces-a-connection-in-use-once-it-has-come-back"),
        (ShrinksForNewConnectionsOnly, "a-smaller-limit-closes-the-idle-connections-beyond-it"),
        (ClosesAtOnce, "close-waits-for-those-in-use-and-refuses-newcomers"),
        (ClosesAtOnce, "close-without-a-timeout-keeps-the-pool-usable"),
        (WarmsTooMuch, "prewarm-dials-ahead-until-enough-are-idle-or-the-pool-is-full"),
        (CountsOneTooMany, "waits-uses-and-dials-are-counted"),
    ],
)
def test_a_spoilt_pool_fails(spoilt: Any, name: str, impatient: None) -> None:
    with pytest.raises((AssertionError, TimeoutError)):
        runner.run(fileformat.load(name), dataclasses.replace(OURS, pool_class=spoilt))


@pytest.mark.parametrize(
    ("pool", "name"),
    [
        ("redis-py.BlockingConnectionPool", "a-second-return-does-nothing"),
        ("redis-py.ConnectionPool", "a-constructor-that-raises-costs-no-slot"),
        (
            "redis-py.ConnectionPool",
            "a-connection-that-is-owed-a-reply-is-closed-when-it-comes-back",
        ),
    ],
)
def test_a_known_bug_of_redis_pys_pools_fails(pool: str, name: str, impatient: None) -> None:
    with pytest.raises((AssertionError, TimeoutError)):
        runner.run(fileformat.load(name), ALL[pool])


# -- Files ----------------------------------------------------------------------------------


def _altered(value: Any) -> Any:
    """Return another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, list):
        return [*value, value[-1] if value else 1]
    if isinstance(value, dict):
        return {key: _altered(number) for key, number in value.items()}
    return value + 1


@pytest.mark.parametrize("name", fileformat.names())
def test_with_another_outcome_no_file_passes(name: str) -> None:
    spec = fileformat.load(name)
    for key in spec["outcome"]:
        wrong = copy.deepcopy(spec)
        wrong["outcome"] = {key: _altered(spec["outcome"][key])}
        with pytest.raises(AssertionError, match=key):
            runner.run(wrong, OURS if OURS in fileformat.pools_of(spec) else CPOOL[1])


@pytest.mark.parametrize("name", fileformat.names())
def test_a_file_is_called_what_it_describes(name: str) -> None:
    description = fileformat.load(name)["description"]
    assert re.sub(r"[^a-z0-9]+", "-", description.lower()) == name


SPEC: dict[str, Any] = {
    "description": "A connection is lent",
    "pools": ["ConnectionPool"],
    "options": {},
    "operations": [{"name": "check_out", "connection": 1}],
    "outcome": {"dials": 1},
}


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"outcomes": {}}, "outcomes"),
        ({"operations": [{"name": "checkout"}]}, "checkout"),
        ({"operations": [{"name": "check_out", "labels": "a"}]}, "labels"),
        ({"operations": [{"name": "check_in"}]}, "label"),
        ({"operations": [{"name": "check_out", "error": {"kind": "lost"}}]}, "kind"),
        ({"operations": [{"name": "fork", "operations": [{"name": "spoon"}]}]}, "spoon"),
        ({"operations": [{"name": "check", "state": {"stats": {"checkouts": 1}}}]}, "stats"),
        ({"outcome": {"totals": {"idle": 1}}}, "totals"),
        ({"outcome": {"dials": "1"}}, "dials"),
        ({"outcome": {}}, "outcome"),
        ({"operations": []}, "operations"),
        ({"server": {"dials": ["refused"]}}, "dials"),
        ({"also": ["valkey-py"]}, "also"),
    ],
)
def test_what_the_format_has_no_place_for_is_refused_by_name(change: Any, names: str) -> None:
    fileformat.check(SPEC)
    with pytest.raises(fileformat.FormatError, match=names):
        fileformat.check({**SPEC, **change})


def test_a_run_that_took_too_long_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def fail(*_: Any) -> None:
        tries.append(1)
        assert len(tries) == 3, "this machine was busy"

    monkeypatch.setattr(runner, "_run_once", fail)
    runner.run({**SPEC, "valid_within_s": -1}, OURS)
    assert len(tries) == 3


def test_a_failure_in_time_counts_at_once() -> None:
    wrong = {**SPEC, "outcome": {"dials": 2}, "valid_within_s": 60}
    with pytest.raises(AssertionError, match="dials is 1, not 2"):
        runner.run(wrong, OURS)


@pytest.mark.parametrize(
    "names",
    [fileformat.OPERATIONS, fileformat.STATE, OURS.errors, fileformat.NOW, fileformat.TOTALS],
)
def test_the_readme_explains_every_name_of_the_format(names: Any) -> None:
    assert not [name for name in names if f"`{name}`" not in README]


def test_every_operation_number_and_error_is_used_by_a_file() -> None:
    """What no file uses is no part of the format."""
    texts = "".join((fileformat.DIRECTORY / f"{n}.json").read_text() for n in fileformat.names())
    names = {*fileformat.OPERATIONS, *fileformat.STATE, *OURS.errors}
    assert not [name for name in names if f'"{name}"' not in texts]
