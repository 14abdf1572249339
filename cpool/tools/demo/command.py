"""`python -m cpool demo`: the same verified work on redis-py's and cpool's pools and clients.

Every reply is compared with what it must be; no figure is shown that was not measured in
this run. Ratios are medians over interleaved rounds. Then the server is killed and
restarted under load, to show that the pools recover.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.metadata
import importlib.util
import os
import platform
import sys
from typing import Any
from urllib.parse import urlsplit

import redis

from cpool.tools.demo.crash import Crash, Recovery
from cpool.tools.demo.report import Report, Results, print_plain, print_rich
from cpool.tools.demo.setups import NODE_TIMEOUT_MS, Cluster, Setup, Standalone
from cpool.tools.demo.workload import measure
from cpool.tools.machine import server_name
from cpool.tools.progress import Step, progress
from cpool.tools.servers import INSTALL_HINT, EmbeddedServer, ServerError, find_server
from cpool.tools.sides import NO_POOL, REDIS_PY, threads_text
from cpool.tools.topology import ClusterTopology

ROUNDS = 5
DEFAULT_THREADS = 32
MOST_THREADS = 500
DEFAULT_SECONDS = 8.0


def compare(clients: dict[str, Any], threads: int, seconds: float, step: Step) -> Results:
    """Measure every side in interleaved rounds: on one thread, then on `threads`.

    Without a pool only the first and the last round are run: it is that slow.
    """
    settings = sorted({1, threads})
    pooled = [side for side in clients if side != NO_POOL]
    slice_s = seconds / (len(settings) * (len(pooled) * ROUNDS + 1))
    results: Results = {(side, n): [] for side in clients for n in settings}
    for n in settings:
        for side in pooled:
            measure(clients[side], n, slice_s / 10)  # opens the connections
        for i in range(ROUNDS):
            step(f"{threads_text(n)}, round {i + 1} of {ROUNDS}")
            for side, client in clients.items():
                if side != NO_POOL:
                    results[side, n].append(measure(client, n, slice_s))
                elif i in (0, ROUNDS - 1):
                    results[side, n].append(measure(client, n, slice_s / 2))
    return results


def add_parser(commands: Any) -> None:
    """Add `demo` to the subcommands of `python -m cpool`."""
    parser = commands.add_parser(
        "demo",
        help="compare redis-py with cpool's pool and client; kill the server and recover",
        description="Run the same verified work on redis-py's and on cpool's pools and clients.",
    )
    parser.add_argument("--url", help="use this server (never killed); default: start one")
    parser.add_argument(
        "--cluster", action="store_true", help="do it on a cluster; kill a master and fail over"
    )
    parser.add_argument("--threads", type=_thread_count, default=DEFAULT_THREADS)
    parser.add_argument(
        "--seconds", type=_duration_s, default=DEFAULT_SECONDS, help="time for measuring"
    )
    parser.add_argument("--plain", action="store_true", help="plain text, no colours")
    parser.set_defaults(run=run)


def _thread_count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= MOST_THREADS:
        raise argparse.ArgumentTypeError(f"must be from 1 to {MOST_THREADS}")
    return number


def _duration_s(text: str) -> float:
    number = float(text)
    if not 0 < number <= 3600:
        raise argparse.ArgumentTypeError("must be more than 0, at most 3600 seconds")
    return number


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; return 0 if all results agree, 1 if not, 2 if there is no server."""
    plain = arguments.plain or not sys.stdout.isatty()
    if not plain and importlib.util.find_spec("rich") is None:
        print(f"rich is not installed, so this is plain text: {INSTALL_HINT}", file=sys.stderr)
        plain = True
    try:
        report = _report(arguments, plain)
    except (ServerError, redis.RedisError, redis.exceptions.RedisClusterException) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    (print_plain if plain else print_rich)(report)
    return 1 if report.problems() else 0


def _report(arguments: argparse.Namespace, plain: bool) -> Report:
    with contextlib.ExitStack() as stack:
        setup, where = _set_up(arguments, stack)
        stack.callback(setup.close)
        title = _title(setup, where)
        steps = 2 * ROUNDS + len(_pooled(setup))
        step = stack.enter_context(progress(plain, total=steps))
        results = compare(setup.clients, arguments.threads, arguments.seconds, step)
        recoveries = _interrupt(setup, arguments.threads, step)
        return Report(title, setup.sides, arguments.threads, results, recoveries)


def _set_up(arguments: argparse.Namespace, stack: contextlib.ExitStack) -> tuple[Setup, str]:
    """Return the clients to compare, and where their server is."""
    choice = find_server(arguments.url)
    binary = choice.binary.path if choice.binary else None
    threads = arguments.threads
    setup: Setup
    if arguments.cluster:
        topology = None
        if binary:
            topology = ClusterTopology(binary=binary, node_timeout_ms=NODE_TIMEOUT_MS)
            stack.enter_context(topology)
        url = choice.url or (topology.url if topology else "")
        setup = Cluster(url, threads, topology)
    else:
        server = stack.enter_context(EmbeddedServer(binary)) if binary else None
        url = choice.url or (server.url if server else "")
        setup = Standalone(url, threads, server)
    return setup, f"{urlsplit(url).hostname or 'unix socket'} ({choice.source})"


def _interrupt(setup: Setup, threads: int, step: Step) -> dict[str, Recovery]:
    recoveries: dict[str, Recovery] = {}
    outage = setup.outage()
    if outage is None:
        return recoveries
    for side in _pooled(setup):
        step(f"{outage.doing} under {side}")
        pools = functools.partial(setup.pools, side)
        recoveries[side] = Crash(outage, setup.clients[side], pools, threads).run()
    return recoveries


def _pooled(setup: Setup) -> list[str]:
    return [side for side in setup.sides if side != NO_POOL]


def _title(setup: Setup, where: str) -> str:
    import cpool

    server = server_name(setup.clients[REDIS_PY].info("server"))
    nodes = len(setup.pools(REDIS_PY))
    cluster = f" in a cluster of {nodes}" if nodes > 1 else ""
    return (
        f"{server}{cluster} at {where}; redis-py {redis.__version__} with"
        f" {_parser_name(setup.pools(REDIS_PY)[0])}; cpool {cpool.__version__};"
        f" Python {platform.python_version()}; {os.cpu_count()} CPUs"
    )


def _parser_name(pool: Any) -> str:
    """Name the parser of a live redis-py connection."""
    connection = pool.get_connection()
    try:
        name = type(connection._parser).__name__
    finally:
        pool.release(connection)
    if "hiredis" in name.lower():
        return f"hiredis {importlib.metadata.version('hiredis')}"
    return f"its Python parser ({name})"
