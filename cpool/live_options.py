"""Options of a pool that may be changed while it is used. What is set holds from then on."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from cpool import _pool, housekeeping, options

if TYPE_CHECKING:
    from cpool.pool import ConnectionPool

__all__ = ["LiveOptions"]


class LiveOptions(_pool.PoolBase):
    """A pool's options, each a property that checks what is set and tells the core."""

    @property
    def timeout(self) -> float | None:
        """Seconds a caller may wait for a connection; None: for ever, 0: not at all."""
        return self._timeout_s

    @timeout.setter
    def timeout(self, value: float | None) -> None:
        self._timeout_s = options.seconds_or_none("timeout", value)
        self._set_timeout(self._timeout_s)

    @property
    def max_waiting(self) -> int | None:
        """How many callers may wait at a time; None: any number."""
        return self._max_waiting

    @max_waiting.setter
    def max_waiting(self, value: int | None) -> None:
        self._max_waiting = options.count_or_none("max_waiting", value)
        self._set_max_waiting(self._max_waiting)

    @property
    def max_connections(self) -> int:
        """How many connections the pool may hold. A lower limit closes none: it holds
        for new connections, as redis-py's does."""
        return self._max_connections

    @max_connections.setter
    def max_connections(self, value: int) -> None:
        self._set_max_connections(options.live_max_connections(value))
        self._max_connections = value

    @property
    def max_connecting(self) -> int | None:
        """How many connections may be dialled at a time; None: any number."""
        return self._max_connecting

    @max_connecting.setter
    def max_connecting(self, value: int | None) -> None:
        self._max_connecting = options.count_or_none("max_connecting", value, least=1)
        self._dials.set_limit(self._max_connecting)

    @property
    def min_idle(self) -> int:
        """How many idle connections are dialled ahead and kept ready."""
        return self._min_idle

    @min_idle.setter
    def min_idle(self, value: int) -> None:
        self._min_idle = options.min_idle(value, self.max_connections)
        self._age_anew()

    @property
    def max_idle_time(self) -> float | None:
        """Seconds after which an idle connection is closed; None: never."""
        return self._max_idle_time

    @max_idle_time.setter
    def max_idle_time(self, value: float | None) -> None:
        self._max_idle_time = options.age_or_none("max_idle_time", value)
        self._age_anew()

    @property
    def max_lifetime(self) -> float | None:
        """Seconds after which a connection is closed when it is idle; None: never. Those
        that are there when it is changed begin a new life."""
        return self._max_lifetime

    @max_lifetime.setter
    def max_lifetime(self, value: float | None) -> None:
        self._max_lifetime = options.age_or_none("max_lifetime", value)
        self._age_anew()

    def _begin_ageing(self, min_idle: int, idle_s: float | None, life_s: float | None) -> None:
        """Set all three, in a pool that is being made."""
        self._min_idle = min_idle
        self._max_idle_time = options.age_or_none("max_idle_time", idle_s)
        self._max_lifetime = options.age_or_none("max_lifetime", life_s)
        self._set_ageing(self._max_idle_time, self._max_lifetime, min_idle > 0)

    def _age_anew(self) -> None:
        self._set_ageing(self._max_idle_time, self._max_lifetime, self._min_idle > 0)
        if self._needs_house_kept():
            housekeeping.watch(cast("ConnectionPool", self))

    def _needs_house_kept(self) -> bool:
        wanted = self._min_idle or self._max_idle_time or self._max_lifetime
        return bool(wanted) and not self.is_closed
