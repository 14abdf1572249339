"""WATCH, MULTI, EXEC and their like: in transactions, before them, and as raw commands."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from redis.exceptions import RedisError

from tests.pipeline.support import KINDS, Twins, outcome, state_of


def shown(pipe: Any, *calls: Any) -> list[Any]:
    """Make calls one after the other; tell of each what came of it, and the state then."""
    return [(outcome(call), state_of(pipe)) for call in calls]


def test_a_watched_key_that_stays_lets_the_transaction_pass(twins: Twins) -> None:
    def run(_: Any, pipe: Any) -> Any:
        return shown(
            pipe,
            lambda: pipe.watch("a"),
            lambda: pipe.get("a"),
            lambda: pipe.multi(),
            lambda: len(pipe.set("a", 1).get("a")),
            lambda: pipe.execute(),
        )

    twins.agree(run)


def test_a_watched_key_that_changes_is_a_watch_error(twins: Twins) -> None:
    def run(_: Any, pipe: Any) -> Any:
        return shown(
            pipe,
            lambda: pipe.watch("a"),
            lambda: twins.other.set("a", "other"),
            lambda: pipe.multi(),
            lambda: len(pipe.set("a", 1)),
            lambda: pipe.execute(),
            lambda: pipe.set("b", 1) and pipe.get("b") and pipe.execute(),
        )

    twins.agree(run, taken=2)


@pytest.mark.parametrize("raise_on_error", [False, True])
def test_a_watched_key_and_an_error_within_exec(twins: Twins, raise_on_error: bool) -> None:
    def run(_: Any, pipe: Any) -> Any:
        pipe.watch("a")
        pipe.multi()
        pipe.set("a", "x").incr("a")
        return shown(pipe, lambda: pipe.execute(raise_on_error))

    twins.agree(run)


def test_an_empty_transaction_of_a_watching_pipeline_is_sent(twins: Twins) -> None:
    def run(_: Any, pipe: Any) -> Any:
        return shown(pipe, lambda: pipe.watch("a"), lambda: pipe.multi(), lambda: pipe.execute())

    twins.agree(run)


def test_a_watching_pipeline_without_multi(twins: Twins) -> None:
    def run(_: Any, pipe: Any) -> Any:
        return shown(
            pipe,
            lambda: pipe.watch("a"),
            lambda: pipe.set("a", 1),
            lambda: pipe.execute(),
            lambda: pipe.execute(),
        )

    twins.agree(run)


def test_a_watch_may_be_ended_in_every_way(twins: Twins) -> None:
    def run(_: Any, pipe: Any) -> Any:
        return shown(
            pipe,
            lambda: pipe.watch("a", "b"),
            lambda: pipe.unwatch(),
            lambda: pipe.set("a", 1) and None,
            lambda: pipe.execute(),
            lambda: pipe.watch("a"),
            lambda: pipe.reset(),
        )

    twins.agree(run)


def test_a_discard_within_an_explicit_transaction(twins: Twins) -> None:
    def run(_: Any, pipe: Any) -> Any:
        pipe.watch("a")
        pipe.multi()
        return shown(
            pipe,
            lambda: pipe.set("a", 1) and None,
            lambda: pipe.discard(),
            lambda: pipe.execute(),
            lambda: pipe.set("b", 1).execute(),
        )

    # EXEC without MULTI is an error: our ledger does not believe that all is over.
    twins.agree(run, taken=2, same_connections=False)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_transaction_that_was_left_open_is_nobody_elses(twins: Twins, kind: str) -> None:
    """With redis-py's pool the next commands are queued in it."""

    def run(_: Any, pipe: Any) -> Any:
        pipe.execute_command("MULTI").set("a", 1).execute()
        return pipe.set("b", 1).execute()

    assert twins.tell(kind, run, False, 2, {}).value == ("list", [(bool, True)])


def test_what_may_not_be_nested_is_refused_alike(twins: Twins) -> None:
    def run(_: Any, pipe: Any) -> Any:
        pipe.watch("a")
        pipe.multi()
        return shown(pipe, pipe.multi, lambda: pipe.watch("b"), lambda: pipe.execute())

    twins.agree(run)
    with pytest.raises(RedisError):
        pipe = redis.Redis(**twins.address).pipeline()
        pipe.set("a", 1)
        pipe.multi()


@pytest.mark.parametrize("with_transaction", [False, True])
def test_explicit_multi_without_watch(twins: Twins, with_transaction: bool) -> None:
    def run(_: Any, pipe: Any) -> Any:
        pipe.multi()
        return shown(pipe, lambda: pipe.set("a", 1).incr("a").execute(), lambda: pipe.execute())

    twins.agree(run, transaction=with_transaction)


RAW = [
    ["WATCH a", "SET a 1", "UNWATCH", "GET a"],
    ["WATCH a", "MULTI", "SET a 1", "EXEC", "GET a"],
    ["MULTI", "SET a 1", "DISCARD", "GET a"],
    ["MULTI", "SET a 1", "INCR a", "LPUSH a 1", "EXEC"],
    ["MULTI", "NONSENSE", "EXEC", "PING"],
    ["EXEC"],
    ["DISCARD"],
    ["UNWATCH"],
    ["MULTI", "MULTI", "SET a 1", "EXEC"],
    ["multi", "set a 1", "exec"],
    ["watch a", "get a"],
    ["WATCH a"],
    ["MULTI", "WATCH a", "EXEC"],
    ["SELECT 5", "SET a 5", "SELECT 0", "GET a"],
    ["RESET", "PING"],
    ["CLIENT NO-EVICT on", "CLIENT NO-EVICT off"],
    ["SUBSCRIBE a", "UNSUBSCRIBE a"],
]


@pytest.mark.parametrize("commands", RAW, ids=" ".join)
@pytest.mark.parametrize("raise_on_error", [False, True])
def test_raw_commands_about_transactions(
    twins: Twins, commands: list[str], raise_on_error: bool
) -> None:
    def run(_: Any, pipe: Any) -> Any:
        for command in commands:
            pipe.pipeline_execute_command(*command.split())
        return shown(
            pipe,
            lambda: pipe.execute(raise_on_error=raise_on_error),
            lambda: pipe.set("b", 1).get("b").execute(),
        )

    # A session state that was left open is closed by our pool, and kept by redis-py's.
    options: Any = {"protocol": 2, "socket_timeout": 1.0, "retry": None}
    twins.agree(run, taken=None, same_connections=False, **options)


def test_a_transaction_that_is_aborted_tells_the_first_error(twins: Twins) -> None:
    def run(_: Any, pipe: Any) -> Any:
        pipe.watch("a")
        pipe.multi()
        pipe.set("a", 1).execute_command("NO", "such").execute_command("SET", "few")
        return shown(pipe, lambda: pipe.execute(False))

    twins.agree(run)


def test_a_transaction_within_a_transaction(twins: Twins) -> None:
    def run(_: Any, pipe: Any) -> Any:
        pipe.pipeline_execute_command("SET", "a", 1)
        pipe.pipeline_execute_command("MULTI")
        pipe.pipeline_execute_command("INCR", "a")
        return shown(pipe, lambda: pipe.execute(False), lambda: pipe.get("a").execute())

    twins.agree(run, transaction=True, taken=2)


@pytest.mark.parametrize("command", ["EXEC", "DISCARD"])
def test_a_transaction_that_ends_early(twins: Twins, command: str) -> None:
    def run(_: Any, pipe: Any) -> Any:
        for words in (("SET", "a", 1), (command,), ("INCR", "a")):
            pipe.pipeline_execute_command(*words)
        return shown(pipe, lambda: pipe.execute(False), lambda: pipe.get("a").execute())

    twins.agree(run, transaction=True, taken=None, same_connections=False)


def test_a_connection_that_dies_while_watching_is_a_watch_error(twins: Twins) -> None:
    def run(client: Any, pipe: Any) -> Any:
        pipe.watch("a")
        number = pipe.client_id()
        pipe.multi()
        pipe.set("a", 1)
        twins.other.client_kill_filter(_id=number)
        return shown(pipe, pipe.execute, lambda: pipe.set("a", 2).execute())

    told = twins.agree(run, taken=None)
    assert "WatchError" in str(told)


def test_a_watch_that_is_abandoned_is_ended_at_the_server(twins: Twins) -> None:
    def run(client: Any, pipe: Any) -> Any:
        pipe.watch("a")
        pipe.reset()
        twins.other.set("a", 1)
        return [pipe.get("a").execute(), client.transaction(lambda p: p.get("a"), "a")]

    twins.agree(run, taken=2)


def test_a_transaction_is_repeated_until_no_key_has_changed(twins: Twins) -> None:
    def run(client: Any, _: Any) -> Any:
        spoilt = [1, 2]

        def change(pipe: Any) -> None:
            number = int(pipe.get("a") or 0)
            if spoilt:
                twins.other.set("a", spoilt.pop() * 10)
            pipe.multi()
            pipe.set("a", number + 1)

        return client.transaction(change, "a", value_from_callable=False)

    twins.agree(run, taken=3)
