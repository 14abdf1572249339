"""Sockets that somebody watches or replaces: every byte goes through their methods."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import redis
from redis.exceptions import ConnectionError

import cpool
from cpool.tools.servers import EmbeddedServer
from tests.wire.peer import LIBRARIES, Link, Wire, is_connected, request, silent

VERBS = ("send", "sendall", "recv", "recv_into", "sendmsg")


class CountingSocket(socket.socket):
    """A socket that notes which of its methods were used."""

    calls: list[str]

    def sendall(self, *args: Any) -> None:
        """Count and send."""
        self.__dict__.setdefault("calls", []).append("sendall")
        super().sendall(*args)

    def recv_into(self, *args: Any) -> int:
        """Count and receive."""
        self.__dict__.setdefault("calls", []).append("recv_into")
        return super().recv_into(*args)


@pytest.mark.parametrize("verb", VERBS)
def test_a_patched_socket_class_is_used_by_its_methods(
    fd_wire: Wire, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = getattr(socket.socket, verb)
    callers = []

    def watched(self: socket.socket, *args: Any) -> Any:
        callers.append(self)
        return original(self, *args)

    monkeypatch.setattr(socket.socket, verb, watched)
    link = fd_wire.connect()
    assert not link.conn._session.uses_fd
    link.conn.send_command("PING")
    link.send(b"+PONG\r\n")
    assert link.conn.read_response() == b"PONG"
    assert (link.sock in callers) == (verb in ("sendall", "recv_into"))


def test_the_descriptor_is_used_again_once_the_patch_is_gone(fd_wire: Wire) -> None:
    with mock.patch("socket.socket.sendall"):
        pass
    assert fd_wire.connect().conn._session.uses_fd


def test_a_patched_sendall_that_fails_is_retried_as_often_as_redis_py_does(
    redis_server: EmbeddedServer,
) -> None:
    counts = []
    for library in LIBRARIES:
        retry = redis.retry.Retry(redis.backoff.NoBackoff(), 2)
        conn = library.Connection(host=redis_server.host, port=redis_server.port, retry=retry)
        with mock.patch("socket.socket.sendall", side_effect=OSError(32, "Broken pipe")) as send:
            with pytest.raises(ConnectionError):
                conn.connect()
            counts.append(send.call_count)
    assert counts[0] >= 1
    assert counts[1] == counts[0]


def test_a_socket_class_of_somebodys_own_sees_every_call(redis_server: EmbeddedServer) -> None:
    class Connection(cpool.Connection):
        def _connect(self) -> socket.socket:
            sock = super()._connect()
            timeout_s = sock.gettimeout()
            counting = CountingSocket(sock.family, sock.type, sock.proto, sock.detach())
            counting.settimeout(timeout_s)
            return counting

    conn = Connection(host=redis_server.host, port=redis_server.port, **silent())
    conn.connect()
    try:
        conn.send_command("PING")
        assert conn.read_response() == b"PONG"
        assert conn._sock.calls == ["sendall", "recv_into"]
    finally:
        conn.disconnect()


# Mocks in the place of a socket


@pytest.fixture
def mocked(fd_wire: Wire) -> Iterator[tuple[Link, mock.Mock]]:
    """Give a connection whose socket was replaced by a mock after it had connected."""
    link = fd_wire.connect()
    with mock.patch.object(link.conn, "_sock", mock.Mock()) as sock:
        yield link, sock


def test_a_mock_put_in_place_of_the_socket_gets_what_is_sent(
    mocked: tuple[Link, mock.Mock],
) -> None:
    link, sock = mocked
    link.conn.send_command("PING")
    assert b"".join(call.args[0] for call in sock.sendall.mock_calls) == request(b"PING")
    link.conn.send_packed_command([request(b"GET", b"key")])
    sock.sendall.assert_called_with(request(b"GET", b"key"))


def test_a_mock_put_in_place_of_the_socket_is_shut_down_and_closed(
    mocked: tuple[Link, mock.Mock],
) -> None:
    link, sock = mocked
    link.conn.disconnect()
    sock.shutdown.assert_called_once_with(socket.SHUT_RDWR)
    sock.close.assert_called_once_with()
    assert not is_connected(link.conn)


def test_a_mock_whose_shutdown_fails_is_still_closed(mocked: tuple[Link, mock.Mock]) -> None:
    link, sock = mocked
    sock.shutdown.side_effect = OSError
    link.conn.disconnect()
    sock.close.assert_called_once_with()


def test_a_connection_of_another_process_is_closed_but_not_shut_down(
    mocked: tuple[Link, mock.Mock],
) -> None:
    link, sock = mocked
    link.conn.pid = -1
    link.conn.disconnect()
    assert not sock.shutdown.called
    sock.close.assert_called_once_with()


def test_the_socket_is_used_again_once_the_mock_is_gone(fd_wire: Wire) -> None:
    link = fd_wire.connect()
    with mock.patch.object(link.conn, "_sock", mock.Mock()):
        link.conn.send_command("NOBODY")
    link.conn.send_command("PING")
    link.send(b"+PONG\r\n")
    assert link.conn.read_response() == b"PONG"
    link.conn.disconnect()
    assert link.receive(1000) == request(b"PING")


def test_a_mock_that_is_dialled_says_what_it_was_told(fd_wire: Wire) -> None:
    """What tests of clients do: `_connect` returns a mock with canned replies."""
    replies = iter([b"+PONG\r\n", b":", b"1\r\n"])

    def recv_into(buffer: Any, *_: Any) -> int:
        data = next(replies)
        buffer[: len(data)] = data
        return len(data)

    conn = fd_wire.connection()
    sock = mock.Mock(spec=socket.socket)
    sock.recv_into.side_effect = recv_into
    sock.gettimeout.return_value = 1.0
    with mock.patch.object(conn, "_connect", return_value=sock):
        conn.connect()
    conn.send_command("PING")
    assert conn.read_response() == b"PONG"
    conn.send_command("INCR", "n")
    assert conn.read_response() == 1
    sent = b"".join(call.args[0] for call in sock.sendall.mock_calls)
    assert sent == request(b"PING") + request(b"INCR", b"n")


class Generous:
    """A socket that gives, or says it gave, more than it was asked for."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def recv(self, _: int) -> bytes:
        data, self._data = self._data, b""
        return data

    def sendall(self, _: bytes) -> None:
        """Take it."""

    def settimeout(self, _: float | None) -> None:
        """Never wait."""

    def shutdown(self, _: int) -> None:
        """Go on."""

    def close(self) -> None:
        """Go on."""


class Boastful(Generous):
    def recv_into(self, view: memoryview) -> int:
        return len(view) + 1


class Confused(Generous):
    def recv_into(self, _: memoryview) -> int:
        return -2


@pytest.mark.parametrize("kind", [Generous, Boastful, Confused])
def test_a_socket_that_gives_more_than_asked_for_overruns_nothing(kind: type[Generous]) -> None:
    class Connection(cpool.Connection):
        def _connect(self) -> Any:
            return kind(b"$400000\r\n" + b"x" * 400_000 + b"\r\n")

        def on_connect_check_health(self, check_health: bool = True) -> None:
            self._parser.on_connect(self)

    conn = Connection()
    conn.connect()
    conn.send_command("GET", "key")
    with pytest.raises(ConnectionError, match="were asked for"):
        conn.read_response()
    assert not is_connected(conn)
