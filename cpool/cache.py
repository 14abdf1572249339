"""Client-side caching: redis-py's proxy connection, made whole.

redis-py wraps each connection of a cached pool in a `CacheProxyConnection`, which
lacks what PubSub and Monitor ask of a connection; theirs then raise AttributeError.
"""

from __future__ import annotations

from typing import Any

import redis.connection

from cpool import _slots

__all__ = ["CacheProxyConnection"]

_slots.set_caching(redis.connection.CacheProxyConnection)


class CacheProxyConnection(redis.connection.CacheProxyConnection):
    """redis-py's caching connection; what it does not have, its connection has."""

    def _get_parser(self) -> Any:
        return self.__dict__["_conn"]._get_parser()

    def __getattr__(self, name: str) -> Any:
        try:
            wrapped = self.__dict__["_conn"]
        except KeyError:  # not initialised yet
            raise AttributeError(name) from None
        return getattr(wrapped, name)
