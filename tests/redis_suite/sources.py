"""Fetch and unpack a version of redis-py with its tests, and check what those tests import.

None of redis-py's code is kept in this repository: the sdist comes from the package index, is
cached outside the tree and unpacked anew for each run.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

# Import name -> requirement. The conftests and test modules of redis-py import these.
REQUIREMENTS = {
    "pytest": "pytest",
    "pytest_asyncio": "pytest-asyncio",
    "pytest_timeout": "pytest-timeout",
    "aiohttp": "aiohttp",
    "jwt": "PyJWT",
    "numpy": "numpy",
    "opentelemetry.sdk": "opentelemetry-sdk",
    "packaging": "packaging",
    "pybreaker": "pybreaker",
    "rich": "rich",
    "trustme": "trustme",
    "ujson": "ujson",
    "xxhash": "xxhash",
}


class SetupError(Exception):
    """The run can't start; the message says what to do."""


def is_importable(name: str) -> bool:
    """Tell whether a module can be found, without importing it."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def check_requirements() -> None:
    """Raise SetupError naming the pip command if the suite's requirements aren't installed."""
    missing = [dist for name, dist in REQUIREMENTS.items() if not is_importable(name)]
    if missing:
        raise SetupError(
            "redis-py's tests need packages that are not installed:\n"
            f"  {sys.executable} -m pip install {' '.join(missing)}"
        )


def default_cache() -> Path:
    """Return the directory that keeps downloaded sdists."""
    base = os.environ.get("XDG_CACHE_HOME")
    home = Path(base) if base else Path.home() / ".cache"
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError:
        home = Path(tempfile.gettempdir())
    return home / "redis-cpool-suite"


def fetch_sdist(version: str, cache: Path) -> Path:
    """Return the path of redis-py's sdist, downloaded with pip unless it is in the cache."""
    target = cache / f"redis-{version}.tar.gz"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            download(version, Path(scratch))
            found = sorted(Path(scratch).glob("redis-*.tar.gz"))
            if not found:
                raise SetupError(f"pip downloaded no sdist of redis {version}")
            os.replace(found[0], target)
    return target


def download(version: str, directory: Path) -> None:
    """Let pip download the sdist, and only the sdist, into a directory."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-binary", ":all:", f"redis=={version}", "--dest", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines()
        tail = "\n".join(line[:300] for line in lines[-8:])
        raise SetupError(f"{' '.join(command)}\nfailed:\n{tail}")


def unpack(sdist: Path, directory: Path) -> Path:
    """Unpack an sdist into a directory and return the root of the sources."""
    root = directory / sdist.name.removesuffix(".tar.gz")
    if root.exists():
        shutil.rmtree(root)
    with tarfile.open(sdist) as archive:
        # The filter came with security releases; an older patch level has no such argument.
        options = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(directory, **options)  # type: ignore[arg-type]
    if not (root / "tests" / "conftest.py").exists():
        raise SetupError(f"{sdist} holds no tests")
    return root
