"""A deadline while a connection is being opened: connecting, TLS, the handshake."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

import cpool
from tests.deadlines.conftest import MakeClient, Serve, Struck, is_as_new
from tests.deadlines.slowserver import Silent, drip
from tests.support.tls import Certificates

# A refused connection is dialled again by redis-py 7 and later.
RETRIES_REFUSALS = int(redis.__version__.split(".")[0]) >= 7


def test_a_handshake_that_is_never_answered(
    silent: Silent, make_client: MakeClient, struck: Struck
) -> None:
    client = make_client(silent.pool())
    error = struck(client.ping)
    assert error.phase == "dialling"
    assert error.dialling_s > 0
    assert error.reading_s == error.writing_s == error.waiting_s == 0
    assert is_as_new(client)


@pytest.mark.parametrize("transport", ["tcp", "tls"], indirect=True)
def test_a_black_hole(
    transport: Any,
    tmp_path: Path,
    certificates: Certificates,
    make_client: MakeClient,
    struck: Struck,
) -> None:
    with Silent(transport, tmp_path, certificates, full=True) as hole:
        client = make_client(hole.pool(retry=Retry(ConstantBackoff(0.001), -1)))
        error = struck(client.ping)
    assert error.phase == "dialling"
    assert error.dialling_s > 0
    assert isinstance(error.__cause__, TimeoutError)
    assert is_as_new(client)


@pytest.mark.skipif(not RETRIES_REFUSALS, reason="this redis-py does not try again")
@pytest.mark.parametrize("transport", ["unix"], indirect=True)
def test_a_unix_socket_that_takes_nobody_in_is_tried_until_the_deadline(
    transport: Any,
    tmp_path: Path,
    certificates: Certificates,
    make_client: MakeClient,
    struck: Struck,
) -> None:
    with Silent(transport, tmp_path, certificates, full=True) as hole:
        client = make_client(hole.pool(retry=Retry(ConstantBackoff(0.001), -1)))
        error = struck(client.ping)
    assert error.phase in ("between retries", "dialling")
    assert is_as_new(client)


@pytest.mark.parametrize("transport", ["tcp"], indirect=True)
def test_every_address_of_a_host_is_tried_by_one_clock(
    silent: Silent, make_client: MakeClient, struck: Struck, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Silent("tcp", Path(), silent.certificates, full=True) as hole:
        addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", hole.address)] * 50
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_: addresses)
        assert struck(make_client(hole.pool()).ping).phase == "dialling"


def test_the_sockets_own_timeouts_are_in_force_after_it(
    serve: Serve, make_client: MakeClient
) -> None:
    server = serve(drip(60))
    pool = server.pool(socket_timeout=30, socket_connect_timeout=40)
    make_client(pool)
    with cpool.deadline(10):
        conn = pool.get_connection()
    assert conn._sock.gettimeout() == 30
    assert (conn.socket_timeout, conn.socket_connect_timeout) == (30, 40)
    pool.release(conn)


def test_no_timeout_is_no_timeout_again_after_it(serve: Serve, make_client: MakeClient) -> None:
    pool = serve(drip(60)).pool()
    make_client(pool)
    with cpool.deadline(10):
        conn = pool.get_connection()
    assert conn._sock.gettimeout() is None
    pool.release(conn)


@pytest.mark.parametrize("transport", ["tcp"], indirect=True)
def test_a_timeout_that_is_shorter_stays_redis_pys_error(
    silent: Silent, make_client: MakeClient
) -> None:
    client = make_client(silent.pool(socket_timeout=0.02))
    with pytest.raises(redis.TimeoutError), cpool.deadline(50):
        client.ping()


def test_the_timeouts_can_be_set_deleted_and_set_again() -> None:
    conn = cpool.Connection(socket_timeout=1, socket_connect_timeout=2)
    assert (conn.socket_timeout, conn.socket_connect_timeout) == (1, 2)
    for name in ("socket_timeout", "socket_connect_timeout"):
        setattr(conn, name, 3)
        assert getattr(conn, name) == 3
        delattr(conn, name)
        assert not hasattr(conn, name)
        setattr(conn, name, None)
        assert getattr(conn, name) is None


def test_a_server_that_is_gone_while_the_deadline_lasts_is_redis_pys_error(
    make_client: MakeClient,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = make_client(cpool.ConnectionPool(port=port, retry=Retry(ConstantBackoff(0), 2)))
    with pytest.raises(redis.ConnectionError, match="refused"), cpool.deadline(50):
        client.ping()
