"""Each allocation of each thing a pool does fails once.

Run by test_no_memory.py: WHOSE URL TOGETHER GROUP ... WHOSE: "core", the allocations of the
compiled modules' C code, by the preloaded library; or "python", those of objects, by the
interpreter's own hooks. TOGETHER: how many fail in a row. After each fault no slot may be lost
and the next reply must be its caller's own.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import re
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import cpool
from cpool._resp import Packer, Reader
from tests.syscalls.shim import Call, Fault, Shim

MAX_CONNECTIONS = 2
LARGE, LONG, DEPTH = 600_000, 800, 40
DEEP = "return " + "{" * DEPTH + "1" + "}" * DEPTH
MOST_ALLOCATIONS = 20_000
ENOMEM = 12
SOON_S, PATIENCE_S = 0.0002, 0.002
NESTED = (
    b"%2\r\n$1\r\na\r\n*3\r\n:1\r\n,1.5\r\n~2\r\n$5\r\nhello\r\n#t\r\n"
    b"$1\r\nb\r\n|1\r\n+x\r\n:1\r\n(12345678901234567890\r\n"
)
# What the interpreter sometimes makes of a MemoryError.
INTERPRETERS_OWN = re.compile(
    "can't allocate|without (setting an exception|exception set)|expected .* not PosixPath"
)
DECODED = {b"a": [1, 1.5, [b"hello", True]], b"b": 12345678901234567890}


class Core:
    """The n-th allocation by malloc() and its like, from the core's own code."""

    def __init__(self, together: int) -> None:
        self._shim = Shim()
        self._together = together

    @contextlib.contextmanager
    def failing(self, n: int) -> Iterator[None]:
        """Let it fail during the block, with those that follow it."""
        orders = [(Call.ALLOC, n + i, ENOMEM) for i in range(self._together)]
        with self._shim.ordered(*orders):
            yield

    def faults(self) -> int:
        """Return how many there were."""
        return self._shim.injected(Call.ALLOC, Fault.ORDERED)


def hoard(n: int) -> list[Any]:
    """Take objects that the interpreter keeps for reuse, so that others must be allocated.

    Not pairs: CPython 3.11 crashes where it lacks one for dict.items()."""
    tuples = [tuple(range(size)) for size in (1, 3, 4, 5, 6) for _ in range(n)]
    return [tuples, [[] for _ in range(n)], [{} for _ in range(n)], [i + 0.5 for i in range(n)]]


class Objects:
    """The n-th allocation by Python's allocators, in whatever code."""

    def __init__(self, together: int) -> None:
        import _testcapi

        self._testcapi = _testcapi
        self._together = together
        self._kept = hoard(2500)

    @contextlib.contextmanager
    def failing(self, n: int) -> Iterator[None]:
        """Let it fail during the block, with those that follow it."""
        kept = hoard(50)
        self._testcapi.set_nomemory(n, n + self._together)
        try:
            yield
        finally:
            self._testcapi.remove_mem_hooks()
            del kept

    def faults(self) -> None:
        """Tell that nobody counts them."""
        return None


# What is done. Each action returns what it is to be judged by, and what that must be.

Verdict = tuple[Any, Any]
VALUE = b"v" * LARGE


def get(client: redis.Redis) -> Verdict:
    return client.get("small"), b"small"


def get_large(client: redis.Redis) -> Verdict:
    """Received straight into its bytes object."""
    return client.get("large"), VALUE


def set_large(client: redis.Redis) -> Verdict:
    """Sent from where it is."""
    return client.set("large", VALUE), True


def set_odd(client: redis.Redis) -> Verdict:
    """Arguments that need Python code, or the general encoder."""
    view = memoryview(VALUE)
    return client.mset({"a": 1.5, "b": view, "c": "\u20ac" * 9000, "d": 10**30}), True


def nested(client: redis.Redis) -> Verdict:
    """A reply of many objects."""
    return client.hgetall("hash"), {b"%d" % i: b"value" for i in range(20)}


def long_list(client: redis.Redis) -> Verdict:
    """More than the buffer holds: it grows, and shrinks again."""
    return client.lrange("list", 0, -1), [b"value" * 50] * LONG


def deep(client: redis.Redis) -> Verdict:
    """Deeper than the scanner has room for at first."""
    reply, depth = client.eval(DEEP, 0), 0
    while isinstance(reply, list):
        reply, depth = reply[0], depth + 1
    return depth, DEPTH


def pipeline(client: redis.Redis) -> Verdict:
    with client.pipeline(transaction=False) as pipe:
        return pipe.get("small").echo("x").set("large", VALUE).execute(), [b"small", b"x", True]


def transaction(client: redis.Redis) -> Verdict:
    with client.pipeline() as pipe:
        return pipe.get("small").echo("x").set("large", VALUE).execute(), [b"small", b"x", True]


def watch(client: redis.Redis) -> Verdict:
    with client.pipeline() as pipe:
        pipe.watch("small")
        pipe.multi()
        return pipe.echo("x").execute(), [b"x"]


def error_reply(client: redis.Redis) -> Verdict:
    try:
        client.incr("small")
    except redis.ResponseError as error:
        return str(error), "value is not an integer or out of range"
    return None, "an error"


def redis_pys_client(client: redis.Redis) -> Verdict:
    """redis-py's own client on our pool."""
    other: redis.Redis = redis.Redis(connection_pool=client.connection_pool)
    return other.get("small"), b"small"


def check_out(client: redis.Redis) -> Verdict:
    pool = client.connection_pool
    first = pool.get_connection()
    try:
        second = pool.get_connection()
        pool.release(second)
    finally:
        pool.release(first)
    return first is not second, True


def wait_in_vain(client: redis.Redis) -> Verdict:
    """Wait in an exhausted pool until the time is over."""
    pool = client.connection_pool
    held = []
    try:
        for _ in range(MAX_CONNECTIONS + 1):
            held.append(pool.get_connection())
    except cpool.ConnectionPoolTimeoutError:
        return len(held), MAX_CONNECTIONS
    finally:
        for conn in held:
            pool.release(conn)
    return "nobody was told to wait", None


def be_served(client: redis.Redis) -> Verdict:
    """Wait in an exhausted pool until a signal's handler gives a connection back."""
    pool = client.connection_pool
    held: list[Any] = []
    signal.signal(signal.SIGALRM, lambda *_: pool.release(held.pop()))
    try:
        for _ in range(MAX_CONNECTIONS):
            held.append(pool.get_connection())
        signal.setitimer(signal.ITIMER_REAL, SOON_S)
        held.append(pool.get_connection())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        for conn in held:
            pool.release(conn)
    return len(held), MAX_CONNECTIONS


def forget(client: redis.Redis) -> Verdict:
    """Lose a connection: its finaliser gives the slot back."""
    conn = client.connection_pool.get_connection()
    conn.send_command("PING")
    return conn.read_response() in (b"PONG", "PONG"), True


def leave_dirty(client: redis.Redis) -> Verdict:
    """Return a connection that is owed a reply: it is closed and the slot is free."""
    conn = client.connection_pool.get_connection()
    try:
        conn.send_command("ECHO", "of nobody")
    finally:
        client.connection_pool.release(conn)
    return None, None


def dial(client: redis.Redis) -> Verdict:
    """The handshake, and a first command."""
    client.connection_pool.disconnect()
    return client.get("small"), b"small"


def begin(client: redis.Redis) -> Verdict:
    """A pool's first connection, and its end."""
    like = client.connection_pool
    pool = cpool.ConnectionPool(like.connection_class, 1, **like.connection_kwargs)
    try:
        pool.release(pool.get_connection())
    finally:
        pool.disconnect()
    return None, None


def make_bare(client: redis.Redis) -> Verdict:
    """A pool whose __init__ never runs, and its end."""
    pool_class = type(client.connection_pool)
    return type(pool_class.__new__(pool_class)), pool_class


def read_nested(client: redis.Redis) -> Verdict:
    """The decoder alone, split where it hurts."""
    reader = Reader()
    reader.feed(NESTED[:40])
    reader.gets()
    reader.feed(NESTED[40:])
    return reader.gets(), DECODED


def pack_large(client: redis.Redis) -> Verdict:
    """The encoder alone."""
    chunks = Packer(None).pack("SET", "key", VALUE, 1, "\u20ac" * 4000)
    return b"".join(chunks).count(b"\r\n"), 11


COMPILED: list[Callable[[redis.Redis], Verdict]] = [
    get,
    get_large,
    set_large,
    set_odd,
    nested,
    long_list,
    deep,
    pipeline,
    transaction,
    watch,
    error_reply,
    check_out,
    wait_in_vain,
    be_served,
    forget,
    make_bare,
    read_nested,
    pack_large,
]
BY_REDIS_PY = [redis_pys_client, leave_dirty, dial]
GROUPS = {"compiled": COMPILED, "redis-py": BY_REDIS_PY, "new pool": [begin]}
# So many calls in a row without a fault end an action; redis-py's code hides them for longer.
ENOUGH, ENOUGH_OF_REDIS_PY = 40, 400


def check(client: redis.Redis, nonce: str) -> None:
    """All slots are there, each with a connection in step with its server."""
    pool = client.connection_pool
    if pool.stats().in_use:  # by a pipeline that nobody has, and that refers to itself
        gc.collect()
    stats = pool.stats()
    assert (stats.in_use, stats.opening, stats.waiting) == (0, 0, 0), stats
    held = [pool.get_connection() for _ in range(MAX_CONNECTIONS)]
    for conn in held:
        conn.send_command("ECHO", f"{nonce}:{id(conn)}")
    for conn in held:
        assert conn.read_response() == f"{nonce}:{id(conn)}".encode()
        pool.release(conn)
    assert client.echo(nonce) == nonce.encode()


def attempt(action: Any, client: redis.Redis, faults: Any) -> str:
    """What came of it: "ok" with the right result, or the error's type."""
    try:
        with faults:
            wanted, got = action(client)
    except (RuntimeError, SystemError, TypeError) as error:
        assert INTERPRETERS_OWN.search(str(error)), error
        return "MemoryError"
    except Exception as error:
        return type(error).__name__
    assert wanted == got, (str(wanted)[:100], str(got)[:100])
    return "ok"


def fail_each(whose: Any, action: Any, client: redis.Redis) -> dict[str, int]:
    """Let one allocation after the other fail; return how often each outcome was met."""
    outcomes: dict[str, int] = {}
    enough = ENOUGH if action in COMPILED else ENOUGH_OF_REDIS_PY
    without = 0
    for n in range(1, MOST_ALLOCATIONS):
        before = whose.faults()
        outcome = attempt(action, client, whose.failing(n))
        check(client, f"{action.__name__}:{n}")
        if outcome == "ok" and (before is None or before == whose.faults()):
            without += 1
            if without == enough:
                return outcomes
        else:
            without = 0
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
    raise AssertionError(f"more than {MOST_ALLOCATIONS} allocations: {action.__name__}")


def make_client(url: str) -> redis.Redis:
    retry = Retry(NoBackoff(), 0)
    pool = cpool.BlockingConnectionPool.from_url(
        url, max_connections=MAX_CONNECTIONS, timeout=PATIENCE_S, socket_timeout=10, retry=retry
    )
    client: redis.Redis = cpool.Redis(connection_pool=pool)
    client.set_retry(retry)
    client.mset({"small": "small", "large": VALUE})
    client.delete("list")
    client.rpush("list", *["value" * 50] * LONG)
    client.hset("hash", mapping={str(i): "value" for i in range(20)})
    return client


def main(whose: str, url: str, together: str, *groups: str) -> None:
    """Do all actions of some groups."""
    client = make_client(url)
    source = {"core": Core, "python": Objects}[whose](int(together))
    gc.disable()
    answer = {}
    for action in itertools.chain(*(GROUPS[group] for group in groups)):
        attempt(action, client, contextlib.nullcontext())  # what is made once is made now
        check(client, "before")
        answer[action.__name__] = fail_each(source, action, client)
        gc.collect()
    client.connection_pool.disconnect()
    print(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
