"""Waiting among green threads: gevent's and eventlet's event loop goes on meanwhile."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_green_threads_wait_without_stopping_the_others(library: str, redis_server: Any) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.pool.green_script", library]
    done = subprocess.run(
        [*command, str(redis_server.port)], capture_output=True, text=True, timeout=50, cwd=ROOT
    )
    assert done.stdout.strip() == "ok", done.stderr
