"""Clients: redis-py's, whose commands run as one compiled call.

Every method and option is redis-py's. What is ours is what stands below
`execute_command` (see src/cpool/_client.pyx) and the pools that a client makes.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

import redis.client
from redis._parsers import helpers
from redis.exceptions import ResponseError

from cpool import _client, _pipeline
from cpool.connection import Connection
from cpool.originals import original
from cpool.plain_set import set_method
from cpool.pool import ConnectionPool
from cpool.rebinding import with_names
from cpool.standin import ClientStandIn

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from cpool.arguments import ClientArguments, UrlArguments

__all__ = ["Pipeline", "Redis", "StrictRedis", "from_url"]

_Client = TypeVar("_Client", bound="Redis")

_client.set_originals(
    {
        name: original(redis.client.Redis, name)
        for name in ("_execute_command", "_send_command_parse_response", "parse_response")
    },
    redis.client.CaseInsensitiveDict,
    ResponseError,
    helpers.parse_set_result,
    helpers.bool_ok,
)
_pipeline.set_originals(
    {
        **{
            name: frozenset({original(redis.client.Pipeline, name)})
            for name in (
                "_execute_pipeline",
                "_execute_transaction",
                "_himport_prepare_pipeline",
                "raise_first_error",
                "annotate_exception",
                "pipeline_execute_command",
            )
        },
        "parse_response": frozenset(
            original(owner, "parse_response")
            for owner in (redis.client.Pipeline, redis.client.Redis)
        ),
    }
)


_redis_client = redis.client.Redis  # the original, whoever replaces it
_redis_init = original(_redis_client, "__init__")
_signature = inspect.signature(_redis_init)
_POOL_OPTIONS = {
    name: parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
    for init in (ConnectionPool.__init__, Connection.__init__)
    for name, parameter in inspect.signature(init).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
}


def _init_on_our_pool(pool_options: dict[str, Any]) -> Any:
    """Return redis-py's constructor, making a pool of ours with these options."""
    make_pool = functools.partial(ConnectionPool, **pool_options)
    return with_names(_redis_init, {"ConnectionPool": make_pool})


def _init_with_options(self: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the constructor to call; take the pool's options out of `kwargs`."""
    pool_options = {name: kwargs.pop(name) for name in _POOL_OPTIONS.keys() & kwargs.keys()}
    if _signature.bind(self, *args, **kwargs).arguments.get("connection_pool") is not None:
        names = ", ".join(f'"{name}"' for name in sorted(pool_options))
        raise ValueError(f"{names} can't be given with connection_pool: give it to the pool")
    return _init_on_our_pool(pool_options)


class Redis(_client.ClientBase, _redis_client, metaclass=ClientStandIn):
    """A client: `redis.Redis`, on a pool of ours, each command one compiled call.

    Takes redis-py's arguments and, where it makes its own pool, the options of
    `cpool.ConnectionPool` and the limits of `cpool.Connection`. With a `connection_pool` of
    redis-py's it is redis-py's client. Thread-safe as redis-py's.
    """

    if TYPE_CHECKING:
        connection_pool: ConnectionPool  # or, if one was given, redis-py's

        def __init__(
            self,
            host: str = "localhost",
            port: int = 6379,
            db: int = 0,
            password: str | None = None,
            socket_timeout: float | None = ...,
            socket_connect_timeout: float | None = ...,
            **kwargs: Unpack[ClientArguments],
        ) -> None: ...
        @overload  # type: ignore[override]  # redis-py's takes any keyword
        @classmethod
        def from_url(
            cls: type[_Client],
            url: str,
            *,
            single_connection_client: bool = False,
            **kwargs: Unpack[UrlArguments],
        ) -> _Client: ...
        @overload
        @classmethod
        def from_url(
            cls: type[_Client], url: str, *, connection_class: Callable[..., Any], **kwargs: Any
        ) -> _Client: ...
        @classmethod
        def from_url(cls: type[_Client], url: str, **kwargs: Any) -> _Client: ...
        @classmethod
        def from_pool(cls: type[_Client], connection_pool: redis.ConnectionPool) -> _Client: ...
        def client(self: _Client) -> _Client: ...
        def __enter__(self: _Client) -> _Client: ...
    else:
        __init__ = _client.compiled_init(
            _init_on_our_pool({}), frozenset(_POOL_OPTIONS), _init_with_options
        )
        from_url = classmethod(
            with_names(
                vars(_redis_client)["from_url"].__func__, {"ConnectionPool": ConnectionPool}
            )
        )
    _execute_command = _client.execute_command
    if not TYPE_CHECKING:
        set = set_method(_client.ClientBase, _redis_client)

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:
        """Return a new pipeline, as redis-py's method does: a `cpool.Pipeline`."""
        return Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


class Pipeline(_pipeline.PipelineBase, redis.client.Pipeline, Redis):
    """A pipeline: `redis.client.Pipeline`, its commands one compiled exchange.

    Commands and replies pass each other on the way, so any number of them needs little
    memory beside the commands and the results. Not thread-safe, as redis-py's.
    """

    pipeline_execute_command: Any = _pipeline.stack_command
    if TYPE_CHECKING:

        def __enter__(self: _Client) -> _Client: ...

    def reset(self) -> None:  # type: ignore[override]  # RESET is a command too
        """Forget the commands and give the connection back, if need be closed."""
        try:
            super().reset()
        except BaseException:
            # redis-py's keeps the connection if UNWATCH is not answered in time.
            self._give_up_connection()
            raise

    def _give_up_connection(self) -> None:
        connection = self.connection
        self.connection: Any = None
        self.watching = self.explicit_transaction = False
        if connection is not None:
            connection.disconnect()
            self.connection_pool.release(connection)


_shown: Any = Redis.__init__
_shown.__doc__ = _redis_init.__doc__


def show_pool_options(shown: bool) -> None:
    """Have inspect.signature() show the pool's options, or redis-py's arguments only.

    Who finds our class by redis-py's name and hands on all arguments that he finds
    (fakeredis does) must not find more than redis-py's class takes.
    """
    options = _POOL_OPTIONS.values() if shown else ()
    _shown.__signature__ = _signature.replace(
        parameters=[*_signature.parameters.values(), *options]
    )


show_pool_options(True)
StrictRedis = Redis


@overload
def from_url(
    url: str, *, single_connection_client: bool = False, **kwargs: Unpack[UrlArguments]
) -> Redis: ...
@overload
def from_url(url: str, *, connection_class: Callable[..., Any], **kwargs: Any) -> Redis: ...
def from_url(url: str, **kwargs: Any) -> Redis:
    """Return a client configured from a URL, as `redis.from_url`."""
    return Redis.from_url(url, **kwargs)
