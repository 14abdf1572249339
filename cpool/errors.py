"""Errors: the ones cpool adds, and the one table from status codes to exceptions.

Everything a caller of redis-py catches stays exactly what redis-py raises; the
compiled core returns a status and asks this module for the exception.
"""

from __future__ import annotations

import builtins
import os
from typing import Any

from redis.exceptions import (
    ConnectionError,
    InvalidResponse,
    MaxConnectionsError,
    RedisError,
    ResponseError,
    TimeoutError,
)

__all__ = ["ConnectionPoolTimeoutError", "IndeterminateResultError"]


class ConnectionPoolTimeoutError(MaxConnectionsError):
    """No connection of the pool became free within the time allowed.

    A `MaxConnectionsError`, so a cluster client re-raises it and does not take
    the node for dead. The pool is unchanged; the call may be made again.
    """


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


def is_read_timeout(error: BaseException) -> bool:
    """Tell whether a read ended because nothing came in time."""
    return isinstance(error, TimeoutError)


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


def pool_timeout(text: str, timeout_s: float | None, stats: Any) -> ConnectionPoolTimeoutError:
    """Return the error of a wait that was in vain; its text begins with redis-py's."""
    return ConnectionPoolTimeoutError(
        f"{text} (waited {timeout_s} s; {stats.in_use} of {stats.max_connections}"
        f" connections in use, {stats.opening} opening, {stats.waiting} callers waiting)"
    )


def in_use_elsewhere() -> ConnectionError:
    """Return the error for a second thread that reads from one connection."""
    return ConnectionError("Another thread is reading from this connection")


def is_break(error: BaseException) -> bool:
    """Tell whether an error is one of the connection, and not a reply that says no."""
    return isinstance(error, (RedisError, OSError)) and not isinstance(
        error, (ResponseError, IndeterminateResultError)
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
