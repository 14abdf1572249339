"""What figures were measured on: the CPU, how busy it is with other things, the versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BUSY_LOOK_S = 0.3


def machine_facts() -> dict[str, Any]:
    """Describe this machine and the versions of what runs on it."""
    facts: dict[str, Any] = {
        "cpu": cpu_model(),
        "CPUs": os.cpu_count(),
        "busy %": busy_percent(),
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
    }
    distributions = {"redis-py": "redis", "hiredis": "hiredis", "cpool": "redis-cpool"}
    return facts | {name: version_of(package) for name, package in distributions.items()}


def version_of(distribution: str) -> str:
    """Return the version of what is installed, "not installed" if it isn't."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def server_name(info: Mapping[str, Any]) -> str:
    """Return a server's name and version by what its INFO says."""
    valkey = info.get("valkey_version")
    return f"Valkey {valkey}" if valkey else f"Redis {info.get('redis_version', '?')}"


def busy_percent(look_s: float = BUSY_LOOK_S) -> int:
    """Look for a while how busy all CPUs are; 0 where /proc/stat is not to be had."""
    try:
        before = cpu_ticks()
        time.sleep(look_s)
        return busy_between(before, cpu_ticks())
    except OSError:
        return 0


def busy_between(before: list[int], after: list[int]) -> int:
    """Return what percentage of all CPUs' time between two looks at cpu_ticks() was used."""
    passed = [b - a for a, b in zip(before, after, strict=True)]
    idle = passed[3] + passed[4]
    return round(100 * (1 - idle / max(1, sum(passed))))


def cpu_ticks() -> list[int]:
    """Return all CPUs' ticks of user, nice, system, idle, iowait, irq, softirq, steal time.

    Raises OSError where there is no /proc/stat (proc(5)).
    """
    first = Path("/proc/stat").read_text().split("\n", 1)[0]
    return [int(word) for word in first.split()[1:9]]


def cpu_model() -> str:
    """Name the CPU as well as the system can."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or "unknown"
