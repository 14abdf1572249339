"""A copy of the project as a fresh checkout has it, and the archives made from it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOP_LEVEL = (
    "setup.py pyproject.toml MANIFEST.in Makefile LICENSE README.md CHANGELOG.md CONTRIBUTING.md"
    " SECURITY.md src cpool tests bench docs .ci"
).split()
# What lies about in a working tree and may reach no archive.
LEFTOVERS = ("*.so", "*.pyc", "__pycache__", "*.egg-info", ".hypothesis", ".*_cache")


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Run a command that must succeed; its warnings are nobody's here."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        env={**environment, **variables},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources, with what a build leaves behind planted among them."""
    to = tmp_path_factory.mktemp("project")
    for name in TOP_LEVEL:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns(*LEFTOVERS))
        elif source.exists():
            shutil.copy2(source, to / name)
    plant_leftovers(to)
    return to


def plant_leftovers(to: Path) -> None:
    (to / "cpool" / "_resp.cpython-311-x86_64-linux-gnu.so").write_bytes(b"\x7fELF")
    (to / "cpool" / "__pycache__").mkdir()
    (to / "cpool" / "__pycache__" / "pool.cpython-311.pyc").write_bytes(b"")
    (to / "tests" / "__pycache__").mkdir()
    (to / "tests" / "__pycache__" / "conftest.cpython-311.pyc").write_bytes(b"")
    (to / "tests" / ".hypothesis").mkdir()
    (to / "tests" / ".hypothesis" / "example").write_bytes(b"")
    (to / "build" / "cython" / "src" / "cpool").mkdir(parents=True)
    (to / "build" / "cython" / "src" / "cpool" / "_resp.c").write_bytes(b"")


@pytest.fixture(scope="session")
def sdist(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive, made by the build backend."""
    to = tmp_path_factory.mktemp("sdist")
    code = "import sys; from setuptools import build_meta as b; print(b.build_sdist(sys.argv[1]))"
    run(sys.executable, "-c", code, to, cwd=project)
    (archive,) = to.iterdir()
    return archive
