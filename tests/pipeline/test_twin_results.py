"""What a pipeline returns, raises and leaves behind: redis-py's and ours, side by side."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError, ResponseError

from tests.pipeline.support import HAS_LEGACY_RESPONSES, Twins, needs_legacy_responses

PROTOCOLS = [None, 2, 3]


def fill(pipe: Any) -> Any:
    """Queue one command of every kind of reply."""
    pipe.set("string", "text").get("string").get("none").incr("number").set("bytes", b"\xc3\xa9")
    pipe.rpush("list", "a", "b", 3).lrange("list", 0, -1).hset("hash", mapping={"a": 1, "b": 2})
    pipe.hgetall("hash").sadd("set", "x").smembers("set").zadd("z", {"a": 1.5, "b": 2})
    pipe.zrange("z", 0, -1, withscores=True).zscore("z", "a").zincrby("z", 0.25, "a")
    pipe.expire("string", 100).exists("string", "none").type("list").append("string", "!")
    pipe.execute_command("OBJECT ENCODING", "number").config_get("maxmemory")
    pipe.eval("return {1, 'two', {3, false}, redis.status_reply('FINE')}", 0)
    pipe.execute_command("COMMAND COUNT").echo("").strlen("string").lpop("none", 2)
    return pipe.xadd("stream", {"a": 1}, id="1-1").xrange("stream").geoadd("geo", (1, 2, "p"))


# -- Results -----------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("decode", [False, True])
def test_every_kind_of_reply_is_the_same(twins: Twins, protocol: int, decode: bool) -> None:
    twins.agree(lambda _, pipe: fill(pipe).execute(), protocol=protocol, decode_responses=decode)


@needs_legacy_responses
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("decode", [False, True])
def test_every_kind_of_unified_reply_is_the_same(
    twins: Twins, protocol: int, decode: bool
) -> None:
    assert HAS_LEGACY_RESPONSES
    options = {"protocol": protocol, "decode_responses": decode, "legacy_responses": False}
    twins.agree(lambda _, pipe: fill(pipe).execute(), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"encoding": "latin-1"},
        {"encoding": "latin-1", "decode_responses": True},
        {"encoding_errors": "replace", "decode_responses": True},
        {"single_connection_client": True},
        {"health_check_interval": 1000},
        {"socket_timeout": 5},
        {"max_connections": 1},
        {"db": 3},
    ],
    ids=str,
)
def test_a_clients_options_hold_for_its_pipelines(twins: Twins, options: Any) -> None:
    def run(_: Any, pipe: Any) -> Any:
        pipe.set("é", "ü").get("é").get("none").echo(b"\xe9\xff").set("view", memoryview(b"v"))
        return pipe.set("f", 1.5).get("f").execute()

    twins.agree(run, **options)


def test_an_empty_pipeline_does_nothing(twins: Twins) -> None:
    assert twins.agree(lambda _, pipe: pipe.execute(), taken=0) == ("list", [])


def test_a_pipeline_may_be_used_again_and_again(twins: Twins) -> None:
    def run(_: Any, pipe: Any) -> Any:
        return [pipe.incr("n").execute(), pipe.execute(), pipe.get("n").incr("n").execute()]

    twins.agree(run, taken=2)


def test_a_pipeline_that_is_left_sends_nothing(twins: Twins) -> None:
    def run(client: Any, _: Any) -> None:
        with client.pipeline() as pipe:
            pipe.set("a", 1)
        client.pipeline().set("a", 2).reset()

    twins.agree(run, taken=0)


@pytest.mark.parametrize("name", ["get", "Get", "object encoding", "CONFIG GET", " GET", "GET "])
def test_names_of_commands_may_be_written_in_any_way(twins: Twins, name: str) -> None:
    def run(_: Any, pipe: Any) -> Any:
        pipe.execute_command("SET", "maxmemory", 1)
        return pipe.execute_command(name, "maxmemory").execute_command("get", "none").execute()

    twins.agree(run)


def test_a_name_of_bytes_is_left_to_redis_py(twins: Twins) -> None:
    def run(_: Any, pipe: Any) -> Any:
        pipe.execute_command(b"SET", "a", 1).execute_command(b"OBJECT ENCODING", "a")
        return pipe.get("a").execute()

    twins.agree(run, taken=0)


def test_a_name_that_is_no_ascii_is_an_unknown_command(twins: Twins) -> None:
    twins.agree(lambda _, pipe: pipe.execute_command("GÉT", "a").execute(), taken=0)


def test_arguments_of_every_kind_and_size_arrive(twins: Twins) -> None:
    sizes = (0, 1, 999, 6001, 16384, 16385, 70_000, 300_000)

    def run(_: Any, pipe: Any) -> Any:
        for size in sizes:
            data = bytes(range(256)) * (size // 256 + 1)
            pipe.set(f"bytes:{size}", data[:size]).get(f"bytes:{size}")
            pipe.set(f"view:{size}", memoryview(data)[:size])
            pipe.set(f"str:{size}", "é" * size)
        pipe.set("int", 10**30).set("negative", -(2**63)).set("float", -0.0)
        return pipe.set("inf", float("inf")).execute()

    twins.agree(run)


def test_hundreds_of_commands_are_answered_in_order(twins: Twins) -> None:
    def run(_: Any, pipe: Any) -> Any:
        for i in range(400):
            pipe.set(f"key:{i}", "v" * i).strlen(f"key:{i}")
        return pipe.execute()

    twins.agree(run)


# -- Errors ------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("raise_on_error", [False, True])
@pytest.mark.parametrize(
    "command",
    [("LPUSH", "string", "a"), ("NONSENSE", "a b"), ("SET", "too few"), ("GET", b"\xff" * 300)],
    ids=["wrong type", "unknown", "arguments", "none"],
)
def test_an_error_reply_is_told_alike(
    twins: Twins, place: int, raise_on_error: bool, command: tuple[Any, ...]
) -> None:
    def run(_: Any, pipe: Any) -> Any:
        pipe.set("string", "text")
        for i in range(3):
            pipe.execute_command(*(command if i == place else ("INCR", "n")))
        return pipe.execute(raise_on_error=raise_on_error)

    twins.agree(run, single_connection_client=False)


@pytest.mark.parametrize("raise_on_error", [False, True])
def test_several_errors_are_told_alike(twins: Twins, raise_on_error: bool) -> None:
    def run(_: Any, pipe: Any) -> Any:
        pipe.set("s", "x").incr("s").lpush("s", 1).execute_command("SET", "a").get("s")
        return pipe.execute_command("NO").execute(raise_on_error)

    twins.agree(run)


@pytest.mark.parametrize("raise_on_error", [False, True])
def test_errors_within_exec_are_told_alike(twins: Twins, raise_on_error: bool) -> None:
    def run(_: Any, pipe: Any) -> Any:
        pipe.set("s", "x").incr("s").eval("return redis.error_reply('MINE own')", 0)
        return pipe.eval("return {1, redis.error_reply('INNER one')}", 0).execute(raise_on_error)

    twins.agree(run)


@pytest.mark.parametrize(
    "argument", [None, True, object, [1], {}, "\ud800", ()], ids=lambda value: repr(value)[:12]
)
@pytest.mark.parametrize("place", [0, 250])
def test_nothing_is_sent_if_an_argument_cannot_be(twins: Twins, argument: Any, place: int) -> None:
    def run(_: Any, pipe: Any) -> Any:
        for i in range(300):  # more than one slice
            pipe.set(f"key:{i}", argument if i == place else "v" * 500)
        try:
            return pipe.execute()
        except Exception as error:
            return type(error), str(error)[:40]

    twins.agree(run)
    assert twins.other.dbsize() == 0


def test_nothing_is_sent_if_a_memoryview_was_released(twins: Twins) -> None:
    def run(_: Any, pipe: Any) -> Any:
        released = memoryview(b"v")
        released.release()
        return pipe.set("a", 1).set("b", released).execute()

    twins.agree(run)
    assert twins.other.dbsize() == 0


@pytest.mark.parametrize("command", [("",), ()])
def test_a_command_without_a_name_is_an_error_alike(twins: Twins, command: Any) -> None:
    def run(_: Any, pipe: Any) -> Any:
        pipe.set("a", 1)
        pipe.pipeline_execute_command(*command)
        try:
            return pipe.execute()
        except Exception as error:  # the words of a timeout depend on redis-py's version
            return type(error)

    twins.agree(run, taken=None, same_connections=False, socket_timeout=0.05, retry=None)


def test_a_reply_that_cannot_be_decoded_ends_the_pipeline_alike(twins: Twins) -> None:
    def run(_: Any, pipe: Any) -> Any:
        return pipe.set("a", 1).echo(b"\xff").set("b", 2).execute()

    twins.agree(run, decode_responses=True)


# -- Callbacks ---------------------------------------------------------------------------


def test_callbacks_are_called_in_order(twins: Twins) -> None:
    def run(client: Any, pipe: Any) -> Any:
        called: list[Any] = []
        for name in ("GET", "set", "INCR"):
            client.set_response_callback(name, lambda reply, name=name: called.append(name))
        results = pipe.get("a").set("a", 1).incr("a").incr("b").execute()
        return results, called

    twins.agree(run)


class Surprise(Exception):
    """What a callback of a test raises."""


@pytest.mark.parametrize("error", [ResponseError("mine"), Surprise("mine"), ValueError("mine")])
@pytest.mark.parametrize("raise_on_error", [False, True])
def test_a_callbacks_error_is_told_alike(
    twins: Twins, error: Exception, raise_on_error: bool
) -> None:
    def fail(_: Any, **options: Any) -> None:
        raise type(error)(*error.args)

    def run(client: Any, pipe: Any) -> Any:
        client.set_response_callback("INCR", fail)
        return pipe.set("a", 1).incr("a").set("b", 1).execute(raise_on_error)

    # Where the callback breaks off redis-py's reading, the rest of the replies is lost.
    twins.agree(run, same_connections=False)


def test_a_callbacks_connection_error_repeats_the_pipeline_alike(twins: Twins) -> None:
    def run(client: Any, pipe: Any) -> Any:
        left = [ConnectionError("first"), ConnectionError("second")]

        def fail(reply: Any) -> Any:
            if left:
                raise left.pop(0)
            return reply

        client.set_response_callback("INCR", fail)
        return pipe.incr("a").incr("b").execute()

    retry = redis.retry.Retry(redis.backoff.NoBackoff(), 2)
    twins.agree(run, retry=retry, taken=None)
    twins.agree(run, retry=redis.retry.Retry(redis.backoff.NoBackoff(), 1), taken=None)


def test_options_are_passed_to_callbacks(twins: Twins) -> None:
    def run(client: Any, pipe: Any) -> Any:
        client.set_response_callback("GET", lambda reply, **options: (reply, options))
        for options in ({}, {"keys": ["a"]}, {"keys": ["a"], "more": 1}, {"NEVER_DECODE": []}):
            pipe.execute_command("GET", "a", **options)
            pipe.execute_command("GET", "a", **options, other=2)
            pipe.execute_command("ECHO", "a", **options)
        return pipe.execute()

    twins.agree(run, decode_responses=True)
    twins.agree(run)


@pytest.mark.parametrize("command", [("GET", "none"), ("INCR", "s"), ("NO",), ("GET", "s")])
def test_an_empty_response_is_given_alike(twins: Twins, command: Any) -> None:
    def run(_: Any, pipe: Any) -> Any:
        pipe.set("s", "x").execute_command(*command, EMPTY_RESPONSE=["empty"]).get("s")
        return pipe.execute()

    twins.agree(run, transaction=False)
    twins.agree(run, transaction=True, taken=0)


def test_a_reply_that_is_not_to_be_decoded_stays_bytes(twins: Twins) -> None:
    def run(_: Any, pipe: Any) -> Any:
        pipe.set("a", b"\xff").dump("a").execute_command("GET", "a", NEVER_DECODE=True)
        return pipe.echo("é").execute_command("ECHO", b"\xff" * 50_000, NEVER_DECODE=1).execute()

    twins.agree(run, transaction=False, decode_responses=True)
    twins.agree(run, transaction=True, decode_responses=True)


@pytest.mark.parametrize("pattern", [b"\xc3\xa9", b"x"], ids=["accented", "ascii"])
@pytest.mark.parametrize("protocol", [2, 3])
def test_large_replies_come_whole(twins: Twins, pattern: bytes, protocol: int) -> None:
    def run(_: Any, pipe: Any) -> Any:
        for size in (1000, 16384, 65535, 65536, 65537, 131_072, 400_000):
            pipe.set("s", pattern * size).get("s").incr("n")
        return pipe.execute()

    twins.agree(run, protocol=protocol, decode_responses=True)
    twins.agree(run, protocol=protocol)


# -- What else redis-py's pipelines are used for -------------------------------------------


def test_scripts_are_loaded_before_the_pipeline(twins: Twins) -> None:
    def run(client: Any, pipe: Any) -> Any:
        script = client.register_script("return {KEYS[1], ARGV[1]}")
        script(keys=["a"], args=[1], client=pipe)
        pipe.set("b", 1)
        script(keys=["c"], args=[2], client=pipe)
        return pipe.execute()

    twins.agree(run)


def test_a_transaction_of_the_client_is_the_same(twins: Twins) -> None:
    def run(client: Any, _: Any) -> Any:
        def increase(pipe: Any) -> None:
            number = int(pipe.get("n") or 0)
            pipe.multi()
            pipe.set("n", number + 1)

        return [client.transaction(increase, "n"), client.transaction(increase, "n")]

    twins.agree(run, taken=2)


def test_invalidations_of_a_real_server_come_between_replies(twins: Twins) -> None:
    def run(client: Any, pipe: Any) -> Any:
        pushes: list[Any] = []
        connection = client.connection_pool.get_connection()
        connection._parser.set_invalidation_push_handler(pushes.append)
        client.connection_pool.release(connection)
        pipe.execute_command("CLIENT", "TRACKING", "ON", "BCAST")
        for i in range(20):
            pipe.set(f"key:{i}", i).get(f"key:{i}")
        results = pipe.execute()
        return results, sorted(str(push[1]) for push in pushes)

    # A push that is left makes redis-py's pool dial again.
    twins.agree(run, protocol=3, same_connections=False)


def test_the_clients_methods_of_a_pipeline_are_redis_pys(twins: Twins) -> None:
    def run(client: Any, pipe: Any) -> Any:
        with client.pipeline() as used:
            used.set("a", 1).set("b", 2, nx=True, get=True).mget("a", "b").hset("h", "a", 1)
            used.config_set("maxmemory", 0).info("server").client_getname().memory_usage("a")
            used.sort("none").object("encoding", "a").expire("a", 5, nx=True).dbsize()
            first = used.execute()
        first[5] = sorted(first[5])  # a server's clock
        return first[:5], first[5], first[6:]

    twins.agree(run, taken=None)


def test_commands_that_do_not_fit_the_pipelines_list_are_left_to_redis_py(twins: Twins) -> None:
    def run(_: Any, pipe: Any) -> Any:
        pipe.command_stack.append([["SET", "a", 1], {}])
        pipe.command_stack.append((("GET", "a"), {}))
        return pipe.execute()

    twins.agree(run, transaction=False, taken=0)
