"""set() of a name and a value: past redis-py's look at its options, with the same result."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import redis

import cpool


@pytest.fixture
def client(redis_server: Any) -> Any:
    with cpool.Redis(host=redis_server.host, port=redis_server.port) as made:
        yield made


@pytest.mark.parametrize("cls", [cpool.Redis, cpool.Pipeline, cpool.RedisCluster])
def test_it_is_documented_as_redis_pys(cls: Any) -> None:
    ours, theirs = (inspect.signature(c.set).parameters for c in (cls, redis.Redis))
    assert list(ours) == list(theirs)
    assert [p.default for p in ours.values()] == [p.default for p in theirs.values()]
    assert inspect.getdoc(cls.set) == inspect.getdoc(redis.Redis.set)


def test_all_its_forms_are_understood(client: Any) -> None:
    assert client.set("a", 1) is True
    assert client.set("a", 2, nx=True) is None
    assert client.set("a", 3, 100) is True
    assert client.ttl("a") == 100
    assert client.set(name="a", value=4, get=True) == b"3"
    with pytest.raises(TypeError):
        client.set("a")


def test_who_has_replaced_redis_pys_is_called(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis.client.Redis, "set", lambda self, name, value: (name, value))
    assert client.set("a", 1) == ("a", 1)


def test_a_subclass_may_have_its_own(redis_server: Any) -> None:
    class Mine(cpool.Redis):
        def set(self, name: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
            return super().set(f"mine:{name}", value, *args, **kwargs)

    with Mine(host=redis_server.host, port=redis_server.port) as mine:
        assert mine.set("a", 1) is True
        assert mine.get("mine:a") == b"1"


def test_a_pipeline_takes_it(client: Any) -> None:
    assert client.pipeline().set("a", 1).set("a", 2, ex=5).get("a").execute() == [True, True, b"2"]
