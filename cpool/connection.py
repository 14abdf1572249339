"""Connections: redis-py's classes with the compiled verbs in front.

redis-py's constructor, dialling, TLS, handshake, health checks and maintenance
notifications stay as they are; sending, reading and the parsers are ours, as long
as nobody has replaced what they would bypass (see src/cpool/_conn.pyx).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import socket
import weakref
from typing import TYPE_CHECKING, Any

import redis.connection
from redis._parsers import _RESP2Parser, _RESP3Parser
from redis._parsers.socket import SocketBuffer
from redis.exceptions import AuthenticationError, ReadOnlyError
from redis.retry import Retry
from redis.sentinel import SentinelManagedConnection as _SentinelManagedConnection

from cpool import _conn, _deadline, _resp, _retry, _session
from cpool.errors import IndeterminateResultError
from cpool.originals import original
from cpool.standin import StandIn

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from cpool.arguments import (
        TCPConnectionArguments,
        TLSConnectionArguments,
        UnixConnectionArguments,
    )
    from cpool.replay import ReplayTable

__all__ = ["Connection", "SSLConnection", "UnixDomainSocketConnection"]

_base = redis.connection.AbstractConnection
# redis-py's "this argument was not given": in redis.connection before it got a home.
SENTINEL: Any = redis.connection.SENTINEL  # type: ignore[attr-defined]

_conn.set_originals(
    {
        **{
            name: frozenset({original(_base, name)})
            for name in (
                "send_command",
                "send_packed_command",
                "can_read",
                "re_auth",
                "check_health",
                "activate_maint_notifications_handling_if_enabled",
                "_enable_maintenance_notifications",
            )
        },
        **{
            name: frozenset({original(_base, name), original(_SentinelManagedConnection, name)})
            for name in ("read_response", "connect")
        },
        "should_reconnect": frozenset(
            {original(_base, "should_reconnect"), _conn.ConnBase.should_reconnect}
        ),
    },
    SENTINEL,
    _retry.RetryBase,
    "timeout"
    in inspect.signature(original(_base, "read_response") or _base.read_response).parameters,
    ReadOnlyError,
)
_retry.set_original(original(Retry, "call_with_retry"))


class _SessionParser(_conn.ParserBase):
    """What both parsers share: redis-py's own code takes over for who looks inside."""

    reads_pushes = False
    _own_buffer: SocketBuffer | None = None

    @property
    def _buffer(self) -> SocketBuffer | None:
        """redis-py's receive buffer. Asking for it ends the compiled session: from
        here to the next connect this is redis-py's own parser, on the same bytes."""
        if self.has_session:
            timeout: Any = self._sock.gettimeout() if hasattr(self._sock, "gettimeout") else None
            buffer = SocketBuffer(self._sock, self.socket_read_size, timeout)
            buffer._buffer.write(self.end_session())
            buffer._buffer.seek(0)
            self._own_buffer = buffer
        return self._own_buffer

    @_buffer.setter
    def _buffer(self, value: SocketBuffer | None) -> None:
        self._own_buffer = value


class RESP2Parser(_SessionParser, _RESP2Parser):  # type: ignore[misc]
    """redis-py's RESP2 parser on the compiled reader."""

    def handle_push_response(self, response: Any, **_: Any) -> Any:
        """Pass a push frame on: under RESP2 nobody has registered for any."""
        return response


class RESP3Parser(_SessionParser, _RESP3Parser):
    """redis-py's RESP3 parser, with its push handlers, on the compiled reader."""

    reads_pushes = True


class JoinedRetry(_retry.RetryBase, Retry):
    """A connection's Retry, through which a command is sent and read in one go."""

    def __init__(self) -> None:
        """Made by its connection only; the state is the wrapped Retry's."""


class GuardedRetry(JoinedRetry):
    """A Retry of any class, or what somebody uses as one, which some errors pass by."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.joined_inner, name)


@functools.cache
def _weakly_connected(handler_class: type) -> type:
    """Return a handler's class whose `connection` is no reference that counts."""

    def get(self: Any) -> Any:
        return self._connection_ref()

    def set_(self: Any, connection: Any) -> None:
        self._connection_ref = (lambda: None) if connection is None else weakref.ref(connection)

    names = {"connection": property(get, set_), "__doc__": handler_class.__doc__}
    return type(handler_class.__name__, (handler_class,), names)


# Under retry_policy="safe", whatever the Retry and its errors are.
ENDS_RETRIES = (AuthenticationError, IndeterminateResultError)


class _ConnectionMixin(_conn.ConnBase):
    """What the three connection classes add to redis-py's."""

    _replays: ReplayTable | None = None

    def _set_limits(
        self,
        max_bulk_bytes: int = _resp.DEFAULT_MAX_BULK_BYTES,
        max_nesting_depth: int = _resp.DEFAULT_MAX_DEPTH,
    ) -> None:
        self.max_bulk_bytes: int = _limit("max_bulk_bytes", max_bulk_bytes)
        self.max_nesting_depth: int = _limit("max_nesting_depth", max_nesting_depth)

    def set_parser(self, parser_class: type) -> None:
        """Make the connection's parser: the compiled one in place of redis-py's
        default, any other class as it is."""
        if parser_class in (_RESP2Parser, _RESP3Parser, redis.connection.DefaultParser):
            resp3 = parser_class is _RESP3Parser or int(getattr(self, "protocol", 2) or 2) >= 3
            parser_class = RESP3Parser if resp3 else RESP2Parser
        super().set_parser(parser_class)

    def _construct_command_packer(self, packer: Any) -> Any:
        return _session.packer_of(self.encoder) if packer is None else packer

    def _join_retry(self, inner: Any) -> Any:
        """The view of a retry policy that reading `retry` gives."""
        if self._replays is not None:
            return _retry.bind_retry(GuardedRetry(), self, inner, ENDS_RETRIES)
        if type(inner) is not Retry or "call_with_retry" in vars(inner):
            return inner
        return _retry.bind_retry(JoinedRetry(), self, inner)

    def guard_replays(self, table: ReplayTable) -> None:
        """Let nothing be sent again from now on that this table does not allow."""
        if self._replays is not table:
            self._replays = table
            self.retry = self.retry  # to be joined anew

    def connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        """Connect as redis-py does, and learn which commands may be sent again."""
        dials = self._replays is not None and self._sock is None
        if dials:
            self.guard(None)
        super().connect_check_health(*args, **kwargs)
        if dials:
            self._begin_guard()

    def _begin_guard(self) -> None:
        try:
            if not self._connect_callbacks:  # they may have subscribed: no time for questions
                self._replays.learn_from(self)  # type: ignore[union-attr]
            self.guard(self._replays)
        except BaseException:
            self.disconnect()
            raise

    def update_parser_timeout(self, timeout: float | None = None) -> None:
        """Do nothing where the compiled reader is at work: it asks the socket."""
        if not getattr(self._parser, "has_session", False):
            super().update_parser_timeout(timeout)

    def set_maint_notifications_pool_handler_for_connection(self, handler: Any) -> None:
        """Handle MOVING notifications through the pool's handler from now on."""
        super().set_maint_notifications_pool_handler_for_connection(handler)
        self._weaken_handlers()

    def set_maint_notifications_cluster_handler_for_connection(self, handler: Any) -> None:
        """Handle the cluster's maintenance notifications from now on."""
        super().set_maint_notifications_cluster_handler_for_connection(handler)
        self._weaken_handlers()

    def _weaken_handlers(self) -> None:
        """Let the notification handlers refer to this connection weakly. redis-py's
        cycle would keep one that a borrower has dropped until the next full garbage
        collection, and its slot with it."""
        for name in (
            "_maint_notifications_pool_handler",
            "_maint_notifications_connection_handler",
        ):
            handler = getattr(self, name, None)
            if handler is not None and vars(handler).pop("connection", None) is self:
                handler.__class__ = _weakly_connected(type(handler))  # type: ignore[arg-type]
                handler.connection = self

    def on_connect_check_health(self, check_health: bool = True) -> None:
        """Do redis-py's handshake, its requests sent together in one round trip.

        What redis-py is going to ask is found out by letting it rehearse; if it then
        asks anything else (a server too old for what was tried first), the server
        is dialled again and the handshake goes step by step. A handshake that breaks
        off, be it by a signal, leaves the connection closed."""
        try:
            if not self._shake_hands_at_once(check_health):
                super().on_connect_check_health(check_health=check_health)
        except BaseException:
            self.disconnect()
            raise

    def _shake_hands_at_once(self, check_health: bool) -> bool:
        """Whether the handshake is done; if not, it is to be done step by step."""
        plan = self._rehearse() if self._may_batch(check_health) else []
        if len(plan) < 2:
            return False
        self._parser.on_connect(self)
        self.start_script(plan)
        as_planned = False
        try:
            super().on_connect_check_health(check_health=check_health)
        except _conn.HandshakeMismatch:
            pass
        finally:
            as_planned = self.end_script()
        if not as_planned:
            self._dial_again()
        return as_planned

    def _may_batch(self, check_health: bool) -> bool:
        return (
            self.credential_provider is None
            and not (check_health and self.health_check_interval)
            and self._can_batch()
        )

    def _rehearse(self) -> list[bytes]:
        """The requests redis-py's handshake makes when every reply is as it hopes."""
        before = self.handshake_metadata
        plan: list[bytes] = []
        try:
            self.start_rehearsal()
            super().on_connect_check_health(check_health=False)
        except Exception:
            # The real handshake meets the same error, and raises it where it belongs.
            return []
        finally:
            plan = self.end_rehearsal()
            self.handshake_metadata = before
        return plan

    def _dial_again(self) -> None:
        sock, self._sock = self._sock, None
        self._parser.on_disconnect()
        if sock is not None:  # another thread may have closed it
            sock.close()
        try:
            self._sock = self._connect()
        except TimeoutError:
            raise redis.exceptions.TimeoutError("Timeout connecting to server") from None
        except OSError as error:
            raise redis.exceptions.ConnectionError(self._error_message(error)) from error


# The most each may be: a length that C can hold, and a depth that the smallest stack of a
# thread can bear, for a nested reply is built by recursion.
_LIMITS = {"max_bulk_bytes": 2**62, "max_nesting_depth": 1024}


def _constructor(redis_class: type) -> Any:
    """An `__init__` that takes our limits besides what redis-py's class takes, and
    shows redis-py's signature to those who look (kombu builds its arguments by it)."""

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        self._set_limits(**{name: kwargs.pop(name) for name in _LIMITS.keys() & kwargs.keys()})
        super(_ConnectionMixin, self).__init__(*args, **kwargs)
        self._weaken_handlers()

    theirs = inspect.signature(redis_class.__init__)  # type: ignore[misc]
    ours = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(_ConnectionMixin._set_limits).parameters.items()
        if name in _LIMITS
    ]
    given = list(theirs.parameters.values())
    rest = [given.pop()] if given[-1].kind is inspect.Parameter.VAR_KEYWORD else []
    __init__.__signature__ = theirs.replace(  # type: ignore[attr-defined]
        parameters=[*given, *ours, *rest]
    )
    __init__.__doc__ = redis_class.__init__.__doc__  # type: ignore[misc]
    return __init__


# For those who look at a class's direct bases only.
_ConnectionMixin.__init__ = _constructor(_base)  # type: ignore[method-assign]


def _limit(option: str, value: Any) -> int:
    most = _LIMITS[option]
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ValueError(f'"{option}" must be an integer from 1 to {most}')
    return value


class Connection(_ConnectionMixin, redis.connection.Connection, metaclass=StandIn):
    """A TCP connection: `redis.Connection` on the compiled core, same arguments.

    Besides: `max_bulk_bytes` (longest string a reply may hold, default 512 MiB) and
    `max_nesting_depth` (default 512, at most 1024); a reply beyond them raises InvalidResponse.
    """

    if TYPE_CHECKING:

        def __init__(
            self,
            host: str = "localhost",
            port: int = 6379,
            **kwargs: Unpack[TCPConnectionArguments],
        ) -> None: ...
    else:
        __init__ = _constructor(redis.connection.Connection)
    host = _conn.host_property


class _BeforeTLS:
    """A socket that redis-py is about to wrap: TLS takes its timeout from it. Making the
    context takes a while, which a deadline has less of then than when it was connected."""

    def __init__(self, sock: socket.socket, connection: Connection) -> None:
        self._sock, self._connection = sock, connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def gettimeout(self) -> Any:
        """Return what the connection's timeout is at this moment."""
        return self._connection.socket_timeout


class SSLConnection(Connection, redis.connection.SSLConnection):
    """A TLS connection: `redis.SSLConnection`, every `ssl_*` option as there.

    TLS is Python's; the parser and the encoder are the compiled ones."""

    def disconnect(self, *args: Any, **kwargs: Any) -> None:
        """Close the connection. The TCP socket first: Python's SSLSocket.shutdown() forgets its
        TLS session before, and a thread that is sending would go on in plain text."""
        sock = getattr(self, "_sock", None)
        if isinstance(sock, socket.socket) and os.getpid() == self.pid:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        super().disconnect(*args, **kwargs)

    def _wrap_socket_with_ssl(self, sock: Any) -> Any:
        if _deadline.is_any_in_force() and type(sock) is socket.socket:
            sock = _BeforeTLS(sock, self)
        return super()._wrap_socket_with_ssl(sock)

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            host: str = "localhost",
            port: int = 6379,
            **kwargs: Unpack[TLSConnectionArguments],
        ) -> None: ...
    else:
        __init__ = _constructor(redis.connection.SSLConnection)


class UnixDomainSocketConnection(
    _ConnectionMixin, redis.connection.UnixDomainSocketConnection, metaclass=StandIn
):
    """A connection by unix socket: `redis.UnixDomainSocketConnection`."""

    if TYPE_CHECKING:
        host: Any  # abstract in redis-py

        def __init__(self, path: str = "", **kwargs: Unpack[UnixConnectionArguments]) -> None: ...
    else:
        __init__ = _constructor(redis.connection.UnixDomainSocketConnection)
