"""Run all benchmarks, one after another, and sum up which bars are met.

Method: each benchmark is a process of its own with a server of its own, never two at once; its
own head says what it measures and how. Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _common import (
    BENCH_DIR,
    EXIT_BAR_MISSED,
    EXIT_CANNOT_RUN,
    EXIT_FAILED,
    EXIT_OK,
    Bar,
    common_options,
    print_table,
)

RUNS: dict[str, list[str]] = {
    "instructions": ["instructions.py"],
    "codec": ["codec.py"],
    "checkout": ["checkout.py"],
    "connect": ["connect.py"],
    "clients": ["clients.py"],
    "commands": ["commands.py"],
    "throughput": ["throughput.py"],
    "throughput-unix": ["throughput.py", "--transport", "unix"],
    "throughput-tls": ["throughput.py", "--transport", "tls"],
    "throughput-gevent": ["throughput.py", "--transport", "gevent"],
    "waits": ["waits.py"],
    "bigvalues": ["bigvalues.py"],
}
PASSED_ON = ("quick", "noise", "pin")
WITHOUT_NOISE = ("codec",)
OUTCOMES = {EXIT_CANNOT_RUN: "cannot run here", EXIT_FAILED: "FAILED"}


def run_one(name: str, args: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Run one benchmark; return its data, or what became of it."""
    out = directory / f"{name}.json"
    flags = [f"--{flag}" for flag in PASSED_ON if getattr(args, flag)]
    flags += ["--server", args.server] if args.server else []
    script, *options = RUNS[name]
    command = [sys.executable, str(BENCH_DIR / script), *options, *flags, "--json", str(out)]
    started_s = time.monotonic()
    code = subprocess.run(command).returncode
    data = json.loads(out.read_text()) if out.exists() else {"bars": []}
    if code != EXIT_OK or not out.exists():
        data["outcome"] = OUTCOMES.get(code, f"FAILED, exit code {code}")
    return {**data, "took_s": time.monotonic() - started_s}


def summary_rows(name: str, data: dict[str, Any]) -> list[list[str]]:
    if "outcome" in data:
        return [[name, "", "", "", data["outcome"]]]
    return [[name, *bar_cells(bar)] for bar in data["bars"]]


def bar_cells(data: dict[str, Any]) -> list[str]:
    bar = Bar(**{key: value for key, value in data.items() if key != "met"})
    wanted = "" if bar.wanted is None else f", wanted {bar.wanted:g}"
    limit = f"{bar.sense} {bar.limit:g}{bar.unit}{wanted}"
    return [bar.name, bar.figure(), limit, "met" if bar.met else "NOT MET"]


def parse() -> argparse.Namespace:
    parser = common_options(
        __doc__, "--quick", "--json", "--check", "--noise", "--pin", "--server"
    )
    parser.add_argument(
        "--only", nargs="+", choices=RUNS, metavar="NAME", help=f"some of: {', '.join(RUNS)}"
    )
    return parser.parse_args()


def main() -> int:
    args = parse()
    names = [n for n in args.only or RUNS if not (args.noise and n in WITHOUT_NOISE)]
    with tempfile.TemporaryDirectory(prefix="cpool-bench-") as directory:
        found = {name: run_one(name, args, Path(directory)) for name in names}
    rows = [cells for name in names for cells in summary_rows(name, found[name])]
    print_table("all benchmarks", ("benchmark", "what", "figure", "bar", ""), rows)
    bars = [bar for data in found.values() for bar in data["bars"]]
    failed = [n for n, data in found.items() if "FAILED" in data.get("outcome", "")]
    print(f"bars met: {sum(bar['met'] for bar in bars)} of {len(bars)}, failed: {len(failed)}")
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n")
    missed = failed or not all(bar["met"] for bar in bars)
    return EXIT_BAR_MISSED if args.check and missed else EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
