"""Which commands may be sent again, by the tables of real servers."""

from __future__ import annotations

from typing import Any

import pytest

import cpool
from cpool import replay
from cpool.tools.servers import EmbeddedServer
from tests.replay import tables

READS = "GET MGET EXISTS HGETALL LRANGE ZRANGE XRANGE XREAD SCAN KEYS TYPE TTL TOUCH PFCOUNT DUMP"
OF_CONNECTIONS = "AUTH HELLO SELECT PING ECHO RESET MULTI EXEC DISCARD WATCH UNWATCH READONLY"
WITHOUT_EFFECT = "INFO TIME DBSIZE LASTSAVE RANDOMKEY LOLWUT"
SUBSCRIBERS = "SUBSCRIBE PSUBSCRIBE SSUBSCRIBE UNSUBSCRIBE PUNSUBSCRIBE SUNSUBSCRIBE"
OVERWRITES = "SETEX PSETEX MSET HMSET"
HARMLESS = f"{READS} {OF_CONNECTIONS} {WITHOUT_EFFECT} {SUBSCRIBERS} {OVERWRITES}".split()

WRITES = "INCR INCRBYFLOAT APPEND LPUSH RPOP LMOVE SADD SPOP ZADD ZINCRBY HSET XADD XREADGROUP DEL"
NEARLY_OVERWRITES = "SETNX MSETNX GETSET GETDEL GETEX EXPIRE RENAME COPY SORT RESTORE"
SCRIPTS = "EVAL EVALSHA FCALL"
ELSEWHERE = "PUBLISH SPUBLISH FLUSHALL SWAPDB SHUTDOWN DEBUG MONITOR MIGRATE REPLICAOF SAVE"
OF_ITS_CONNECTION = "WAIT WAITAOF"
BLOCKING = "BLPOP BLMOVE BZPOPMIN"
HARMFUL = [
    *f"{WRITES} {NEARLY_OVERWRITES} {SCRIPTS} {ELSEWHERE} {OF_ITS_CONNECTION} {BLOCKING}".split(),
    *("NOSUCH", "", " ", "CLIENT KILL", "CONFIG SET", "SCRIPT LOAD", "FUNCTION LOAD"),
    *("CLUSTER FAILOVER", "CLIENT PAUSE", "MODULE LOAD", "ACL SETUSER", "CLIENT NOSUCH"),
]
SINCE_7 = "CLIENT GETNAME|CLIENT SETNAME|MEMORY USAGE|OBJECT ENCODING|CLUSTER SLOTS|EVAL_RO"
NEW = [server for server in tables.SERVERS if server != "redis-6.2.14"]


class Told:
    """A connection that answers COMMAND from a file."""

    def __init__(self, reply: Any) -> None:
        self.reply = reply
        self.asked = 0

    def send_command(self, *args: Any, check_health: bool) -> None:
        assert args == ("COMMAND",)
        self.asked += 1

    def read_response(self, *, disable_decoding: bool, disconnect_on_error: bool) -> Any:
        assert disable_decoding and not disconnect_on_error
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply


def table_of(reply: Any) -> replay.ReplayTable:
    table = replay.ReplayTable()
    table.learn_from(Told(reply))
    return table


@pytest.fixture(scope="module", params=tables.SERVERS)
def table(request: pytest.FixtureRequest) -> replay.ReplayTable:
    """Give each server's table."""
    return table_of(tables.read(request.param))


@pytest.mark.parametrize("name", HARMLESS)
def test_what_reads_connects_or_overwrites_may_run_twice(
    table: replay.ReplayTable, name: str
) -> None:
    assert table.judge((name, "key", "value")) == (name, True)
    assert table.judge((name.lower().encode(), b"key")) == (name, True)


@pytest.mark.parametrize("name", HARMFUL)
def test_what_changes_something_may_not_run_twice(table: replay.ReplayTable, name: str) -> None:
    for args in ((name, "key", "1"), (*name.split(), "key"), (name.lower().encode(),)):
        assert table.judge(args)[1] is False
    assert len(table.judge(("n" * 1000,))[0]) < 50


@pytest.mark.parametrize("server", NEW)
@pytest.mark.parametrize("name", SINCE_7.split("|"))
def test_subcommands_are_judged_by_their_own_entry(server: str, name: str) -> None:
    table = table_of(tables.read(server))
    for args in ((name, "x"), (*name.split(), "x"), (name.lower().encode(), 1)):
        assert table.judge(args) == (name, True)


SETS = [
    (("k", "v"), True),
    (("k", "v", "EX", 10), True),
    ((b"k", b"v", b"px", b"10", b"keepttl"), True),
    (("k", "v", "EXAT", 2**40), True),
    (("k", "v", "PXAT", 2**50), True),
    (("k", "v", "KEEPTTL"), True),
    (("k", "NX"), True),  # a value
    (("k", "v", "NX"), False),
    (("k", "v", "EX", 10, "xx"), False),
    (("k", "v", b"GET"), False),
    (("k", "v", "IFEQ", "v0"), False),
    (("k", "v", memoryview(b"NX")), False),
    (("k", "v", "NEW"), False),
]


@pytest.mark.parametrize(("words", "harmless"), SETS)
def test_a_set_may_run_twice_if_it_only_sets(
    table: replay.ReplayTable, words: tuple[Any, ...], harmless: bool
) -> None:
    assert table.judge(("SET", *words)) == ("SET", harmless)


@pytest.mark.parametrize("server", tables.SERVERS)
def test_no_write_may_run_twice_but_overwrites(server: str) -> None:
    table = table_of(tables.read(server))
    for line in (tables.DATA / f"{server}.tsv").read_text().splitlines():
        name, _, flags, _ = line.split("\t")
        if {"write", "admin"} & set(flags.split()) and name != "set":
            harmless = table.judge((name.replace("|", " "),))[1]
            assert not harmless or name in replay.OVERWRITES, line


def test_a_name_with_subcommands_is_judged_alone_too(table: replay.ReplayTable) -> None:
    assert table.judge(("COMMAND",)) == ("COMMAND", True)


def test_names_are_shown_and_arguments_are_not(table: replay.ReplayTable) -> None:
    assert table.judge(("INCR secret",))[0] == "INCR"
    assert table.judge(("CLIENT", "secret"))[0] == "CLIENT"
    assert table.judge(("set secret secret nx",)) == ("SET", False)


def test_verdicts_are_kept_by_names_of_the_table_only() -> None:
    table = table_of(tables.read("redis-7.0.15"))
    for args in (("GET", "k"), ("incr", "k"), ("NOSUCH",), ("SET", "k"), ("CONFIG", "GET")):
        table.judge(args)
        table.judge(args)
    table.judge(("INCR", "k"))
    assert table.known == {"GET": ("GET", True), "INCR": ("INCR", False)}


REFUSALS = [
    (cpool.connection.AuthenticationError("NOAUTH"), 2),
    (replay.ResponseError("NOPERM"), 1),
    (b"OK", 1),
]


@pytest.mark.parametrize(("reply", "asked"), REFUSALS)
def test_without_a_table_only_subscribers_and_pings_may_be_replayed(
    reply: Any, asked: int
) -> None:
    table, connection = replay.ReplayTable(), Told(reply)
    for _ in range(2):
        table.learn_from(connection)
    assert connection.asked == asked  # again only if nobody had logged in
    for name in ("GET", "MULTI", "SETEX", "COMMAND"):
        assert table.judge((name,)) == (name, False)
    for name in ("PING", *SUBSCRIBERS.split()):
        assert table.judge((name,)) == (name, True)


def test_an_error_of_the_connection_leaves_the_question_open() -> None:
    table = replay.ReplayTable()
    with pytest.raises(ConnectionError):
        table.learn_from(Told(ConnectionError("broken")))
    table.learn_from(Told(tables.read("redis-7.0.15")))
    assert table.judge(("GET",)) == ("GET", True)


def test_nobody_waits_for_who_is_asking() -> None:
    table = replay.ReplayTable()

    class Meanwhile(Told):
        def read_response(self, **kwargs: Any) -> Any:
            second = Told([])
            table.learn_from(second)
            assert second.asked == 0 and table.judge(("GET",)) == ("GET", False)
            return super().read_response(**kwargs)

    table.learn_from(Meanwhile(tables.read("redis-7.0.15")))
    assert table.judge(("GET",)) == ("GET", True)


def test_a_child_does_not_wait_for_its_parents_question() -> None:
    table = replay.ReplayTable()

    class Forking(Told):
        def read_response(self, **kwargs: Any) -> Any:
            table.after_fork()
            table.learn_from(Told(tables.read("redis-7.0.15")))
            assert table.judge(("GET",)) == ("GET", True)
            return super().read_response(**kwargs)

    table.learn_from(Forking(tables.read("redis-8.6.3")))


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_running_servers_table_is_understood(
    redis_server: EmbeddedServer, protocol: int
) -> None:
    table = table_of(tables.ask(redis_server.url, protocol))
    assert all(table.judge((name,))[1] for name in HARMLESS if name != "RESET")
    assert not any(table.judge((name,))[1] for name in HARMFUL)


def test_a_pool_asks_once(fresh_db: EmbeddedServer) -> None:
    client = cpool.Redis(port=fresh_db.port, retry_policy="safe")
    pool = client.connection_pool
    client.config_resetstat()
    connections = [pool.get_connection() for _ in range(4)]
    for connection in connections:
        connection.disconnect()
        connection.connect()
        pool.release(connection)
    assert "cmdstat_command" not in client.info("commandstats")
    pool.reset()
    client.ping()
    assert "cmdstat_command" not in client.info("commandstats")
    client.connection_pool.disconnect()
