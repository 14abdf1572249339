"""Types of the compiled call of cluster clients."""

from typing import Any, final

from redis.cluster import NodesManager, RedisCluster

@final
class Route:
    def __init__(self, first: int, last: int, step: int, reads: bool) -> None: ...

@final
class Routes: ...

class ManagerBase(NodesManager): ...
class ClusterBase(RedisCluster): ...

execute_command: Any

def set_originals(
    functions: dict[str, frozenset[Any]], manager_functions: dict[str, frozenset[Any]]
) -> None: ...
