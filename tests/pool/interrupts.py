"""Interrupt a call at every place where the interpreter would let a signal's handler in.

CPython looks for signals and for exceptions sent by other threads when a function begins,
after a call has returned, and when a loop jumps back: not between any two instructions.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

_LOOKS_AFTER = ("CALL", "RESUME", "JUMP_BACKWARD", "JUMP_ABSOLUTE", "YIELD_VALUE")
_TOOL = 3  # one of the numbers that sys.monitoring keeps for nobody


class Interrupted(BaseException):  # noqa: N818 - like KeyboardInterrupt, no Exception
    """What is raised in the middle of the call."""


@functools.cache
def _names_by_offset(code: CodeType) -> dict[int, str]:
    return {step.offset: step.opname for step in dis.get_instructions(code)}


class _Places:
    """Raises Interrupted at the n-th place of the frames that `within` accepts."""

    def __init__(self, n: int, within: Callable[[CodeType], bool]) -> None:
        self.left = n
        self.fired = False
        self.within = functools.cache(within)
        self._previous: dict[int, str] = {}  # by the frame's id: frames keep much alive

    def step(self, frame: FrameType, offset: int) -> None:
        """Take note of an instruction of such a frame that is about to be executed."""
        if self.fired:
            return
        name = _names_by_offset(frame.f_code).get(offset, "")
        before = self._previous.get(id(frame), "")
        self._previous[id(frame)] = name
        # An earlier frame may have had this one's id.
        begins = offset == 0 or name == "RESUME"
        if begins or not before.startswith(_LOOKS_AFTER):
            return
        self.left -= 1
        if self.left == 0:
            self.fired = True
            raise Interrupted


@contextlib.contextmanager
def _traced(places: _Places) -> Iterator[None]:
    """Let the tracer of this thread tell the instructions."""

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        if event == "call" and not places.within(frame.f_code):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            places.step(frame, frame.f_lasti)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@contextlib.contextmanager
def _monitored(places: _Places) -> Iterator[None]:
    """Let the interpreter's monitoring tell them: since 3.12 tracers miss some."""
    monitoring = sys.monitoring
    thread = threading.get_ident()

    def at_instruction(code: CodeType, offset: int) -> None:
        if places.within(code) and threading.get_ident() == thread:
            places.step(sys._getframe(1), offset)

    monitoring.use_tool_id(_TOOL, __name__)
    monitoring.register_callback(_TOOL, monitoring.events.INSTRUCTION, at_instruction)
    monitoring.set_events(_TOOL, monitoring.events.INSTRUCTION)
    try:
        yield
    finally:
        monitoring.set_events(_TOOL, 0)
        monitoring.register_callback(_TOOL, monitoring.events.INSTRUCTION, None)
        monitoring.free_tool_id(_TOOL)


def interrupt_at(n: int, call: Callable[[], Any], within: Callable[[CodeType], bool]) -> bool:
    """Make a call and interrupt it at the n-th place; False if it has fewer of them.

    within: which functions' code to interrupt. The call's own errors are raised.
    """
    places = _Places(n, within)
    watched = _monitored if sys.version_info >= (3, 12) else _traced
    with contextlib.suppress(Interrupted), watched(places):
        call()
    return places.fired
