"""Class checks while cpool.install() has put our classes in the place of redis-py's.

Who asks `isinstance(x, redis.Redis)` means redis-py's class, and some must go on getting
the answer they got: redis-py's own modules ask it of pipelines, Celery asks it of
connection classes that it derived before. So a class of ours that stands in for
redis-py's answers as that would; at any other time it answers for itself.
"""

from __future__ import annotations

from abc import ABCMeta
from typing import TYPE_CHECKING, Any

import redis.client

__all__ = ["ClientStandIn", "StandIn", "standing_in"]

# Our class -> redis-py's whose place it has at the moment.
standing_in: dict[type, type] = {}


class StandIn(ABCMeta):
    """The class of our classes. (Of redis-py's, some are ABCs, depending on its version.)"""

    def __instancecheck__(cls, instance: Any) -> bool:
        """Tell whether `isinstance(instance, cls)`."""
        redis_class = standing_in.get(cls)
        if redis_class is None:
            return super().__instancecheck__(instance)
        # As `type` does it: an ABC would ask its subclasses, so us again.
        return type.__instancecheck__(redis_class, instance)

    def __subclasscheck__(cls, subclass: type) -> bool:
        """Tell whether `issubclass(subclass, cls)`."""
        redis_class = standing_in.get(cls)
        if redis_class is None:
            return super().__subclasscheck__(subclass)
        return type.__subclasscheck__(redis_class, subclass)


if TYPE_CHECKING:  # a class made at run time would turn clients into Any
    _ClientMeta = ABCMeta
else:
    _ClientMeta = type(redis.client.Redis)


class ClientStandIn(StandIn, _ClientMeta):
    """The same for clients, whose commands are protocols to redis-py."""
