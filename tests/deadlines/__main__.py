"""How late callers are back: a deadline of 200 ms against servers that keep them waiting.

Each is measured --runs times, over TCP, TLS and a unix socket, with cpool.Redis and with
redis-py's client on a pool of ours. With --threads more callers wait at the same time. The
exit status is 1 if one came back later than --limit-ms, or not by the deadline's own error.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

import cpool
from cpool.tools.tables import print_table
from tests.deadlines.slowserver import (
    TRANSPORTS,
    Silent,
    SlowServer,
    Transport,
    client_of,
    drip,
    stall,
)
from tests.support.tls import Certificates

DEADLINE_S, LIMIT_MS = 0.2, 250.0
DRIP_S = 1.0
WAIT_S = 60.0

Call = Callable[[redis.Redis], Any]
Case = Callable[[Transport, Path, Certificates], Any]


@contextmanager
def black_hole(transport: Transport, to: Path, certificates: Certificates) -> Iterator[Any]:
    """Nobody can connect."""
    with Silent(transport, to, certificates, full=True) as server:
        yield server.pool(retry=Retry(ExponentialWithJitterBackoff(base=0.01, cap=1), 1000))


@contextmanager
def silence(transport: Transport, to: Path, certificates: Certificates) -> Iterator[Any]:
    """The handshake is never answered."""
    with Silent(transport, to, certificates) as server:
        yield server.pool()


@contextmanager
def stalled(transport: Transport, to: Path, certificates: Certificates) -> Iterator[Any]:
    """The command is never answered."""
    with SlowServer(transport, to, certificates, stall) as server:
        yield server.pool()


@contextmanager
def dripping(transport: Transport, to: Path, certificates: Certificates) -> Iterator[Any]:
    """The reply comes at a byte a second."""
    with SlowServer(transport, to, certificates, drip(DRIP_S)) as server:
        yield server.pool()


@contextmanager
def exhausted(transport: Transport, to: Path, certificates: Certificates) -> Iterator[Any]:
    """The one connection is lent."""
    with SlowServer(transport, to, certificates, stall) as server:
        pool = server.pool(cpool.BlockingConnectionPool, max_connections=1, timeout=WAIT_S)
        conn = pool.get_connection()
        yield pool
        pool.release(conn)


CASES: dict[str, Case] = {
    "black hole": black_hole,
    "no handshake": silence,
    "stalled server": stalled,
    "a byte a second": dripping,
    "exhausted pool": exhausted,
}


def measure(client: redis.Redis) -> tuple[float, str]:
    """Return after how many milliseconds a caller was back, and by what."""
    began_s = time.perf_counter()
    by = "no error"
    try:
        with cpool.deadline(DEADLINE_S):
            client.get("key")
    except cpool.DeadlineExceededError as error:
        by = error.phase
    except redis.RedisError as error:
        by = type(error).__name__
    return (time.perf_counter() - began_s) * 1e3, by


def measured(case: Case, transport: Transport, kind: str, args: argparse.Namespace) -> Any:
    """Measure one case on a server of its own."""
    with tempfile.TemporaryDirectory(prefix="cpool-") as name:
        to = Path(name)
        with case(transport, to, Certificates.make(to)) as pool:
            client = client_of(kind, pool)
            with ThreadPoolExecutor(args.threads) as threads:
                found = list(threads.map(measure, [client] * args.runs * args.threads))
            pool.disconnect()
    return found


def row_of(name: str, transport: str, kind: str, found: list[tuple[float, str]]) -> list[str]:
    """Put one case's results in words."""
    times_ms = sorted(each for each, _ in found)
    by = ", ".join(f"{phase} {n}" for phase, n in Counter(by for _, by in found).most_common())
    figures = (times_ms[0], statistics.median(times_ms), times_ms[-1])
    return [name, transport, kind, *(f"{each:.1f}" for each in figures), by]


def is_in_time(found: list[tuple[float, str]], limit_ms: float) -> bool:
    """Tell whether all were back in time, by a deadline's error, and not before its time."""
    phases = {"waiting for a connection", "dialling", "reading", "between retries"}
    return all(each <= limit_ms and by in phases for each, by in found)


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.deadlines",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=10, metavar="N")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--limit-ms", type=float, default=LIMIT_MS, metavar="MS")
    args = parser.parse_args()
    rows, met = [], True
    for name, case in CASES.items():
        for transport in TRANSPORTS:
            for kind in ("cpool", "pool"):
                found = measured(case, transport, kind, args)
                met = is_in_time(found, args.limit_ms) and met
                rows.append(row_of(name, transport, kind, found))
    columns = ("against", "by", "client", "first, ms", "median, ms", "last, ms", "struck while")
    print_table(f"back after a deadline of {DEADLINE_S * 1e3:.0f} ms", columns, rows)
    print(f"all back within {args.limit_ms:g} ms: {'yes' if met else 'NO'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
