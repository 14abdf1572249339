"""Real gevent and eventlet, each in a process of its own: the hub goes on, replies are right."""

from __future__ import annotations

from typing import Any

import pytest

from cpool.tools.servers import EmbeddedServer
from tests.wire.scripts import run_module

LIBRARIES = ("gevent", "eventlet")


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> str:
    """Give the name of a library; without it installed the test fails."""
    return str(request.param)


def run(library: str, scenario: str, server: EmbeddedServer) -> dict[str, Any]:
    answer: dict[str, Any] = run_module(
        "tests.wire.green_script", library, scenario, server.url
    )
    return answer


def test_a_slow_command_holds_up_nobody_else(
    library: str, redis_server: EmbeddedServer
) -> None:
    assert run(library, "slow_command", redis_server) == {
        "uses_fd": False,
        "right": 12 * 30,
        "still_slow": True,
        "answer": "item",
        "in_use": 0,
    }


def test_a_timeout_in_mid_read_gives_its_late_reply_to_nobody(
    library: str, redis_server: EmbeddedServer
) -> None:
    answer = run(library, "timeout_in_mid_read", redis_server)
    assert (answer["struck"], answer["in_use"]) == (10, 0)


def test_a_timeout_in_mid_read_closes_the_connection(
    library: str, redis_server: EmbeddedServer
) -> None:
    assert run(library, "timeout_in_mid_read_closes", redis_server) == {"connected": False}


def test_greenlets_killed_in_mid_read_cost_no_slot(
    library: str, redis_server: EmbeddedServer
) -> None:
    assert run(library, "killed_in_mid_read", redis_server) == {"in_use": 8, "different": 8}


def test_greenlets_wait_for_a_connection_without_stopping_the_hub(
    library: str, redis_server: EmbeddedServer
) -> None:
    assert run(library, "waiting_for_a_connection", redis_server) == {
        "right": 100,
        "ticked": True,
        "waited": True,
        "open": 2,
    }


def test_a_listening_greenlet_gets_what_others_subscribe_it_to(
    library: str, redis_server: EmbeddedServer
) -> None:
    assert run(library, "pubsub", redis_server) == {"got": ["one", "two", "last"]}


def test_large_values_go_both_ways_while_the_hub_goes_on(
    library: str, redis_server: EmbeddedServer
) -> None:
    assert run(library, "large_value", redis_server) == {"right": [True] * 4, "ticked": True}
