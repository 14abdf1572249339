"""Sentinel: redis-py's classes on the compiled core; the master is followed, not guessed."""

from __future__ import annotations

import contextlib
import inspect
import logging
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, overload

import redis.sentinel
from redis.backoff import NoBackoff
from redis.exceptions import (
    ConnectionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError
from redis.utils import str_if_bytes

from cpool import _conn, _pool, housekeeping, options
from cpool.client import Redis
from cpool.connection import SENTINEL, Connection, SSLConnection
from cpool.deadlines import deadline
from cpool.discovery import Answers, Inquiry
from cpool.originals import original
from cpool.pool import ConnectionPool
from cpool.standin import StandIn

if TYPE_CHECKING:
    from typing_extensions import TypeVar, Unpack

    from cpool.arguments import SentinelArguments, SentinelPoolArguments

    _Client = TypeVar("_Client", bound=redis.Redis, default=Redis)
    _Sentinel = TypeVar("_Sentinel", bound="Sentinel")

__all__ = [
    "Sentinel",
    "SentinelConnectionPool",
    "SentinelManagedConnection",
    "SentinelManagedSSLConnection",
]

_log = logging.getLogger("cpool.pool")
_Address = tuple[str, int]
DEMOTED = "The previous master is now a slave"


class SentinelManagedConnection(Connection, redis.sentinel.SentinelManagedConnection):
    """A connection that asks the sentinels where to connect, whenever it does."""

    _is_told = False

    def connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        """Connect. Where redis-py means to connect again to the same address, to send what has
        failed before, the sentinels are asked all the same."""
        if self._is_told or self._sock:
            super().connect_check_health(*args, **kwargs)
        else:
            self.connect()

    def connect_to(self, address: _Address) -> None:
        """Connect to this address: (host, port)."""
        self._is_told = True
        try:
            super().connect_to(address)
        finally:
            self._is_told = False

    def _connect_retry(self) -> None:
        if self._sock:
            return
        try:
            super()._connect_retry()
        except (ConnectionError, TimeoutError):
            if not self._leads_to_an_old_master():
                raise
        if self._leads_to_an_old_master():  # another was promoted while this one was dialled
            self.disconnect()
            super()._connect_retry()

    def _leads_to_an_old_master(self) -> bool:
        proxy = self.connection_pool
        if not isinstance(proxy, _Proxy) or not proxy.is_master:  # somebody's own
            return False
        return proxy.master_address not in (None, (self.host, self.port))

    def _cut_dial(self, address: _Address) -> None:
        """End a dial to this address that another thread has under way, if there is one. It is
        told by its socket only: what it is about must not change under its hands."""
        sock = getattr(self, "_sock", None)
        if self._is_told and (self.host, self.port) == address and isinstance(sock, socket.socket):
            with contextlib.suppress(OSError):  # it has ended
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # of TCP, where it is TLS

    def _met_read_only(self) -> None:
        """A READONLY error from what should be a master means that it no longer is one: the
        next use asks the sentinels again."""
        if self.connection_pool.is_master:
            self.disconnect()
            error = ConnectionError(DEMOTED)
            try:
                self.raise_if_indeterminate(error)
                raise error from None
            finally:
                del error  # no reference cycle through the traceback

    def read_response(
        self,
        disable_decoding: bool = False,
        *,
        timeout: Any = SENTINEL,
        disconnect_on_error: bool | None = False,
        push_request: bool | None = False,
    ) -> Any:
        """Read one reply. READONLY from what should be a master is a ConnectionError."""
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
            self._met_read_only()
            raise


_conn.add_own("read_response", SentinelManagedConnection.read_response)
_pool.add_original(
    "owns_connection", original(redis.sentinel.SentinelConnectionPool, "owns_connection")
)


class SentinelManagedSSLConnection(
    SentinelManagedConnection, SSLConnection, redis.sentinel.SentinelManagedSSLConnection
):
    """A TLS connection that asks the sentinels where to connect."""


class _Proxy(redis.sentinel.SentinelConnectionPoolProxy):
    """What a pool's connections know of their pool: where the master is."""

    _address: _Address | None = None

    @property
    def master_address(self) -> _Address | None:
        """Where the master was when the sentinels were last asked; None: never yet."""
        return self._address

    @master_address.setter
    def master_address(self, address: _Address | None) -> None:
        before, self._address = self._address, address
        pool = self.connection_pool_ref()
        if pool is not None and before not in (None, address):
            pool._leave(before)

    def get_master_address(self) -> _Address:
        """Ask where the master is. If it has moved, all connections to the old one are given
        up: idle ones now, the others when they come back."""
        address: _Address = self.sentinel_manager.discover_master(self.service_name)
        if self.is_master:
            self.master_address = address
        return address


class SentinelConnectionPool(redis.sentinel.SentinelConnectionPool, ConnectionPool):
    """A pool for the master or the replicas of a service known to sentinels.

    `Sentinel.master_for(name)` and `slave_for(name)` make it. Same arguments as redis-py's,
    and the options of `cpool.ConnectionPool`. Besides:

    master_check_interval: seconds from one question where the master is to the next, asked in
        the background (None, the default: only when a connection is dialled). A failover
        that was asked for ends no connection to the old master for some ten seconds; it is
        noticed so soon with this.
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
    def __init__(
        self,
        service_name: str,
        sentinel_manager: Any,
        *,
        master_check_interval: float | None = None,
        **kwargs: Any,
    ) -> None:
        self.master_check_interval: float | None = options.age_or_none(
            "master_check_interval", master_check_interval
        )
        tls = kwargs.pop("ssl", False)
        default = SentinelManagedSSLConnection if tls else SentinelManagedConnection
        kwargs.setdefault("connection_class", default)
        super().__init__(service_name, sentinel_manager, **kwargs)
        self.proxy: _Proxy = _Proxy(
            self, self.is_master, self.check_connection, service_name, sentinel_manager
        )
        self.connection_kwargs["connection_pool"] = self.proxy

    def _leave(self, master: _Address) -> None:
        """Give up what leads to an old master. Who is using such a connection may go on; who
        is dialling, or waits for a turn to, is to dial the new one at once."""
        self.drain()
        self._dials.abandon(master, ConnectionError(DEMOTED))
        for connection in self._lent():
            if isinstance(connection, SentinelManagedConnection):
                connection._cut_dial(master)

    def _needs_house_kept(self) -> bool:
        return super()._needs_house_kept() or (
            self.is_master and self.master_check_interval is not None and not self.is_closed
        )

    def _keep_house(self) -> float:
        if not self.is_master or self.master_check_interval is None:
            return super()._keep_house()
        if self._stats()["open"]:  # else there is nothing to be given up
            self._check_master()
        return min(super()._keep_house(), self.master_check_interval)

    def _check_master(self) -> None:
        try:
            with deadline(housekeeping.LONGEST_DIAL_S):
                self.get_master_address()
        except RedisError as error:  # there may be no master now: who dials is told
            _log.debug("pool %s can't ask for its master: %s", self._label(), type(error).__name__)


class Sentinel(redis.sentinel.Sentinel, metaclass=StandIn):
    """Sentinels and the services they watch: `redis.sentinel.Sentinel` on cpool's classes.

    Same arguments; those for connections may be any of `cpool.SentinelConnectionPool`'s.
    Clients are `cpool.Redis`, on a `cpool.SentinelConnectionPool` each, and so are those
    of the sentinels, which don't retry unless `sentinel_kwargs` says so.

    Threads that ask at the same moment share one question. A sentinel that is dead or hangs
    costs a quarter of a second at most while another one answers, and is asked last from then
    on. An answer older than the last one (by its epoch) is taken only if no sentinel has a
    newer one. `cpool.deadline` bounds the questions. Thread-safe and fork-safe.
    """

    def __init__(
        self,
        sentinels: Iterable[tuple[str, int]],
        min_other_sentinels: int = 0,
        sentinel_kwargs: Mapping[str, Any] | None = None,
        force_master_ip: str | None = None,
        **connection_kwargs: Unpack[SentinelArguments],
    ) -> None:
        super().__init__(
            [], min_other_sentinels, sentinel_kwargs, force_master_ip, **connection_kwargs
        )
        self._answers = Answers()
        self._epochs: dict[str, int] = {}
        self.sentinels: list[Any] = [self._client_of(host, port) for host, port in sentinels]

    def _client_of(self, host: str, port: int) -> Any:
        theirs: Any = vars(redis.sentinel)["Redis"]  # a class of somebody's, in tests perhaps
        if not (inspect.isclass(theirs) and issubclass(Redis, theirs)):
            return theirs(host, port, **self.sentinel_kwargs)
        once: dict[str, Any] = {"retry": Retry(NoBackoff(), 0)}
        retries = not _RETRIES.isdisjoint(self.sentinel_kwargs)
        return Redis(host, port, **({} if retries else once), **self.sentinel_kwargs)

    def close(self) -> None:
        """Close the connections to the sentinels; who asks again connects again. Clients of
        services are left alone."""
        with contextlib.ExitStack() as stack:  # each of them, whatever another one raises
            for sentinel in self.sentinels:
                stack.callback(sentinel.close)

    def __enter__(self: _Sentinel) -> _Sentinel:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def discover_master(self, service_name: str) -> _Address:
        """Ask the sentinels for a master's address: (host, port).

        Raises MasterNotFoundError where none of them knows of one that is up."""
        address: _Address = self._answers.find(
            ("master", service_name), lambda: self._find_master(service_name)
        )
        return address

    def _find_master(self, service_name: str) -> _Address:
        older: list[Any] = []

        def ask(sentinel: Any) -> Any:
            state = _promoted(sentinel, service_name, sentinel.sentinel_masters())
            if not state or not self.check_master_state(state, service_name):
                return None
            if _epoch(state) >= self._epochs.get(service_name, 0):
                return state
            older.append(state)
            return None

        inquiry = Inquiry(ask)
        state = self._put(inquiry) or max(older, key=_epoch, default=None)
        if state is None:
            raise MasterNotFoundError(f"No master found for {service_name!r}{_why(inquiry)}")
        self._epochs[service_name] = _epoch(state)
        ip = state["ip"] if self._force_master_ip is None else self._force_master_ip
        return ip, state["port"]

    def discover_slaves(self, service_name: str) -> list[_Address]:
        """Ask the sentinels for the addresses of a service's replicas that are up."""
        found: list[_Address] = self._answers.find(
            ("replicas", service_name), lambda: self._find_replicas(service_name)
        )
        return found

    def _find_replicas(self, service_name: str) -> list[_Address]:
        def ask(sentinel: Any) -> Any:
            try:
                replicas = sentinel.sentinel_slaves(service_name)
            except ResponseError:  # it does not know the service
                return None
            return self.filter_slaves(replicas) or None

        return self._put(Inquiry(ask)) or []

    def _put(self, inquiry: Inquiry) -> Any:
        """Return the answer, or None; who has answered comes first from now on."""
        first, answer = inquiry.put_to(self.sentinels[:])
        late = [*(sentinel for sentinel, _ in inquiry.failed), *inquiry.silent]
        # A stable order, but that False comes before True.
        self.sentinels[:] = sorted(
            self.sentinels, key=lambda each: (each is not first, each in late)
        )
        return answer

    def master_for(  # type: ignore[override]
        self,
        service_name: str,
        redis_class: type[_Client] = Redis,  # type: ignore[assignment]
        connection_pool_class: type[redis.ConnectionPool] = SentinelConnectionPool,
        **kwargs: Unpack[SentinelArguments],
    ) -> _Client:
        """Return a client of a service's master, which follows it through failovers.

        kwargs: of the pool; they come before those given to the Sentinel."""
        client: _Client = super().master_for(
            service_name, redis_class, connection_pool_class, **kwargs
        )
        return client

    def slave_for(  # type: ignore[override]
        self,
        service_name: str,
        redis_class: type[_Client] = Redis,  # type: ignore[assignment]
        connection_pool_class: type[redis.ConnectionPool] = SentinelConnectionPool,
        **kwargs: Unpack[SentinelArguments],
    ) -> _Client:
        """Return a client of a service's replicas, which take turns; of its master where
        there is no replica.

        kwargs: of the pool; they come before those given to the Sentinel."""
        client: _Client = super().slave_for(
            service_name, redis_class, connection_pool_class, **kwargs
        )
        return client

    def replica_for(  # type: ignore[override]
        self,
        service_name: str,
        redis_class: type[_Client] = Redis,  # type: ignore[assignment]
        connection_pool_class: type[redis.ConnectionPool] = SentinelConnectionPool,
        **kwargs: Unpack[SentinelArguments],
    ) -> _Client:
        """Do what `slave_for` does, by a newer name."""
        return self.slave_for(service_name, redis_class, connection_pool_class, **kwargs)


_RETRIES = frozenset({"retry", "retry_on_error", "retry_on_timeout"})


def _promoted(sentinel: Any, service_name: str, masters: Mapping[str, Any]) -> Any:
    """Return what a sentinel says of a master; of the one that is to be, if it has begun.

    In a failover of its own a sentinel lists the old master until all replicas follow the new
    one. The address that it gives out by name is the new one's before that."""
    state = masters.get(service_name)
    if state is None or "failover_in_progress" not in state.get("flags", ""):
        return state
    # Not by its method, whose own options redis-py 6.4 can't take.
    address = sentinel.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", service_name)
    if not address or int(address[1]) == state["port"] and str_if_bytes(address[0]) == state["ip"]:
        return state
    told = {"ip": str_if_bytes(address[0]), "port": int(address[1])}
    is_up = {"is_sdown": False, "is_odown": False, "config-epoch": _epoch(state) + 1}
    return {**state, **told, **is_up}


def _epoch(state: Mapping[str, Any]) -> int:
    """Return how many failovers a sentinel has heard of when it says where the master is."""
    return int(state.get("config-epoch", 0))


def _why(inquiry: Inquiry) -> str:
    """Return what has kept the sentinels from answering. Of a client's arguments only where
    it connects to is told."""
    found = [f"{_name(sentinel)} - {error}" for sentinel, error in inquiry.failed]
    found += [f"{_name(sentinel)} - no answer in time" for sentinel in inquiry.silent]
    return f" : {', '.join(found)}" if found else ""


def _name(sentinel: Any) -> str:
    pool = getattr(sentinel, "connection_pool", None)
    return "{host}:{port}".format_map(pool.connection_kwargs) if pool else repr(sentinel)
