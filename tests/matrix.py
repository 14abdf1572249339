"""``python -m tests.matrix``: the tests with every supported Python and redis-py.

For each Python a wheel is built once; each pair of a Python and a redis-py gets a virtual
environment with that wheel, and a copy of the tree whose `cpool` is what the wheel installed.
Options after "--" go to pytest.

Exit status: 0 if the tests passed with every pair that exists; 1 if not; 2 if a pair could not
be tried. A Python that is not on this machine is named in the table, and fails only if --python
asked for it.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cpool.tools.tables import print_table

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
REDIS_PY = ("6.4.0", "7.4.1", "8.0.1", "8.1.0")
COUNTED = ("passed", "failed", "errors", "skipped", "xfailed")

# What a wheel is made of, and what lies about in a tree that no copy should have.
WHEEL_SOURCES = ("src", "cpool", "setup.py", "pyproject.toml", "README.md", "LICENSE")
LEFTOVERS = (
    ".git",
    "build",
    "dist",
    "*.so",
    "__pycache__",
    "*.egg-info",
    ".*_cache",
    ".hypothesis",
)
# They would bring in another cpool, or a server that is not the tests' own.
FOREIGN_VARIABLES = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "REDIS_URL")

WHICH_PYTHON = 'import sys; print("%d.%d" % sys.version_info[:2], sys.executable, sep="\\n")'
WHICH_CPOOL = """
import os, sys
import cpool, cpool._pool, redis
for module in (cpool, cpool._pool):
    found = os.path.realpath(module.__file__)
    assert found.startswith(os.path.realpath(sys.prefix) + os.sep), f"not the wheel's: {found}"
assert redis.__version__ == sys.argv[1], f"not redis-py {sys.argv[1]}: {redis.__version__}"
"""


class SetupError(Exception):
    """A pair can't be tried; the message says why."""


class NoSuchRedisError(Exception):
    """The package index has no such redis-py for this Python."""


@dataclass(frozen=True)
class Interpreter:
    """A Python: its version, as "3.12", and the path of its executable; None if there is none."""

    version: str
    path: str | None

    def __str__(self) -> str:
        return self.version


@dataclass(frozen=True)
class Result:
    """What came of one pair."""

    interpreter: Interpreter
    redis_py: str
    outcome: str
    counts: dict[str, int] = field(default_factory=dict)
    took_s: float = 0.0

    def row(self) -> list[str]:
        """Return the pair's line of the table."""
        counts = [str(self.counts.get(name, 0)) if self.counts else "" for name in COUNTED]
        took = f"{self.took_s / 60:.1f} min" if self.took_s else ""
        return [f"{self.interpreter}, redis-py {self.redis_py}", self.outcome, *counts, took]


@dataclass(frozen=True)
class Matrix:
    """One invocation: where everything is kept, and what pytest is told."""

    directory: Path
    pytest_args: tuple[str, ...]

    def run_pair(self, interpreter: Interpreter, redis_py: str) -> Result:
        """Install and run one pair; whatever stops it becomes the outcome."""
        if interpreter.path is None:
            return Result(interpreter, redis_py, "no such Python here")
        pair = Pair(self, interpreter, redis_py)
        try:
            return pair.run(self.wheel(interpreter))
        except NoSuchRedisError:
            return Result(interpreter, redis_py, "no such redis-py for it")
        except SetupError as error:
            print(error, file=sys.stderr)
            return Result(interpreter, redis_py, "not tried")

    def wheel(self, interpreter: Interpreter) -> Path:
        """Return the wheel for an interpreter, built unless these sources were built before."""
        wheels = self.directory / f"wheel-{interpreter}-{digest(ROOT)}"
        if not wheels.exists():
            print(f"Python {interpreter}: building the wheel", flush=True)
            log = self.directory / f"wheel-{interpreter}.log"
            with tempfile.TemporaryDirectory(dir=self.directory) as scratch:
                tree, built = Path(scratch, "tree"), Path(scratch, "built")
                copy_tree(tree)
                pip(interpreter.path, log, "wheel", "--no-deps", "-w", str(built), str(tree))
                built.rename(wheels)
        (wheel,) = wheels.glob("*.whl")
        return wheel


@dataclass(frozen=True)
class Pair:
    """One Python with one redis-py, in a directory of its own."""

    matrix: Matrix
    interpreter: Interpreter
    redis_py: str

    @property
    def name(self) -> str:
        """What the pair's files are called."""
        return f"py{self.interpreter}-redis{self.redis_py}"

    @property
    def directory(self) -> Path:
        """Where the pair's environment and its copy of the tree are."""
        return self.matrix.directory / self.name

    @property
    def log(self) -> Path:
        """Where the output of everything goes."""
        return self.matrix.directory / f"{self.name}.log"

    @property
    def python(self) -> str:
        """The executable of the pair's environment."""
        return str(self.directory / "venv" / "bin" / "python")

    def run(self, wheel: Path) -> Result:
        """Install, check what would be imported, run the tests."""
        self.log.unlink(missing_ok=True)
        print(f"Python {self.interpreter}, redis-py {self.redis_py}: installing", flush=True)
        self.install(wheel)
        tree = self.make_tree()
        run_or_raise([self.python, "-c", WHICH_CPOOL, self.redis_py], self.log, cwd=tree)
        print(f"Python {self.interpreter}, redis-py {self.redis_py}: testing", flush=True)
        return self.test(tree)

    def install(self, wheel: Path) -> None:
        """Make the environment, or bring the one of an earlier run up to date."""
        if not Path(self.python).exists():
            venv = [str(self.interpreter.path), "-m", "venv", "--without-pip"]
            run_or_raise([*venv, str(self.directory / "venv")], self.log)
        self.install_redis()
        pip(self.python, self.log, "install", f"{wheel}[test]", f"redis=={self.redis_py}")
        # The version is the same as before a change, so pip would keep what is installed.
        pip(self.python, self.log, "install", "--no-deps", "--force-reinstall", str(wheel))

    def install_redis(self) -> None:
        """Install redis-py; alone, so that its absence is told from everything else's."""
        try:
            pip(self.python, self.log, "install", f"redis=={self.redis_py}")
        except SetupError as error:
            if is_no_such_version(str(error)):
                raise NoSuchRedisError from error
            raise

    def make_tree(self) -> Path:
        """Copy the tree, with the installed package in the place of its own."""
        tree = self.directory / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        copy_tree(tree)
        shutil.rmtree(tree / "cpool")
        (installed,) = (self.directory / "venv").glob("lib/python*/site-packages/cpool")
        (tree / "cpool").symlink_to(installed)
        return tree

    def test(self, tree: Path) -> Result:
        """Run the tests; what pytest remembers of them is kept outside the copy."""
        command = [self.python, "-m", "pytest", "-q", "-n", "auto"]
        command += ["-o", f"cache_dir={self.directory / 'cache'}", *self.matrix.pytest_args]
        started = time.monotonic()
        status, output = run(command, self.log, cwd=tree)
        took_s = time.monotonic() - started
        outcome = "passed" if status == 0 else f"FAILED (status {status})"
        return Result(self.interpreter, self.redis_py, outcome, counts_of(output), took_s)


# -- commands ---------------------------------------------------------------------------------


def run(command: Sequence[str], log: Path, cwd: Path | None = None) -> tuple[int, str]:
    """Run a command whose output goes to the end of the log; return its status and output."""
    environment = {k: v for k, v in os.environ.items() if k not in FOREIGN_VARIABLES}
    with log.open("a+b") as stream:
        stream.write(f"+ {' '.join(command)}\n".encode())
        stream.flush()
        begin = stream.tell()
        done = subprocess.run(
            command,
            cwd=cwd or log.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        stream.seek(begin)
        return done.returncode, stream.read().decode(errors="replace")


def run_or_raise(command: Sequence[str], log: Path, cwd: Path | None = None) -> None:
    """Run a command that must succeed; raise SetupError with the end of its output."""
    status, output = run(command, log, cwd)
    if status:
        tail = "\n".join(output.strip().splitlines()[-8:])
        raise SetupError(f"{' '.join(command)}\nfailed, see {log}:\n{tail}")


def pip(python: str | None, log: Path, *arguments: str) -> None:
    """Let our own pip work for another interpreter, whose environment needs none then."""
    own = [sys.executable, "-m", "pip", "--python", str(python)]
    run_or_raise([*own, *arguments], log)


def is_no_such_version(output: str) -> bool:
    """Tell by pip's output that the index has other versions, from having reached none."""
    return "No matching distribution found" in output and "from versions: none" not in output


def counts_of(output: str) -> dict[str, int]:
    """Read the counts of pytest's last line, which is missing if it was interrupted."""
    lines = output.strip().splitlines() or [""]
    found = re.findall(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed)", lines[-1])
    return {("errors" if word == "error" else word): int(count) for count, word in found}


# -- the tree ---------------------------------------------------------------------------------


def copy_tree(to: Path) -> None:
    """Copy the tree without what builds and tests have left in it."""
    shutil.copytree(ROOT, to, ignore=shutil.ignore_patterns(*LEFTOVERS))


def digest(root: Path) -> str:
    """Return a short name for the sources of a wheel as they are now."""
    digested = hashlib.sha256()
    for path in wheel_sources(root):
        digested.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digested.hexdigest()[:10]


def wheel_sources(root: Path) -> Iterator[Path]:
    """Give the files a wheel is made of, in a fixed order."""
    for name in WHEEL_SOURCES:
        for path in sorted([root / name, *(root / name).rglob("*")]):
            if path.is_file() and not any(map(is_leftover, path.relative_to(root).parts)):
                yield path


def is_leftover(name: str) -> bool:
    """Tell whether a file or directory was left by a build or a test."""
    return any(fnmatch.fnmatch(name, pattern) for pattern in LEFTOVERS)


# -- interpreters -----------------------------------------------------------------------------


def find_interpreter(asked: str) -> Interpreter:
    """Find a Python by its path, or by its version on PATH or in pyenv. Raises SetupError."""
    candidates = [asked]
    if re.fullmatch(r"3\.\d+", asked):
        candidates = [f"python{asked}", *pyenv_pythons(asked)]
    for candidate in candidates:
        told = ask_python(candidate)
        if told:
            return Interpreter(*told)
    raise SetupError(
        f"--python {asked}: no such interpreter; give a version as {' '.join(PYTHONS)} of one on "
        "PATH or in pyenv, or the path of an executable"
    )


def ask_python(executable: str) -> list[str] | None:
    """Ask an interpreter for its version and path; None if it can't be run."""
    try:
        command = [executable, "-c", WHICH_PYTHON]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.splitlines()


def pyenv_pythons(version: str) -> list[str]:
    """Return the executables pyenv has for a version, which it may keep from PATH."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    return [str(path) for path in sorted(root.glob(f"versions/{version}.*/bin/python"))]


def interpreters(asked: Sequence[str]) -> list[Interpreter]:
    """Return those asked for, or all that are supported, of which some may not be here."""
    if asked:
        return [find_interpreter(name) for name in asked]
    found = []
    for version in PYTHONS:
        try:
            found.append(find_interpreter(version))
        except SetupError:
            found.append(Interpreter(version, None))
    return found


# -- the command ------------------------------------------------------------------------------


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line; what follows "--" goes to pytest as it is."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.matrix",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--python",
        nargs="+",
        default=[],
        metavar="VERSION|PATH",
        help=f"interpreters; default: {' '.join(PYTHONS)}, as far as they are here",
    )
    add(
        "--redis-py",
        nargs="+",
        default=list(REDIS_PY),
        metavar="VERSION",
        help=f"default: {' '.join(REDIS_PY)}",
    )
    add("--keep", type=Path, metavar="DIR", help="keep and reuse environments and logs here")
    add("pytest_args", nargs="*", metavar="-- PYTEST_ARG", help="more options for pytest")
    return parser.parse_args(argv)


def exit_status(results: Sequence[Result]) -> int:
    """Return 2 if a pair could not be tried, 1 if one failed, else 0."""
    outcomes = {result.outcome for result in results}
    if "not tried" in outcomes:
        return 2
    return 1 if any(outcome.startswith("FAILED") for outcome in outcomes) else 0


def run_matrix(options: argparse.Namespace, directory: Path) -> int:
    """Run every pair, print the table and return the exit status."""
    pythons = interpreters(options.python)
    matrix = Matrix(directory, tuple(options.pytest_args))
    results = [
        matrix.run_pair(python, version) for python in pythons for version in options.redis_py
    ]
    columns = ("Python", "outcome", *COUNTED, "time")
    print_table("the tests, pair by pair", columns, [result.row() for result in results])
    return exit_status(results)


def main(argv: Sequence[str]) -> int:
    """Run the command, tidy up and return its exit status."""
    options = parse_arguments(argv)
    directory = (options.keep or Path(tempfile.mkdtemp(prefix="cpool-matrix-"))).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    status = 2
    try:
        status = run_matrix(options, directory)
    except SetupError as error:
        print(error, file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    finally:
        if options.keep or (status and any(directory.iterdir())):
            print(f"logs are in {directory}", file=sys.stderr)
        else:
            shutil.rmtree(directory, ignore_errors=True)
    return status


if __name__ == "__main__":
    # A terminated run stops as an interrupted one does; a shell's background jobs start with
    # SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
