"""The script that runs the tests with every Python and redis-py, without running any pair."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import matrix

ROOT = matrix.ROOT
HERE = matrix.Interpreter("3.12", sys.executable)


def pyproject() -> str:
    return (ROOT / "pyproject.toml").read_text()


def test_every_python_of_the_classifiers_is_tried() -> None:
    declared = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', pyproject())
    assert list(matrix.PYTHONS) == declared


def test_the_first_and_the_last_redis_py_are_within_what_the_package_takes() -> None:
    (lowest,) = re.findall(r'dependencies = \["redis>=(.+),<9"\]', pyproject())
    assert matrix.REDIS_PY[0].startswith(f"{lowest}.")
    assert matrix.REDIS_PY[-1].startswith("8.")


@pytest.mark.parametrize(
    ("output", "counts"),
    [
        ("...\n7 passed in 0.10s\n", {"passed": 7}),
        (
            "1 failed, 20 passed, 3 skipped, 4 xfailed, 1 error in 12.34s",
            {"failed": 1, "passed": 20, "skipped": 3, "xfailed": 4, "errors": 1},
        ),
        ("2 errors in 1.00s", {"errors": 2}),
        ("no tests ran in 0.01s", {}),
        ("12 passed so far\nKilled", {}),
        ("", {}),
    ],
)
def test_the_counts_are_those_of_pytests_last_line(output: str, counts: dict[str, int]) -> None:
    assert matrix.counts_of(output) == counts


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (
            "ERROR: Could not find a version that satisfies the requirement redis==8.1.0 (from "
            "versions: 6.4.0, 7.0.1)\nERROR: No matching distribution found for redis==8.1.0",
            True,
        ),
        (
            "ERROR: Could not find a version that satisfies the requirement redis==8.1.0 (from "
            "versions: none)\nERROR: No matching distribution found for redis==8.1.0",
            False,
        ),
        ("ERROR: Could not install packages due to an OSError: no space left", False),
    ],
)
def test_a_missing_redis_py_is_told_from_an_index_out_of_reach(
    output: str, expected: bool
) -> None:
    assert matrix.is_no_such_version(output) == expected


def test_an_interpreter_is_found_by_its_path() -> None:
    found = matrix.find_interpreter(sys.executable)
    assert found.path == sys.executable
    assert found.version == f"{sys.version_info[0]}.{sys.version_info[1]}"


def test_an_interpreter_that_is_asked_for_and_not_there_is_an_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert matrix.main(["--python", "no-such-python", "--keep", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "--python no-such-python" in told and "3.10 3.11" in told


def test_a_python_that_is_not_here_is_named_and_fails_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert matrix.main(["--redis-py", "8.1.0", "--keep", str(tmp_path)]) == 0
    table = capsys.readouterr().out
    assert table.count("no such Python here") == len(matrix.PYTHONS)
    assert "3.13, redis-py 8.1.0" in table


class FakeRun:
    """Stands for matrix.run: fails, with an output, the commands that hold a word."""

    def __init__(self, failing: str, output: str) -> None:
        self.failing = failing
        self.output = output
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str], *_: Any, **__: Any) -> tuple[int, str]:
        self.commands.append(command)
        return (1, self.output) if self.failing in command else (0, "5 passed in 1s")


@pytest.mark.parametrize(
    ("failing", "output", "outcome", "status"),
    [
        ("nothing", "", "passed", 0),
        ("pytest", "1 failed, 4 passed in 1s", "FAILED (status 1)", 1),
        ("redis==8.1.0", "No matching distribution found", "no such redis-py for it", 0),
        ("redis==8.1.0", "No matching distribution (from versions: none)", "not tried", 2),
        ("venv", "No module named venv", "not tried", 2),
        (matrix.WHICH_CPOOL, "AssertionError: not the wheel's", "not tried", 2),
    ],
)
def test_what_stops_a_pair_becomes_its_outcome(
    failing: str,
    output: str,
    outcome: str,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    fake = FakeRun(failing, output)
    monkeypatch.setattr(matrix, "run", fake)
    monkeypatch.setattr(matrix.Matrix, "wheel", lambda *_: tmp_path / "cpool.whl")
    monkeypatch.setattr(matrix.Pair, "make_tree", lambda _: tmp_path)
    result = matrix.Matrix(tmp_path, ("-x",)).run_pair(HERE, "8.1.0")
    assert result.outcome == outcome
    assert matrix.exit_status([result]) == status
    assert len(result.row()) == 3 + len(matrix.COUNTED)
    if outcome == "passed":
        assert "-x" in fake.commands[-1] and result.counts == {"passed": 5}


def test_all_output_is_in_the_log_and_only_a_commands_own_is_returned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    log = tmp_path / "log"
    code = "import os, sys; print('to', sys.argv[1]); sys.exit('PYTHONPATH' in os.environ)"
    for word in ("begin", "end"):
        status, output = matrix.run([sys.executable, "-c", code, word], log, tmp_path)
        assert (status, output) == (0, f"to {word}\n")
    with pytest.raises(matrix.SetupError, match="(?s)failed, see .*no such option"):
        matrix.run_or_raise([sys.executable, "-c", "raise SystemExit('no such option')"], log)
    told = log.read_text()
    assert "to begin\n" in told and "to end\n" in told and "\nno such option\n" in told
    assert told.count(f"+ {sys.executable}") == 3


def test_one_pair_that_failed_fails_the_whole_and_one_not_tried_even_more() -> None:
    def status(*outcomes: str) -> int:
        return matrix.exit_status([matrix.Result(HERE, "8.1.0", text) for text in outcomes])

    assert status("passed", "no such redis-py for it") == 0
    assert status("passed", "FAILED (status 1)", "passed") == 1
    assert status("FAILED (status 1)", "not tried") == 2


def test_a_wheel_is_known_by_its_sources_and_nothing_that_a_build_leaves(tmp_path: Path) -> None:
    package = tmp_path / "cpool"
    package.mkdir()
    (package / "pool.py").write_text("a = 1\n")
    before = matrix.digest(tmp_path)
    (package / "_pool.so").write_bytes(b"\x7fELF")
    assert matrix.digest(tmp_path) == before
    (package / "pool.py").write_text("a = 2\n")
    assert matrix.digest(tmp_path) != before


def test_the_tests_import_the_cpool_that_the_wheel_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pair = matrix.Pair(matrix.Matrix(tmp_path, ()), HERE, "8.1.0")
    installed = pair.directory / "venv" / "lib" / "python3.12" / "site-packages" / "cpool"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("from_the_wheel = True\n")
    tree = pair.make_tree()
    assert (tree / "cpool" / "__init__.py").read_text() == "from_the_wheel = True\n"
    assert (tree / "tests" / "test_matrix.py").exists()
    assert not list(tree.rglob("*.pyc")) and not (tree / ".git").exists()
