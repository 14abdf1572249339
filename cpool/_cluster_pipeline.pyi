"""Types of the compiled cluster pipeline."""

from typing import Any, final

from cpool._cluster import ClusterBase

@final
class Share: ...

def send_by_node(pipe: ClusterBase, commands: list[Any]) -> bool: ...
