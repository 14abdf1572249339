"""What the proof programme has found, each as a test of its own."""

from __future__ import annotations

import contextlib
import select
import socket

import pytest
import redis

import cpool
from cpool.tools.servers import EmbeddedServer
from tests.identity.workload import BOUND_S
from tests.support.faultproxy import FaultProxy
from tests.support.servers import TLSServer

SHORT_S = 0.02


def test_what_comes_after_a_shutdown_of_tls_is_not_taken_for_a_reply(
    tls_server: TLSServer,
) -> None:
    """Another thread's disconnect() takes a TLS socket's session away: what had come by then
    was read as it is, encrypted."""
    with contextlib.closing(cpool.ConnectionPool.from_url(tls_server.url)) as pool:
        connection = pool.get_connection()
        connection.send_command("ECHO", "text")
        assert select.select([connection._sock], [], [], BOUND_S)[0]
        connection._sock.shutdown(socket.SHUT_RDWR)
        with pytest.raises(redis.ConnectionError):
            connection.read_response()
        pool.release(connection)
        assert cpool.Redis(connection_pool=pool).echo("other") == b"other"


def test_a_pipeline_whose_unwatch_is_not_answered_gives_its_connection_back(
    redis_server: EmbeddedServer,
) -> None:
    address = (redis_server.host, redis_server.port)
    with FaultProxy(address) as proxy, contextlib.ExitStack() as stack:
        options = {"max_connections": 1, "socket_timeout": BOUND_S}
        client = cpool.Redis(host=proxy.host, port=proxy.port, **options)
        stack.callback(client.close)
        pipe = client.pipeline()
        pipe.watch("key")
        pipe.connection._sock.settimeout(SHORT_S)
        proxy.replies.stall()
        with pytest.raises(redis.TimeoutError):
            pipe.reset()
        proxy.calm()
        assert client.ping(), "the pipeline has kept the only connection"
