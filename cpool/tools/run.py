"""`python -m cpool run`: a program as it is, with cpool's classes in place of redis-py's.

What `python app.py`, `python -m package.module` or a console script would do, after
`cpool.install()`: same sys.argv, sys.path[0], `__main__` and exit status.
"""

from __future__ import annotations

import argparse
import builtins
import importlib.util
import io
import os
import runpy
import shutil
import sys
import sysconfig
import zipfile
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

NOT_FOUND = 2

DESCRIPTION = """\
Run a Python program with cpool's classes in place of redis-py's, as after cpool.install():

  python -m cpool run app.py ARGS...         as python app.py ARGS...
  python -m cpool run -m package ARGS...     as python -m package ARGS...
  python -m cpool run celery ARGS...         as celery ARGS... (any console script)
"""
EPILOG = """\
Child processes that the program forks inherit the classes. Those that it spawns (the
"spawn" and "forkserver" methods of multiprocessing, subprocess, a reloader or a server
that executes itself anew) begin without: let them call cpool.install(). So let a program
that monkey-patches for gevent or eventlet, after the patching.
"""


class NotFound(Exception):
    """There is no such program; the text says what was looked for."""


def add_parser(commands: Any) -> None:
    """Add `run` to the subcommands of `python -m cpool`."""
    parser = commands.add_parser(
        "run",
        help="run a program with cpool's classes in place of redis-py's",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-m", dest="module", action="store_true", help="PROGRAM is a module")
    parser.add_argument("program", metavar="PROGRAM", help="a file, a module or a console script")
    parser.add_argument("args", metavar="ARGS", nargs=argparse.REMAINDER, help="its arguments")
    parser.set_defaults(run=run, passes_interrupts=True)


def run(arguments: argparse.Namespace) -> int:
    """Run the program; return 0 at its end, 2 if there is none. It may raise SystemExit."""
    import cpool

    cpool.install()
    program: str = arguments.program
    sys.argv = [program, *arguments.args]
    try:
        if arguments.module:
            _run_module(program)
        elif _is_runnable_path(program):
            _run_path(program)
        else:
            _run_console_script(program)
    except NotFound as error:
        print(f"run: {error}", file=sys.stderr)
        return NOT_FOUND
    return 0


def _run_module(name: str) -> None:
    spec = _find_module(name)
    if spec is None:
        raise NotFound(f"no module named {name!r}")
    if spec.submodule_search_locations is not None and _find_module(f"{name}.__main__") is None:
        raise NotFound(f"{name!r} is a package without a module __main__")
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _find_module(name: str) -> ModuleSpec | None:
    """Return where a module is; imports its parents, whose own errors are raised."""
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if f"{name}.".startswith(f"{error.name}."):
            return None
        raise


def _is_runnable_path(path: str) -> bool:
    """Whether `python PATH` would find something; a directory only with a __main__."""
    return os.path.isfile(path) or os.path.isfile(os.path.join(path, "__main__.py"))


def _run_path(path: str) -> None:
    full_path = os.path.join(os.getcwd(), path)
    if os.path.isdir(path) or zipfile.is_zipfile(path):
        runpy.run_path(full_path, run_name="__main__")
        return
    _set_first_path(os.path.dirname(os.path.realpath(path)))
    if path.endswith(".pyc"):
        runpy.run_path(full_path, run_name="__main__")
    else:
        _run_source(path, full_path)


def _run_source(path: str, full_path: str) -> None:
    """Run a source file as Python does. With runpy sys.argv[0] would be `__file__`, and
    `__main__` be gone while the program's threads and exit handlers still run."""
    main = ModuleType("__main__")
    loader = SourceFileLoader("__main__", full_path)
    vars(main).update(__file__=full_path, __loader__=loader, __builtins__=builtins)
    sys.modules["__main__"] = main
    with io.open_code(full_path) as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    exec(code, vars(main))


def _set_first_path(directory: str) -> None:
    """Put the program's directory where `python -m cpool` has put the current one."""
    if not getattr(sys.flags, "safe_path", False):  # since Python 3.11: python -P
        sys.path[0] = directory


def _run_console_script(name: str) -> None:
    path = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    entry_point = _entry_point(name)
    if entry_point is not None:
        sys.argv[0] = path or name
        _set_first_path(os.path.dirname(sys.argv[0]))
        sys.exit(entry_point.load()())
    if path is None:
        raise NotFound(f"{name!r} is no file, no console script and not on PATH")
    if not _is_python(path):
        raise NotFound(f"{path} is not a Python program")
    sys.argv[0] = path
    _run_path(path)


def _entry_point(name: str) -> EntryPoint | None:
    return next(iter(entry_points(group="console_scripts", name=name)), None)


def _is_python(path: str) -> bool:
    with open(path, "rb") as file:
        first_line = file.readline(1024)
    return path.endswith(".py") or (first_line.startswith(b"#!") and b"python" in first_line)
