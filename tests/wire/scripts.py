"""Running a module of the tests in a process of its own, which answers in JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 50.0


def run_module(module: str, *args: object, timeout_s: float = TIMEOUT_S) -> Any:
    """Run `python -m module args` and return the JSON of its last line.

    Raises AssertionError with what it wrote if it failed, or took too long.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, args)],
        cwd=ROOT,
        env={**os.environ, "PYTHONFAULTHANDLER": "1"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and lines, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return json.loads(lines[-1])
