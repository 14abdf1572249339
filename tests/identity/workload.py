"""The identity workload: threads share one pool, and each checks that every reply is its own.

Every command carries a nonce that its reply must carry as well. Errors of the connection are
expected and counted; a reply with somebody else's nonce is foreign, and none may be.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import redis
from redis.backoff import NoBackoff
from redis.exceptions import InvalidResponse, MaxConnectionsError, RedisError, ResponseError
from redis.retry import Retry

import cpool

MAX_CONNECTIONS = 6
N_THREADS = 8
BOUND_S = 40.0
FAIL = "return redis.error_reply(ARGV[1])"


Verdict = tuple[Any, Any]  # what the reply had to be, and what it was
Verb = Callable[[redis.Redis, str], Verdict]


class Injected(BaseException):
    """What a test throws into a worker from outside, at any moment."""


@dataclass(frozen=True)
class Outcome:
    """What came of one command; verdict: the nonce and the error, where one was raised.

    The exception itself would keep the frames it went through, and what is borrowed there.
    """

    kind: Literal["right", "failed", "foreign"]
    verdict: Verdict
    error_class: type[Exception] | None = None

    @property
    def error_name(self) -> str:
        """The name of the error's class."""
        return self.error_class.__name__ if self.error_class else ""


def attempt(verb: Verb, client: redis.Redis, nonce: str) -> Outcome:
    """Do one command and judge its reply."""
    try:
        wanted, got = verb(client, nonce)
    except InvalidResponse as error:  # replies out of step
        return Outcome("foreign", (nonce, repr(error)), type(error))
    except (RedisError, OSError) as error:
        return Outcome("failed", (nonce, repr(error)), type(error))
    except Exception as error:  # a callback choked on a reply of the wrong shape
        return Outcome("foreign", (nonce, repr(error)), type(error))
    return Outcome("right" if wanted == got else "foreign", (wanted, got))


@dataclass
class Tally:
    """What came of the commands. errors: how often which type was raised."""

    right: int = 0
    failed: int = 0
    injected: int = 0
    foreign: list[Verdict] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    struck: int = 0  # faults

    def count(self, outcome: Outcome) -> None:
        """Add one outcome."""
        if outcome.kind == "right":
            self.right += 1
        elif outcome.kind == "failed":
            self.failed += 1
            self.errors[outcome.error_name] += 1
        else:
            self.foreign.append(outcome.verdict)


class Handle(Protocol):
    """A worker that runs."""

    def join(self, timeout: float | None = None) -> Any:
        """Wait for its end."""


def spawn_thread(work: Callable[[], None]) -> Handle:
    """Run a worker on a thread."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


class Workload:
    """Workers on one client, until they are told to stop. Seeded: every worker's commands,
    though not their interleaving, are the same in each run."""

    def __init__(self, client: redis.Redis, seed: int, name: str = "run") -> None:
        self.client = client
        self.tally = Tally()
        self.handles: list[Any] = []
        self._name = name
        self.seed = seed
        self._over = False
        self._left = 0
        self._lock = threading.Lock()

    def start(self, spawn: Callable[[Callable[[], None]], Any], workers: int = N_THREADS) -> None:
        """Start the workers."""
        self._left = workers
        for number in range(workers):
            self.handles.append(spawn(lambda number=number: self.work(number)))

    def stop(self) -> None:
        """Let the workers end, and wait for it."""
        self._over = True
        for handle in self.handles:
            handle.join(BOUND_S)
        if self._left:
            raise TimeoutError(f"{self._left} workers have not ended: {self.tally}")

    def work(self, number: int) -> None:
        """Do one command after the other, whatever is thrown in."""
        chance = random.Random(f"{self.seed}:{number}")
        serial = 0
        while True:
            try:
                while not self._over:
                    serial += 1
                    self.step(chance, f"{self._name}:{number}:{serial}")
                break
            except Injected:
                self.tally.injected += 1
        with self._lock:
            self._left -= 1

    def step(self, chance: random.Random, nonce: str) -> None:
        """Do one command and judge its reply."""
        self.tally.count(attempt(chance.choice(VERBS), self.client, nonce))


def echo(client: redis.Redis, nonce: str) -> Verdict:
    return nonce.encode(), client.echo(nonce)


def echo_large(client: redis.Redis, nonce: str) -> Verdict:
    return nonce.encode() * 6000, client.echo(nonce * 6000)


def write_and_read(client: redis.Redis, nonce: str) -> Verdict:
    key = nonce.rpartition(":")[0]
    client.set(key, nonce)
    return nonce.encode(), client.get(key)


def fail(client: redis.Redis, nonce: str) -> Verdict:
    try:
        client.eval(FAIL, 0, nonce)
    except ResponseError as error:
        return nonce, str(error)
    return nonce, None


def pipeline(client: redis.Redis, nonce: str) -> Verdict:
    words = [f"{nonce}:{i}" for i in range(5)]
    with client.pipeline(transaction=False) as pipe:
        for word in words:
            pipe.echo(word)
        return [word.encode() for word in words], pipe.execute()


def long_pipeline(client: redis.Redis, nonce: str) -> Verdict:
    """More than one piece each way, and a reply that is received on its own."""
    sent = [f"{nonce}:{i}:" * 40 for i in range(120)] + [nonce * 9000]
    with client.pipeline(transaction=False) as pipe:
        for text in sent:
            pipe.echo(text)
        return [text.encode() for text in sent], pipe.execute()


def transaction(client: redis.Redis, nonce: str) -> Verdict:
    key = "t:" + nonce.rpartition(":")[0]
    with client.pipeline() as pipe:
        pipe.set(key, nonce).get(key).echo(nonce)
        return [True, nonce.encode(), nonce.encode()], pipe.execute()


def watch(client: redis.Redis, nonce: str) -> Verdict:
    key = "w:" + nonce.rpartition(":")[0]
    pipe = client.pipeline()
    try:
        with pipe:
            pipe.watch(key)
            pipe.get(key)
            pipe.multi()
            pipe.echo(nonce)
            return [nonce.encode()], pipe.execute()
    finally:
        if type(pipe) is redis.client.Pipeline:
            give_back(pipe)


def give_back(pipe: redis.client.Pipeline) -> None:
    """Do what redis-py's reset() leaves out if it is not answered in time.

    Else the connection comes back when garbage is collected: in any thread, the proxy's too,
    by a finaliser that sends UNWATCH and waits for the reply.
    """
    connection, pipe.connection, pipe.watching = pipe.connection, None, False
    if connection is not None:
        connection.disconnect()
        pipe.connection_pool.release(connection)


def wait_in_vain(client: redis.Redis, nonce: str) -> Verdict:
    return None, client.blpop([f"never:{nonce}"], 0.01)


def pop_own(client: redis.Redis, nonce: str) -> Verdict:
    client.rpush(f"queue:{nonce}", nonce)
    popped = client.blpop([f"queue:{nonce}"], 1)
    return nonce.encode(), popped and popped[1]


def give_up(client: redis.Redis, nonce: str) -> Verdict:
    """Give up on a reply soon, leave the connection open, and return it."""
    pool = client.connection_pool
    conn = pool.get_connection()
    try:
        conn.send_command("ECHO", nonce)
        return nonce.encode(), conn.read_response(timeout=0.002, disconnect_on_error=False)
    finally:
        pool.release(conn)


def walk_away(client: redis.Redis, nonce: str) -> Verdict:
    """Leave without reading the reply."""
    pool = client.connection_pool
    conn = pool.get_connection()
    conn.send_command("ECHO", nonce)
    pool.release(conn)
    return None, None


def forget(client: redis.Redis, nonce: str) -> Verdict:
    """Lose the connection without returning it."""
    conn = client.connection_pool.get_connection()
    conn.send_command("ECHO", nonce)
    got = conn.read_response()
    del conn
    return nonce.encode(), got


VERBS: list[Verb] = [
    echo,
    echo,
    echo,
    echo_large,
    write_and_read,
    write_and_read,
    fail,
    pipeline,
    long_pipeline,
    transaction,
    watch,
    wait_in_vain,
    pop_own,
    give_up,
    walk_away,
    forget,
]


class Trusting(cpool.ConnectionPool):
    """A pool without a ledger, the planted bug: whatever comes back is taken for clean."""

    def release(self, connection: Any) -> None:
        """Forget what the connection is owed."""
        if connection._session is not None:
            connection._session.owed = 0
        super().release(connection)


def make_client(
    pool_class: Any = cpool.BlockingConnectionPool,
    client_class: Any = redis.Redis,
    *,
    max_connections: int = MAX_CONNECTIONS,
    timeout: float = BOUND_S,
    retries: int = 0,
    **options: Any,
) -> redis.Redis:
    """Make a client on a pool of its own; unless told it never retries, and papers over no error.

    timeout: seconds to wait for a connection. options: of the pool and its connections.
    """
    pool = pool_class(max_connections=max_connections, timeout=timeout, **options)
    client: redis.Redis = client_class(connection_pool=pool)
    client.set_retry(Retry(NoBackoff(), retries))
    return client


@contextlib.contextmanager
def running(
    client: redis.Redis,
    seed: int,
    spawn: Callable[[Callable[[], None]], Any] = spawn_thread,
    workers: int = N_THREADS,
) -> Iterator[Workload]:
    """Let the workers run during the block."""
    workload = Workload(client, seed)
    workload.start(spawn, workers)
    try:
        yield workload
    finally:
        workload.stop()


def check_slots(pool: Any) -> None:
    """No slot is lost and none is shared: the pool lends as many connections as it may."""
    stats, most = pool.stats(), pool.max_connections
    assert (stats.in_use, stats.opening, stats.waiting) == (0, 0, 0), stats
    pool.timeout = 0  # what is not there at once is lost
    held = [pool.get_connection() for _ in range(most)]
    assert len(set(map(id, held))) == most
    assert len({conn._sock for conn in held}) == most
    with contextlib.suppress(MaxConnectionsError):
        pool.get_connection()
        raise AssertionError("one more than there may be was lent")
    for conn in held:
        conn.send_command("ECHO", id(conn))
    for conn in reversed(held):
        assert conn.read_response() == b"%d" % id(conn)
        pool.release(conn)
    stats = pool.stats()
    assert (stats.idle, stats.in_use) == (most, 0), stats
