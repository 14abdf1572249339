"""Types of the retry policies that are joined to a connection."""

from collections.abc import Callable
from typing import Any

from redis.retry import Retry

from cpool._conn import ConnBase

def set_original(call_with_retry: Callable[..., Any]) -> None: ...

class RetryBase(Retry):
    _backoff: Any
    _retries: int
    _supported_errors: Any
    def call_with_retry(
        self,
        do: Callable[[], Any],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> Any: ...
    def by_policy(
        self,
        do: Callable[[], Any],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None,
        with_failure_count: bool,
    ) -> Any: ...
    def part(self) -> None: ...
    @property
    def joined_inner(self) -> Retry: ...
    def __copy__(self) -> Retry: ...
    def __deepcopy__(self, memo: dict[int, Any]) -> Retry: ...
    def __reduce__(self) -> Any: ...

def bind_retry(
    retry: RetryBase,
    connection: ConnBase,
    inner: Retry,
    final: tuple[type[Exception], ...] = (),
) -> RetryBase: ...
