"""Types of the compiled codec: Python objects to requests, bytes to Python objects."""

from collections.abc import Callable, Iterable
from typing import Any, Final, final

from typing_extensions import Buffer

DEFAULT_MAX_DEPTH: Final[int]
DEFAULT_MAX_BULK_BYTES: Final[int]
WHY: Final[tuple[str, ...]]

class Incomplete: ...

INCOMPLETE: Final[Incomplete]

@final
class Outbox: ...

@final
class Packer:
    def __new__(
        cls,
        encode: Callable[[Any], Buffer] | None = None,
        utf8: bool = True,
        split_large: bool = False,
    ) -> Packer: ...
    def pack(self, *args: Any) -> list[Buffer]: ...
    def pack_many(self, commands: Iterable[Iterable[Any]]) -> tuple[list[Buffer], int]: ...

def pack_command(args: tuple[Any, ...]) -> bytes: ...

@final
class Reader:
    def __new__(
        cls,
        make_error: Callable[[str], Exception] = ...,
        encoding: str | None = None,
        errors: str = "strict",
        fatal_class: type[Exception] | tuple[type[Exception], ...] = (),
        max_depth: int = ...,
        max_bulk_bytes: int = ...,
    ) -> Reader: ...
    def set_encoding(self, encoding: str | None, errors: str = "strict") -> None: ...
    def feed(self, data: Buffer) -> None: ...
    def gets(self, decode: bool = True) -> Any: ...
    @property
    def unread_bytes(self) -> int: ...
    @property
    def buffer_bytes(self) -> int: ...
    @property
    def last_was_push(self) -> bool: ...
