"""Questions to sentinels: whom to ask first, for how long, and once for all who want to know.

A sentinel that is dead or hangs is not waited for while another one may answer: each gets a
little time, then the next is asked, and only when none has said anything they get more.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import ConnectionError, RedisError, TimeoutError

from cpool._deadline import held_in_time
from cpool.deadlines import deadline
from cpool.errors import DeadlineExceededError

__all__ = ["Answers", "Inquiry"]

# How long each sentinel may take, connecting included, in the first round and in the next
# ones; at last it is bounded by its client's own timeouts.
PATIENCE_S = (0.25, 1.0, math.inf)


class Inquiry:
    """One question that is put to sentinels in turn until one answers it.

    failed: those that could not be reached, with the error's text. silent: those that did
    not say anything in time.
    """

    def __init__(self, ask: Callable[[Any], Any]) -> None:
        """Prepare to `ask(sentinel)`, which returns None where another one may know more."""
        self._ask = ask
        self._is_heard = False
        # No errors: their tracebacks lead back here, and to the connection that is being made.
        self.failed: list[tuple[Any, str]] = []
        self.silent: list[Any] = []

    def put_to(self, sentinels: Sequence[Any]) -> tuple[Any, Any]:
        """Return who has answered, and the answer; None for both if nobody has.

        Raises DeadlineExceededError when the caller's deadline passes."""
        with deadline(math.inf) as callers:
            for patience_s in PATIENCE_S:
                self.silent = []
                for sentinel in sentinels:
                    answer = self._ask_for(patience_s, sentinel, callers)
                    if answer is not None:
                        return sentinel, answer
                if self._is_heard:
                    break
                sentinels = self.silent
        return None, None

    def _ask_for(self, patience_s: float, sentinel: Any, callers: Any) -> Any:
        try:
            with deadline(patience_s):
                answer = self._ask(sentinel)
            self._is_heard = True
            return answer
        except DeadlineExceededError:
            if callers.remaining_s <= 0:
                raise
            self.silent.append(sentinel)
        except (ConnectionError, TimeoutError) as error:
            self.failed.append((sentinel, f"{type(error).__name__}({error})"))
        return None


@dataclass
class _Question:
    """What several threads may want to know at the same moment."""

    lock: Any = field(default_factory=threading.RLock)
    answer: Any = None
    error: tuple[type[RedisError], str] | None = None


class Answers:
    """The answers that are being looked for: who asks what somebody else is asking already
    gets that answer, or error. Thread-safe."""

    def __init__(self) -> None:
        self._sought: dict[Hashable, _Question] = {}

    def find(self, question: Hashable, find: Callable[[], Any]) -> Any:
        """Return what `find()` returns, or has returned to a thread that came before and was
        not ready yet. None is no answer. The caller's deadline bounds the wait."""
        key = os.getpid(), question  # a child can't wait for its parent's threads
        sought = self._sought.setdefault(key, _Question())
        with held_in_time(sought.lock):  # whoever has it first does the work
            if sought.answer is None and sought.error is None:
                self._settle(key, sought, find)
        if sought.error is not None:
            raise sought.error[0](sought.error[1])
        return sought.answer

    def _settle(self, key: Hashable, sought: _Question, find: Callable[[], Any]) -> None:
        """An interrupt, or a deadline of this thread's, settles nothing: the next one asks."""
        answer = error = None
        try:
            answer = find()
        except (ConnectionError, TimeoutError) as met:
            error = type(met), str(met)
        # First: who asks from here on is to hear what is true then.
        self._sought.pop(key, None)
        sought.answer, sought.error = answer, error
