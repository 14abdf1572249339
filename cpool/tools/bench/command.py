"""`python -m cpool bench`: redis-py beside cpool, on the user's own server and machine.

Both sides do the same work on the same server in interleaved rounds, each side and round
in a fresh process. What limits the comparison is said below the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from redis.utils import HIREDIS_AVAILABLE

from cpool.tools.bench import caveats, plot
from cpool.tools.bench.report import Report, as_data, show
from cpool.tools.bench.rounds import (
    CannotRun,
    Plan,
    RunFailed,
    all_sides,
    check_plan,
    check_url,
    prepared,
)
from cpool.tools.bench.workload import COMMANDS, parse_mix
from cpool.tools.machine import machine_facts, server_name
from cpool.tools.progress import progress
from cpool.tools.servers import EmbeddedServer, ServerError, find_server
from cpool.tools.tables import has_rich

DONE, ERRORS_HAPPENED, CANNOT_RUN = 0, 1, 2

MOST_THREADS = 500
MOST_ROUNDS = 1000
MOST_VALUE_BYTES = 16 << 20
DEEPEST_PIPELINE = 10_000
LONGEST_S = 86_400.0

DESCRIPTION = """\
Measure redis.Redis beside cpool.Redis on a server of yours: the same commands, in paired
rounds that take turns, each side and round in a fresh process.

The keys begin with a prefix of their own, expire, and are removed at the end. There are at
most 1,000 keys, of 16 MiB, of each type. Nothing else on the server is changed.
"""
EPILOG = """\
commands of --mix, with weights that need not add up to 100:
{commands}

exit status: 0 done, 1 errors happened, 2 cannot run here

A password can be kept off the command line: set REDIS_URL instead of giving --url.
"""


def add_parser(commands: Any) -> None:
    """Add `bench` to the subcommands of `python -m cpool`."""
    parser = commands.add_parser(
        "bench",
        help="measure redis-py beside cpool on your own server",
        description=DESCRIPTION,
        epilog=EPILOG.format(
            commands="\n".join(f"  {name:9}{each.help}" for name, each in COMMANDS.items())
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_work_options(parser)
    _add_run_options(parser)
    parser.set_defaults(run=run)


def _add_work_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--url", help="the server; default: REDIS_URL, else one that is started for the run")
    add(
        "--threads",
        type=_numbers(1, MOST_THREADS),
        default=(1, 8, 32),
        metavar="N[,N...]",
        help="threads on one client; a block of figures for each number (default: 1,8,32)",
    )
    add(
        "--connections",
        type=_number(1, MOST_THREADS),
        metavar="N",
        help="at most so many (default: one for each thread); where they are fewer than the"
        " threads, both sides get a BlockingConnectionPool",
    )
    add(
        "--mix",
        type=parse_mix,
        default=parse_mix("get=90,set=10"),
        metavar="NAME=WEIGHT[,...]",
        help="commands, see below (default: get=90,set=10)",
    )
    add(
        "--value-size",
        type=_number(1, MOST_VALUE_BYTES),
        default=64,
        metavar="BYTES",
        help="size of a value in bytes (default: 64)",
    )
    add(
        "--pipeline",
        type=_number(1, DEEPEST_PIPELINE),
        default=1,
        metavar="DEPTH",
        help="commands in a pipeline, without MULTI (default: 1, no pipeline)",
    )
    add(
        "--protocol",
        type=int,
        choices=(2, 3),
        help="RESP version (default: redis-py's, or the URL's)",
    )


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--pool",
        action="store_true",
        help="measure redis.Redis on cpool.ConnectionPool, too: what the pool alone gives",
    )
    add(
        "--duration",
        type=_duration_s,
        default=15.0,
        metavar="SECONDS",
        help="seconds of measuring in total; starting the processes adds about a second for each"
        " side and round (default: 15)",
    )
    add(
        "--rounds",
        type=_number(1, MOST_ROUNDS),
        default=5,
        metavar="N",
        help="paired rounds with each number of threads (default: 5)",
    )
    add("--json", type=Path, metavar="FILE", help="write all figures there")
    add(
        "--plot",
        type=Path,
        metavar="FILE",
        help=f"draw the figures there: {', '.join(plot.ENDINGS)}; needs matplotlib"
        f" ({plot.INSTALL_HINT})",
    )
    add("--plain", action="store_true", help="plain text, no colours")


def _number(least: int, most: int) -> Callable[[str], int]:
    """Return the type of an option that takes a whole number."""

    def parse(text: str) -> int:
        with contextlib.suppress(ValueError):
            if least <= int(text) <= most:
                return int(text)
        raise argparse.ArgumentTypeError(
            f"must be a whole number from {least} to {most}; not {text!r}"
        )

    return parse


def _numbers(least: int, most: int) -> Callable[[str], tuple[int, ...]]:
    """Return the type of an option that takes several numbers with commas between them."""
    one = _number(least, most)

    def parse(text: str) -> tuple[int, ...]:
        return tuple(dict.fromkeys(one(part) for part in text.split(",")))

    return parse


def _duration_s(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) <= LONGEST_S:
            return float(text)
    raise argparse.ArgumentTypeError(
        f"must be more than 0 seconds, at most {LONGEST_S:.0f}; not {text!r}"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the benchmark; return 0 if it is done, 1 if errors happened, 2 if it cannot run."""
    try:
        _check_files(arguments)
        report = _report(arguments)
    except (CannotRun, ServerError) as error:
        _say(str(error))
        return CANNOT_RUN
    except RunFailed as error:
        _say(str(error))
        return ERRORS_HAPPENED
    show(report, plain=_is_plain(arguments))
    return _write_files(arguments, report) or (ERRORS_HAPPENED if report.errors() else DONE)


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _is_plain(arguments: argparse.Namespace) -> bool:
    return arguments.plain or not sys.stdout.isatty() or not has_rich()


def _check_files(arguments: argparse.Namespace) -> None:
    """Raise CannotRun now rather than after minutes of measuring."""
    for option, path in (("--json", arguments.json), ("--plot", arguments.plot)):
        if path is not None and not _is_writable(path):
            raise CannotRun(f"{option}: {path} can't be written")
    if arguments.plot is None:
        return
    if arguments.plot.suffix not in plot.ENDINGS:
        endings = ", ".join(plot.ENDINGS)
        raise CannotRun(f"--plot: the file's name must end with one of {endings}")
    if not plot.can_plot():
        raise CannotRun(f"--plot needs matplotlib: {plot.INSTALL_HINT}")


def _is_writable(path: Path) -> bool:
    if path.exists():
        return path.is_file() and os.access(path, os.W_OK)
    return os.access(path.parent, os.W_OK)


def _report(arguments: argparse.Namespace) -> Report:
    machine = machine_facts()
    with contextlib.ExitStack() as stack:
        url, source = stack.enter_context(_server(arguments))
        plan = _plan(arguments, url)
        check_plan(plan)
        bench = stack.enter_context(prepared(plan, warn=_say))
        step = stack.enter_context(progress(_is_plain(arguments), total=plan.slices))
        blocks = bench.blocks(step)
        warnings = [
            *caveats.before_the_run(plan, machine, HIREDIS_AVAILABLE),
            *caveats.of_the_rounds(plan, blocks),
        ]
        return Report(plan, machine, server_name(bench.info), source, blocks, warnings)


@contextlib.contextmanager
def _server(arguments: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Give the URL of the server to use and where it was found; start one if need be."""
    choice = find_server(arguments.url)
    if choice.binary is None:
        assert choice.url is not None
        check_url(choice.url, arguments.protocol)
        yield choice.url, choice.source
        return
    with EmbeddedServer(choice.binary.path) as server:
        yield server.url, choice.source


def _plan(arguments: argparse.Namespace, url: str) -> Plan:
    return Plan(
        url=url,
        threads=arguments.threads,
        sides=all_sides(with_pool=arguments.pool),
        rounds=arguments.rounds,
        duration_s=arguments.duration,
        mix=arguments.mix,
        value_bytes=arguments.value_size,
        depth=arguments.pipeline,
        connections=arguments.connections,
        protocol=arguments.protocol,
    )


def _write_files(arguments: argparse.Namespace, report: Report) -> int:
    """Write what was asked for; return 1 if a file can't be written after all."""
    try:
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(as_data(report), indent=1) + "\n")
        if arguments.plot is not None:
            plot.plot(report, arguments.plot)
    except OSError as error:
        _say(str(error))
        return ERRORS_HAPPENED
    return DONE
