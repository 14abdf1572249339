"""Memory: whatever the size of a pipeline, little beside its commands and results."""

from __future__ import annotations

import gc
import weakref

import pytest

import cpool
from cpool.tools.servers import EmbeddedServer
from tests.pipeline.memory_script import VERBS
from tests.wire.scripts import run_module

SLACK_BYTES = 8 * 1024 * 1024  # the allocator's and the interpreter's own


@pytest.mark.parametrize("verb", VERBS)
def test_a_huge_pipeline_takes_little_more_than_its_results(
    unix_server: EmbeddedServer, verb: str
) -> None:
    answer = run_module("tests.pipeline.memory_script", verb, unix_server.url)
    assert answer["ok"]
    assert answer["grown_bytes"] <= SLACK_BYTES


def test_large_arguments_are_let_go_at_the_end(redis_server: EmbeddedServer) -> None:
    with cpool.Redis(host=redis_server.host, port=redis_server.port) as client:
        value = bytearray(100_000)
        for transaction in (False, True):
            client.pipeline(transaction).set("a", memoryview(value)).execute()
            value.extend(b"x")  # nobody holds its memory any more


def test_a_pipeline_leaves_no_cycle_behind(redis_server: EmbeddedServer) -> None:
    with cpool.Redis(host=redis_server.host, port=redis_server.port) as client:
        gc.collect()
        gc.disable()
        try:
            for transaction in (False, True):
                pipe = client.pipeline(transaction)
                pipe.set("a", "x").incr("a").get("a").execute(raise_on_error=False)
                reference = weakref.ref(pipe)
                del pipe
                assert reference() is None
        finally:
            gc.enable()
