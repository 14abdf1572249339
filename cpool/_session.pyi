"""Types of the compiled sessions: one socket's life, its buffers and its ledger."""

from typing import Any, final

from redis._parsers import Encoder

from cpool._resp import Packer
from cpool.replay import ReplayTable

class NotQuiet(Exception): ...

class Packed(list[Any]):
    commands: int
    chunks: int
    effects: list[tuple[bytes, bytes]]
    requests: list[tuple[Any, ...]]

@final
class InFlight:
    def __new__(cls, table: ReplayTable) -> InFlight: ...

@final
class Session:
    @property
    def owed(self) -> int: ...
    @owed.setter
    def owed(self, value: int) -> None: ...
    @property
    def clean(self) -> bool: ...
    @property
    def uses_fd(self) -> bool: ...
    @property
    def buffer_bytes(self) -> int: ...

def requests_of(data: bytes) -> list[tuple[bytes, ...]]: ...
def packer_of(encoder: Encoder, split_large: bool = False) -> Packer: ...
