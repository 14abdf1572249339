"""Types of the compiled exchange of pipelines."""

from typing import Any, final

from cpool._client import ClientBase

stack_command: Any

@final
class Batch:
    def prepare(self) -> None: ...

class PipelineBase(ClientBase): ...

def set_originals(functions: dict[str, Any]) -> None: ...
