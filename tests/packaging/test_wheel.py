"""The wheel built from the source archive: its contents, and that it works alone."""

from __future__ import annotations

import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MODULES = sorted(path.stem for path in (ROOT / "src" / "cpool").glob("*.pyx"))

# Run by the new environment's Python, which finds redis-py where we have it.
SMOKE = """
import sys
import cpool, cpool._conn, cpool._pool, cpool._resp, cpool._retry, cpool._session, cpool._wire
import redis

assert cpool.__file__.startswith(sys.prefix), cpool.__file__
assert cpool.__version__ != "0+unknown"
pool = cpool.ConnectionPool(max_connections=3)
assert isinstance(pool, redis.ConnectionPool)
assert pool.stats().max_connections == 3
reader = cpool._resp.Reader()
reader.feed(cpool._resp.pack_command(("GET", "key")))
assert reader.gets() == [b"GET", b"key"]
"""


def build(source: Path, to: Path, **variables: str) -> Path:
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    run(sys.executable, "-m", "pip", "wheel", *options, "-w", to, source, cwd=to, **variables)
    (built,) = to.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(sdist, tmp_path_factory.mktemp("wheel"))


def names_in(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    return names_in(wheel)


def test_it_holds_the_modules_of_the_core(names: set[str]) -> None:
    ending = sysconfig.get_config_var("EXT_SUFFIX")
    assert {f"cpool/{module}{ending}" for module in MODULES} <= names
    assert sum(name.endswith((".so", ".pyd", ".dylib")) for name in names) == len(MODULES)


def test_it_holds_the_package_and_its_types(names: set[str]) -> None:
    wanted = {
        path.relative_to(ROOT).as_posix()
        for pattern in ("*.py", "*.pyi", "py.typed")
        for path in (ROOT / "cpool").rglob(pattern)
    }
    assert wanted <= names


def test_it_holds_no_sources_of_the_core(names: set[str]) -> None:
    endings = (".c", ".h", ".pyx", ".pxd")
    assert [name for name in names if name.endswith(endings)] == []


def test_it_holds_nothing_else(names: set[str], wheel: Path) -> None:
    info = "-".join(wheel.name.split("-")[:2]) + ".dist-info"
    assert {name.split("/")[0] for name in names} == {"cpool", info}
    assert f"{info}/licenses/LICENSE" in names


def test_a_wheel_from_the_tree_holds_the_same(
    names: set[str], project: Path, tmp_path: Path
) -> None:
    of_the_tree = build(project, tmp_path, CPOOL_DEBUG="1")  # which is quicker
    assert names_in(of_the_tree) == names


def test_it_is_small(wheel: Path) -> None:
    """Four times smaller than with the debugging information that Python's own flags ask for."""
    assert wheel.stat().st_size < 1_500_000


def test_it_works_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", "-q", wheel, cwd=tmp_path)
    packages = run(
        python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path
    ).strip()
    # A plain line in a .pth makes redis-py visible, and nothing that was installed editable.
    (Path(packages) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(python, "-c", SMOKE, cwd=tmp_path)
    assert "demo" in run(python, "-m", "cpool", "--help", cwd=tmp_path)
