"""`python -m cpool demo`: the same verified work on redis-py's and cpool's pools and clients.

Every reply is compared with what it must be; no figure is shown that was not measured in
this run. Ratios are medians over interleaved rounds. Then the server is killed and
restarted under load, to show that the pools recover.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
from typing import Any
from urllib.parse import urlsplit

import redis

from cpool.tools.demo.crash import Crash
from cpool.tools.demo.report import Report, Results, print_plain, print_rich
from cpool.tools.demo.workload import measure
from cpool.tools.machine import server_name
from cpool.tools.progress import Step, progress
from cpool.tools.servers import INSTALL_HINT, EmbeddedServer, ServerError, find_server
from cpool.tools.sides import (
    CLIENT,
    CPOOL,
    NO_POOL,
    REDIS_PY,
    SIDES,
    client_class,
    threads_text,
)

ROUNDS = 5
POOLED = (REDIS_PY, CPOOL, CLIENT)
DEFAULT_THREADS = 32
MOST_THREADS = 500
DEFAULT_SECONDS = 8.0
SOCKET_TIMEOUT_S = 5.0


class NoPool(redis.ConnectionPool):
    """Open a connection for each command and close it afterwards."""

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        """Return a new, connected connection."""
        connection = self.connection_class(**self.connection_kwargs)
        connection.connect()
        return connection

    def release(self, connection: Any) -> None:
        """Close the connection."""
        connection.disconnect()


def make_pool(side: str, url: str, max_connections: int) -> Any:
    """Make the pool of one side; only its class differs, and the client's."""
    import cpool

    theirs = {NO_POOL: NoPool, REDIS_PY: redis.ConnectionPool}
    return theirs.get(side, cpool.ConnectionPool).from_url(
        url,
        max_connections=max_connections,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=SOCKET_TIMEOUT_S,
    )


def compare(pools: dict[str, Any], threads: int, seconds: float, step: Step) -> Results:
    """Measure every side in interleaved rounds: on one thread, then on `threads`.

    Without a pool only the first and the last round are run: it is that slow.
    """
    settings = sorted({1, threads})
    slice_s = seconds / (len(settings) * (len(POOLED) * ROUNDS + 1))
    clients = {side: client_class(side)(connection_pool=pool) for side, pool in pools.items()}
    results: Results = {(side, n): [] for side in pools for n in settings}
    for n in settings:
        for side in POOLED:
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
    except (ServerError, redis.RedisError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    (print_plain if plain else print_rich)(report)
    return 1 if report.problems() else 0


def _report(arguments: argparse.Namespace, plain: bool) -> Report:
    with contextlib.ExitStack() as stack:
        choice = find_server(arguments.url)
        server = None
        if choice.binary is not None:
            server = stack.enter_context(EmbeddedServer(choice.binary.path))
        url = choice.url or (server.url if server else "")
        pools = _make_pools(url, arguments.threads)
        for pool in pools.values():
            stack.callback(pool.disconnect)
        title = _title(pools[REDIS_PY], url, choice.source)
        step = stack.enter_context(progress(plain, total=2 * ROUNDS + len(POOLED)))
        results = compare(pools, arguments.threads, arguments.seconds, step)
        recoveries = {}
        if server is not None:
            for side in POOLED:
                step(f"SIGKILL and restart of the server under {side}")
                base, pool = client_class(side), pools[side]
                recoveries[side] = Crash(server, pool, arguments.threads, base).run()
        return Report(title, arguments.threads, results, recoveries)


def _make_pools(url: str, threads: int) -> dict[str, Any]:
    try:
        return {side: make_pool(side, url, threads) for side in SIDES}
    except ValueError as error:
        raise ServerError(f"not a usable URL: {error}") from error


def _title(pool: Any, url: str, source: str) -> str:
    import cpool

    server = server_name(redis.Redis(connection_pool=pool).info("server"))
    host = urlsplit(url).hostname or "unix socket"
    return (
        f"{server} at {host} ({source}); redis-py {redis.__version__} with"
        f" {_parser_name(pool)}; cpool {cpool.__version__}; Python {platform.python_version()};"
        f" {os.cpu_count()} CPUs"
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
