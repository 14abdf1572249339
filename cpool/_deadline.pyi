"""Types of the compiled deadlines."""

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, final

from typing_extensions import Self

def is_any_in_force() -> bool: ...
def held_in_time(lock: Any) -> AbstractContextManager[None]: ...

@final
class Deadline:
    def __new__(cls, seconds: float) -> Self: ...
    @property
    def seconds(self) -> float: ...
    @property
    def remaining_s(self) -> float: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

@final
class Dial:
    def __new__(cls, deadline: Deadline) -> Self: ...
