"""The command line of the doctor: `python -m cpool doctor`."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import cpool
from cpool.tools.doctor.examination import examine

__all__ = ["add_parser", "examine_here", "run"]

DEFAULT_URL = "redis://localhost:6379/0"
SCHEMES = "redis://[[USER]:PASSWORD@]HOST[:PORT][/DB], rediss://... or unix://PATH"
HEALTHY, PROBLEM, CAN_NOT_RUN = 0, 1, 2

DESCRIPTION = """\
Examine this installation, a server, and the way from one to the other: facts, and
findings with a fix for each. Nothing on the server is changed.

  python -m cpool doctor --url redis://HOST:PORT
  python -m cpool doctor --client myapp.cache:client      your own client or pool
  python -m cpool doctor --import myapp.patches           with your patches and tracing
"""
EPILOG = """\
Exit status: 0 no problem, 1 a problem was found, 2 the doctor can't run. In a program:
cpool.tools.doctor.examine(client_or_pool).text()
"""

# In a process of its own, so that the user's modules come before cpool and redis-py.
_CHILD = """\
import contextlib, importlib, json, sys, traceback

def examine(options, modules):
    for option, module in [*modules, ("cpool", "cpool.tools.doctor.command")]:
        try:
            with contextlib.redirect_stdout(sys.stderr):
                importlib.import_module(module)
        except (Exception, SystemExit):
            traceback.print_exc()
            print(f"doctor: {option}: {module} can't be imported", file=sys.stderr)
            return 2
    return sys.modules["cpool.tools.doctor.command"].examine_here(**options)

try:
    options, modules = json.loads(sys.argv.pop()), json.loads(sys.argv.pop())
    sys.exit(examine(options, modules))
except KeyboardInterrupt:
    sys.exit(130)
"""


class BadOption(Exception):
    """An option can't be used; the text names it and what is allowed."""


def add_parser(commands: Any) -> None:
    """Add `doctor` to the subcommands of `python -m cpool`."""
    parser = commands.add_parser(
        "doctor",
        help="tell what is wrong here, and how to mend it",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("--url", help=f"the server; default: $REDIS_URL, else {DEFAULT_URL}")
    whose.add_argument(
        "--client", type=_client_name, metavar="MODULE:NAME", help="your own client or pool"
    )
    parser.add_argument(
        "--import",
        dest="modules",
        action="append",
        default=[],
        metavar="MODULE",
        help="import this first, before cpool and redis-py; may be given several times",
    )
    parser.add_argument(
        "--processes",
        type=_count,
        default=1,
        metavar="N",
        help="how many processes use the server like this one (default 1)",
    )
    parser.add_argument(
        "--json", dest="as_json", action="store_true", help="print one JSON object"
    )
    parser.set_defaults(run=run)


def _client_name(text: str) -> str:
    module, colon, name = text.partition(":")
    if not (module and colon and name):
        raise argparse.ArgumentTypeError("must be MODULE:NAME, such as myapp.cache:client")
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be an integer from 1")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Examine and print; return 0 without a problem, 1 with one, 2 if it can't be done."""
    options = {
        name: getattr(arguments, name) for name in ("url", "client", "processes", "as_json")
    }
    modules = [("--import", module) for module in arguments.modules]
    if arguments.client:
        modules.append(("--client", arguments.client.partition(":")[0]))
    return _examine_in_child(options, modules) if modules else examine_here(**options)


def _examine_in_child(options: dict[str, Any], modules: list[tuple[str, str]]) -> int:
    command = [sys.executable, *_interpreter_flags(sys.orig_argv), "-c", _CHILD]
    done = subprocess.run([*command, json.dumps(modules), json.dumps(options)], check=False)
    return done.returncode


def _interpreter_flags(argv: Sequence[str]) -> list[str]:
    """Return what stands between the interpreter and "-m cpool", such as "-X gil=0"."""
    for i in range(1, len(argv) - 1):
        if list(argv[i : i + 2]) == ["-m", "cpool"]:
            return list(argv[1:i])
    return []


def examine_here(url: str | None, client: str | None, processes: int, as_json: bool) -> int:
    """Examine in this process, and print; return the exit status."""
    try:
        subject = _from_url(url) if client is None else _named(client)
        diagnosis = examine(subject, processes=processes)
    except (BadOption, TypeError) as error:
        print(f"doctor: {error}", file=sys.stderr)
        return CAN_NOT_RUN
    print(json.dumps(diagnosis.as_dict(), indent=2) if as_json else diagnosis.text())
    return PROBLEM if diagnosis.problems else HEALTHY


def _from_url(given: str | None) -> cpool.Redis:
    option = "--url" if given else "REDIS_URL"
    try:
        return cpool.from_url(given or os.environ.get("REDIS_URL") or DEFAULT_URL)
    except ValueError as error:
        # Of redis-py's texts only those of options: others quote the URL, password and all.
        text = str(error) if str(error).startswith("Invalid value for '") else ""
        raise BadOption(f"{option} must be {SCHEMES}. {text}".rstrip()) from None


def _named(name: str) -> Any:
    """Return the object that MODULE:NAME means; NAME may have dots. Raises BadOption."""
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise BadOption(f"--client: there is no {path} in {module}") from None
        except Exception as error:  # of a property, whose text may hold anything
            raise BadOption(f"--client: {name} raised {type(error).__name__}") from None
    if found is None:
        raise BadOption(
            f"--client: {name} is None; it must be a client or pool once {module} is imported"
        )
    return found
