"""The seed corpus, as text: `python -m tests.fuzz.seeds DIRECTORY` writes one file for each.

A file of the C target begins with four bytes: depth limit, bulk limit, two bytes that
choose the pieces (see fuzz_resp.c).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

STREAMS: list[bytes] = [
    b"+OK\r\n",
    b"-ERR unknown command\r\n:1000\r\n:-1\r\n",
    b"$5\r\nhello\r\n$0\r\n\r\n$-1\r\n",
    b"*2\r\n$3\r\nfoo\r\n$3\r\nbar\r\n*0\r\n*-1\r\n",
    b"*3\r\n:1\r\n*2\r\n+a\r\n-b\r\n_\r\n",
    b"_\r\n#t\r\n#f\r\n,1.23\r\n,inf\r\n,-inf\r\n,nan\r\n",
    b"(3492890328409238509324850943850943825024385\r\n",
    b"!21\r\nSYNTAX invalid syntax\r\n=15\r\ntxt:Some string\r\n",
    b"%2\r\n+first\r\n:1\r\n+second\r\n*1\r\n:2\r\n",
    b"~3\r\n+orange\r\n+apple\r\n#t\r\n",
    b">3\r\n+message\r\n+channel\r\n$4\r\ntext\r\n+OK\r\n",
    b"|1\r\n+key-popularity\r\n%1\r\n$1\r\na\r\n,0.19\r\n*2\r\n:1\r\n:2\r\n",
    b"*1\r\n" * 20 + b":1\r\n",
    b"*6\r\n" + b"".join(b"$%d\r\n%s\r\n" % (n, b"x" * n) for n in (0, 1, 9, 10, 99, 100)),
    b"%3\r\n" + b"$1\r\nk\r\n$1\r\nv\r\n" * 3,
    b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\nvalue\r\n",
    b"*2\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n*1\r\n$4\r\nPING\r\n",
    b"$4\r\n\r\n\r\n\r\n+a\rb\nc\r\n",
    b"*999999999999999999\r\n:1\r\n",
    b"$536870912\r\nabc",
]


def inputs() -> Iterator[bytes]:
    """Each stream under generous limits, and some under tight ones."""
    for number, stream in enumerate(STREAMS):
        yield bytes([39, 4, number, 1]) + stream
        yield bytes([number % 4, number % 5, 7, number]) + stream
    yield bytes([39, 4, 3, 3]) + b"".join(STREAMS[:18])


def write(to: Path) -> list[Path]:
    """Write the corpus of the C target into a directory."""
    to.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, data in enumerate(inputs()):
        paths.append(to / f"seed_{number:02}")
        paths[-1].write_bytes(data)
    return paths


if __name__ == "__main__":
    print(f"{len(write(Path(sys.argv[1])))} seeds")
