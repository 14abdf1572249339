"""Types of the compiled cluster pipeline."""

from typing import Any

from cpool._cluster import ClusterBase

def send_by_node(pipe: ClusterBase, commands: list[Any]) -> bool: ...
