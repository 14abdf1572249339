"""Interleaved rounds of the benchmark: each side in turn, each time in a fresh process."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import math
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

import redis

from cpool.tools.bench.worker import Measured, Task
from cpool.tools.bench.workload import Workload, remove, seed
from cpool.tools.figures import paired_ratio
from cpool.tools.sides import CLIENT, CPOOL, REDIS_PY, threads_text

SCHEMES = ("redis", "rediss", "unix")
# A URL's options win over arguments; these would make the sides' pools differ, or fail.
OPTIONS_NOT_IN_URL = frozenset(
    "max_connections timeout max_waiting order name max_bulk_bytes max_nesting_depth".split()
)
SPARE_TTL_S = 600
WORKER_SPARE_S = 120.0
SHORTEST_SLICE_S = 0.02

Round = dict[str, Measured]
Step = Callable[[str], None]


class CannotRun(Exception):
    """The options or the server do not allow a run; the text says why."""


class RunFailed(Exception):
    """A run that had begun could not be finished; the text says why."""


@dataclass(frozen=True)
class Plan:
    """What is to be measured.

    threads: one block for each number; connections: the pool's, None: one for each thread;
    duration_s: of all measuring together; protocol: None leaves redis-py's default.
    """

    url: str = field(repr=False)
    threads: tuple[int, ...]
    sides: tuple[str, ...]
    rounds: int
    duration_s: float
    mix: dict[str, int]
    value_bytes: int
    depth: int
    connections: int | None = None
    protocol: int | None = None

    @property
    def slices(self) -> int:
        """How many processes will measure."""
        return len(self.threads) * len(self.sides) * self.rounds

    @property
    def slice_s(self) -> float:
        """How many seconds each of them measures."""
        return self.duration_s / self.slices

    def options(self) -> dict[str, Any]:
        """Return the options of all pools and clients."""
        return {} if self.protocol is None else {"protocol": self.protocol}

    def load(self) -> Workload:
        """Return what is sent, on keys of its own."""
        prefix = f"cpool-bench:{secrets.token_hex(4)}"
        ttl_s = SPARE_TTL_S + math.ceil(2 * self.slice_s)
        return Workload(self.mix, self.value_bytes, self.depth, prefix, ttl_s)


@dataclass(frozen=True)
class Block:
    """All rounds with one number of threads."""

    threads: int
    rounds: list[Round]

    def figures(self, side: str, name: str) -> list[float]:
        """Return one figure of a side over the rounds; none if a round has none."""
        found = [each[side].figures() for each in self.rounds]
        return [each[name] for each in found] if all(found) else []

    def errors(self, side: str) -> dict[str, int]:
        """Return the errors of a side by their texts."""
        total: dict[str, int] = {}
        for each in self.rounds:
            for text, count in each[side].errors.items():
                total[text] = total.get(text, 0) + count
        return total


def check_plan(plan: Plan) -> None:
    """Raise CannotRun if the plan can't be carried out."""
    if plan.slice_s < SHORTEST_SLICE_S:
        raise CannotRun(
            f"--duration {plan.duration_s:g} leaves {plan.slice_s:.4f} s for each of"
            f" {plan.slices} measurements (threads x sides x rounds):"
            f" it must be at least {plan.slices * SHORTEST_SLICE_S:g}"
        )


# -- the URL ----------------------------------------------------------------------------


def check_url(url: str, protocol: int | None) -> None:
    """Raise CannotRun if the URL can't be used; the text does not quote it."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = SplitResult("", "", "", "", "")
    is_cut = parts.scheme != "unix" and "@" in parts.path + parts.fragment
    if parts.scheme not in SCHEMES or is_cut:
        raise CannotRun(
            "the server's URL must be redis://..., rediss://... or unix://..., with the special"
            " characters of user and password percent-encoded (%23 for #, %2F for /)"
        )
    options = set(parse_qs(parts.query, keep_blank_values=True))
    _check_url_options(options & OPTIONS_NOT_IN_URL, "protocol" in options and protocol)


def _check_url_options(unwanted: set[str], protocol_twice: bool | int | None) -> None:
    if unwanted:
        raise CannotRun(
            f"the server's URL must not hold {', '.join(sorted(unwanted))}:"
            " both sides' pools are made alike, by --threads and --connections"
        )
    if protocol_twice:
        raise CannotRun("the protocol is given twice: by --protocol and in the server's URL")


def place(url: str) -> str:
    """Return where a URL points to, without user, password and options."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return "a unix socket"
    host = parts.hostname or "localhost"
    return f"{f'[{host}]' if ':' in host else host}:{parts.port or 6379}"


def is_local(url: str) -> bool:
    """Tell whether a URL points to this machine, by its looks."""
    parts = urlsplit(url)
    host = parts.hostname or "localhost"
    if parts.scheme == "unix" or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def masked(text: str, url: str) -> str:
    """Return a text with the URL's passwords blotted out."""
    parts = urlsplit(url)
    written = {parts.password or "", *parse_qs(parts.query).get("password", [])}
    meant = set(map(unquote, written))
    found = written | meant | {quote(password, safe="") for password in meant}
    for password in sorted(found - {""}, key=len, reverse=True):
        # Whole words only: a password of one letter would blot out half of every text.
        text = re.sub(rf"(?<!\w){re.escape(password)}(?!\w)", "***", text)
    return text


# -- the run ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """A plan, a server it can be carried out on, and our keys there."""

    plan: Plan
    client: redis.Redis
    load: Workload
    info: dict[str, Any]

    def blocks(self, step: Step) -> list[Block]:
        """Measure; raises RunFailed. `step` is told what comes next."""
        return [Block(n, self._rounds(n, step)) for n in self.plan.threads]

    def _rounds(self, threads: int, step: Step) -> list[Round]:
        rounds: list[Round] = []
        for number in range(self.plan.rounds):
            sides = self.plan.sides if number % 2 == 0 else self.plan.sides[::-1]
            measured = {}
            for side in sides:
                title = f"{threads_text(threads)}, round {number + 1} of {self.plan.rounds}"
                step(f"{title}, {side}{so_far(rounds)}")
                measured[side] = self._measure(side, threads, number)
            rounds.append(measured)
        return rounds

    def _measure(self, side: str, threads: int, number: int) -> Measured:
        plan = self.plan
        task = Task(
            url=plan.url,
            side=side,
            threads=threads,
            connections=plan.connections or threads,
            seconds=plan.slice_s,
            round=number,
            options=plan.options(),
            load=self.load,
        )
        try:
            seed(self.client, self.load)
        except redis.RedisError as error:
            raise RunFailed(masked(f"the server failed: {error}", plan.url)) from None
        return call_worker(task)


def so_far(rounds: list[Round]) -> str:
    """Tell how cpool does in the rounds that are done."""
    block = Block(0, rounds)
    ours, theirs = (block.figures(side, "ops_per_s") for side in (CLIENT, REDIS_PY))
    if not ours or not theirs:
        return ""
    return f" (so far {paired_ratio(ours, theirs).median:.2f}x redis-py's ops/s)"


def call_worker(task: Task) -> Measured:
    """Do a task in a process of its own; raises RunFailed. Interrupted, it ends the process."""
    command = [sys.executable, "-m", "cpool.tools.bench.worker"]
    limit_s = 2 * task.seconds + WORKER_SPARE_S
    try:
        done = subprocess.run(
            command,
            input=json.dumps(asdict(task)),
            capture_output=True,
            text=True,
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired:
        raise RunFailed(f"{task.side} hung: no result after {limit_s:.0f} s") from None
    if done.returncode != 0:
        why = masked((done.stderr.strip() or f"status {done.returncode}"), task.url)
        if "max number of clients" in why:
            raise RunFailed(
                f"the server takes no more clients (its maxclients): {task.side} wanted"
                f" {task.connections} connections; lower --connections or --threads"
            )
        raise RunFailed(f"the process of {task.side} failed: {why.splitlines()[-1]}")
    data = json.loads(done.stdout)
    errors = {masked(text, task.url): count for text, count in data.pop("errors").items()}
    return Measured(**data, errors=errors)


@contextlib.contextmanager
def prepared(plan: Plan, warn: Callable[[str], None]) -> Iterator[Bench]:
    """Connect, write the keys, and remove them at the end, whatever happens in between.

    Raises CannotRun. What can't be removed is told to `warn`.
    """
    client = _connected(plan)
    bench = Bench(plan, client, plan.load(), _server_info(client))
    try:
        _seed_or_refuse(bench)
        yield bench
    finally:
        _remove_keys(bench, warn)
        client.close()


def _remove_keys(bench: Bench, warn: Callable[[str], None]) -> None:
    bench.client.connection_pool.disconnect()  # an interrupt may have left replies unread
    try:
        remove(bench.client, bench.load)
    except redis.RedisError as error:
        why = masked(str(error), bench.plan.url)
        name, ttl_s = bench.load.prefix, bench.load.ttl_s
        warn(f"the keys {{{name}}}:* were left ({why}); they expire within {ttl_s} s")


def _connected(plan: Plan) -> redis.Redis:
    check_url(plan.url, plan.protocol)
    try:
        client = redis.Redis.from_url(plan.url, **plan.options())
        client.ping()
    except (redis.RedisError, OSError, TypeError, ValueError) as error:
        why = masked(f"{type(error).__name__}: {error}", plan.url)
        raise CannotRun(f"no usable server at {place(plan.url)}: {why}") from None
    return client


def _server_info(client: redis.Redis) -> dict[str, Any]:
    try:
        return dict(client.info("server"))
    except redis.ResponseError:  # not everybody is allowed to ask
        return {}


def _seed_or_refuse(bench: Bench) -> None:
    try:
        seed(bench.client, bench.load)
    except redis.RedisError as error:
        why = masked(str(error), bench.plan.url)
        raise CannotRun(f"the benchmark's keys can't be written: {why}") from None


def all_sides(*, with_pool: bool) -> tuple[str, ...]:
    """Return the sides to be measured, redis-py first."""
    return (REDIS_PY, CPOOL, CLIENT) if with_pool else (REDIS_PY, CLIENT)
