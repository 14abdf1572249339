"""Types of the compiled deadlines."""

from types import TracebackType
from typing import final

from typing_extensions import Self

def is_any_in_force() -> bool: ...

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
