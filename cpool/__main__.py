"""Command line of cpool: `python -m cpool COMMAND`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """A parser whose errors don't repeat the passwords of URLs, also of mistyped options."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and exit with 2."""
        super().error(re.sub(r"://[^\s]*@", "://***@", message))


def build_parser() -> argparse.ArgumentParser:
    """Build the parser; each subcommand sets `run`, a function of the parsed arguments."""
    from cpool.tools import run
    from cpool.tools.bench import command as bench
    from cpool.tools.demo import command as demo
    from cpool.tools.doctor import command as doctor

    parser = Parser(
        prog="python -m cpool", description="Connection pools for redis-py on a compiled core."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    bench.add_parser(commands)
    demo.add_parser(commands)
    doctor.add_parser(commands)
    run.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status; without one print the help."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if "run" not in arguments:
        parser.print_help()
        return 0
    try:
        status: int = arguments.run(arguments)
    except KeyboardInterrupt:
        if "passes_interrupts" in arguments:
            raise
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
