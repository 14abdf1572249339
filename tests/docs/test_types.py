"""The pages' Python is right for a type checker too: mypy, where it is installed."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.examples import ROOT, blocks_of
from tests.support.signatures import redis_py_is_the_newest

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
HAS_MYPY = importlib.util.find_spec("mypy") is not None


def write_examples(directory: Path) -> list[str]:
    """Write each example to a file named after its place; return their paths."""
    paths = []
    for block in (block for page in PAGES for block in blocks_of(page, "python")):
        path = directory / f"{re.sub(r'[^a-z0-9]', '_', block.name.lower())}.py"
        path.write_text(block.source)
        paths.append(str(path))
    return paths


def mypy(paths: list[str], cache: Path) -> subprocess.CompletedProcess[str]:
    """Check these files as the library is checked, but that functions may be unannotated."""
    options = [f"--cache-dir={cache}", "--allow-untyped-defs", "--allow-incomplete-defs"]
    # What an example imports besides cpool may not be installed.
    options += ["--disable-error-code=import-not-found", "--disable-error-code=import-untyped"]
    command = [sys.executable, "-m", "mypy", *options, *paths]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not HAS_MYPY, reason="mypy is not installed")
@pytest.mark.skipif(not redis_py_is_the_newest(), reason="the types are those of redis-py 8.1")
def test_a_type_checker_accepts_the_examples(tmp_path: Path) -> None:
    paths = write_examples(tmp_path)
    assert len(paths) > 10
    done = mypy(paths, tmp_path / "cache")
    assert done.returncode == 0, done.stdout + done.stderr
