"""How a cluster pipeline is executed: redis-py's strategy over the compiled exchange."""

from __future__ import annotations

from typing import Any

import redis.cluster
from redis.exceptions import AskError, MovedError, RedisError

from cpool import _cluster_pipeline

__all__ = ["PipelineStrategy"]

_redis_strategy = redis.cluster.PipelineStrategy  # the original, whoever replaces it
_RETRIED = redis.cluster.ClusterPipeline.ERRORS_ALLOW_RETRY


class PipelineStrategy(_redis_strategy):
    """Write to all nodes, then read from each; redirections are followed as redis-py does.

    Commands whose replies had come before their connection broke keep them; redis-py
    sends all of that node again.
    """

    _pipe: Any

    def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """Keep a command for execute(), and return the pipeline."""
        queue = self._command_queue
        queue.append(redis.cluster.PipelineCommand(args, kwargs, len(queue)))
        return self._pipe

    def _send_cluster_commands(
        self, stack: list[Any], raise_on_error: bool = True, allow_redirections: bool = True
    ) -> list[Any]:
        if not _cluster_pipeline.send_by_node(self._pipe, stack):
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
        for command in stack:
            if command.args[0] in callbacks:
                options = {k: v for k, v in command.options.items() if k != "keys"}
                command.result = callbacks[command.args[0]](command.result, **options)

    def _raise_first(self, stack: list[Any]) -> None:
        for command in stack:
            if isinstance(command.result, Exception):
                self.annotate_exception(command.result, command.position + 1, command.args)
                raise command.result
