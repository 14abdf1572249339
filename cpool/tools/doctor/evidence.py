"""What the checks look at, and what a check is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from cpool.tools.doctor.diagnosis import Finding
from cpool.tools.doctor.process import Process
from cpool.tools.doctor.server import Server
from cpool.tools.doctor.subject import Subject

__all__ = ["Check", "Evidence", "version_numbers"]


@dataclass(frozen=True)
class Evidence:
    """All that is known. Without a client or a pool there is neither subject nor server."""

    process: Process
    subject: Subject | None = None
    server: Server | None = None
    processes: int = 1
    """How many processes with such a pool use the server."""


# Looks for one thing; None: it is not there, or can't be told.
Check = Callable[[Evidence], Finding | None]


def version_numbers(version: str) -> tuple[int, ...]:
    """Return the first two numbers of a version, to compare; () where there are none."""
    return tuple(map(int, re.findall(r"\d+", version)[:2]))
