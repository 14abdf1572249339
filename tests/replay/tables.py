"""Tables of commands as real servers gave them, one line per command or subcommand.

A line is: name, position of the first key, flags, categories of ACL, separated by tabs. To
write one: python -m tests.replay.tables redis://HOST:PORT > tests/replay/data/SERVER.tsv
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import redis

DATA = Path(__file__).parent / "data"
SERVERS = sorted(path.stem for path in DATA.glob("*.tsv"))


def read(server: str) -> list[list[Any]]:
    """Return a server's table in the form of its reply to COMMAND."""
    found: dict[str, list[Any]] = {}
    for line in (DATA / f"{server}.tsv").read_text().splitlines():
        name, first_key, flags, categories = line.split("\t")
        words = [[word.encode() for word in part.split()] for part in (flags, categories)]
        entry = [name.encode(), 0, words[0], int(first_key), 0, 0, words[1], [], [], []]
        found[name] = entry
        if "|" in name:
            found[name.partition("|")[0]][9].append(entry)
    return [entry for name, entry in found.items() if "|" not in name]


def lines_of(entries: list[list[Any]]) -> list[str]:
    """Return the lines that read() takes."""
    lines = []
    for entry in sorted(entries, key=lambda entry: entry[0]):
        words = (b" ".join(sorted(part)).decode() for part in (entry[2], entry[6]))
        lines.append("\t".join([entry[0].decode(), str(entry[3]), *words]))
        lines += lines_of(entry[9] if len(entry) > 9 else [])
    return lines


def ask(url: str, protocol: int = 3) -> list[list[Any]]:
    """Return a running server's table."""
    with contextlib.closing(redis.Redis.from_url(url, protocol=protocol)) as client:
        connection = client.connection_pool.get_connection()
        connection.send_command("COMMAND")
        table: list[list[Any]] = connection.read_response(disable_decoding=True)
        return table


if __name__ == "__main__":
    print("\n".join(lines_of(ask(sys.argv[1]))))
