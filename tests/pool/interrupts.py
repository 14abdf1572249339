"""Interrupt a call at every place where the interpreter would let a signal's handler in.

CPython looks for signals and for exceptions sent by other threads when a function begins,
after a call has returned, and when a loop jumps back: not between any two instructions.
"""

from __future__ import annotations

import dis
import functools
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

_LOOKS_AFTER = ("CALL", "RESUME", "JUMP_BACKWARD", "JUMP_ABSOLUTE", "YIELD_VALUE")


class Interrupted(BaseException):  # noqa: N818 - like KeyboardInterrupt, no Exception
    """What is raised in the middle of the call."""


@functools.cache
def _names_by_offset(code: CodeType) -> dict[int, str]:
    return {step.offset: step.opname for step in dis.get_instructions(code)}


class _Tracer:
    """Raises Interrupted at the n-th place of the frames that `within` accepts."""

    def __init__(self, n: int, within: Callable[[CodeType], bool]) -> None:
        self.left = n
        self.fired = False
        self._within = within
        self._previous: dict[int, str] = {}  # by the frame's id: frames keep much alive

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "call" and not self._within(frame.f_code):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            self._step(frame)
        elif event == "return":
            self._previous.pop(id(frame), None)
        return self

    def _step(self, frame: FrameType) -> None:
        name = _names_by_offset(frame.f_code).get(frame.f_lasti, "")
        before, self._previous[id(frame)] = self._previous.get(id(frame), ""), name
        if self.fired or not before.startswith(_LOOKS_AFTER):
            return
        self.left -= 1
        if self.left == 0:
            self.fired = True
            raise Interrupted


def interrupt_at(n: int, call: Callable[[], Any], within: Callable[[CodeType], bool]) -> bool:
    """Make a call and interrupt it at the n-th place; False if it has fewer of them.

    within: which functions' code to interrupt. The call's own errors are raised.
    """
    tracer = _Tracer(n, within)
    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        call()
    except Interrupted:
        pass
    finally:
        sys.settrace(before)
    return tracer.fired
