"""Values of all sizes go out and come back unchanged, by every kind of socket."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
import redis

import cpool
from tests.wire.peer import HAS_MAINTENANCE, HAS_READ_TIMEOUT, KINDS, by_methods

KIB, MIB = 1024, 1024 * 1024
# Around the sizes at which the core changes its ways: packing (6000), arguments sent from
# where they are and buffers (16 KiB), strings received where they will live (64, 256 KiB).
EDGES = (0, 1, 5_999, 6_000, 6_001, 16 * KIB, 64 * KIB, 256 * KIB)
SIZES = sorted({max(edge + by, 0) for edge in EDGES for by in (-2, -1, 0, 1, 2)})
SOME_SIZES = (0, 1, 16 * KIB, 64 * KIB + 1, 300 * KIB)
LARGE_BYTES = 64 * MIB


def pattern(size: int) -> bytes:
    """Return bytes in which every shift by less than 251 shows; CR and LF are among them."""
    unit = bytes(range(251))
    return (unit * (size // len(unit) + 1))[:size]


def pool_for(kind: str, request: pytest.FixtureRequest, **options: Any) -> Any:
    """Make a pool whose connections are of that kind, to a real server."""
    if kind == "unix":
        url = request.getfixturevalue("unix_server").url
    elif kind == "tls":
        url = request.getfixturevalue("tls_server").url
    else:
        url = request.getfixturevalue("redis_server").url
    if kind == "methods":
        options["connection_class"] = by_methods(cpool.Connection)
    return cpool.ConnectionPool.from_url(url, **options)


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    """Give a client on a pool; the test runs once for each kind of socket."""
    pool = pool_for(request.param, request)
    yield redis.Redis(connection_pool=pool)
    pool.disconnect()


def test_the_kinds_use_the_descriptor_or_the_methods_as_they_should(
    request: pytest.FixtureRequest,
) -> None:
    for kind in KINDS:
        with pool_for(kind, request) as pool:
            conn = pool.get_connection()
            assert conn._session.uses_fd == (kind in ("fd", "unix")), kind
            pool.release(conn)


def test_a_value_of_any_size_is_read_as_it_was_written(client: redis.Redis) -> None:
    for size in SIZES:
        value = pattern(size)
        assert client.set("value", value)
        assert client.strlen("value") == size
        assert client.get("value") == value, size


def test_many_values_of_all_sizes_come_in_one_reply(client: redis.Redis) -> None:
    values = {b"mget:%d" % size: pattern(size) for size in SIZES}
    assert client.mset(values)
    assert client.mget(list(values)) == list(values.values())


@pytest.mark.parametrize("transaction", [False, True])
def test_many_values_go_through_a_pipeline(client: redis.Redis, transaction: bool) -> None:
    pipeline = client.pipeline(transaction=transaction)
    for size in SIZES:
        pipeline.set(f"pipe:{size}", pattern(size)).get(f"pipe:{size}")
    replies = pipeline.execute()
    assert replies == [reply for size in SIZES for reply in (True, pattern(size))]


def test_a_pipeline_larger_than_all_socket_buffers_does_not_block_for_ever(
    client: redis.Redis,
) -> None:
    value = pattern(300 * KIB)
    client.set("large", value)
    pipeline = client.pipeline(transaction=False)
    for i in range(40):
        pipeline.echo(value) if i % 2 else pipeline.get("large")
    assert pipeline.execute() == [value] * 40


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_text_of_any_size_is_read_as_it_was_written(
    request: pytest.FixtureRequest, encoding: str, protocol: int
) -> None:
    for kind in KINDS:
        if kind == "unix" and protocol == 3 and HAS_MAINTENANCE and not HAS_READ_TIMEOUT:
            continue  # redis-py 7 can't: "doesn't have a host attribute"
        options = {"decode_responses": True, "encoding": encoding, "protocol": protocol}
        with pool_for(kind, request, **options) as pool:
            client = redis.Redis(connection_pool=pool)
            for size in SOME_SIZES:
                text = ("aü\r\n" * (size // 4 + 1))[:size]
                client.set("text", text)
                assert client.get("text") == text, (kind, size)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_like_arguments_are_sent_as_they_are_at_the_call(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """They may be changed, even resized, as soon as the call has returned."""
    with pool_for(kind, request) as pool:
        client = redis.Redis(connection_pool=pool)
        for size in SOME_SIZES:
            value = bytearray(pattern(size))
            wanted = bytes(value)
            for argument in (value, memoryview(value)):
                assert client.set("bytes-like", argument)
                value[:] = bytes(size)
                assert client.get("bytes-like") == wanted, (size, type(argument))
                value[:] = wanted
            argument = None
            value.clear()


@pytest.mark.parametrize("kind", ["fd", "unix"])
def test_a_value_of_64_mib_is_read_as_it_was_written(
    kind: str, request: pytest.FixtureRequest
) -> None:
    check_large(kind, request)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tls", "methods"])
def test_a_value_of_64_mib_goes_by_the_sockets_methods(
    kind: str, request: pytest.FixtureRequest
) -> None:
    check_large(kind, request)


def check_large(kind: str, request: pytest.FixtureRequest) -> None:
    value = pattern(LARGE_BYTES)
    with pool_for(kind, request, socket_timeout=50) as pool:
        client = redis.Redis(connection_pool=pool)
        assert client.set("large", value)
        got = client.get("large")
        client.delete("large")
    assert isinstance(got, bytes)
    assert hashlib.md5(got).digest() == hashlib.md5(value).digest()
    assert len(got) == LARGE_BYTES
