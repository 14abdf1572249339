"""What the doctor knows of a server, asked on a connection of its own.

The connection is made as the pool makes its own, but is not the pool's, so an exhausted
pool does not matter. Besides the handshake it sends PING, INFO and CONFIG GET only.
"""

from __future__ import annotations

import contextlib
import re
import textwrap
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cpool.tools.doctor.subject import Subject, told
from cpool.tools.figures import percentile
from cpool.tools.machine import server_name

__all__ = ["Server"]

TIMEOUT_S = 5.0
PINGS = 200
PINGS_S = 2.0  # no more are sent after that
LONGEST_TEXT = 200
CONFIG = ("timeout", "tcp-keepalive", "maxclients")
INFO = (
    *("connected_clients", "used_memory", "maxmemory", "maxmemory_policy"),
    *("evicted_keys", "role", "redis_mode"),
)


@dataclass(frozen=True)
class Server:
    """A server, as the checks see it."""

    protocol_chosen: bool
    """Whether the user has said which RESP version to ask for; else redis-py's default is."""
    protocol_asked: int = 0
    """The RESP version the pool's connections ask for."""
    address: str = "unknown"
    transport: str = "unknown"
    """"TCP", "TLS" or "unix socket"."""
    protocol: int = 0
    """The RESP version that is spoken."""
    hello_refused: str | None = None
    """What the server said to HELLO, where it refused it."""
    error: str | None = None
    """Why there is no connection."""
    connect_s: float = 0.0
    info: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    """Commands that the server did not let us run."""
    round_trips_s: tuple[float, ...] = ()
    """Of PINGs, one after the other, in ascending order."""

    @classmethod
    def ask(cls, subject: Subject) -> Server:
        """Connect as the subject's pool does, and look; what fails is noted, not raised."""
        known: dict[str, Any] = {"protocol_chosen": subject.kwargs.get("protocol") is not None}
        try:
            connection = _make(subject)
            known |= _known_of(connection, subject)
            try:
                connect_s = _connect(connection)
            except redis.ResponseError as error:
                if not _is_about_hello(error):
                    raise
                known["hello_refused"] = _shown(str(error), subject)
                connection = _make(subject, protocol=2)
                connect_s = _connect(connection)
            known["address"] = _address(connection)  # a sentinel has told it by now
            with contextlib.closing(_Questions(connection)) as questions:
                return cls(**known, connect_s=connect_s, **questions.answers())
        except Exception as error:  # connection class and credential provider may be anybody's
            return cls(**known, error=_shown(": ".join(told(error)), subject))

    @property
    def name(self) -> str:
        """The server's name and version, by what its INFO says."""
        return server_name(self.info)

    def round_trip_ms(self, percent: float) -> float:
        """Return a percentile of the round trips in milliseconds; 0 without any."""
        return 1e3 * percentile(self.round_trips_s, percent) if self.round_trips_s else 0.0

    def number(self, name: str) -> int | None:
        """Return a number of INFO or CONFIG, None where it was not told."""
        value = self.info.get(name) or self.config.get(name)
        return int(value) if value is not None and value.isdecimal() else None

    def facts(self) -> dict[str, Any]:
        """Return what to show of it."""
        facts: dict[str, Any] = {"address": self.address, "transport": self.transport}
        facts["reachable"] = self.error is None
        facts["resp_asked"] = self.protocol_asked
        if self.error is not None:
            return facts
        facts |= {"resp_spoken": self.protocol, "server": self.name}
        told = {**self.config, **self.info}
        facts |= {name: _typed(told[name]) for name in (*INFO, *CONFIG) if name in told}
        facts["connect_ms"] = round(1e3 * self.connect_s, 3)
        for percent in (50, 99, 100):
            name = "max" if percent == 100 else f"p{percent}"
            facts[f"round_trip_{name}_ms"] = round(self.round_trip_ms(percent), 3)
        return facts


class _Questions:
    """What is asked of the server, and what it did not let us ask."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._refused: dict[str, None] = {}

    def close(self) -> None:
        self._connection.disconnect()

    def answers(self) -> dict[str, Any]:
        """Return the fields of a Server that are learnt by asking."""
        return {
            "protocol": _protocol(self._connection),
            "info": self._info(),
            "config": self._config(),
            "round_trips_s": tuple(sorted(self._round_trips_s())),
            "refused": tuple(self._refused),
        }

    def _ask(self, *words: str) -> Any:
        """Return the reply to a command, None where the server refuses it."""
        self._connection.send_command(*words)
        try:
            return self._connection.read_response()
        except redis.ResponseError:
            self._refused[" ".join(words[:2])] = None
            return None

    def _info(self) -> dict[str, str]:
        lines = _text(self._ask("INFO")).splitlines()
        pairs = (line.partition(":") for line in lines if not line.startswith("#"))
        return {name: value.strip() for name, colon, value in pairs if colon}

    def _config(self) -> dict[str, str]:
        found = {}
        for name in CONFIG:
            reply = self._ask("CONFIG", "GET", name)
            values = list(reply.values()) if isinstance(reply, dict) else (reply or [])[1:]
            if values:
                found[name] = _text(values[0])
        return found

    def _round_trips_s(self) -> Iterator[float]:
        end_s = time.perf_counter() + PINGS_S
        for _ in range(PINGS):
            began_s = time.perf_counter()
            self._ask("PING")
            ended_s = time.perf_counter()
            yield ended_s - began_s
            if ended_s > end_s:
                return


def _make(subject: Subject, **changes: Any) -> Any:
    """Make a connection as the pool does, but not the pool's; it waits and tries less long."""
    kwargs = {**subject.kwargs, **changes}
    if changes.get("protocol") == 2:  # maintenance notifications need RESP3
        kwargs = {name: kwargs[name] for name in kwargs if not name.startswith("maint_")}
    connection = _constructed(subject.connection_class, kwargs)
    connection.retry = Retry(NoBackoff(), 0)
    for name in ("socket_timeout", "socket_connect_timeout"):
        given = getattr(connection, name, None)
        setattr(connection, name, TIMEOUT_S if given is None else min(given, TIMEOUT_S))
    return connection


def _constructed(connection_class: Any, kwargs: dict[str, Any]) -> Any:
    try:
        return connection_class(**kwargs)
    except TypeError as error:
        if "keyword argument" not in str(error):
            raise
        raise redis.DataError(str(error)) from None  # Python's own text, which names the option


def _connect(connection: Any) -> float:
    """Open a connection and return how long that took, in seconds."""
    began_s = time.perf_counter()
    connection.connect()
    return time.perf_counter() - began_s


def _protocol(connection: Any) -> int:
    return int(getattr(connection, "protocol", None) or 2)


def _is_about_hello(error: redis.ResponseError) -> bool:
    """Whether a server refuses HELLO, or RESP3: redis-py's handshake asks for them first."""
    return "hello" in str(error).lower() or "proto" in str(error).lower()


def _known_of(connection: Any, subject: Subject) -> dict[str, Any]:
    """Return what is known of a server before there is a connection."""
    service = getattr(subject.pool, "service_name", None)
    is_tls = isinstance(connection, redis.SSLConnection)
    is_unix = getattr(connection, "path", None)
    return {
        "protocol_asked": _protocol(connection),
        "address": f"sentinels' {service}" if service else _address(connection),
        "transport": "unix socket" if is_unix else "TLS" if is_tls else "TCP",
    }


def _address(connection: Any) -> str:
    path, host, port = (getattr(connection, name, None) for name in ("path", "host", "port"))
    return str(path) if path else f"{host}:{port}"


def _shown(text: str, subject: Subject) -> str:
    """Return an error's text without what it repeats of ours: a server that does not know
    HELLO quotes its arguments, the password among them, which may come from a provider, and
    redis-py names each sentinel by a client's repr, which tells its arguments."""
    text = re.sub("<.*> - ", "", text.partition(", with args")[0], flags=re.DOTALL)
    text = subject.without_secrets(text)
    return textwrap.shorten(text, LONGEST_TEXT, placeholder="...")


def _typed(value: str) -> int | str:
    return int(value) if value.isdecimal() else value


def _text(reply: Any) -> str:
    if isinstance(reply, bytes):
        return reply.decode("utf-8", "replace")
    return "" if reply is None else str(reply)
