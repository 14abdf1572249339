"""What stands in the way of believing the benchmark's figures, and what to do about it."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cpool.tools.bench.report import gain
from cpool.tools.bench.rounds import Block, Plan, is_local
from cpool.tools.bench.worker import Measured
from cpool.tools.sides import CLIENT, threads_text

BUSY_BEFORE_PERCENT = 10
CLIENT_MACHINE_PERCENT = 95
CLIENT_PROCESS_PERCENT = 95
SERVER_PERCENT = 90
OTHERS_SHARE = 0.10  # of our own commands
OTHERS_COMMANDS = 200  # in a round: INFO, handshakes, a monitoring agent
REFUSED_SHARE = 0.01
FEWEST_FOR_P999 = 1000
WIDE_SPREAD = 2.0

BUSY_BEFORE = (
    "Before the start {} % of this machine's CPUs was busy with other work, which slows the"
    " sides unequally. Stop it and run again."
)
NO_HIREDIS = (
    "redis-py runs without hiredis, so with its slower parser. To compare with redis-py at its"
    " best: pip install hiredis"
)
LOCAL_SERVER = (
    "The server is on this machine and takes CPU time from the clients. With a server elsewhere"
    " each command also waits for the network, equally for all sides: to know what you gain"
    " there, use --url with a server as far away as yours."
)
CLIENT_MACHINE = (
    "The client machine is the limit: its CPUs were all busy. A client that needs less CPU time"
    " shows less than it could gain. Use more CPUs, move the server to another machine, or take"
    " fewer threads."
)
CLIENT_PROCESS = (
    "The client process is the limit: it used a whole CPU, and Python code runs on one at a time"
    " (the GIL). More threads give no more commands; more processes would."
)
SERVER = (
    "The server is the limit: it used a whole CPU. Commands per second and times are the"
    " server's there; only CPU time per command compares the clients. Use a faster server,"
    " smaller values or fewer threads."
)
SERVER_UNKNOWN = (
    "Whether the server is the limit is not known: this user may not read its CPU time by INFO."
)
OTHERS = "Other clients used the server meanwhile. Use a server, or a time, without other traffic."
FEW_CALLS = (
    "p99.9 says little: with so few calls in a round it is nearly the longest of them. Raise"
    " --duration, or lower --rounds."
)
NOT_COMPILED = (
    "Not all calls were compiled ones; help(cpool.fast_path.FastPathStats) explains the reasons."
)
ROUNDS_DIFFER = (
    "The rounds differ much in how many times redis-py's commands per second cpool.Redis had."
    " Let nothing else run, and raise --duration or --rounds."
)

Look = Callable[[Sequence[Measured]], str | None]


def before_the_run(plan: Plan, machine: dict[str, Any], has_hiredis: bool) -> Iterator[str]:
    """Warn of what is known without measuring; takes the facts of machine_facts()."""
    busy = machine["busy %"]
    if busy > BUSY_BEFORE_PERCENT:
        yield BUSY_BEFORE.format(busy)
    if not has_hiredis:
        yield NO_HIREDIS
    if is_local(plan.url):
        yield LOCAL_SERVER


def of_the_rounds(plan: Plan, blocks: Sequence[Block]) -> Iterator[str]:
    """Warn of what the measurements tell: each warning once, with all it was seen at."""
    for warning, look in LOOKS.items():
        places = [_places(plan, block, look) for block in blocks]
        if any(places):
            yield f"{warning} Seen with {'; '.join(filter(None, places))}."
    differing = [text for block in blocks for text in _differing(block)]
    if differing:
        yield f"{ROUNDS_DIFFER} Seen with {'; '.join(differing)}."


def _places(plan: Plan, block: Block, look: Look) -> str:
    """Say at which sides of a block something was seen, "" if at none."""
    seen = {side: look([each[side] for each in block.rounds]) for side in plan.sides}
    found = [f"{side} ({what})" for side, what in seen.items() if what is not None]
    return f"{threads_text(block.threads)}: {', '.join(found)}" if found else ""


def _client_machine(measured: Sequence[Measured]) -> str | None:
    busy = _median(measured, lambda each: each.busy_percent)
    return f"{busy:.0f} %" if busy is not None and busy >= CLIENT_MACHINE_PERCENT else None


def _client_process(measured: Sequence[Measured]) -> str | None:
    """Not where the machine's CPUs are all busy, which explains it as well."""
    used = _median(measured, lambda each: 100 * each.cpu_s / each.elapsed_s)
    is_limit = used is not None and used >= CLIENT_PROCESS_PERCENT and _gil_enabled()
    return f"{used:.0f} %" if is_limit and _client_machine(measured) is None else None


def _server(measured: Sequence[Measured]) -> str | None:
    used = _median(measured, lambda each: each.server_cpu_percent)
    return f"{used:.0f} %" if used is not None and used >= SERVER_PERCENT else None


def _server_unknown(measured: Sequence[Measured]) -> str | None:
    known = [each for each in measured if each.server_cpu_percent is not None]
    return None if known else "no figures"


def _others(measured: Sequence[Measured]) -> str | None:
    counted = [each for each in measured if each.server_commands is not None]
    ours = sum(map(_sent, counted))
    theirs = sum(each.server_commands or 0 for each in counted) - ours
    if theirs <= max(OTHERS_SHARE * ours, OTHERS_COMMANDS * len(counted)):
        return None
    return f"{theirs / sum(each.elapsed_s for each in counted):,.0f} commands per second"


def _sent(measured: Measured) -> int:
    """Return how many commands may have reached the server, those of failed calls included."""
    depth = measured.commands // measured.calls if measured.calls else 1
    return measured.commands + depth * sum(measured.errors.values())


def _few_calls(measured: Sequence[Measured]) -> str | None:
    fewest = min(each.calls for each in measured)
    return f"{fewest:,}" if fewest < FEWEST_FOR_P999 else None


def _not_compiled(measured: Sequence[Measured]) -> str | None:
    refused: dict[str, int] = {}
    for each in measured:
        for why, count in each.refused.items():
            refused[why] = refused.get(why, 0) + count
    calls = sum(each.calls for each in measured)
    reasons = ", ".join(f"{why}: {count:,}" for why, count in refused.items())
    return reasons if sum(refused.values()) > REFUSED_SHARE * calls else None


LOOKS: dict[str, Look] = {
    CLIENT_MACHINE: _client_machine,
    CLIENT_PROCESS: _client_process,
    SERVER: _server,
    SERVER_UNKNOWN: _server_unknown,
    OTHERS: _others,
    FEW_CALLS: _few_calls,
    NOT_COMPILED: _not_compiled,
}


def _differing(block: Block) -> Iterator[str]:
    spread = gain(block, CLIENT, "ops_per_s")
    if spread is not None and spread.highest > WIDE_SPREAD * spread.lowest:
        yield f"{threads_text(block.threads)}: {spread.text()}"


def _median(
    measured: Sequence[Measured], figure: Callable[[Measured], float | None]
) -> float | None:
    """Return the median over the rounds, None if a round does not have the figure."""
    known = [value for value in map(figure, measured) if value is not None]
    return statistics.median(known) if len(known) == len(measured) else None


def _gil_enabled() -> bool:
    return getattr(sys, "_is_gil_enabled", lambda: True)()
