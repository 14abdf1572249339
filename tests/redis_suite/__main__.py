"""``python -m tests.redis_suite``: redis-py's own tests, first as they are, then on cpool.

Exit status: 0 if everything that passes with redis-py's classes passes with cpool's; 1 if not,
or if it can't be shown that cpool's pools were used; 2 if the run could not be made.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from .sources import SetupError, check_requirements

LOG_WIDTH = 160


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Read the command line; what follows "--" goes to pytest as it is."""
    parser = argparse.ArgumentParser(prog="python -m tests.redis_suite", description=__doc__)
    add = parser.add_argument
    add("--redis-py", default="8.1.0", metavar="VERSION", help="default: %(default)s")
    add(
        *("--protocol", "-p"),
        choices=("default", "2", "3", "all"),
        default="default",
        help="RESP version the tests ask for; default: the one redis-py takes by itself",
    )
    add(
        "--hiredis",
        choices=("installed", "hidden", "both"),
        default="hidden",
        help="let redis-py find hiredis, or hide it; default: hidden, as some of the suite's "
        "mock sockets don't work with hiredis",
    )
    add(
        "--topology",
        choices=("standalone", "cluster"),
        default="standalone",
        help="one server, with sentinels beside it, or a cluster of three masters and their "
        "replicas; default: %(default)s",
    )
    add("--server", metavar="PATH", help="server to run; default: redis-server on the PATH")
    add(
        "--swap",
        choices=("pools", "clients"),
        default="pools",
        help="what to replace: the pools and connections, or the clients and pipelines too",
    )
    add(
        *("--only",),
        action="append",
        default=[],
        metavar="PATH|EXPR",
        help="a test file or id of the suite, or an expression for pytest -k; repeatable",
    )
    add("--baseline-cache", type=Path, metavar="DIR", help="keep and reuse baselines here")
    add("--sdist-cache", type=Path, metavar="DIR", help="keep downloaded sdists here")
    add("--workdir", type=Path, metavar="DIR", help="unpack and log here (kept)")
    add("--keep", action="store_true", help="keep the temporary working directory")
    add("--json", type=Path, metavar="FILE", help="add the comparison to this file")
    add("pytest_args", nargs="*", metavar="-- PYTEST_ARG", help="more options for both runs")
    return parser.parse_args(argv)


def run(options: argparse.Namespace, workdir: Path) -> int:
    """Make every run asked for and return the exit status."""
    check_requirements()
    # Only now: these import what has just been checked.
    from rich.console import Console

    from .runner import Runner

    # A log file has no width of its own; a terminal keeps its own.
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH)
    why = Runner.set_up(options, workdir, console).run_all()
    for reason in why:
        console.print(f"[bold red]failed:[/] {reason}")
    if not why:
        console.print("[bold green]all that passes with redis-py's classes passes with cpool's[/]")
    return 1 if why else 0


def main(argv: list[str]) -> int:
    """Run the command, tidy up and return its exit status."""
    options = parse_arguments(argv)
    # A terminated run stops its servers as an interrupted one does; and a shell's background
    # jobs start with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    workdir = (options.workdir or Path(tempfile.mkdtemp(prefix="redis-suite-"))).resolve()
    workdir.mkdir(parents=True, exist_ok=True)
    status = 2
    try:
        status = run(options, workdir)
    except SetupError as error:
        print(error, file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    finally:
        has_logs = any(workdir.glob("*.log"))
        if not options.workdir and not options.keep and (status == 0 or not has_logs):
            shutil.rmtree(workdir, ignore_errors=True)
        else:
            print(f"logs are in {workdir}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
