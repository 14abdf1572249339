"""Pools: redis-py's classes over the compiled slots; policy and configuration.

What redis-py keeps in lists and counters is here a state per slot. Checkout and
return of a connection nothing is wrong with happen in src/cpool/_pool.pyx; whatever
is out of the ordinary comes back to the underscored methods of this file.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar, overload

import redis.connection
from redis.event import AfterConnectionReleasedEvent, ReAuthConnectionListener
from redis.exceptions import ConnectionError, MaxConnectionsError, RedisError, TimeoutError
from redis.utils import deprecated_args

from cpool import _conn, _pool, errors, housekeeping, metrics, options, replay
from cpool.cache import CacheProxyConnection
from cpool.connection import Connection
from cpool.deadlines import deadline
from cpool.live_options import LiveOptions
from cpool.originals import original
from cpool.standin import StandIn
from cpool.stats import Distribution, PoolStats

if TYPE_CHECKING:
    from redis.cache import CacheFactoryInterface
    from redis.maint_notifications import MaintNotificationsConfig
    from typing_extensions import Unpack

    from cpool.arguments import PoolArguments, UrlArguments
    from cpool.connection import UnixDomainSocketConnection

__all__ = ["ConnectionPool"]

_log = logging.getLogger("cpool.pool")
_NOT_GIVEN: Any = object()
_SECRETS = ("username", "password", "ssl_password", "credential_provider")
_Pool = TypeVar("_Pool", bound="ConnectionPool")
_redis_pool = redis.connection.ConnectionPool

_pool.set_originals(
    {"owns_connection": frozenset({original(_redis_pool, "owns_connection")})},
    ReAuthConnectionListener,
)


@deprecated_args(
    args_to_warn=["*"], reason="Use get_connection() without args instead", version="5.3.0"
)
def get_connection(command_name: Any = None, *keys: Any, **options: Any) -> None:
    """Do nothing but warn, in redis-py's words, of arguments that have no effect."""


_deprecated_call = get_connection
del get_connection


class ConnectionPool(LiveOptions, _redis_pool, metaclass=StandIn):
    """A pool of connections to one server: `redis.ConnectionPool` on a compiled core.

    Takes redis-py's arguments and hands the rest to `connection_class`. Besides:

    timeout: seconds a caller may wait when all connections are lent (None: for
        ever); 0, the default, raises MaxConnectionsError at once, as redis-py does.
    max_waiting: how many callers may wait; one more raises at once. None: any number.
    order: "lifo" lends the connection used last (default), "fifo" the one used least
        recently.
    min_idle: how many idle connections to dial ahead and to keep ready (default 0).
    max_idle_time: seconds after which an idle connection is closed (None: never).
    max_lifetime: seconds after which a connection is closed when it is idle (None:
        never); each lives up to a twentieth less, so that they do not all end together.
    max_connecting: how many may dial at a time (None: any number). The others wait for
        their turn or for a connection that comes back, whichever is first.
    retry_policy: "redis-py" (default) sends whatever failed again, as often as `retry`
        says; "safe" only what was not sent or may run twice by the server's own table
        of commands, else IndeterminateResultError; nor is a refused password tried again.
    name: what `stats()` calls the pool.

    Thread-safe and fork-safe: a child process begins with no connections.
    """

    _exhausted_text = "Too many connections"
    _asked_at_disconnect = -1  # how many checkouts there had been; -1: never disconnected
    # No function of ours calls it: redis-py counts frames to find whom to warn of.
    _warn_of_arguments = staticmethod(_deprecated_call)

    # A connection class of somebody's own takes whatever keywords it likes.
    @overload
    def __init__(
        self,
        connection_class: type[Connection] | type[UnixDomainSocketConnection] = ...,
        max_connections: int | None = None,
        cache_factory: CacheFactoryInterface | None = None,
        maint_notifications_config: MaintNotificationsConfig | None = None,
        *,
        timeout: float | None = 0,
        **connection_kwargs: Unpack[PoolArguments],
    ) -> None: ...
    @overload
    def __init__(
        self,
        connection_class: Callable[..., Any],
        max_connections: int | None = None,
        *args: Any,
        timeout: float | None = 0,
        **connection_kwargs: Any,
    ) -> None: ...
    def __init__(
        self,
        connection_class: Any = Connection,
        max_connections: int | None = None,
        *args: Any,
        timeout: float | None = 0,
        max_waiting: int | None = None,
        order: str = "lifo",
        retry_policy: str = "redis-py",
        name: str | None = None,
        min_idle: int = 0,
        max_idle_time: float | None = None,
        max_lifetime: float | None = None,
        max_connecting: int | None = None,
        **connection_kwargs: Any,
    ) -> None:
        self._order = options.one_of("order", order, ("lifo", "fifo"))
        self._replays = replay.table_of(retry_policy, connection_class)
        self.name: str | None = options.text_or_none("name", name)
        self.timeout = timeout
        self.max_waiting = max_waiting
        self.max_connecting = max_connecting
        warm = options.min_idle(min_idle, options.max_connections(max_connections))
        self._begin_ageing(warm, max_idle_time, max_lifetime)
        # By name, not by super(): the blocking pool's constructor comes between.
        _redis_pool.__init__(
            self,
            options.connection_class(connection_class, connection_kwargs),
            options.max_connections(max_connections),
            *args,
            **connection_kwargs,
        )
        self.connection_kwargs = options.ConnectionKwargs(self.connection_kwargs)
        dispatcher = getattr(self, "_event_dispatcher", None)
        listeners = getattr(dispatcher, "_event_listeners_mapping", None)
        self._watch(*metrics.SWITCHES, listeners, AfterConnectionReleasedEvent)
        if self._replays is not None and getattr(self, "cache", None) is not None:
            raise ValueError('"retry_policy" can\'t be "safe" for a pool with a cache')
        _live_pools.add(self)
        if self.min_idle:
            housekeeping.watch(self)

    @overload  # type: ignore[override]  # redis-py's takes any keyword
    @classmethod
    def from_url(cls: type[_Pool], url: str, **kwargs: Unpack[UrlArguments]) -> _Pool: ...
    @overload
    @classmethod
    def from_url(
        cls: type[_Pool], url: str, *, connection_class: Callable[..., Any], **kwargs: Any
    ) -> _Pool: ...
    @classmethod
    def from_url(cls: type[_Pool], url: str, **kwargs: Any) -> _Pool:
        """Return a pool configured from a URL, as `redis.ConnectionPool.from_url`.

        Every option of the pool, the connection and cpool may stand in the query
        string; one that can't be cast raises ValueError and names it."""
        parsed = {**redis.connection.parse_url(url), **options.cast_query(url)}
        if "connection_class" in kwargs:
            parsed["connection_class"] = kwargs["connection_class"]
        kwargs.update(parsed)
        return cls(**kwargs)

    @property
    def retry_policy(self) -> str:
        """What may be sent again after an error: "redis-py" or "safe"."""
        return "redis-py" if self._replays is None else "safe"

    # Life of the pool

    def reset(self) -> None:
        """Forget all connections without closing them, and begin with none."""
        if hasattr(self, "_pool_ready"):
            self._tell_reclaimed()
            metrics.count(self, idle=-len(self._idle()), used=-len(self._lent()))
        self._pool_ready = True
        self._reclaimed_told = 0
        self._new_slots(self.max_connections, self._order == "fifo")
        self.pid: int = os.getpid()

    def _checkpid(self) -> None:
        if self._is_forked() or self.pid != os.getpid():
            self._after_fork()

    def _after_fork(self) -> None:
        """Begin anew in a child. Its locks may have been held when it was born."""
        self._fork_lock = threading.RLock()
        self._lock = threading.RLock()
        if self._replays is not None:
            self._replays.after_fork()
        self.reset()

    def __del__(self) -> None:
        try:
            if self._is_measured():  # no look at slots that memory may have lacked for
                self._tell_reclaimed()
                metrics.count(self, idle=-len(self._idle()), used=-len(self._lent()))
        except Exception:  # the interpreter is going down, or __init__ has failed
            pass

    def close(  # type: ignore[override]  # redis-py's takes and returns nothing
        self, timeout: float | None = _NOT_GIVEN
    ) -> bool:
        """Disconnect all connections. Returns whether none was in use at that moment.

        Without `timeout`: at once, those in use included, and the pool stays usable, as
        redis-py's. With it: nothing is lent any more (who asks or waits gets a
        PoolClosedError), those in use have so many seconds to come back (None: any
        time), then they are disconnected as well. A closed pool stays closed. Thread-safe."""
        if timeout is _NOT_GIVEN:
            all_back = not self._lent()
            self.disconnect()
            return all_back
        options.seconds_or_none("timeout", timeout)
        self._checkpid()
        self._close_to_callers()
        housekeeping.forget(self)
        self._close_stale()
        all_back = self._wait_empty(timeout)
        self._cut_off()
        self.disconnect()
        return all_back

    def __enter__(self: _Pool) -> _Pool:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def drain(self) -> None:
        """Replace every connection: idle ones are closed now, those in use when they have
        come back and are asked for again.

        For a failover, a change of credentials, or a server that is to be taken down.
        Nobody who uses a connection is disturbed. Thread-safe."""
        self._checkpid()
        self._next_generation()
        self._close_stale()

    def resize(self, max_connections: int) -> None:
        """Change how many connections the pool may hold, from now on.

        More: who waits may dial at once. Fewer: idle ones beyond the limit are closed now,
        those in use when they come back. Raises ValueError for less than `min_idle` or 1.
        Thread-safe."""
        least = max(self.min_idle, 1)
        if options.live_max_connections(max_connections) < least:
            raise ValueError(f'"max_connections" must be at least {least}: "min_idle", and 1')
        self._checkpid()
        self.max_connections = max_connections
        self._shrink()
        self._close_stale()

    def prewarm(self, n: int | None = None) -> int:
        """Dial until `n` connections are idle (default: `min_idle`) or the pool is full.

        Returns how many were dialled. Raises what dialling raises. Thread-safe."""
        wanted = options.count_or_none("n", self.min_idle if n is None else n) or 0
        self._close_stale()
        return self._dial_ahead(wanted, patient=True)

    def _dial_ahead(self, wanted: int, patient: bool) -> int:
        dialled = 0
        while self._stats()["idle"] < wanted and self._open_idle(patient):
            dialled += 1
        return dialled

    # Housekeeping, see cpool.housekeeping

    def _keep_house(self) -> float:
        """Close what has grown stale, dial ahead; return in how many seconds to come again."""
        self._close_stale()
        # After a disconnect(), a client's close() perhaps, not before somebody asks again.
        is_asked = self._stats()["checkouts"] != self._asked_at_disconnect
        if self.min_idle and is_asked and not self.is_closed:
            try:
                with deadline(housekeeping.LONGEST_DIAL_S):
                    self._dial_ahead(self.min_idle, patient=False)
            except RedisError as error:  # it is tried again
                _log.info("pool %s can't dial ahead: %s", self._label(), type(error).__name__)
        waits_s = [age_s / 2 for age_s in (self.max_idle_time, self.max_lifetime) if age_s]
        if self.min_idle:
            waits_s.append(housekeeping.refill_after_s(self._dials.failures))
        return min(waits_s, default=housekeeping.LONGEST_ROUND_S)

    def _close_stale(self) -> None:
        """Close the idle connections that are to be closed."""
        with self._lock:  # who finds no connection looks again under it, before he gives up
            slots, stale = self._take_stale()
            try:
                for connection in stale.values():
                    connection.disconnect()
                    metrics.count(self, idle=-1)
            finally:  # whatever a class of somebody's own may raise
                for slot in stale:
                    self._vacate(slots, slot)

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the sockets of idle connections, and of those in use unless told not
        to. Safe while other threads use them: they meet a ConnectionError."""
        self._checkpid()
        self._asked_at_disconnect = self._stats()["checkouts"]
        with self._lock, self._claim_idle() as (idle, lent):
            for connection in [*idle, *lent] if inuse_connections else idle:
                connection.disconnect()

    # Out of the ordinary, from the compiled checkout and return

    def _construct(self) -> Any:
        """Make a connection object; user code, so never under a lock."""
        connection = self.connection_class(**self.connection_kwargs)
        self._guard_replays(connection)
        cache = getattr(self, "cache", None)
        if cache is not None:
            connection = CacheProxyConnection(connection, cache, self._lock)
        metrics.count(self, idle=1)
        return connection

    def _open(self, connection: Any) -> None:
        """Connect a new connection and make sure that it may be lent."""
        started_s = time.monotonic()
        self._guard_replays(connection)  # a subclass may have made it itself
        if getattr(connection, "_dials", None) is self._dials:  # it asks for its turn itself
            self._make_ready(connection)
        else:
            with self._dials.turn(connection):
                self._make_ready(connection)
        metrics.created(self, started_s)
        if self._needs_house_kept():
            housekeeping.watch(self)

    def _guard_replays(self, connection: Any) -> None:
        if self._replays is not None:
            replay.guard(connection, self._replays)

    def _measured_checkout(self) -> Any:
        """Check out while somebody collects metrics."""
        started_s = time.monotonic()
        connection = self._checkout()
        metrics.count(self, idle=-1, used=1)
        self._tell_reclaimed()
        if self.timeout != 0:  # redis-py tells the waits of its blocking pool only
            metrics.waited(self, started_s)
        return connection

    def _tell_reclaimed(self) -> None:
        """Record connections whose borrowers have vanished; not from a finaliser."""
        told, self._reclaimed_told = self._reclaimed_told, self._stats()["reclaimed"]
        metrics.count(self, used=told - self._reclaimed_told)

    def _note_failed_checkout(self) -> None:
        metrics.count(self, idle=-1, used=1)  # the return that follows takes it back

    def _make_ready(self, connection: Any) -> bool:
        """Bring a connection into a state to be lent; reconnects it once if need be.

        Returns whether an open connection had to be replaced."""
        was_open = getattr(connection, "_sock", None) is not None
        if _should_reconnect(connection) or _is_half_closed(connection):
            connection.disconnect()
        connection.connect()
        try:
            if self._has_unread(connection):
                raise ConnectionError("Connection has data")
        except (ConnectionError, TimeoutError, OSError):
            if was_open:
                self._dials.note_break(connection)
            connection.disconnect()
            connection.connect()
            if self._has_unread(connection):
                raise ConnectionError("Connection not ready") from None
            return was_open
        return False

    def _has_unread(self, connection: Any) -> bool:
        """Whether bytes wait that are not push frames for this connection's handlers."""
        if isinstance(connection, _conn.ConnBase) and connection.may_settle():
            return not connection.settle()
        if not connection.can_read():
            return False
        tolerated = getattr(self, "cache", None) is not None or (
            hasattr(self, "maint_notifications_enabled") and self.maint_notifications_enabled()
        )
        # redis-py lends it, as what waits may be a push. A session can tell.
        ours = isinstance(connection, _conn.ConnBase) and connection._session is not None
        return not tolerated or (ours and not connection.settle())

    def _return(self, connection: Any, too_many: bool = False) -> bool:
        """Bring a connection that comes back to rest; false: it is not to be kept."""
        if too_many:  # the limit was lowered
            connection.disconnect()
            metrics.count(self, used=-1)
            return False
        if not self.owns_connection(connection):
            connection.disconnect()
            metrics.count(self, used=-1, pool_name="unknown_pool")
            return False
        if _should_reconnect(connection):
            connection.disconnect()
        elif isinstance(connection, _conn.ConnBase) and connection._is_dirty:
            self._count_discarded()
            connection.disconnect()
        metrics.count(self, used=-1, idle=1)
        dispatcher = getattr(self, "_event_dispatcher", None)
        # Its users' classes may lack what the default listener calls: redis-py's blocking pool
        # tells nobody.
        if dispatcher is not None and hasattr(connection, "re_auth"):
            # Without the dispatcher where we can: before redis-py 8 its lock hangs a thread
            # whose garbage collection releases another connection meanwhile.
            if self._has_only_default_listener():
                connection.re_auth()
            else:
                dispatcher.dispatch(AfterConnectionReleasedEvent(connection))
        return True

    def _exhausted(self) -> MaxConnectionsError:
        return errors.exhausted(self._exhausted_text, self.stats())

    def _timed_out(self) -> Exception:
        if self.timeout == 0:  # it waited for its turn to dial only
            return self._dials.too_slow(int((self._dial_timeout() or 0) * 1e9))
        metrics.timed_out(self)
        server = self._dials.last_error if self._dials.failures else None
        return errors.pool_timeout(self._exhausted_text, self.timeout, self.stats(), server)

    def _is_closed(self) -> errors.PoolClosedError:
        return errors.pool_closed(self._label())

    def _dial_timeout(self) -> float | None:
        """How long a caller may wait for a turn to dial who does not wait for a connection."""
        return options.dial_timeout_s(self.connection_kwargs)

    # What redis-py does to all connections

    def set_retry(self, retry: Any) -> None:
        """Use this Retry from now on, on every connection there is and will be."""
        self.connection_kwargs.update({"retry": retry})
        with self._lock, self._claim_idle() as (idle, lent):
            for connection in [*idle, *lent]:
                connection.retry = retry

    def re_auth_callback(self, token: Any) -> None:
        """Authenticate anew: idle connections now, the others when they come back."""
        with self._lock, self._claim_idle() as (idle, lent):
            for connection in lent:
                connection.set_re_auth_token(token)
            for connection in idle:
                self._re_auth_now(connection, token)

    def _re_auth_now(self, connection: Any, token: Any) -> None:
        connection.retry.call_with_retry(
            lambda: connection.send_command("AUTH", token.try_get("oid"), token.get_value()),
            self._mock,
        )
        connection.retry.call_with_retry(connection.read_response, self._mock)

    # What redis-py does under its pool's lock to "all" connections: a checkout takes no
    # lock, so idle ones are claimed meanwhile, and marks cover those that slip through.

    def disconnect_free_connections(self, moving_address_src: str | None = None) -> None:
        """Disconnect idle connections (to that address). None is lent meanwhile."""
        with self._lock, self._claim_idle() as (idle, _):
            for connection in idle:
                if moving_address_src is None or self._should_update_connection(
                    connection, "connected_address", moving_address_src
                ):
                    connection.disconnect()

    def update_active_connections_for_reconnect(
        self, moving_address_src: str | None = None
    ) -> None:
        """Let every connection (to that address) reconnect before its next use."""
        with self._lock, self._claim_idle() as (idle, _):
            super().update_active_connections_for_reconnect(moving_address_src)
            for connection in idle:  # one may be lent before it is closed
                if self._should_update_connection(
                    connection, "connected_address", moving_address_src
                ):
                    self._retire(connection)

    def update_connections_settings(self, *args: Any, **kwargs: Any) -> None:
        """Change settings of all matching connections; none changes hands meanwhile."""
        with self._lock, self._claim_idle():
            super().update_connections_settings(*args, **kwargs)

    def _update_maint_notifications_configs_for_connections(
        self, *args: Any, **kwargs: Any
    ) -> None:
        with self._lock, self._claim_idle():
            super()._update_maint_notifications_configs_for_connections(*args, **kwargs)

    def _get_pool_lock(self) -> Any:
        return self._lock

    def _get_free_connections(self) -> Iterable[Any]:
        return self._idle()

    def _get_in_use_connections(self) -> Iterable[Any]:
        return set(self._lent())

    # redis-py's private collections, as snapshots

    @property
    def _available_connections(self) -> list[Any]:  # type: ignore[override]
        return self._idle()

    @property
    def _in_use_connections(self) -> set[Any]:  # type: ignore[override]
        return set(self._lent())

    @property
    def _created_connections(self) -> int:  # type: ignore[override]
        stats = self.stats()
        return stats.open + stats.opening

    def stats(self) -> PoolStats:
        """Return what the pool holds at this moment and has done so far."""
        self._tell_reclaimed()
        distributions: dict[str, Any] = {
            name: Distribution(*found) for name, found in self._distributions().items()
        }
        return PoolStats(name=self._label(), **self._stats(), **distributions)

    def __repr__(self) -> str:
        """Show class and options, no secrets: before 7.4 redis-py shows them."""
        if hasattr(_redis_pool, "SENSITIVE_REPR_KEYS"):
            return super().__repr__()
        made, pool = self.connection_class, type(self)
        shown = ",".join(
            f"{name}={'<REDACTED>' if name in _SECRETS else value}"
            for name, value in self.connection_kwargs.items()
        )
        return f"<{pool.__module__}.{pool.__name__}(<{made.__module__}.{made.__name__}({shown})>)>"

    def _label(self) -> str:
        return self.name or getattr(self, "_pool_id", None) or type(self).__name__


def _should_reconnect(connection: Any) -> bool:
    should_reconnect = getattr(connection, "should_reconnect", None)  # since redis-py 7.0
    return should_reconnect is not None and should_reconnect()


def _is_half_closed(connection: Any) -> bool:
    """Whether a disconnect() was broken off behind the end of the session."""
    ours = isinstance(connection, _conn.ConnBase)
    return ours and connection._session is None and connection._is_dirty


_live_pools: weakref.WeakSet[ConnectionPool] = weakref.WeakSet()


def _renew_locks_after_fork() -> None:
    """Let the child begin while it has one thread; locks may be held by none of it."""
    for pool in list(_live_pools):
        pool._after_fork()


os.register_at_fork(after_in_child=_renew_locks_after_fork)
