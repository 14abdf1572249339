"""What the pool tests share: the two implementations, stub connections, patient helpers."""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import select
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import redis
import redis.connection
import redis.sentinel

import cpool

PATIENCE_S = 15.0
REDIS_VERSION = tuple(int(part) for part in redis.__version__.split(".")[:2])
HAS_MAINTENANCE = hasattr(redis.connection, "MaintNotificationsAbstractConnectionPool")


@dataclass(frozen=True)
class Implementation:
    """The classes a program would use: redis-py's own, or ours in their place."""

    name: str
    ConnectionPool: Any
    BlockingConnectionPool: Any
    SentinelConnectionPool: Any
    Connection: Any
    SSLConnection: Any
    UnixDomainSocketConnection: Any
    SentinelManagedConnection: Any
    SentinelManagedSSLConnection: Any

    @property
    def is_ours(self) -> bool:
        """Whether these are cpool's classes."""
        return self.name == "cpool"

    @property
    def pools(self) -> tuple[Any, Any]:
        """The two pool classes that need no sentinel."""
        return self.ConnectionPool, self.BlockingConnectionPool


_NAMES = (
    "ConnectionPool",
    "BlockingConnectionPool",
    "Connection",
    "SSLConnection",
    "UnixDomainSocketConnection",
)
_SENTINEL_NAMES = (
    "SentinelConnectionPool",
    "SentinelManagedConnection",
    "SentinelManagedSSLConnection",
)


def _implementation(name: str, pools: Any, sentinel: Any) -> Implementation:
    classes = {key: getattr(pools, key) for key in _NAMES}
    classes.update({key: getattr(sentinel, key) for key in _SENTINEL_NAMES})
    return Implementation(name=name, **classes)


REDIS_PY = _implementation("redis-py", redis.connection, redis.sentinel)
CPOOL = _implementation("cpool", cpool, cpool)
IMPLEMENTATIONS = (REDIS_PY, CPOOL)


class StubConnection:
    """The least that redis-py's pools ask of a connection class. It has no socket."""

    def __init__(self, **kwargs: Any) -> None:
        self.kwargs = kwargs
        self.pid = os.getpid()
        self.connects = 0
        self.disconnects = 0
        self.is_open = False

    def connect(self) -> None:
        self.connects += not self.is_open
        self.is_open = True

    def disconnect(self) -> None:
        self.disconnects += 1
        self.is_open = False

    def can_read(self, timeout: float = 0) -> bool:
        return False

    def should_reconnect(self) -> bool:
        return False

    def re_auth(self) -> None:
        pass


def that_may_be_cached(connection_class: Any) -> Any:
    """Make a connection class for client-side caching with a server of any version.

    redis-py asks for one that calls itself Redis 7.4, though 6.0 can track keys.
    """

    class Recent(connection_class):  # type: ignore[misc]
        @property
        def handshake_metadata(self) -> dict[str, Any]:
            return {"server": "redis", "version": "7.4.0", "proto": 3}

        @handshake_metadata.setter
        def handshake_metadata(self, value: Any) -> None:
            pass

    return Recent


def wait_for(
    done: Callable[[], object], what: str = "the condition", timeout_s: float = PATIENCE_S
) -> None:
    """Poll until `done()` is true. Raises TimeoutError."""
    give_up_s = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > give_up_s:
            raise TimeoutError(f"not in {timeout_s} s: {what}")
        time.sleep(0.001)


def wait_older_than(age_s: float) -> None:
    """Return when that much time has passed on the clock the pools use."""
    until_s = time.monotonic() + age_s
    wait_for(lambda: time.monotonic() > until_s, "time to pass")


class Task(threading.Thread):
    """A call on a thread of its own, whose outcome can be asked for."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        super().__init__(daemon=True)
        self._call = (function, args)
        self._outcome: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
        self.start()

    def run(self) -> None:
        function, args = self._call
        try:
            self._outcome.put((True, function(*args)))
        except BaseException as error:
            self._outcome.put((False, error))
        finally:
            del self._call, function, args  # a thread object keeps nothing alive

    def result(self, timeout_s: float = PATIENCE_S) -> Any:
        """Wait for the end; return what was returned, raise what was raised."""
        try:
            worked, outcome = self._outcome.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError(f"still running after {timeout_s} s") from None
        self.join(timeout_s)
        if not worked:
            raise outcome
        return outcome

    def is_over(self, timeout_s: float = 0) -> bool:
        """Wait that long at most for the end; tell whether it has come."""
        self.join(timeout_s)
        return not self.is_alive()


class ChildHungError(Exception):
    """A forked child did not end in time."""


def run_in_child(
    function: Callable[[], Any],
    timeout_s: float = PATIENCE_S,
    make_child: Callable[[], int] | None = None,
) -> Any:
    """Fork, call `function` in the child and return what it returned.

    make_child: another way to fork than os.fork(). Raises ChildHungError, and AssertionError
    with the child's traceback.
    """
    reader, writer = os.pipe()
    pid = (make_child or fork)()
    if pid == 0:
        _report_and_exit(function, writer)
    os.close(writer)
    try:
        data = _read_all(reader, time.monotonic() + timeout_s)
    except ChildHungError:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        os.close(reader)
        os.waitpid(pid, 0)
    worked, outcome = pickle.loads(data) if data else (False, "the child has crashed")
    assert worked, outcome
    return outcome


def fork() -> int:
    """os.fork(); newer Pythons warn of forking with threads, which is what is tested."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _report_and_exit(function: Callable[[], Any], writer: int) -> None:
    try:
        outcome = (True, function())
    except BaseException:
        outcome = (False, traceback.format_exc())
    try:
        os.write(writer, pickle.dumps(outcome))
    finally:
        os._exit(0)


def _read_all(reader: int, give_up_s: float) -> bytes:
    data = b""
    while True:
        ready, _, _ = select.select([reader], [], [], max(0, give_up_s - time.monotonic()))
        if not ready:
            raise ChildHungError("the child has not ended")
        part = os.read(reader, 65536)
        if not part:
            return data
        data += part


def is_answering(connection: Any) -> bool:
    """Send a unique word over a connection and tell whether its echo comes back."""
    word = os.urandom(8).hex().encode()
    connection.send_command("ECHO", word)
    return connection.read_response() in (word, word.decode())


@contextlib.contextmanager
def all_lent(pool: Any, n: int) -> Iterator[list[Any]]:
    """Lend `n` connections for a while; give them back in the order they were lent."""
    lent = [pool.get_connection() for _ in range(n)]
    try:
        yield lent
    finally:
        for connection in lent:
            pool.release(connection)


def assert_whole(pool: Any, max_connections: int) -> None:
    """Assert that nobody has a connection, and that all of them can be had, once each."""
    stats = pool.stats()
    assert (stats.in_use, stats.opening, stats.waiting) == (0, 0, 0), stats
    with all_lent(pool, max_connections) as lent:
        assert len({id(connection) for connection in lent}) == max_connections
        assert pool.stats().in_use == max_connections
    stats = pool.stats()
    assert (stats.in_use, stats.opening, stats.idle) == (0, 0, max_connections), stats
