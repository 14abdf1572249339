"""How a cluster pipeline is executed: redis-py's strategy over the compiled exchange."""

from __future__ import annotations

import contextlib
from typing import Any

import redis.cluster
from redis.exceptions import AskError, MaxConnectionsError, MovedError, RedisError

from cpool import _cluster_pipeline
from cpool.errors import DeadlineExceededError, PoolClosedError
from cpool.originals import original

__all__ = ["PipelineStrategy"]

_redis_strategy = redis.cluster.PipelineStrategy  # the original, whoever replaces it
_RETRIED = redis.cluster.ClusterPipeline.ERRORS_ALLOW_RETRY
_ENDED_BY_NODES = redis.cluster.RedisCluster.ERRORS_ALLOW_RETRY
_FINAL = (MaxConnectionsError, PoolClosedError, DeadlineExceededError)
_cluster_pipeline.set_errors(_FINAL, RedisError)

_STEPS = (
    "execute_command",
    "pipeline_execute_command",
    "send_cluster_commands",
    "_send_cluster_commands",
    "_determine_nodes",
)
_ORIGINALS = {name: original(_redis_strategy, name) for name in _STEPS}
# All that this stands in for: (whose, name, redis-py's).
_PARTS = [
    *((_redis_strategy, name, function) for name, function in _ORIGINALS.items()),
    *((redis.cluster.NodeCommands, name, original(redis.cluster.NodeCommands, name))
      for name in ("append", "write", "read")),
    (redis.cluster, "get_connection", original(redis.cluster, "get_connection")),
]  # fmt: skip


_KEEP, _QUEUE = _ORIGINALS["execute_command"], _ORIGINALS["pipeline_execute_command"]


def is_patched() -> bool:
    """Tell whether somebody has replaced what this stands in for."""
    return any(getattr(owner, name) is not part for owner, name, part in _PARTS)


class PipelineStrategy(_redis_strategy):
    """Write to all nodes, then read from each; redirections are followed as redis-py does.

    Commands whose replies had come before their connection broke keep them; redis-py
    sends all of that node again.
    """

    _pipe: Any

    def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """Keep a command for execute(), and return the pipeline."""
        # Not is_patched(): for each command it would cost as much as all the rest.
        theirs = _redis_strategy
        if theirs.execute_command is not _KEEP or theirs.pipeline_execute_command is not _QUEUE:
            return super().execute_command(*args, **kwargs)
        queue = self._command_queue
        queue.append(redis.cluster.PipelineCommand(args, kwargs, len(queue)))
        return self._pipe

    def send_cluster_commands(
        self, stack: list[Any], raise_on_error: bool = True, allow_redirections: bool = True
    ) -> list[Any]:
        """Send commands, all of them again as often as `retry` says if nodes fail; with the
        safe policy only if none was sent. An exhausted pool is no failure of a node."""
        if not stack or is_patched():
            return super().send_cluster_commands(  # type: ignore[no-any-return]
                stack, raise_on_error, allow_redirections
            )
        left = self._pipe.retry.get_retries()
        while True:
            try:
                return self._send_cluster_commands(stack, raise_on_error, allow_redirections)
            except _FINAL:
                raise
            except _ENDED_BY_NODES:
                if not left or (self._is_safe() and any(c.result is not None for c in stack)):
                    raise
                left -= 1

    def _is_safe(self) -> bool:
        """Whether what may have run must not run again."""
        clients = [node.redis_connection for node in self._pipe.get_nodes()]
        pools = [client.connection_pool for client in clients if client is not None]
        return any(getattr(pool, "retry_policy", None) == "safe" for pool in pools)

    def _send_cluster_commands(
        self, stack: list[Any], raise_on_error: bool = True, allow_redirections: bool = True
    ) -> list[Any]:
        if is_patched() or not _cluster_pipeline.send_by_node(self._pipe, stack):
            return super()._send_cluster_commands(  # type: ignore[no-any-return]
                stack, raise_on_error=raise_on_error, allow_redirections=allow_redirections
            )
        if allow_redirections:
            self._follow_moves(stack)
            self._send_again([c for c in stack if isinstance(c.result, _RETRIED)])
        self._call_back(stack)
        if raise_on_error:
            self._raise_first(stack)
        return [command.result for command in stack]

    def _follow_moves(self, stack: list[Any]) -> None:
        """Send what was refused by MOVED to where it said, all at once; once."""
        moved = [c for c in stack if isinstance(c.result, MovedError)]
        manager = self._pipe.nodes_manager
        for command in moved:
            if manager.is_news(command.result):
                manager.move(command.result)
                manager.count_news(self._pipe.reinitialize_steps)
        if moved:
            # An exhausted pool, say: they are sent one by one then, and each is told.
            with contextlib.suppress(*_FINAL):
                _cluster_pipeline.send_by_node(self._pipe, moved)

    def _send_again(self, failed: list[Any]) -> None:
        """Send what has failed one by one, as the client does, with its retries."""
        if any(not isinstance(command.result, AskError) for command in failed):
            self._pipe.reinitialize_counter += 1
            if self._pipe._should_reinitialized():
                self._nodes_manager.initialize()
        for command in failed:
            try:
                command.result = self._pipe.parent_execute_command(
                    *command.args, **command.options
                )
            except RedisError as error:
                command.result = error

    def _call_back(self, stack: list[Any]) -> None:
        callbacks = self._pipe.cluster_response_callbacks
        called = {name for name in {command.args[0] for command in stack} if name in callbacks}
        for command in stack if called else ():
            if command.args[0] in called:
                options = {k: v for k, v in command.options.items() if k != "keys"}
                command.result = callbacks[command.args[0]](command.result, **options)

    def _raise_first(self, stack: list[Any]) -> None:
        for command in stack:
            if isinstance(command.result, Exception):
                self.annotate_exception(command.result, command.position + 1, command.args)
                raise command.result
