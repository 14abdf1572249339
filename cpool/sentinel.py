"""Sentinel-managed connections and their pool: redis-py's, on the compiled core."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, overload

import redis.sentinel
from redis.exceptions import ConnectionError, ReadOnlyError

from cpool import _conn
from cpool.connection import SENTINEL, Connection, SSLConnection
from cpool.pool import ConnectionPool

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from cpool.arguments import SentinelPoolArguments

__all__ = [
    "SentinelConnectionPool",
    "SentinelManagedConnection",
    "SentinelManagedSSLConnection",
]


class SentinelManagedConnection(Connection, redis.sentinel.SentinelManagedConnection):
    """A connection that asks the sentinels where to connect."""

    def read_response(
        self,
        disable_decoding: bool = False,
        *,
        timeout: Any = SENTINEL,
        disconnect_on_error: bool | None = False,
        push_request: bool | None = False,
    ) -> Any:
        """Read one reply. A READONLY error from what should be a master means that it
        no longer is one: the next use asks the sentinels again."""
        if not disconnect_on_error and self._replays is not None:
            disconnect_on_error = None  # nobody tries again what may have run
        try:
            return super().read_response(
                disable_decoding=disable_decoding,
                timeout=timeout,
                disconnect_on_error=disconnect_on_error,
                push_request=push_request,
            )
        except ReadOnlyError:
            if not self.connection_pool.is_master:
                raise
            self.disconnect()
            error = ConnectionError("The previous master is now a slave")
            self.raise_if_indeterminate(error)
            raise error from None


_conn.add_original("read_response", SentinelManagedConnection.read_response)


class SentinelManagedSSLConnection(
    SentinelManagedConnection, SSLConnection, redis.sentinel.SentinelManagedSSLConnection
):
    """A TLS connection that asks the sentinels where to connect."""


class SentinelConnectionPool(redis.sentinel.SentinelConnectionPool, ConnectionPool):
    """A pool for the master or the replicas of a service known to sentinels.

    Use it as `Sentinel.master_for(name, connection_pool_class=SentinelConnectionPool)`.
    Same arguments as redis-py's, and the options of `cpool.ConnectionPool`.
    """

    @overload
    def __init__(
        self,
        service_name: str,
        sentinel_manager: redis.sentinel.Sentinel,
        *,
        is_master: bool = True,
        check_connection: bool = False,
        connection_class: type[SentinelManagedConnection] = ...,
        **kwargs: Unpack[SentinelPoolArguments],
    ) -> None: ...
    @overload
    def __init__(
        self,
        service_name: str,
        sentinel_manager: redis.sentinel.Sentinel,
        *,
        connection_class: Callable[..., Any],
        **kwargs: Any,
    ) -> None: ...
    def __init__(self, service_name: str, sentinel_manager: Any, **kwargs: Any) -> None:
        tls = kwargs.pop("ssl", False)
        default = SentinelManagedSSLConnection if tls else SentinelManagedConnection
        kwargs.setdefault("connection_class", default)
        super().__init__(service_name, sentinel_manager, **kwargs)
