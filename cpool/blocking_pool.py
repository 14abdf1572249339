"""The pool whose callers wait: redis-py's blocking pool over the same compiled slots."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, overload

import redis.connection

from cpool import options
from cpool.connection import Connection
from cpool.pool import ConnectionPool

if TYPE_CHECKING:
    from redis.cache import CacheFactoryInterface
    from redis.maint_notifications import MaintNotificationsConfig
    from typing_extensions import Unpack

    from cpool.arguments import PoolArguments
    from cpool.connection import UnixDomainSocketConnection

__all__ = ["BlockingConnectionPool"]


class QueueView:
    """A look at what redis-py's blocking pool keeps in a queue. Nothing can be put in
    or taken out: the pool's slots are elsewhere."""

    def __init__(self, items: list[Any], maxsize: int) -> None:
        self.queue = items
        self.maxsize = maxsize

    def qsize(self) -> int:
        """Return how many slots are not lent."""
        return len(self.queue)

    def empty(self) -> bool:
        """Tell whether all slots are lent."""
        return not self.queue

    def full(self) -> bool:
        """Tell whether no slot is lent."""
        return len(self.queue) >= self.maxsize


class BlockingConnectionPool(ConnectionPool, redis.connection.BlockingConnectionPool):
    """A pool whose callers wait: `redis.BlockingConnectionPool` on a compiled core.

    Takes the arguments of `cpool.ConnectionPool`. Different are:

    max_connections: how many connections there may be.
    timeout: seconds to wait for a connection (None: for ever), then
        ConnectionPoolTimeoutError, a MaxConnectionsError.
    queue_class: LifoQueue or Queue of the standard library, which decides the order;
        nothing is kept in it.

    Callers are served first come, first served, once they have waited 5 ms.
    """

    _exhausted_text = "No connection available."

    @overload
    def __init__(
        self,
        max_connections: int = 50,
        timeout: float | None = 20,
        connection_class: type[Connection] | type[UnixDomainSocketConnection] = ...,
        queue_class: type[queue.Queue[Any]] = ...,
        *,
        cache_factory: CacheFactoryInterface | None = None,
        maint_notifications_config: MaintNotificationsConfig | None = None,
        **connection_kwargs: Unpack[PoolArguments],
    ) -> None: ...
    @overload
    def __init__(
        self,
        max_connections: int = 50,
        timeout: float | None = 20,
        *,
        connection_class: Callable[..., Any],
        queue_class: type[queue.Queue[Any]] = ...,
        **kwargs: Any,
    ) -> None: ...
    def __init__(
        self,
        max_connections: int = 50,
        timeout: float | None = 20,
        connection_class: Any = Connection,
        queue_class: Any = queue.LifoQueue,
        **kwargs: Any,
    ) -> None:
        self.queue_class = queue_class
        self._in_maintenance = False
        self._locked = False
        kwargs.setdefault("order", options.order_of(queue_class))
        ConnectionPool.__init__(self, connection_class, max_connections, timeout=timeout, **kwargs)

    @property
    def pool(self) -> QueueView:
        """redis-py's queue as it would look now: None for free slots, then idle ones."""
        idle = self._idle()
        free = self.max_connections - len(idle) - len(self._lent())
        return QueueView([None] * max(free, 0) + idle, self.max_connections)

    @property
    def _connections(self) -> list[Any]:  # type: ignore[override]
        return [*self._idle(), *self._lent()]

    def set_in_maintenance(self, in_maintenance: bool) -> None:
        """Note that a MOVING notification is handled. Checkout and return need not
        stop meanwhile: a change of all connections claims each one it changes."""
        self._in_maintenance = in_maintenance
