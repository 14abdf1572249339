"""Types of the compiled call of clients and pipelines."""

from collections.abc import Callable
from typing import Any

from redis.client import Redis

REASONS: tuple[str, ...]
execute_command: Any

class ClientBase(Redis):
    def __getnewargs__(self) -> tuple[()]: ...

def set_originals(
    functions: dict[str, Any],
    callbacks: type,
    response_error: type[Exception],
    set_result: Any,
    bool_ok: Any,
) -> None: ...
def set_method(base: type, redis_class: type, redis_set: Any, doc: bytes) -> Any: ...
def set_enabled(value: bool) -> None: ...
def is_enabled() -> bool: ...
def counted() -> list[int]: ...
def forget_counts() -> None: ...
def compiled_init(
    plain: Callable[..., None],
    options: frozenset[str],
    with_options: Callable[..., Callable[..., None]],
) -> Any: ...
