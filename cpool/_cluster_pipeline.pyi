"""Types of the compiled cluster pipeline."""

from typing import Any, final

from cpool._cluster import ClusterBase

@final
class Share: ...

def set_errors(final: tuple[type[Exception], ...], redis_error: type[Exception]) -> None: ...
def send_by_node(pipe: ClusterBase, commands: list[Any]) -> bool: ...
