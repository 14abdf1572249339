"""Types of the compiled exchange of pipelines."""

from typing import Any

from cpool._client import ClientBase

stack_command: Any

class PipelineBase(ClientBase): ...

def set_originals(functions: dict[str, Any]) -> None: ...
