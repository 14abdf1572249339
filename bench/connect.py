"""Opening a connection: round trips of the handshake, and the time it takes.

Method: round trips are counted by a relay between client and server. It holds back what the
client sends until the client has been silent for a while (20 ms; so several sends without
waiting for a reply count as one), passes it on, and returns the replies: each batch it held is
one round trip. TCP's own is not counted. The commands of each batch are shown.
Time: conn.connect() on a connection taken from the pool, straight to the server over loopback,
median of many, disconnects not included; fresh process per side and round, rounds interleaved,
the median of the rounds' ratios. On loopback a round trip is nearly free: over a network each
one saved is one network latency saved.
"""

from __future__ import annotations

import argparse
import select
import socket
import statistics
import sys
import threading
import time
from typing import Any
from urllib.parse import urlsplit

from _common import (
    OURS,
    PEER,
    SIDES,
    CannotRun,
    Report,
    Result,
    Task,
    figures,
    gain,
    main,
    measurer,
    open_pool,
    paired_rounds,
)
from _server import Server, bench_server

SILENCE_S = 0.02
ACCEPT_LIMIT_S = 10.0
REPLY_LIMIT_S = 5.0
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "protocol=2": {"protocol": 2},
    "db=1, client_name": {"db": 1, "client_name": "bench"},
}


class CountingRelay(threading.Thread):
    """Relay one connection to a server and keep the batches the client sent."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self.batches: list[bytes] = []
        self.server = server.host, server.port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(ACCEPT_LIMIT_S)
        login = urlsplit(server.plain_url).netloc.rpartition("@")[0]
        here = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.url = f"redis://{login}@{here}" if login else f"redis://{here}"

    def run(self) -> None:
        with self.listener, self.listener.accept()[0] as client:
            with socket.create_connection(self.server) as server:
                while batch := self.next_batch(client):
                    self.batches.append(batch)
                    server.sendall(batch)
                    client.sendall(replies_to(server, batch))

    def next_batch(self, client: socket.socket) -> bytes:
        """Return all the client sends until it falls silent; empty if it has gone."""
        batch = client.recv(65536)
        while batch and select.select([client], [], [], SILENCE_S)[0]:
            more = client.recv(65536)
            if not more:
                break
            batch += more
        return batch


def replies_to(server: socket.socket, batch: bytes) -> bytes:
    """Read until the server too has been silent for a while: then all replies are here."""
    replies = b""
    wait_s = REPLY_LIMIT_S
    while select.select([server], [], [], wait_s)[0]:
        part = server.recv(65536)
        if not part:
            break
        replies += part
        wait_s = SILENCE_S
    return replies


def command_names(batch: bytes) -> str:
    """Return the names of the RESP commands in a batch, repeated ones counted."""
    names: list[str] = []
    rest = batch
    while rest.startswith(b"*"):
        head, rest = rest.split(b"\r\n", 1)
        words = []
        for _ in range(int(head[1:])):
            length, rest = rest.split(b"\r\n", 1)
            size = int(length[1:])
            words.append(rest[:size])
            rest = rest[size + 2 :]
        names.append(name_of(words))
    return " + ".join(
        f"{n} x{names.count(n)}" if names.count(n) > 1 else n for n in dict.fromkeys(names)
    )


def name_of(words: list[bytes]) -> str:
    with_subcommand = words[0].upper() == b"CLIENT" and len(words) > 1
    return b" ".join(words[: 2 if with_subcommand else 1]).decode().upper()


def work(task: Task) -> Result:
    """Time one side's connect()."""
    pool = open_pool(task["side"], task["url"])
    connection = pool.get_connection()
    times_us = []
    for _ in range(task["count"]):
        connection.disconnect()
        start_ns = time.perf_counter_ns()
        connection.connect()
        times_us.append((time.perf_counter_ns() - start_ns) / 1000)
    pool.release(connection)
    pool.disconnect()
    return {"us": statistics.median(times_us[len(times_us) // 10 :])}


def round_trips(side: str, server: Server, options: dict[str, Any]) -> list[str]:
    """Open one connection through the relay; return its batches as command names."""
    relay = CountingRelay(server)
    relay.start()
    pool = open_pool(side, relay.url, **options)
    connection = pool.get_connection()
    batches = list(relay.batches)
    connection.disconnect()
    pool.release(connection)
    relay.join(ACCEPT_LIMIT_S)
    return [command_names(batch) for batch in batches]


def run(args: argparse.Namespace, report: Report) -> None:
    with bench_server(args) as server:
        report.on_machine(server.plain_url)
        report_round_trips(report, server)
        task = {"url": server.url, "count": 100 if args.quick else 300}
        one = measurer(args, __file__, work, task)
        pairs = paired_rounds(one, args.rounds or (3 if args.quick else 7), "connect")
    report.raw["pairs"] = pairs
    faster = gain(pairs, "us", smaller_is_better=True)
    cells = [figures(pairs, side, "us").text(0) for side in (PEER, OURS)]
    columns = ("", "redis-py us", "cpool us", "times faster")
    rows = [["connect(), default, loopback", *cells, faster.text()]]
    report.table("time to open a connection: median (lowest-highest)", columns, rows)


def report_round_trips(report: Report, server: Server) -> None:
    if not server.port or server.plain_url.startswith("rediss"):
        raise CannotRun("round trips are counted over plain TCP")
    rows = []
    for name, options in CONFIGURATIONS.items():
        for side in SIDES:
            batches = round_trips(side, server, options)
            report.raw[f"{name}, {side}"] = batches
            judged = side == OURS and name == "default"
            bar = judged and report.bar("round trips to open", len(batches), "<=", 1)
            rows.append([f"{name}: {side}", str(len(batches)), bar or "", " | ".join(batches)])
    columns = ("configuration", "round trips", "bar", "what each one carries")
    report.table("round trips to open a connection", columns, rows)


if __name__ == "__main__":
    sys.exit(main(__file__, __doc__ or "", run, work))
