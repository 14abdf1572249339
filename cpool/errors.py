"""Errors: the ones cpool adds, and the one table from status codes to exceptions.

Everything a caller of redis-py catches stays exactly what redis-py raises; the
compiled core returns a status and asks this module for the exception.
"""

from __future__ import annotations

import builtins
import errno
import os
import socket
from typing import Any

from redis.exceptions import (
    ConnectionError,
    InvalidResponse,
    MaxConnectionsError,
    RedisError,
    ResponseError,
    TimeoutError,
)

__all__ = [
    "ConnectionPoolTimeoutError",
    "DeadlineExceededError",
    "IndeterminateResultError",
    "PoolClosedError",
]


class ConnectionPoolTimeoutError(MaxConnectionsError):
    """No connection of the pool became free within the time allowed.

    A `MaxConnectionsError`, so a cluster client re-raises it and does not take
    the node for dead. The pool is unchanged; the call may be made again.
    `stats`: the pool's `cpool.PoolStats` at that moment; None in a copy of the error.
    """

    stats: Any = None


class PoolClosedError(ConnectionError):
    """The pool was closed by `close(timeout)` and lends nothing any more."""


class DeadlineExceededError(RedisError):
    """The deadline of a `with cpool.deadline(seconds):` block has passed.

    Neither a `ConnectionError` nor a `TimeoutError`, which redis-py's Retry would try again.

    seconds: of the deadline, the outer one's if that was it.
    phase: what was going on: "waiting for a connection", "dialling" (TLS and the handshake
        included), "writing", "reading", "between retries"; or "before it began": a command
        was begun too late, and nothing of it was sent.
    waiting_s, dialling_s, writing_s, reading_s, sleeping_s: seconds that each of these has
        taken since the block began, summed over the threads that share it.
    bytes_received: how much had come of the reply that was being read.
    """

    def __init__(
        self,
        seconds: float,
        phase: str,
        waiting_s: float = 0.0,
        dialling_s: float = 0.0,
        writing_s: float = 0.0,
        reading_s: float = 0.0,
        sleeping_s: float = 0.0,
        bytes_received: int = 0,
    ) -> None:
        self.seconds = seconds
        self.phase = phase
        self.waiting_s = waiting_s
        self.dialling_s = dialling_s
        self.writing_s = writing_s
        self.reading_s = reading_s
        self.sleeping_s = sleeping_s
        self.bytes_received = bytes_received
        super().__init__(_deadline_text(self))

    def __reduce__(self) -> Any:
        spent = (self.waiting_s, self.dialling_s, self.writing_s, self.reading_s, self.sleeping_s)
        return type(self), (self.seconds, self.phase, *spent, self.bytes_received)


class DeadlineExceededInCleanup(DeadlineExceededError, ConnectionError):
    """The same for what ends a watch: redis-py's Pipeline.reset() sends an UNWATCH, and goes
    on to give the connection back only if what stops that is a ConnectionError."""


# By the numbers of src/cpool/_deadline.pxd; how the text goes on is the same but for two.
_PHASES = (
    "waiting for a connection",
    "dialling",
    "writing",
    "reading",
    "between retries",
    "before it began",
)
_WHERE = {"between retries": "between retries", "before it began": "before the command began"}


def _deadline_text(error: DeadlineExceededError) -> str:
    where = _WHERE.get(error.phase, f"while {error.phase}")
    if error.phase == "reading":
        where += f": {_come(error.bytes_received)}"
    return (
        f"deadline of {error.seconds} s exceeded {where}"
        f" (waiting for a connection {error.waiting_s * 1e3:.1f} ms,"
        f" dialling {error.dialling_s * 1e3:.1f} ms, writing {error.writing_s * 1e3:.1f} ms,"
        f" reading {error.reading_s * 1e3:.1f} ms,"
        f" between retries {error.sleeping_s * 1e3:.1f} ms)"
    )


def _come(n_bytes: int) -> str:
    return f"{n_bytes} byte{'' if n_bytes == 1 else 's'} of the reply had come"


def deadline_exceeded(
    seconds: float,
    stage: int,
    spent_s: tuple[float, float, float, float, float],
    received: int,
    cleaning_up: bool,
) -> DeadlineExceededError:
    """Return the error of a deadline that has struck at a stage of the core's."""
    kind = DeadlineExceededInCleanup if cleaning_up else DeadlineExceededError
    return kind(seconds, _PHASES[stage], *spent_s, received)


def is_deadline_error(error: BaseException | None) -> bool:
    """Tell whether a deadline has struck already."""
    return isinstance(error, DeadlineExceededError)


def note_received(error: BaseException, n_bytes: int) -> None:
    """Say on a timeout of redis-py's how far the reply was, where Python can."""
    add_note(error, _come(n_bytes))


class IndeterminateResultError(RedisError):
    """A command may have been executed: its connection broke before its whole reply came.

    Raised with `retry_policy="safe"` for commands that must not run twice. Neither a
    `ConnectionError` nor a `TimeoutError`, so nothing takes it for one to be retried;
    redis-py's own error is its `__cause__`.

    commands: names of the first few commands that were sent; n_commands: how many.
    sent_bytes, received_bytes: of them, and of their replies.
    """

    commands: tuple[str, ...] = ()
    n_commands: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0


# The statuses of src/cpool/cp_status.h that a wait for I/O may end with.
_EOF, _READ_TIMEOUT, _WRITE_TIMEOUT, _READ_ERROR, _WRITE_ERROR = -2, -3, -4, -6, -7
_NO_MEMORY = -1

SERVER_CLOSED = "Connection closed by server."
READ_TIMED_OUT = "Timeout reading from socket"
WRITE_TIMED_OUT = "Timeout writing to socket"


def from_status(status: int, err: int) -> BaseException:
    """Return the exception redis-py raises for the event behind a status code.

    `err` is the errno of the failed call. A failed read is the plain OSError
    that redis-py's connection wraps; a failed write is already wrapped.
    """
    if err == errno.ETIMEDOUT:  # the kernel has given up: a timeout like any other to redis-py
        status = {_READ_ERROR: _READ_TIMEOUT, _WRITE_ERROR: _WRITE_TIMEOUT}.get(status, status)
    if status == _EOF:
        return ConnectionError(SERVER_CLOSED)
    if status == _READ_TIMEOUT:
        return TimeoutError(READ_TIMED_OUT)
    if status == _WRITE_TIMEOUT:
        return TimeoutError(WRITE_TIMED_OUT)
    if status == _WRITE_ERROR:
        return write_error(OSError(err, os.strerror(err)))
    if status == _NO_MEMORY:
        return MemoryError()
    return OSError(err, os.strerror(err))


def write_error(error: OSError) -> ConnectionError:
    """Return redis-py's ConnectionError for an OSError met while sending."""
    if len(error.args) == 1:
        code, text = "UNKNOWN", error.args[0]
    else:
        code, text = error.args[0], error.args[1]
    return ConnectionError(f"Error {code} while writing to socket. {text}.")


def read_blocked(error: OSError) -> ConnectionError:
    """Return redis-py's ConnectionError for a would-block met in a blocking read."""
    return ConnectionError(f"Error while reading from socket: {error.args}")


_INVALID = {
    "type": "no reply starts like this",
    "length": "a number or length is malformed",
    "limit": "a string is longer than allowed",
    "depth": "replies are nested deeper than allowed",
    "ending": "a string does not end where it should",
    "push": "a push frame inside a reply, or an empty one",
}


def invalid_response(why: str, first: bytes) -> InvalidResponse:
    """Return the error of a malformed reply; it shows one byte, never a value."""
    if why == "type":
        return InvalidResponse(f"Protocol Error: {first!r}")
    return InvalidResponse(f"Protocol Error: {first!r} ({_INVALID[why]})")


# An error reply of this class means that the connection is of no more use.
FATAL = ConnectionError


# Its TimeoutError, by a name that is not Python's too.
Timeout = TimeoutError


def is_timeout(error: BaseException) -> bool:
    """Tell whether a verb ended because nothing moved in time."""
    return isinstance(error, Timeout)


def is_read_timeout(error: BaseException) -> bool:
    """Tell whether nothing came in time, rather than that something could not be sent."""
    return isinstance(error, Timeout) and error.args == (READ_TIMED_OUT,)


def write_timed_out() -> TimeoutError:
    """Return redis-py's error for a send the server did not take in time."""
    return TimeoutError(WRITE_TIMED_OUT)


def read_error(error: OSError, host: str) -> Exception:
    """Return what redis-py's connection makes of an OSError met while reading."""
    if isinstance(error, builtins.TimeoutError):
        return TimeoutError(f"Timeout reading from {host}")
    return ConnectionError(f"Error while reading from {host} : {error.args}")


def too_many_waiting(limit: int) -> MaxConnectionsError:
    """Return the error for a caller that may not even wait."""
    return MaxConnectionsError(f"Too many connections: {limit} callers wait already")


def exhausted(text: str, stats: Any) -> MaxConnectionsError:
    """Return redis-py's error for a pool that has lent all, with its figures as a note."""
    error = MaxConnectionsError(text)
    add_note(error, f"pool {stats.name}: {figures(stats)}")
    return error


def pool_timeout(
    text: str, timeout_s: float | None, stats: Any, server: str | None
) -> ConnectionPoolTimeoutError:
    """Return the error of a wait that was in vain; its text begins with redis-py's.

    server: why the server can't be reached, if it can't."""
    down = f"; the server can't be reached: {server}" if server else ""
    error = ConnectionPoolTimeoutError(f"{text} (waited {timeout_s} s; {figures(stats)}{down})")
    error.stats = stats
    return error


def figures(stats: Any) -> str:
    """Return what explains that a pool has no connection to lend."""
    oldest = f", the first since {stats.oldest_use_s:.3g} s" if stats.in_use else ""
    uses = f"; a use takes {stats.use.summary()}" if stats.use.count else ""
    return (
        f"{stats.in_use} of {stats.max_connections} connections in use{oldest},"
        f" {stats.opening} opening, {stats.waiting} callers waiting{uses}"
    )


def dialling_is_slow(waited_s: float, under_way: int, limit: int | None) -> TimeoutError:
    """Return redis-py's error of a dial that took too long, for one that could not begin."""
    most = "" if limit is None else f" of at most {limit}"
    return TimeoutError(
        f"Timeout connecting to server (waited {waited_s:.3g} s for a turn to dial;"
        f" dialling is slow: {under_way}{most} dials are under way)"
    )


def pool_closed(name: str) -> PoolClosedError:
    """Return the error for callers of a closed pool."""
    return PoolClosedError(f"Pool {name} is closed")


def add_note(error: BaseException, note: str) -> None:
    """Add a note, which tracebacks show below the text (from Python 3.11 on)."""
    add: Any = getattr(error, "add_note", None)
    if add is not None:
        add(note)


# What a dial may fail with, by itself: the classes that redis-py wraps it into.
_DIAL_FAILURES = (ConnectionError, TimeoutError)
# Errors of connect() that everybody would meet at this moment.
_REFUSALS = {
    errno.ECONNREFUSED,
    errno.ENOENT,  # no unix socket there
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.EHOSTDOWN,
    errno.ENETDOWN,
}


# The reply of a server that is up, though redis-py makes a plain ConnectionError of it.
_FULL = "max number of clients reached"


def is_dial_failure(error: BaseException) -> bool:
    """Tell whether a dial has failed because the server could not be reached."""
    return type(error) in _DIAL_FAILURES and str(error) != _FULL


def is_answer(error: BaseException) -> bool:
    """Tell whether a dial has failed by what the server said, which is up then."""
    return isinstance(error, (ConnectionError, TimeoutError)) and not is_dial_failure(error)


def is_refusal(error: BaseException) -> bool:
    """Tell whether anybody else who dials now is going to fail at once as well."""
    cause = error.__cause__ or error.__context__
    return isinstance(cause, socket.gaierror) or (
        isinstance(cause, OSError) and cause.errno in _REFUSALS
    )


def is_break(error: BaseException) -> bool:
    """Tell whether an open connection was ended by somebody else: no timeout, no reply."""
    return type(error) is ConnectionError or (
        isinstance(error, OSError) and not isinstance(error, builtins.TimeoutError)
    )


def in_use_elsewhere() -> ConnectionError:
    """Return the error for a second thread that reads from one connection."""
    return ConnectionError("Another thread is reading from this connection")


def leaves_unknown(error: BaseException) -> bool:
    """Tell whether an error ended the connection, and is no reply that says no. A deadline's
    stays what it is: nobody tries again after it."""
    return isinstance(error, (RedisError, OSError)) and not isinstance(
        error, (ResponseError, IndeterminateResultError, DeadlineExceededError)
    )


def indeterminate(
    commands: list[str], n_commands: int, sent_bytes: int, received_bytes: int
) -> IndeterminateResultError:
    """Return the error for commands of which nobody knows whether they were executed."""
    names = ", ".join(commands) + (", ..." if n_commands > len(commands) else "")
    what, whose = (
        (names, "its reply")
        if n_commands == 1
        else (f"{n_commands} commands ({names})", "their replies")
    )
    error = IndeterminateResultError(
        f"{what} may have been executed: {sent_bytes} bytes were sent,"
        f" {received_bytes} bytes of {whose} had come"
    )
    error.commands, error.n_commands = tuple(commands), n_commands
    error.sent_bytes, error.received_bytes = sent_bytes, received_bytes
    return error
