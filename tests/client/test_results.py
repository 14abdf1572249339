"""Every command returns what it returns with redis-py's client: value, types, callbacks."""

from __future__ import annotations

import enum
import itertools
from typing import Any

import pytest
import redis
from redis.client import EMPTY_RESPONSE, NEVER_DECODE

from cpool.tools.servers import EmbeddedServer
from tests.client.support import (
    HAS_BYTEARRAYS,
    HAS_LEGACY_RESPONSES,
    both,
    counted,
    outcome_of,
    outcomes_of,
    typed,
)

LEGACY = (True, False) if HAS_LEGACY_RESPONSES else (None,)
MODES = list(itertools.product((None, 2, 3), (False, True), LEGACY))

# Method, arguments, options: run one after the other on an empty database.
CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("ping", (), {}),
    ("echo", ("word",), {}),
    ("set", ("s", "v"), {}),
    ("get", ("s",), {}),
    ("get", ("missing",), {}),
    ("set", ("s", "w"), {"get": True}),
    ("set", ("s", "w"), {"nx": True}),
    ("set", ("s2", "w"), {"get": True}),
    ("set", ("s", "x"), {"ex": 100}),
    ("setnx", ("s", 1), {}),
    ("setex", ("e", 100, "x"), {}),
    ("getset", ("s", "y"), {}),
    ("getex", ("s",), {"persist": True}),
    ("getdel", ("s2",), {}),
    ("mset", ({"a": 1, "b": 2.5, "c": b"\xff"},), {}),
    ("msetnx", ({"a": 1},), {}),
    ("get", ("a",), {}),
    ("mget", ("a", "missing"), {}),
    ("append", ("a", "0"), {}),
    ("strlen", ("a",), {}),
    ("getrange", ("a", 0, 0), {}),
    ("incr", ("n",), {}),
    ("incrby", ("n", 1 << 40), {}),
    ("incrbyfloat", ("f", 0.5), {}),
    ("decr", ("n",), {}),
    ("exists", ("a", "b"), {}),
    ("expire", ("a", 100), {}),
    ("ttl", ("missing",), {}),
    ("persist", ("a",), {}),
    ("type", ("a",), {}),
    ("rename", ("b", "b2"), {}),
    ("object", ("encoding", "n"), {}),
    ("setbit", ("bits", 7, 1), {}),
    ("getbit", ("bits", 7), {}),
    ("bitcount", ("bits",), {}),
    ("bitpos", ("bits", 1), {}),
    ("rpush", ("l", *range(5)), {}),
    ("lrange", ("l", 0, -1), {}),
    ("lpop", ("l",), {}),
    ("lpop", ("l", 2), {}),
    ("rpoplpush", ("l", "l2"), {}),
    ("blpop", (["missing", "l"], 1), {}),
    ("llen", ("l",), {}),
    ("lpos", ("l2", 4), {}),
    ("sadd", ("set", "x", "y"), {}),
    ("smembers", ("set",), {}),
    ("sismember", ("set", "x"), {}),
    ("smismember", ("set", ["x", "z"]), {}),
    ("sinter", ("set",), {}),
    ("sscan", ("set",), {}),
    ("zadd", ("z", {"one": 1, "half": 0.5, "inf": float("inf")}), {}),
    ("zadd", ("z", {"one": 1}), {"incr": True}),
    ("zscore", ("z", "half"), {}),
    ("zscore", ("z", "missing"), {}),
    ("zmscore", ("z", ["half", "missing"]), {}),
    ("zrange", ("z", 0, -1), {}),
    ("zrange", ("z", 0, -1), {"withscores": True}),
    ("zrange", ("z", 0, -1), {"withscores": True, "score_cast_func": str}),
    ("zrangebyscore", ("z", 0, 5), {"withscores": True}),
    ("zrevrange", ("z", 0, -1), {"withscores": True, "score_cast_func": int}),
    ("zrank", ("z", "one"), {}),
    ("zincrby", ("z", 2, "one"), {}),
    ("zscan", ("z",), {}),
    ("zpopmin", ("z",), {}),
    ("bzpopmax", (["z"], 1), {}),
    ("zrandmember", ("z", 1), {"withscores": True}),
    ("hset", ("h", "f", 1), {"mapping": {"g": "2"}}),
    ("hget", ("h", "f"), {}),
    ("hgetall", ("h",), {}),
    ("hgetall", ("missing",), {}),
    ("hmget", ("h", ["f", "x"]), {}),
    ("hkeys", ("h",), {}),
    ("hincrbyfloat", ("h", "f", 0.25), {}),
    ("hscan", ("h",), {}),
    ("hrandfield", ("h", 5), {"withvalues": True}),
    ("pfadd", ("hll", "a", "b"), {}),
    ("pfcount", ("hll",), {}),
    ("geoadd", ("geo", (13.36, 38.11, "Palermo", 15.08, 37.5, "Catania")), {}),
    ("geopos", ("geo", "Palermo", "missing"), {}),
    ("geodist", ("geo", "Palermo", "Catania", "km"), {}),
    (
        *("geosearch", ("geo",)),
        {
            **{"longitude": 15, "latitude": 37, "radius": 200, "unit": "km"},
            **{"withdist": True, "withcoord": True, "withhash": True},
        },
    ),
    ("xadd", ("x", {"k": "v"}), {"id": "1-1"}),
    ("xadd", ("x", {"k": "w"}), {"id": "1-2"}),
    ("xrange", ("x",), {}),
    ("xread", ({"x": 0},), {}),
    ("xread", ({"missing": 0},), {}),
    ("xlen", ("x",), {}),
    ("xgroup_create", ("x", "g"), {"id": 0}),
    ("xreadgroup", ("g", "c", {"x": ">"}), {}),
    ("xpending", ("x", "g"), {}),
    ("xack", ("x", "g", "1-1"), {}),
    ("xclaim", ("x", "g", "c2", 0, ["1-2"]), {"justid": True}),
    ("xautoclaim", ("x", "g", "c2", 0), {}),
    ("xinfo_groups", ("x",), {}),
    ("eval", ("return {1, 'two', {3.9, false}, redis.status_reply('fine')}", 0), {}),
    ("eval", ("return {1, redis.error_reply('bad thing')}", 0), {}),
    ("script_load", ("return 1",), {}),
    ("script_exists", ("00", "11"), {}),
    ("sort", ("l2",), {}),
    ("sort", ("set",), {"alpha": True, "get": ["#", "w_*"], "groups": True}),
    ("scan", (), {"match": "z*", "count": 1000}),
    ("dbsize", (), {}),
    ("config_get", ("maxmemory*",), {}),
    ("client_getname", (), {}),
    ("client_setname", ("somebody",), {}),
    ("client_getname", (), {}),
    ("command_getkeys", ("GET", "a"), {}),
    ("command_count", (), {}),
    ("acl_whoami", (), {}),
    ("acl_cat", (), {}),
    ("acl_getuser", ("default",), {}),
    ("acl_getuser", ("nobody",), {}),
    ("memory_usage", ("missing",), {}),
    ("latency_history", ("nothing",), {}),
    ("slowlog_reset", (), {}),  # its length depends on how busy the machine is
    ("module_list", (), {}),
    ("function_list", (), {}),
    ("pubsub_numsub", ("a",), {}),
    ("publish", ("a", "b"), {}),
    ("copy", ("a", "a2"), {}),
    ("touch", ("a",), {}),
    ("unlink", ("a", "a2"), {}),
    ("delete", ("missing",), {}),
    ("select", (0,), {}),
    ("wait", (0, 1), {}),
]


def call_all(client: Any) -> list[Any]:
    return [
        (name, args, outcome_of(getattr(client, name), *args, **options))
        for name, args, options in CALLS
    ]


def mode_of(protocol: Any, decode: bool, legacy: Any, **options: Any) -> dict[str, Any]:
    options.update(protocol=protocol, decode_responses=decode)
    if legacy is not None:
        options["legacy_responses"] = legacy
    return options


@pytest.mark.parametrize(("protocol", "decode", "legacy"), MODES)
def test_all_commands_return_the_same(
    redis_server: EmbeddedServer, protocol: Any, decode: bool, legacy: Any
) -> None:
    with counted() as counts:
        outcomes = both(redis_server, call_all, **mode_of(protocol, decode, legacy))
    assert len([o for _, _, o in outcomes if o[0] == "returned"]) > 100
    assert set(counts()) == {"taken"}


@pytest.mark.parametrize(("protocol", "decode", "legacy"), MODES)
def test_what_is_never_decoded_comes_as_bytes(
    redis_server: EmbeddedServer, protocol: Any, decode: bool, legacy: Any
) -> None:
    def scenario(client: Any) -> Any:
        client.rpush("l", b"\xff\x00", "x")
        data = client.dump("l")
        restored = outcome_of(client.restore, "l2", 0, data)
        again = outcome_of(client.restore, "l2", 0, data)
        raw = client.execute_command("LPOP", "l2", **{NEVER_DECODE: []})
        off = outcome_of(client.execute_command, "LPOP", "l", **{NEVER_DECODE: False})
        return typed(data), restored, again, typed(raw), off

    both(redis_server, scenario, **mode_of(protocol, decode, legacy))


# -- Options and callbacks ----------------------------------------------------------------


def noting(seen: list[Any], result: Any = "called") -> Any:
    def callback(*args: Any, **options: Any) -> Any:
        seen.append((typed(args), options))
        return result

    return callback


OPTIONS: list[dict[str, Any]] = [
    {},
    {"keys": ["k"]},
    {"keys": []},
    {"x": 1},
    {"keys": ["k"], "x": None},
    {"withscores": True, "get": True},
    {NEVER_DECODE: True},
    {NEVER_DECODE: None, "x": 2},
    {EMPTY_RESPONSE: []},
    {EMPTY_RESPONSE: "empty", NEVER_DECODE: 0, "keys": (), "x": 3},
    {"check_health": False},
    {"timeout": 1, "disable_decoding": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(options) or "none")
@pytest.mark.parametrize("command", [("GET", "k"), ("LPOP", "k"), ("NO", "SUCH")])
def test_options_reach_the_callback(
    redis_server: EmbeddedServer, command: Any, options: dict[str, Any]
) -> None:
    def scenario(client: Any) -> Any:
        seen: list[Any] = []
        client.set("k", "v")
        for name in ("GET", "LPOP", "NO"):
            client.set_response_callback(name, noting(seen))
        before = dict(options)
        got = outcome_of(client.execute_command, *command, **options)
        assert options == before
        return got, seen

    with counted() as counts:
        both(redis_server, scenario, decode_responses=True)
    assert set(counts()) == {"taken"}


@pytest.mark.parametrize("name", ["conn", "command_name", "connection", "self", "pool", "client"])
def test_options_named_as_parameters_of_redis_pys_methods(
    redis_server: EmbeddedServer, name: str
) -> None:
    def scenario(client: Any) -> Any:
        seen: list[Any] = []
        client.set_response_callback("INCR", noting(seen))
        got = outcome_of(client.execute_command, "INCR", "k", **{name: 1})
        client.connection_pool.disconnect()  # redis-py leaves the reply to "connection" unread
        return got, seen, client.get("k")

    both(redis_server, scenario)


@pytest.mark.parametrize("set_as", ["GET", "get", "Get"])
@pytest.mark.parametrize("called_as", ["GET", "get", "gEt", b"GET", " GET", "GET "])
def test_a_callback_is_found_by_its_name_in_any_case(
    redis_server: EmbeddedServer, set_as: str, called_as: Any
) -> None:
    def scenario(client: Any) -> Any:
        client.set_response_callback(set_as, lambda reply: ("mine", reply))
        return outcome_of(client.execute_command, called_as, "k")

    both(redis_server, scenario)


class Lazy(dict):  # type: ignore[type-arg]
    """A table of callbacks that says yes to every name."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> Any:
        return lambda reply, **options: (name, reply, options)


TABLES = [
    lambda old: {},
    lambda old: {"GET": lambda reply: ("plain", reply)},
    lambda old: {"get": lambda reply: ("lower", reply)},
    lambda old: Lazy(),
    lambda old: type("Mine", (type(old),), {})(old),
    lambda old: type("Mine", (type(old),), {"__contains__": lambda self, name: False})(old),
]


@pytest.mark.parametrize("table", TABLES)
def test_the_table_of_callbacks_may_be_any_dict(redis_server: EmbeddedServer, table: Any) -> None:
    def scenario(client: Any) -> Any:
        client.set("k", "v")
        client.response_callbacks = table(client.response_callbacks)
        commands = [("GET", "k"), ("get", "k"), ("HGETALL", "h"), ("hgetall", "h")]
        return outcomes_of(client, *commands)

    both(redis_server, scenario, protocol=2)


def test_callbacks_changed_in_place_hold_at_once(redis_server: EmbeddedServer) -> None:
    def scenario(client: Any) -> Any:
        client.set("k", "v")
        results = [client.get("k")]
        client.response_callbacks["get"] = len
        results.append(client.get("k"))
        del client.response_callbacks["GET"]
        results.append(client.get("k"))
        client.response_callbacks.setdefault("get", len)  # not found by anybody
        results.append(client.get("k"))
        client.response_callbacks.update({"get": repr})
        results.append(client.get("k"))
        client.response_callbacks.clear()
        return [*results, client.hgetall("h")]

    both(redis_server, scenario, protocol=2)


@pytest.mark.parametrize("callback", [None, 5, "text", int, bool, bytes.decode])
def test_a_callback_may_be_anything(redis_server: EmbeddedServer, callback: Any) -> None:
    def scenario(client: Any) -> Any:
        client.set("k", "v")
        client.set_response_callback("GET", callback)
        return outcome_of(client.get, "k")

    both(redis_server, scenario)


# -- Names and arguments ------------------------------------------------------------------


class Text(str):
    """A str that is not exactly one."""


class Number(enum.IntEnum):
    ONE = 1


class Odd(int):
    def __repr__(self) -> str:
        return "odd"


BYTEARRAYS = [bytearray(b"GET")] if HAS_BYTEARRAYS else []

COMMANDS: list[tuple[Any, ...]] = [
    ("get", "k"),
    ("GeT", "k"),
    ("CONFIG GET", "maxmemory"),
    ("config get", "maxmemory"),
    ("config", "get", "maxmemory"),
    ("CONFIG  GET", "maxmemory"),
    ("OBJECT HELP",),
    (b"GET", "k"),
    (b"config get", "maxmemory"),
    (Text("GET"), "k"),
    (Text("CONFIG GET"), "maxmemory"),
    ("GÉT", "k"),
    ("命令",),
    *((array, "k") for array in BYTEARRAYS),
    (memoryview(b"GET"), "k"),
    (1,),
    (None,),
    (True, "k"),
    (),
    ("GET",),
    ("GET", "k", "extra"),
    ("NOSUCH", "x" * 300),
    ("HIMPORT", "x"),
    ("himport set", "k"),
    ("HELP",),
    ("H",),
    ("hget", "h", "f"),
    ("G\0T", "k"),
    ("GET\r\n", "k"),
]


def test_names_of_all_kinds(redis_server: EmbeddedServer) -> None:
    both(redis_server, lambda client: outcomes_of(client, *COMMANDS))


def test_a_command_of_no_words_waits_for_the_reply_that_never_comes(
    redis_server: EmbeddedServer,
) -> None:
    def scenario(client: Any) -> Any:
        return outcomes_of(client, ("",), (" ",)), client.ping()

    both(redis_server, scenario, socket_timeout=0.05)


VALUES: list[Any] = [
    *BYTEARRAYS,
    *("", "text", "ünï\N{SNOWMAN}\N{PILE OF POO}", "\ud800", "\0\r\n", Text("sub"), "x" * 17_000),
    *(b"", b"\xff\xfe", memoryview(b"view")),
    *(0, -1, 1 << 63, -(1 << 63), 10**40, 1.0, -0.5, 1e300, float("inf"), float("nan"), 0.1),
    *(Number.ONE, Odd(3), True, False, None, object, [], (1,), {}, {1}, 1j, ...),
]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16", "ascii", "UTF8"])
@pytest.mark.parametrize("errors", ["strict", "replace", "surrogateescape"])
def test_values_of_all_kinds_go_and_come_back(
    redis_server: EmbeddedServer, encoding: str, errors: str
) -> None:
    def scenario(client: Any) -> Any:
        results = []
        for value in VALUES:
            results.append(outcome_of(client.set, "k", value))
            results.append(outcome_of(client.get, "k"))
            results.append(outcome_of(client.set, value, "v"))
        return results, client.dbsize()

    options = {"encoding": encoding, "encoding_errors": errors}
    both(redis_server, scenario, **options)
    if encoding != "utf-16":  # the handshake can't be decoded
        both(redis_server, scenario, decode_responses=True, **options)


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("size", [6_000, 17_000, 70_000, 2_000_000])
def test_large_values_go_and_come_back(
    redis_server: EmbeddedServer, size: int, decode: bool
) -> None:
    def scenario(client: Any) -> Any:
        for value in ("é" * (size // 2), b"b" * size, memoryview(bytes(size))):
            assert client.set("k", value) is True
            assert client.append("k", "end") == size + 3
            got = client.get("k")
            expected = value.encode() if isinstance(value, str) else bytes(value)
            assert (got.encode() if decode else got) == expected + b"end"
        many = ["x" * 1000] * (size // 1000)
        return client.rpush("l", *many), client.lrange("l", 0, -1) == client.lrange("l", 0, -1)

    with counted() as counts:
        both(redis_server, scenario, decode_responses=decode)
    assert set(counts()) == {"taken"}


def test_reply_that_cannot_be_decoded(redis_server: EmbeddedServer) -> None:
    def scenario(client: Any) -> Any:
        client.set("k", b"\xff")
        failed = outcome_of(client.get, "k")
        return failed, outcome_of(client.echo, "next")

    both(redis_server, scenario, decode_responses=True)


@pytest.mark.parametrize("options", [{}, {"single_connection_client": True}])
def test_commands_that_change_their_connection(
    redis_server: EmbeddedServer, options: dict[str, Any]
) -> None:
    """What is left behind is not compared: our pool closes such a connection."""

    def scenario(client: Any) -> Any:
        results = outcomes_of(client, ("MULTI",))
        if client.connection is not None:
            results += outcomes_of(client, ("SET", "k", "v"), ("EXEC",), ("WATCH", "k"))
            results += outcomes_of(client, ("UNWATCH",), ("SELECT", 1), ("DBSIZE",))
        return results, outcome_of(client.quit)

    both(redis_server, scenario, **options)


def test_modules_commands_reach_their_callbacks(redis_server: EmbeddedServer) -> None:
    def scenario(client: Any) -> Any:
        return outcome_of(client.json().get, "k"), outcome_of(client.ft().info)

    assert both(redis_server, scenario)[0][1] is redis.ResponseError
