"""Types of the compiled sessions: one socket's life, its buffers and its ledger."""

from typing import Any, final

from redis._parsers import Encoder

from cpool._resp import Packer

class NotQuiet(Exception): ...

class Packed(list[Any]):
    commands: int
    chunks: int
    effects: list[tuple[bytes, bytes]]

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

def packer_of(encoder: Encoder, split_large: bool = False) -> Packer: ...
