"""Whoever replaces a method of redis-py's pipeline sees it called, as before; and what
fast_path counts."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import redis
from redis.exceptions import ResponseError

import cpool
from cpool import fast_path
from cpool.tools.servers import EmbeddedServer
from tests.pipeline.support import KINDS, Twins, make_client, plain, switched_off
from tests.wire.peer import by_methods

FAILING = [("SET", "s", "x"), ("INCR", "s"), ("GET", "s")]


def skip_without(name: str) -> None:
    """Older versions of redis-py don't have every method."""
    if not hasattr(redis.client.Pipeline, name):
        pytest.skip(f"this redis-py has no {name}")


def queue(pipe: Any) -> Any:
    """Queue commands of which one fails."""
    for words in FAILING:
        pipe.execute_command(*words)
    return pipe


def derived(client: Any, **names: Any) -> Any:
    """Make a pipeline of a subclass of the client's own class of pipelines."""
    base = type(client.pipeline())
    made = type("Derived", (base,), names)
    return made(client.connection_pool, client.response_callbacks, False, None)


# -- Subclasses ----------------------------------------------------------------------------


def calls_super(name: str) -> Any:
    """Make a method that notes its call and calls the one it overrides."""

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        vars(self).setdefault("called", []).append((name, len(args)))
        return getattr(super(type(self), self), name)(*args, **kwargs)

    return method


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("execute", 1),
        ("execute_command", 1),
        ("reset", 1),
        ("_execute_pipeline", 1),
        ("raise_first_error", 1),
        ("annotate_exception", 1),
        ("parse_response", 0),
        ("_himport_prepare_pipeline", 0),
    ],
)
@pytest.mark.parametrize("raise_on_error", [False, True])
def test_a_subclass_sees_its_methods_called(
    twins: Twins, name: str, taken: int, raise_on_error: bool
) -> None:
    skip_without(name)

    def run(client: Any, _: Any) -> Any:
        pipe = derived(client, **{name: calls_super(name)})
        results = []
        for _ in range(2):
            try:
                results.append(queue(pipe).execute(raise_on_error))
            except ResponseError as error:
                results.append(error)
        pipe.get("s").execute(raise_on_error)
        return results, list(getattr(pipe, "called", ()))

    twins.agree(run, taken=3 * taken)


def test_a_subclass_may_have_its_own_callbacks(twins: Twins) -> None:
    def run(client: Any, _: Any) -> Any:
        ours = property(lambda self: {"GET": lambda reply: "mine"}, lambda self, value: None)
        return derived(client, response_callbacks=ours).get("a").execute()

    twins.agree(run, taken=0)


# -- Patches -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "name", "taken"),
    [
        (redis.client.Pipeline, "parse_response", 0),
        (redis.client.Pipeline, "_execute_pipeline", 0),
        (redis.client.Pipeline, "_execute_transaction", 0),
        (redis.client.Pipeline, "raise_first_error", 1),
        (redis.client.Pipeline, "annotate_exception", 1),
        (redis.client.Pipeline, "execute", 1),
        (redis.client.Pipeline, "_himport_prepare_pipeline", 0),
        (redis.client.Redis, "parse_response", 0),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_patched_class_sees_every_call(twins: Twins, owner: Any, name: str, taken: int) -> None:
    def run(client: Any, pipe: Any) -> Any:
        calls = []

        def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(args[1:2] if name == "parse_response" else len(args))
            return real(self, *args, **kwargs)

        with mock.patch.object(owner, name, noted):
            queue(pipe).execute(raise_on_error=False)
            with pytest.raises(ResponseError) as caught:
                queue(pipe).execute()
        return calls, caught.value

    skip_without(name)
    real = getattr(owner, name)
    twins.agree(run, taken=2 * taken)


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("parse_response", 0),
        ("raise_first_error", 0),
        ("annotate_exception", 1),
        ("_himport_prepare_pipeline", 0),
        ("_execute_pipeline", 0),
        ("_execute_transaction", 0),
        ("immediate_execute_command", 1),
    ],
)
def test_a_patched_pipeline_sees_every_call(twins: Twins, name: str, taken: int) -> None:
    def run(client: Any, pipe: Any) -> Any:
        with mock.patch.object(pipe, name, wraps=None) as patched:
            patched.side_effect = lambda *args, **kwargs: None
            # Without parse_response nobody waits until the server has done a write.
            pipe.get("a").get("b")
            result = pipe.execute()
            return result, patched.call_count

    skip_without(name)
    mode = {"_execute_pipeline": False, "_execute_transaction": True}.get(name)
    twins.agree(run, transaction=mode, taken=taken, same_connections=False, socket_timeout=2)


def test_a_patch_that_is_gone_leaves_nothing_behind(twins: Twins) -> None:
    def run(client: Any, pipe: Any) -> Any:
        with mock.patch.object(redis.client.Pipeline, "parse_response"):
            pass
        with mock.patch.object(pipe, "parse_response"):
            pass
        return pipe.get("a").execute()

    twins.agree(run)


@pytest.mark.parametrize("name", ["pack_commands", "send_packed_command", "read_response"])
@pytest.mark.parametrize("where", ["instance", "class"])
def test_a_patched_connection_sees_every_call(twins: Twins, name: str, where: str) -> None:
    def run(client: Any, pipe: Any) -> Any:
        connection = client.connection_pool.get_connection()
        client.connection_pool.release(connection)
        owner = connection if where == "instance" else type(connection)
        real = getattr(owner, name)
        calls = []

        def noted(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return real(*args, **kwargs)

        with mock.patch.object(owner, name, noted):
            return queue(pipe).execute(raise_on_error=False), calls

    twins.agree(run, taken=0)


def test_a_connection_of_somebodys_making_is_left_to_redis_py(twins: Twins) -> None:
    class Sending(cpool.Connection):
        def send_packed_command(self, command: Any, check_health: bool = True) -> None:
            seen.append(len(list(command)))
            super().send_packed_command(command, check_health)

    seen: list[int] = []
    pool = cpool.ConnectionPool(connection_class=Sending, **twins.address)
    with cpool.Redis(connection_pool=pool) as client:
        fast_path.reset_stats()
        assert client.pipeline(False).set("a", 1).get("a").execute() == [True, b"1"]
        assert seen and fast_path.stats().refused["connection overridden"] == 1


def test_a_pipelines_copy_is_a_pipeline(twins: Twins) -> None:
    def run(client: Any, pipe: Any) -> Any:
        twin = copy.copy(pipe.set("a", 1).get("a"))
        assert type(twin) is type(pipe)
        twin.response_callbacks = {"GET": lambda reply: "mine"}
        return twin.execute(), pipe.execute()

    twins.agree(run, taken=2)


# -- Counts --------------------------------------------------------------------------------


@pytest.fixture
def client(redis_server: EmbeddedServer) -> Iterator[cpool.Redis]:
    """Give a client that has a connection, and counts from zero."""
    with cpool.Redis(host=redis_server.host, port=redis_server.port) as made:
        made.ping()
        fast_path.reset_stats()
        yield made


def counts() -> dict[str, int]:
    """What was counted, zeros left out."""
    stats = fast_path.stats()
    found = {"taken": stats.taken, **stats.refused}
    return {name: count for name, count in found.items() if count}


@pytest.mark.parametrize("transaction", [False, True])
def test_a_pipeline_counts_as_one_call(client: cpool.Redis, transaction: bool) -> None:
    client.pipeline(transaction).get("a").get("b").execute()
    client.pipeline(transaction).execute()
    assert counts() == {"taken": 1}


def test_a_pipeline_may_be_switched_off(client: cpool.Redis) -> None:
    with switched_off():
        assert client.pipeline().incr("switched").execute()
    assert counts() == {"switched off": 1}


def test_a_patched_pipeline_is_counted(client: cpool.Redis) -> None:
    pipe = client.pipeline(False)
    with mock.patch.object(pipe, "parse_response", return_value="patched"):
        assert pipe.get("a").execute() == ["patched"]
    assert counts() == {"client overridden": 1}


def test_commands_that_redis_py_must_send_are_counted(client: cpool.Redis) -> None:
    client.pipeline(False).execute_command(b"GET", "a").execute()
    client.pipeline(False).execute_command("himport discardall").get("a").execute(False)
    client.pipeline(True).execute_command("GET", "a", EMPTY_RESPONSE=1).execute(False)
    assert counts() == {"command": 3}


@pytest.mark.parametrize("command", [5, (5, 5), (("GET",), 5), ((5,), {})])
def test_a_callback_may_spoil_the_commands_that_are_under_way(
    redis_server: EmbeddedServer, command: Any
) -> None:
    """They are the pipeline's own list, which is public."""
    with cpool.Redis(host=redis_server.host, port=redis_server.port) as client:
        pipe = client.pipeline(False).echo("a").echo("b")
        stack = pipe.command_stack

        def spoil(reply: Any) -> Any:
            stack[1] = command
            return reply

        pipe.response_callbacks = {"ECHO": spoil}
        expected = pytest.raises(TypeError)
        with contextlib.nullcontext() if command == ((5,), {}) else expected:
            assert pipe.execute() == [b"a", b"b"]
        assert client.ping()


def test_a_health_check_that_is_due_is_counted(redis_server: EmbeddedServer) -> None:
    options = {"host": redis_server.host, "port": redis_server.port}
    with cpool.Redis(health_check_interval=1000, **options) as client:
        connection = client.connection_pool.get_connection()
        connection.next_health_check = 1.0
        client.connection_pool.release(connection)
        fast_path.reset_stats()
        client.pipeline().get("a").execute()
        client.pipeline().get("a").execute()
    assert counts() == {"health check due": 1, "taken": 1}


def test_a_connection_of_redis_py_is_counted(redis_server: EmbeddedServer) -> None:
    pool = redis.ConnectionPool(host=redis_server.host, port=redis_server.port)
    fast_path.reset_stats()
    with cpool.Redis(connection_pool=pool) as client:
        assert client.pipeline(False).set("a", 1).get("a").execute() == [True, b"1"]
    pool.disconnect()
    assert counts() == {"connection overridden": 1}


def test_a_connection_by_methods_takes_the_compiled_call(redis_server: EmbeddedServer) -> None:
    pool = cpool.ConnectionPool(
        host=redis_server.host,
        port=redis_server.port,
        connection_class=by_methods(cpool.Connection),
    )
    with cpool.Redis(connection_pool=pool) as client:
        client.ping()
        fast_path.reset_stats()
        big = b"x" * 300_000
        pipe = client.pipeline().set("a", big).get("a").incr("a")
        results = pipe.execute(raise_on_error=False)
    assert results[:2] == [True, big] and isinstance(results[2], ResponseError)
    assert counts() == {"taken": 1}


def test_metrics_are_told_of_pipelines_alike(twins: Twins) -> None:
    record = "record_operation_duration"
    if not hasattr(redis.client, record):
        pytest.skip("this redis-py has no metrics")

    def told(kind: str) -> Any:
        with make_client(kind, twins.address) as client:
            client.ping()
            with mock.patch.object(redis.client, record) as recorded:
                queue(client.pipeline()).execute(raise_on_error=False)
                queue(client.pipeline(False)).execute(raise_on_error=False)
        return [
            {key: plain(value) for key, value in call.kwargs.items() if key != "duration_seconds"}
            for call in recorded.call_args_list
        ]

    theirs, *ours = map(told, KINDS)
    assert len(theirs) == 2
    assert ours == [theirs, theirs]
