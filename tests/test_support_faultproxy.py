"""Each fault of the proxy, proved with raw sockets against a real server."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cpool.tools.servers import EmbeddedServer
from tests.support import unread
from tests.support.faultproxy import Cut, FaultProxy, message_end

TIMEOUT_S = 10.0
ABSENCE_S = 0.05
PONG = b"+PONG\r\n"


@pytest.fixture
def proxy(redis_server: EmbeddedServer) -> Iterator[FaultProxy]:
    with FaultProxy((redis_server.host, redis_server.port)) as running:
        yield running


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[socket.socket]:
    with connect(proxy) as sock:
        yield sock


def connect(proxy: FaultProxy) -> socket.socket:
    return socket.create_connection(proxy.address, timeout=TIMEOUT_S)


def read_exactly(sock: socket.socket, n_bytes: int) -> bytes:
    data = b""
    while len(data) < n_bytes and (more := sock.recv(n_bytes - len(data))):
        data += more
    return data


def read_to_end(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))


def has_nothing_to_read(sock: socket.socket) -> bool:
    """A proxy that let bytes through would have done so within microseconds."""
    return not select.select([sock], [], [], ABSENCE_S)[0]


def ping(sock: socket.socket) -> bytes:
    sock.sendall(b"PING\r\n")
    return read_exactly(sock, len(PONG))


def echo(text: bytes) -> tuple[bytes, bytes]:
    """The command ECHO and its reply."""
    bulk = b"$%d\r\n%b\r\n" % (len(text), text)
    return b"*2\r\n$4\r\nECHO\r\n" + bulk, bulk


# -- without a fault --------------------------------------------------------------------


def test_bytes_pass_unchanged_both_ways(client: socket.socket) -> None:
    command, reply = echo(bytes(range(256)) * 4096)
    client.sendall(command)
    assert read_exactly(client, len(reply)) == reply


def test_an_end_of_requests_reaches_the_server(proxy: FaultProxy, client: socket.socket) -> None:
    client.sendall(b"PING\r\n")
    client.shutdown(socket.SHUT_WR)
    assert read_to_end(client) == PONG
    proxy.wait_until(lambda: proxy.open_connections == 0)


def test_a_unix_socket_can_be_upstream(unix_server: EmbeddedServer) -> None:
    assert unix_server.unixsocket is not None
    with FaultProxy(unix_server.unixsocket) as proxy, connect(proxy) as client:
        assert ping(client) == PONG


def test_a_dead_upstream_closes_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = gone.getsockname()
    with FaultProxy(address) as proxy, connect(proxy) as client:
        assert client.recv(1) == b""


def test_connections_segments_and_round_trips_are_counted(proxy: FaultProxy) -> None:
    with connect(proxy) as first, connect(proxy) as second:
        ping(first)
        ping(second)
        second.sendall(b"PING\r\nPING\r\n")
        read_exactly(second, 2 * len(PONG))
    assert proxy.connections == 2
    assert proxy.round_trips == 3
    assert proxy.requests.segments == 3
    assert proxy.requests.messages == proxy.replies.messages == 4
    assert proxy.replies.n_bytes == 4 * len(PONG)


def test_two_sends_before_a_reply_are_one_round_trip(
    proxy: FaultProxy, client: socket.socket
) -> None:
    proxy.requests.stall()
    for n_held in (6, 12):
        client.sendall(b"PING\r\n")
        proxy.requests.wait_held(n_held)
    proxy.requests.release()
    assert read_exactly(client, 2 * len(PONG)) == 2 * PONG
    assert (proxy.requests.segments, proxy.round_trips) == (2, 1)


# -- stall ------------------------------------------------------------------------------


def test_stalled_replies_are_held_until_released(proxy: FaultProxy, client: socket.socket) -> None:
    proxy.replies.stall()
    client.sendall(b"PING\r\n")
    proxy.replies.wait_held(len(PONG))
    assert has_nothing_to_read(client)
    proxy.replies.release()
    assert read_exactly(client, len(PONG)) == PONG
    assert proxy.replies.held_bytes == 0


def test_stalled_requests_never_reach_the_server(
    proxy: FaultProxy, client: socket.socket, fresh_db: EmbeddedServer
) -> None:
    with socket.create_connection((fresh_db.host, fresh_db.port), TIMEOUT_S) as direct:
        proxy.requests.stall()
        client.sendall(b"SET key value\r\n")
        proxy.requests.wait_held(15)
        direct.sendall(b"EXISTS key\r\n")
        assert read_exactly(direct, 4) == b":0\r\n"
        proxy.requests.release()
        assert read_exactly(client, 5) == b"+OK\r\n"
        direct.sendall(b"EXISTS key\r\n")
        assert read_exactly(direct, 4) == b":1\r\n"


@pytest.mark.parametrize("n_bytes", range(len(PONG)))
def test_a_stall_can_begin_at_any_byte(
    proxy: FaultProxy, client: socket.socket, n_bytes: int
) -> None:
    proxy.replies.stall(after_bytes=n_bytes)
    client.sendall(b"PING\r\n")
    assert read_exactly(client, n_bytes) == PONG[:n_bytes]
    proxy.replies.wait_held(len(PONG) - n_bytes)
    assert has_nothing_to_read(client)
    proxy.replies.release()
    assert read_exactly(client, len(PONG) - n_bytes) == PONG[n_bytes:]


def test_a_late_reply_lets_those_before_it_pass(proxy: FaultProxy, client: socket.socket) -> None:
    proxy.replies.stall(after_messages=2)
    commands, replies = zip(*(echo(text) for text in (b"one", b"two", b"three")), strict=True)
    client.sendall(b"".join(commands))
    in_time = replies[0] + replies[1]
    assert read_exactly(client, len(in_time)) == in_time
    proxy.replies.wait_held(len(replies[2]))
    assert has_nothing_to_read(client)
    proxy.replies.stall(after_messages=1)
    assert read_exactly(client, len(replies[2])) == replies[2]


def test_waiting_for_bytes_that_do_not_come_is_an_error(
    proxy: FaultProxy, client: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.faultproxy.WAIT_TIMEOUT_S", 0.01)
    with pytest.raises(TimeoutError):
        proxy.replies.wait_held(1)
    with pytest.raises(TimeoutError):
        proxy.wait_until(lambda: proxy.connections == 7)


# -- cut --------------------------------------------------------------------------------


@pytest.mark.parametrize("n_bytes", range(len(PONG) + 1))
def test_a_reply_can_be_cut_at_any_byte(proxy: FaultProxy, n_bytes: int) -> None:
    proxy.replies.cut_after(n_bytes)
    with connect(proxy) as client:
        client.sendall(b"PING\r\nPING\r\n")
        assert read_to_end(client) == PONG[:n_bytes]
    with connect(proxy) as client:
        assert ping(client) == PONG


def test_a_request_cut_within_never_runs(proxy: FaultProxy, fresh_db: EmbeddedServer) -> None:
    command = b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\nvalue\r\n"
    proxy.requests.cut_after(len(command) - 1)
    with connect(proxy) as client:
        client.sendall(command)
        with contextlib.suppress(ConnectionResetError):
            assert read_to_end(client) == b""
    with connect(proxy) as client:
        client.sendall(b"EXISTS key\r\n")
        assert read_exactly(client, 4) == b":0\r\n"


def test_a_cut_can_be_a_reset(proxy: FaultProxy, client: socket.socket) -> None:
    proxy.replies.cut_after(3, how="reset")
    client.sendall(b"PING\r\n")
    proxy.wait_until(lambda: proxy.open_connections == 0)
    assert read_exactly(client, 3) == PONG[:3]
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_a_half_cut_ends_the_replies_only(
    proxy: FaultProxy, client: socket.socket, fresh_db: EmbeddedServer
) -> None:
    proxy.replies.cut_after(len(PONG), how="half")
    client.sendall(b"PING\r\nPING\r\n")
    assert read_to_end(client) == PONG
    before = proxy.replies.messages
    client.sendall(b"SET key value\r\n")
    proxy.wait_until(lambda: proxy.replies.messages > before)
    with connect(proxy) as other:
        other.sendall(b"GET key\r\n")
        assert read_exactly(other, 11) == b"$5\r\nvalue\r\n"


def test_all_connections_can_be_reset(proxy: FaultProxy) -> None:
    with connect(proxy) as first, connect(proxy) as second:
        assert ping(first) == ping(second) == PONG
        proxy.reset_connections()
        assert proxy.open_connections == 0
        for client in (first, second):
            with pytest.raises(ConnectionResetError):
                client.recv(1)


def test_all_connections_can_be_closed_in_order(proxy: FaultProxy, client: socket.socket) -> None:
    assert ping(client) == PONG
    proxy.close_connections()
    assert client.recv(1) == b""


def test_half_closed_connections_still_take_requests(
    proxy: FaultProxy, client: socket.socket, fresh_db: EmbeddedServer
) -> None:
    assert ping(client) == PONG
    proxy.half_close()
    assert client.recv(1) == b""
    before = proxy.replies.messages
    client.sendall(b"SET key value\r\n")
    proxy.wait_until(lambda: proxy.replies.messages > before)
    with connect(proxy) as other:
        other.sendall(b"EXISTS key\r\n")
        assert read_exactly(other, 4) == b":1\r\n"


def test_refused_connections_can_be_accepted_again(
    proxy: FaultProxy, client: socket.socket
) -> None:
    port = proxy.port
    assert ping(client) == PONG
    proxy.refuse_connections()
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    assert ping(client) == PONG
    proxy.accept_connections()
    with connect(proxy) as other:
        assert ping(other) == PONG
    assert proxy.port == port


def test_a_calmed_proxy_does_none_of_what_was_planned(proxy: FaultProxy) -> None:
    proxy.refuse_connections()
    proxy.replies.cut_after(3)
    proxy.replies.inject_after(1, PUSH)
    proxy.replies.split(each=1)
    proxy.requests.stall()
    proxy.calm()
    with connect(proxy) as client:
        assert ping(client) == ping(client) == PONG
    assert proxy.replies.held_bytes == 0


@pytest.mark.skipif(not hasattr(socket, "AF_NETLINK"), reason="Linux only")
def test_bytes_that_are_not_read_yet_are_counted() -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        sender = stack.enter_context(socket.create_connection(listener.getsockname()))
        receiver = stack.enter_context(listener.accept()[0])
        ask = stack.enter_context(
            socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, unread.SOCK_DIAG)
        )
        ends = (receiver.getsockname(), sender.getsockname())
        sender.sendall(b"12345")
        assert unread.by_table(*ends) == unread.by_netlink(ask, *ends) == 5
        receiver.recv(2)
        assert unread.by_table(*ends) == unread.by_netlink(ask, *ends) == 3


# -- on a unix socket -------------------------------------------------------------------


@pytest.fixture
def unix_proxy(redis_server: EmbeddedServer, tmp_path: Path) -> Iterator[FaultProxy]:
    address = (redis_server.host, redis_server.port)
    with FaultProxy(address, path=str(tmp_path / "proxy")) as running:
        yield running


@contextlib.contextmanager
def connect_by_path(proxy: FaultProxy) -> Iterator[socket.socket]:
    assert proxy.path is not None
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(TIMEOUT_S)
        sock.connect(proxy.path)
        yield sock


def test_the_proxy_can_listen_on_a_unix_socket(unix_proxy: FaultProxy) -> None:
    with connect_by_path(unix_proxy) as client:
        assert ping(client) == PONG
        unix_proxy.refuse_connections()
        with pytest.raises(ConnectionRefusedError), connect_by_path(unix_proxy):
            pass
        unix_proxy.accept_connections()
        with connect_by_path(unix_proxy) as other:
            assert ping(client) == ping(other) == PONG


def test_a_reply_by_a_unix_socket_can_be_delivered_byte_by_byte(unix_proxy: FaultProxy) -> None:
    unix_proxy.replies.split(each=1)
    with connect_by_path(unix_proxy) as client:
        client.sendall(b"PING\r\n")
        assert pieces_of(client, len(PONG)) == [PONG[i : i + 1] for i in range(len(PONG))]


@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_a_reply_by_a_unix_socket_can_be_cut(unix_proxy: FaultProxy, how: Cut) -> None:
    unix_proxy.replies.cut_after(3, how)
    with connect_by_path(unix_proxy) as client:
        client.sendall(b"PING\r\n")
        assert read_to_end(client) == PONG[:3]


# -- split ------------------------------------------------------------------------------


def pieces_of(client: socket.socket, n_bytes: int) -> list[bytes]:
    pieces: list[bytes] = []
    while sum(map(len, pieces)) < n_bytes and (piece := client.recv(65536)):
        pieces.append(piece)
    return pieces


def test_a_reply_can_be_delivered_byte_by_byte(proxy: FaultProxy, client: socket.socket) -> None:
    proxy.replies.split(each=1)
    command, reply = echo(b"some text")
    client.sendall(command)
    assert pieces_of(client, len(reply)) == [reply[i : i + 1] for i in range(len(reply))]


@pytest.mark.parametrize("point", range(1, len(PONG)))
def test_a_reply_can_be_split_at_any_point(
    proxy: FaultProxy, client: socket.socket, point: int
) -> None:
    proxy.replies.split(point)
    client.sendall(b"PING\r\n")
    assert pieces_of(client, len(PONG)) == [PONG[:point], PONG[point:]]


def test_pieces_have_the_given_sizes_then_the_rest_is_whole(
    proxy: FaultProxy, client: socket.socket
) -> None:
    proxy.replies.split(1, 3, 2)
    command, reply = echo(b"0123456789")
    client.sendall(command)
    expected = [reply[:1], reply[1:4], reply[4:6], reply[6:]]
    assert pieces_of(client, len(reply)) == expected


def test_requests_can_be_split_and_are_whole_at_the_server(
    proxy: FaultProxy, client: socket.socket
) -> None:
    proxy.requests.split(each=1)
    command, reply = echo(b"text")
    client.sendall(command)
    assert read_exactly(client, len(reply)) == reply


# -- inject -----------------------------------------------------------------------------

PUSH = b">2\r\n+message\r\n:1\r\n"


def test_injected_bytes_come_between_whole_replies(
    proxy: FaultProxy, client: socket.socket
) -> None:
    command, reply = echo(b"0123456789")
    proxy.replies.stall(after_bytes=5)
    client.sendall(command + command)
    assert read_exactly(client, 5) == reply[:5]
    proxy.replies.wait_held(2 * len(reply) - 5)
    proxy.replies.inject(PUSH, wait=False)
    assert has_nothing_to_read(client)
    proxy.replies.release()
    rest = reply[5:] + PUSH + reply
    assert read_exactly(client, len(rest)) == rest


def test_injected_bytes_overtake_a_late_reply(proxy: FaultProxy, client: socket.socket) -> None:
    proxy.replies.stall()
    client.sendall(b"PING\r\n")
    proxy.replies.wait_held(len(PONG))
    proxy.replies.inject(PUSH)
    assert read_exactly(client, len(PUSH)) == PUSH
    proxy.replies.release()
    assert read_exactly(client, len(PONG)) == PONG


@pytest.mark.parametrize("messages", range(4))
def test_injected_bytes_can_be_planned_for_after_any_message(
    proxy: FaultProxy, messages: int
) -> None:
    proxy.replies.inject_after(messages, PUSH)
    with connect(proxy) as client:
        client.sendall(b"PING\r\n" * 3)
        expected = PONG * messages + PUSH + PONG * (3 - messages)
        assert read_exactly(client, len(expected)) == expected
        assert ping(client) == PONG


def test_injected_bytes_reach_an_idle_client(proxy: FaultProxy, client: socket.socket) -> None:
    assert ping(client) == PONG
    proxy.replies.inject(PUSH)
    assert read_exactly(client, len(PUSH)) == PUSH
    assert ping(client) == PONG


def test_an_injected_command_is_answered(proxy: FaultProxy, client: socket.socket) -> None:
    assert ping(client) == PONG
    proxy.requests.inject(b"PING\r\n")
    assert read_exactly(client, len(PONG)) == PONG


# -- framing ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        b"+OK\r\n",
        b"-ERR no\r\n",
        b":1\r\n",
        b"_\r\n",
        b"#t\r\n",
        b",1.5\r\n",
        b"(123\r\n",
        b"$0\r\n\r\n",
        b"$-1\r\n",
        b"$4\r\n\r\n\r\n\r\n",
        b"!5\r\nERR x\r\n",
        b"=7\r\ntxt:abc\r\n",
        b"*-1\r\n",
        b"*0\r\n",
        b"*2\r\n*1\r\n:1\r\n$1\r\nx\r\n",
        b"%1\r\n+a\r\n*1\r\n:1\r\n",
        b"~2\r\n:1\r\n:2\r\n",
        b"|1\r\n+a\r\n+b\r\n:1\r\n",
        PUSH,
        b"PING hello\r\n",
    ],
)
def test_a_message_ends_where_it_ends_and_not_before(message: bytes) -> None:
    assert message_end(message + b"+next\r\n") == len(message)
    assert message_end(b"+x\r\n" + message, 4) == 4 + len(message)
    assert [message_end(message[:i]) for i in range(len(message))] == [None] * len(message)


def test_unframed_bytes_pass_and_are_not_kept(redis_server: EmbeddedServer) -> None:
    address = (redis_server.host, redis_server.port)
    with FaultProxy(address, framed=False) as proxy, connect(proxy) as client:
        proxy.replies.stall(after_bytes=3)
        client.sendall(b"PING\r\n")
        assert read_exactly(client, 3) == PONG[:3]
        proxy.replies.wait_held(len(PONG) - 3)
        assert len(proxy.replies._pipes[0].buffer) == len(PONG) - 3
        proxy.replies.release()
        assert read_exactly(client, len(PONG) - 3) == PONG[3:]
