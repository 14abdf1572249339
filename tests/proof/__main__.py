"""``python -m tests.proof COMMAND``: see --help."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tests.proof import forks, matrix, soak, storm

COMMANDS = {"matrix": matrix, "soak": soak, "forks": forks, "storm": storm}


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options; `run` is the command's function."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.proof",
        description="Break what a pool stands on, and judge every reply.",
        epilog="Exit status: 0 if all held, 1 if something did not.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        summary = module.SUMMARY
        command = commands.add_parser(name, help=summary, description=summary)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Run a command and return its exit status."""
    options = parse_arguments(argv)
    status: int = options.run(options)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
