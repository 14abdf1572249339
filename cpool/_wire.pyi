"""Types of the compiled wire: one socket, by its descriptor or by its methods."""

from typing import Any, Final, final

WOULD_BLOCK: Final[tuple[type[OSError], ...]]

def is_plain(sock: Any) -> bool: ...

@final
class Wire:
    def __new__(cls, sock: Any) -> Wire: ...
    @property
    def uses_fd(self) -> bool: ...
