"""The table of every argument is that of the installed classes."""

from __future__ import annotations

import re
from collections import defaultdict

import pytest
import redis
from redis.sentinel import SentinelConnectionPool

import cpool
from tests.support.examples import ROOT
from tests.support.signatures import keywords_of, redis_py_is_the_newest

ROW = re.compile(r"^\| `(\w+)` \| ([\w, ]+) \| (same|different|new) \|(.*)\|$", re.MULTILINE)
PAGE = (ROOT / "docs" / "migrating.md").read_text()
OF_A_NODE = {"is_master", "check_connection", "ssl"}
OF_A_CACHE = {"cache", "cache_config"}

Table = dict[str, set[str]]


def written(kinds: set[str]) -> Table:
    """Argument -> who takes it, of the rows of these kinds."""
    table: Table = defaultdict(set)
    for name, takers, kind, _ in ROW.findall(PAGE):
        if kind in kinds:
            table[name] |= set(takers.split(", "))
    return dict(table)


def takers_of(classes: dict[str, type]) -> Table:
    """The same, read off the signatures of a library's classes."""
    table: Table = defaultdict(set)
    taken = {who: set(keywords_of(cls)) for who, cls in classes.items()}
    everywhere = taken["TCP"] & taken["TLS"] & taken["unix"]
    taken["connection"] = everywhere
    taken["unix"] -= everywhere
    taken["TCP"] -= everywhere
    taken["TLS"] -= everywhere | taken["TCP"]
    taken["blocking"] -= taken["pool"]
    taken["sentinel"] -= taken["pool"]
    # What redis-py's constructors take out of their keywords.
    taken["pool"] |= OF_A_CACHE
    taken["sentinel"] |= OF_A_NODE
    for who, names in taken.items():
        for name in names:
            table[name].add(who)
    return dict(table)


THEIRS = {
    "client": redis.Redis,
    "pool": redis.ConnectionPool,
    "blocking": redis.BlockingConnectionPool,
    "sentinel": SentinelConnectionPool,
    "TCP": redis.Connection,
    "TLS": redis.SSLConnection,
    "unix": redis.UnixDomainSocketConnection,
}
OURS = {
    "client": cpool.Redis,
    "pool": cpool.ConnectionPool,
    "blocking": cpool.BlockingConnectionPool,
    "sentinel": cpool.SentinelConnectionPool,
    "TCP": cpool.Connection,
    "TLS": cpool.SSLConnection,
    "unix": cpool.UnixDomainSocketConnection,
}


@pytest.mark.skipif(not redis_py_is_the_newest(), reason="the table is that of redis-py 8.1")
def test_the_table_has_every_argument_of_redis_py() -> None:
    assert written({"same", "different"}) == takers_of(THEIRS)


@pytest.mark.skipif(not redis_py_is_the_newest(), reason="the table is that of redis-py 8.1")
def test_what_is_new_is_what_only_cpool_takes() -> None:
    theirs, ours = takers_of(THEIRS), takers_of(OURS)
    new = {name: takers - theirs.get(name, set()) for name, takers in ours.items()}
    assert written({"new"}) == {name: takers for name, takers in new.items() if takers}


def test_no_argument_of_an_older_redis_py_is_missing() -> None:
    assert takers_of(THEIRS).keys() <= written({"same", "different"}).keys()


def test_every_difference_is_explained() -> None:
    assert not [
        name for name, _, kind, why in ROW.findall(PAGE) if kind != "same" and len(why) < 5
    ]
