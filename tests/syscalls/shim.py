"""The preloaded library: how to build it, and how a process that has it orders faults."""

from __future__ import annotations

import contextlib
import ctypes
import enum
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
CC = os.environ.get("CC", "cc")
FLAGS = (
    "-std=gnu11 -O1 -Wall -Wextra -Werror -Wno-maybe-uninitialized"  # poll() reads its argument
    " -fPIC -shared -fvisibility=hidden"
).split()
VARIABLE = "LD_PRELOAD"
NO_LIMIT = 2**31


class Call(enum.IntEnum):
    """What can be made to fail."""

    RECV, PEEK, SEND, POLL, CONNECT, OPTION, FLAGS, ALLOC = range(8)


class Fault(enum.IntEnum):
    """How it fails."""

    INTERRUPTED, WOULD_BLOCK, SHORT, READY, ORDERED = range(1, 6)


#: What a storm does to each call; a program must not notice any of it.
STORM: Mapping[Call, tuple[Fault, ...]] = {
    Call.RECV: (Fault.INTERRUPTED, Fault.WOULD_BLOCK, Fault.SHORT),
    Call.PEEK: (Fault.INTERRUPTED, Fault.WOULD_BLOCK),
    Call.SEND: (Fault.INTERRUPTED, Fault.WOULD_BLOCK, Fault.SHORT),
    Call.POLL: (Fault.INTERRUPTED, Fault.READY),
    Call.CONNECT: (Fault.INTERRUPTED,),
}


def has_compiler() -> bool:
    """Tell whether the library can be built."""
    return shutil.which(CC) is not None


def build(directory: Path) -> Path:
    """Compile the library. Raises AssertionError with what the compiler says."""
    target = directory / "shim.so"
    command = [CC, *FLAGS, str(SOURCE), "-o", str(target), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    return target


class Shim:
    """The library in this process, which was started with it preloaded."""

    def __init__(self) -> None:
        self._lib = ctypes.CDLL(os.environ[VARIABLE])
        self._lib.shim_storm.argtypes = (ctypes.c_uint64, ctypes.c_int, ctypes.c_long)
        self._lib.shim_order.argtypes = (ctypes.c_int, ctypes.c_long, ctypes.c_int)
        self._lib.shim_injected.restype = ctypes.c_ulong
        self._lib.shim_calls.restype = ctypes.c_ulong
        self._lib.shim_trace.restype = ctypes.c_ulonglong

    @contextlib.contextmanager
    def storm(self, seed: int, percent: int, most: int = NO_LIMIT) -> Iterator[None]:
        """Let so many of a hundred calls fail during the block, and `most` in all."""
        self._lib.shim_storm(seed, percent, most)
        try:
            yield
        finally:
            self._lib.shim_calm()

    @contextlib.contextmanager
    def ordered(self, *orders: tuple[Call, int, int]) -> Iterator[None]:
        """Let the n-th call from now fail with an errno, for each (call, n, errno).

        An errno of 0 lets it move one byte only.
        """
        for order in orders:
            assert self._lib.shim_order(*order), "too many orders"
        try:
            yield
        finally:
            self._lib.shim_calm()

    def injected(self, call: Call, fault: Fault) -> int:
        """Return how often this has happened since the process began."""
        return int(self._lib.shim_injected(call, fault))

    def ordered_so_far(self) -> int:
        """Return how many ordered faults were met."""
        return sum(self.injected(call, Fault.ORDERED) for call in Call)

    def calls(self, call: Call) -> int:
        """Return how many there were while faults were on."""
        return int(self._lib.shim_calls(call))

    def trace(self) -> int:
        """Return a hash of what has happened to each call of the last storm."""
        return int(self._lib.shim_trace())

    def storm_counts(self) -> dict[str, int]:
        """Return how often each fault of STORM was met."""
        return {
            f"{call.name} {fault.name}": self.injected(call, fault)
            for call, faults in STORM.items()
            for fault in faults
        }
