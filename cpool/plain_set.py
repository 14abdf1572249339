"""SET of a name and a value, the commonest write: redis-py looks at a dozen options first,
which takes three times as long as all the rest."""

from __future__ import annotations

import inspect
from typing import Any

from redis.commands.core import BasicKeyCommands

from cpool import _client

__all__ = ["set_method"]

_redis_set = BasicKeyCommands.set


def _doc() -> bytes:
    """Return redis-py's text of the method, in front of it the signature, as help() wants it."""
    parameters = list(inspect.signature(_redis_set).parameters.values())[1:]
    shown = (str(each.replace(annotation=inspect.Parameter.empty)) for each in parameters)
    text = inspect.getdoc(_redis_set) or ""
    return f"set($self, {', '.join(shown)})\n--\n\n{text}".encode()


_kept_doc = _doc()


def set_method(base: type, redis_class: type) -> Any:
    """Return the method `set` of clients made from this compiled base and redis-py's class,
    whose own is called for everything else, and if it is not redis-py's any more."""
    return _client.set_method(base, redis_class, _redis_set, _kept_doc)
