"""Say in one line why `python -m cpool` can't begin: the package itself can't be imported.

It is loaded in the middle of that import, so it imports nothing of cpool's.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

__all__ = ["SUPPORTED_REDIS_PY", "is_command_line", "leave", "reason"]

SUPPORTED_REDIS_PY = ("6.4", "9")  # from, and below; as pyproject.toml has it
CAN_NOT_RUN = 2


def is_command_line() -> bool:
    """Tell whether cpool is imported on behalf of `python -m cpool`."""
    # While Python looks for what to run, argv begins with "-m".
    at = sys.orig_argv.index("-m") if "-m" in sys.orig_argv else -2
    return sys.argv[:1] == ["-m"] and sys.orig_argv[at + 1 : at + 2] == ["cpool"]


def leave(error: Exception) -> NoReturn:
    """Print why cpool can't be imported, and exit."""
    print(f"cpool: {reason(error)}", file=sys.stderr)
    sys.exit(CAN_NOT_RUN)


def reason(error: Exception) -> str:
    """Return an error of the import, with what mends it."""
    if not isinstance(error, ImportError):
        return str(error)
    if str(error.name).partition(".")[0] != "redis":
        return (
            f"{error}. Install a wheel for this Python, or build anew:"
            " pip install --force-reinstall --no-deps redis-cpool"
        )
    lowest, below = SUPPORTED_REDIS_PY
    return (
        f"{error}. redis-py is {_version_of('redis')}; cpool supports {lowest} and later, below"
        f' {below}: pip install "redis>={lowest},<{below}"'
    )


def _version_of(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"
