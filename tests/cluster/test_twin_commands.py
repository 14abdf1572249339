"""Commands of every kind of key position: what redis-py's cluster client returns or raises,
ours does, and the compiled call has done it where it should."""

from __future__ import annotations

import random
from typing import Any

import pytest

from cpool.tools.topology import ClusterTopology
from tests.client.support import counted
from tests.cluster.support import MANY_SLOTS, ONE_SLOT, OURS, both, client_of, outcome_of

A, B, C = ONE_SLOT
SETUP: list[tuple[Any, ...]] = [
    ("SET", A, "1"),
    ("SET", B, "2"),
    ("SET", "{tag}ten", 10),
    ("RPUSH", "{tag}list", "x", "y", "z"),
    ("SADD", "{tag}set", "m", "n"),
    ("SADD", "{tag}set2", "n", "o"),
    ("ZADD", "{tag}zset", 1, "one", 2, "two"),
    ("HSET", "{tag}hash", "field", "value"),
    ("XADD", "{tag}stream", "1-1", "field", "value"),
]

# Commands by where their keys stand; those of COMPILED are compiled calls.
COMPILED: dict[str, list[tuple[Any, ...]]] = {
    "first": [
        ("GET", A),
        ("get", A),
        ("GET", "missing"),
        ("SET", "k", "v", "NX"),
        ("INCR", A),
        ("INCR", "{tag}list"),
        ("HGETALL", "{tag}hash"),
        ("LRANGE", "{tag}list", 0, -1),
        ("ZRANGE", "{tag}zset", 0, -1, "WITHSCORES"),
        ("XRANGE", "{tag}stream", "-", "+"),
        ("TTL", A),
        ("TYPE", A),
        ("GET", A, "too many"),
        ("EXPIRE", A, "no number"),
        ("APPEND", A, b"\xff\x00"),
        ("SETEX", A, 10, "v"),
        ("GETRANGE", A, 0, 1),
    ],
    "first-to-last": [
        ("MGET", *ONE_SLOT),
        ("DEL", A),
        ("DEL", *ONE_SLOT),
        ("EXISTS", A, B, "{tag}no"),
        ("UNLINK", A, B),
        ("TOUCH", A, B),
        ("SUNION", "{tag}set", "{tag}set2"),
        ("SINTER", "{tag}set", "{tag}set2"),
        ("PFCOUNT", "{tag}none", "{tag}nothing"),
        ("RENAME", A, "{tag}new"),
        ("RENAME", "{tag}none", "{tag}new"),
        ("SMOVE", "{tag}set", "{tag}set2", "m"),
        ("RPOPLPUSH", "{tag}list", "{tag}list2"),
        ("WATCH", A),
    ],
    "all but the last": [
        ("BLPOP", "{tag}none", "{tag}list", 1),
        ("BRPOP", "{tag}list", 0.01),
        ("BLPOP", "{tag}none", 0.01),
        ("BZPOPMIN", "{tag}zset", 1),
    ],
    "every second": [
        ("MSET", A, 1, B, 2),
        ("MSETNX", A, 1, B, 2),
    ],
    "from the second on": [
        ("BITOP", "AND", "{tag}dest", A, B),
    ],
    "counted": [
        ("ZUNION", 2, "{tag}zset", "{tag}none"),
        ("SINTERCARD", 2, "{tag}set", "{tag}set2"),
        ("LMPOP", 1, "{tag}list", "LEFT"),
        ("ZMPOP", 1, "{tag}zset", "MIN"),
        ("ZDIFF", 2, "{tag}zset", "{tag}none", "WITHSCORES"),
        ("EVAL", "return {KEYS[1], KEYS[2], ARGV[1]}", 2, A, B, "v"),
        ("EVAL", "return redis.error_reply('ERR no')", 1, A),
        ("EVALSHA", "0" * 40, 1, A),
    ],
}
THEIRS_TO_DO: dict[str, list[tuple[Any, ...]]] = {
    "movable": [
        ("SORT", "{tag}list", "ALPHA"),
        ("SORT", "{tag}list", "ALPHA", "STORE", "{tag}sorted"),
        ("XREAD", "COUNT", 1, "STREAMS", "{tag}stream", "0"),
        ("GEORADIUS", "{tag}geo", 0, 0, 1, "km"),
        ("MIGRATE", "127.0.0.1", 1, "", 0, 10, "KEYS", "{tag}none"),
        ("ZUNIONSTORE", "{tag}dest", 1, "{tag}zset"),
    ],
    "subcommands": [
        ("XINFO", "STREAM", "{tag}stream"),
        ("XGROUP", "CREATE", "{tag}stream", "group", "0"),
        ("MEMORY", "USAGE", A),
        ("OBJECT", "ENCODING", A),
        ("DEBUG", "OBJECT", A),
    ],
    "none": [
        ("PING",),
        ("ECHO", "text"),
        ("DBSIZE",),
        ("KEYS", "*"),
        ("TIMES",),
        ("EVAL", "return 1", 0),
        ("EVAL", "return 1", "0"),
        ("CONFIG", "GET", "maxclients"),
        ("SCRIPT", "EXISTS", "0" * 40),
        ("PUBLISH", "channel", "message"),
    ],
    "several slots": [
        ("MGET", *MANY_SLOTS),
        ("DEL", *MANY_SLOTS),
        ("MSET", "a", 1, "b", 2),
        ("RENAME", "a", "b"),
        ("SINTERCARD", 2, "a", "b"),
        ("EVAL", "return 1", 2, "a", "b"),
        ("BLPOP", "a", "b", 0.01),
    ],
    "not enough": [
        ("GET",),
        ("MSET",),
        ("MGET",),
        ("EVAL", "return 1"),
        ("EVAL", "return 1", 1),
        ("EVAL", "return 1", "x", "k"),
        ("ZUNION", 3, "{tag}zset"),
        ("SINTERCARD", "1", "{tag}set"),
        ("LMPOP", 0, "{tag}list", "LEFT"),
        ("BITOP", "AND"),
        ("OBJECT",),
        ("OBJECT", "HELP"),
    ],
    "unknown": [("NOSUCHCOMMAND", "k"), ("", "k"), ("GET ", "k")],
}


def prepared(client: Any) -> Any:
    for command in SETUP:
        client.execute_command(*command)
    return client


def results(client: Any, commands: list[tuple[Any, ...]]) -> list[Any]:
    """Run each command on the same data."""
    found = []
    for command in commands:
        client.delete(*ONE_SLOT, "{tag}list", "{tag}set", "{tag}set2", "{tag}zset", "{tag}stream")
        prepared(client)
        random.seed(1)  # redis-py's choice where any slot will do
        found.append((command, outcome_of(client.execute_command, *command)))
    return found


@pytest.mark.parametrize("kind", {**COMPILED, **THEIRS_TO_DO})
def test_a_command_does_what_redis_pys_does(redis_cluster: ClusterTopology, kind: str) -> None:
    commands = {**COMPILED, **THEIRS_TO_DO}[kind]
    for protocol in (2, 3):
        both(redis_cluster, lambda client: results(client, commands), protocol=protocol)


@pytest.mark.parametrize("kind", COMPILED)
def test_a_command_of_one_slot_is_one_compiled_call(
    fresh_cluster: ClusterTopology, kind: str
) -> None:
    with client_of(OURS, fresh_cluster) as client:
        prepared(client)
        for command in COMPILED[kind]:
            with counted() as counts:
                outcome_of(client.execute_command, *command)
            assert counts() == {"taken": 1}, command


def test_routes_are_found_once_for_a_client_and_its_pipelines(
    fresh_cluster: ClusterTopology, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    find = OURS._find_route

    def noting(self: Any, name: str) -> Any:
        asked.append(name)
        return find(self, name)

    monkeypatch.setattr(OURS, "_find_route", noting)
    with client_of(OURS, fresh_cluster) as client:
        for _ in range(3):
            client.get("a")
            client.get("b")
            client.pipeline().get("a").set("c", 1).execute()
        assert sorted(asked) == ["GET", "SET"]


# -- keys and values ---------------------------------------------------------------------


KEYS: list[Any] = [
    "text",
    "",
    "k\u00e9y",
    "\u20ac\U0001f600",
    "{\u00e9}tag",
    b"bytes",
    b"\xff\xfe\x00",
    bytearray(b"bytearray"),
    memoryview(b"view"),
    12345,
    1.5,
    True,
    None,
    ["list"],
    object,
    "\ud800",
    "x" * 5000,
]


class Text(str):
    """A str by another name."""


class Loud(str):
    """A str that encodes as another."""

    def encode(self, *args: Any, **kwargs: Any) -> bytes:
        return b"{loud}" + str.encode(self, *args, **kwargs)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16"])
def test_keys_of_all_kinds_go_where_redis_py_sends_them(
    redis_cluster: ClusterTopology, encoding: str
) -> None:
    def scenario(client: Any) -> list[Any]:
        found: list[Any] = []
        for key in [*KEYS, Text("text"), Loud("loud")]:
            found.append(outcome_of(client.set, key, "value"))
            found.append(outcome_of(client.get, key))
            found.append(outcome_of(client.mget, [key, key]))
            found.append(outcome_of(client.execute_command, "EVAL", "return KEYS", 1, key))
        return found

    both(redis_cluster, scenario, encoding=encoding)
    both(redis_cluster, scenario, encoding=encoding, encoding_errors="replace")


@pytest.mark.parametrize("decode_responses", [False, True])
@pytest.mark.parametrize("protocol", [2, 3])
def test_values_come_back_as_redis_pys_do(
    redis_cluster: ClusterTopology, decode_responses: bool, protocol: int
) -> None:
    def scenario(client: Any) -> list[Any]:
        client.set("k", "v\u00e9")
        client.set("raw", b"\xff")
        client.hset("h", mapping={"a": 1, "b": 1.5})
        client.zadd("z", {"m": 1.5, "n": 2})
        client.geoadd("g", (13.36, 38.11, "Palermo"))
        return [
            outcome_of(call)
            for call in (
                lambda: client.get("k"),
                lambda: client.get("raw"),
                lambda: client.get("no"),
                lambda: client.hgetall("h"),
                lambda: client.zrange("z", 0, -1, withscores=True),
                lambda: client.zscore("z", "m"),
                lambda: client.geopos("g", "Palermo"),
                lambda: client.set("k", "v", get=True),
                lambda: client.incrbyfloat("f", 0.1),
                lambda: client.smembers("none"),
                lambda: client.getdel("k"),
                lambda: client.execute_command("GET", "raw", NEVER_DECODE=True),
                lambda: client.xadd("x", {"a": "b"}, id="1-1"),
                lambda: client.xrange("x"),
                lambda: client.lpos("none", "x"),
                lambda: client.type("h"),
                lambda: client.object("encoding", "h"),
            )
        ]

    both(redis_cluster, scenario, decode_responses=decode_responses, protocol=protocol)


def test_callbacks_are_redis_pys_and_ones_own(redis_cluster: ClusterTopology) -> None:
    def scenario(client: Any) -> list[Any]:
        calls: list[Any] = []

        def callback(*args: Any, **kwargs: Any) -> Any:
            calls.append((args, kwargs))
            return "called", args

        client.set("k", "v")
        client.set_response_callback("GET", callback)
        client.set_response_callback("MYGET", callback)
        found = [outcome_of(client.get, "k"), outcome_of(client.execute_command, "get", "k")]
        found.append(outcome_of(client.execute_command, "GET", "k", option=1))
        found.append(outcome_of(client.execute_command, "GET", "k", keys=["k"]))
        client.cluster_response_callbacks["GET"] = lambda reply, **options: 1 / 0
        found.append(outcome_of(client.get, "k"))
        client.cluster_response_callbacks.pop("GET")
        found.append(outcome_of(client.get, "k"))
        for node in client.get_primaries():
            client.get_redis_connection(node).set_response_callback("GET", lambda r, **o: "node's")
        found.append(outcome_of(client.get, "k"))
        return [*found, calls]

    both(redis_cluster, scenario)


def test_scripts_run_where_their_keys_are(redis_cluster: ClusterTopology) -> None:
    def scenario(client: Any) -> list[Any]:
        script = client.register_script("return {KEYS[1], ARGV[1]}")
        found = [outcome_of(script, keys=[key], args=[1]) for key in MANY_SLOTS]
        found.append(outcome_of(script, keys=["a", "b"], args=[1]))
        found.append(outcome_of(client.eval, "return KEYS[1]", 1, "a"))
        found.append(outcome_of(client.evalsha, script.sha, 1, "a", "x"))
        found.append(outcome_of(client.eval_ro, "return KEYS[1]", 1, "a"))
        found.append(outcome_of(client.script_exists, script.sha))
        found.append(outcome_of(client.script_flush))
        found.append(outcome_of(client.evalsha, script.sha, 1, "a", "x"))
        found.append(outcome_of(script, keys=["a"], args=[2]))
        return found

    both(redis_cluster, scenario)


# -- over slots --------------------------------------------------------------------------


def test_what_is_spread_over_slots_does_what_redis_pys_does(
    redis_cluster: ClusterTopology,
) -> None:
    keys = [f"key:{i}" for i in range(60)]

    def scenario(client: Any) -> list[Any]:
        client.set("text", "value")
        return [
            outcome_of(client.mset_nonatomic, {key: key for key in keys}),
            outcome_of(client.mget_nonatomic, keys),
            outcome_of(client.mget_nonatomic, *keys[:3], "none"),
            outcome_of(client.mget_nonatomic, ["none", "none", keys[0]]),
            outcome_of(client.mget_nonatomic, []),
            outcome_of(client.mset_nonatomic, {}),
            outcome_of(client.mset_nonatomic, {"one": 1}),
            outcome_of(client.exists, *keys, "none"),
            outcome_of(client.touch, *keys),
            outcome_of(client.delete, *keys[:30], "none"),
            outcome_of(client.unlink, *keys[20:]),
            outcome_of(client.exists, *keys),
            outcome_of(client.exists),
            outcome_of(client.delete),
            outcome_of(client.mget, "text"),
            outcome_of(client.mget, keys),
            outcome_of(client.mset, {"{x}a": 1, "{x}b": 2}),
            outcome_of(client.mget, "{x}a", "{x}b"),
        ]

    both(redis_cluster, scenario)
    both(redis_cluster, scenario, decode_responses=True)
