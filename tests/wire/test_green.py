"""Real gevent and eventlet, each in a process of its own: the hub goes on, replies are right."""

from __future__ import annotations

from typing import Any

import pytest

from cpool.tools.servers import EmbeddedServer
from tests.wire.scripts import run_module

LIBRARIES = ("gevent", "eventlet")


@pytest.fixture(scope="module", params=LIBRARIES)
def answers(request: pytest.FixtureRequest, redis_server: EmbeddedServer) -> dict[str, Any]:
    """Give what each scenario came to, with one library after the other."""
    found: dict[str, Any] = run_module("tests.wire.green_script", request.param, redis_server.url)
    return found


def test_a_slow_command_holds_up_nobody_else(answers: dict[str, Any]) -> None:
    assert answers["slow_command"] == {
        "uses_fd": False,
        "right": 12 * 30,
        "still_slow": True,
        "answer": "item",
        "in_use": 0,
    }


def test_a_timeout_in_mid_read_gives_its_late_reply_to_nobody(answers: dict[str, Any]) -> None:
    answer = answers["timeout_in_mid_read"]
    assert (answer["struck"], answer["in_use"]) == (10, 0)


def test_a_timeout_in_mid_read_closes_the_connection(answers: dict[str, Any]) -> None:
    assert answers["timeout_in_mid_read_closes"] == {"connected": False}


def test_greenlets_killed_in_mid_read_cost_no_slot(answers: dict[str, Any]) -> None:
    assert answers["killed_in_mid_read"] == {"in_use": 8, "different": 8}


def test_greenlets_wait_for_a_connection_without_stopping_the_hub(answers: dict[str, Any]) -> None:
    assert answers["waiting_for_a_connection"] == {
        "right": 100,
        "ticked": True,
        "waited": True,
        "open": 2,
    }


def test_a_listening_greenlet_gets_what_others_subscribe_it_to(answers: dict[str, Any]) -> None:
    assert answers["pubsub"] == {"got": ["one", "two", "last"]}


def test_large_values_go_both_ways_while_the_hub_goes_on(answers: dict[str, Any]) -> None:
    assert answers["large_value"] == {"right": [True] * 4, "ticked": True}
