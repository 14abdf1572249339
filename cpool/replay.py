"""Replays: which commands may be sent again when nobody knows whether they have run.

The server's own table of commands decides. It is asked for once per pool, on the first
connection. What it does not know, or what the server will not say, is not sent again.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterable
from typing import Any

from redis.exceptions import AuthenticationError, ResponseError

from cpool import _conn, options

POLICIES = ("redis-py", "safe")

# Allowed whatever the table says, so that subscribers and health checks can reconnect even
# if the table is refused.
ALWAYS = frozenset(
    "ping subscribe psubscribe ssubscribe unsubscribe punsubscribe sunsubscribe".split()
)
# They ask about the writes of their own connection: another one would say yes at once.
NEVER = frozenset({"wait", "waitaof"})
# Writes that leave the same value behind and get the same reply when they run twice. SET is
# the other one, with nothing but these behind the value.
OVERWRITES = frozenset({"hmset", "mset", "psetex", "setex"})
_SET_TIMES = frozenset({"EX", "PX", "EXAT", "PXAT"})
_SET_FLAGS = frozenset({"KEEPTTL"})

# What a command that touches no key may not be, or it does something elsewhere.
_EFFECTS = frozenset("write admin pubsub may_replicate noscript blocking movablekeys".split())
_FLAGS, _FIRST_KEY, _CATEGORIES, _SUBCOMMANDS = 2, 3, 6, 9  # fields of an entry of COMMAND
_LONGEST_NAME = 40  # that an error shows
_BY_ITS_WORDS = None  # a verdict: the words behind the name decide

Verdict = bool | None


def table_of(retry_policy: Any, connection_class: Any) -> ReplayTable | None:
    """Return a new table for a pool of that policy; None: redis-py's."""
    if options.one_of("retry_policy", retry_policy, POLICIES) == "redis-py":
        return None
    ours = options.connection_class(connection_class, {})
    if inspect.isclass(ours) and not issubclass(ours, _conn.ConnBase):
        raise _foreign(ours.__name__)
    return ReplayTable()


def guard(connection: Any, table: ReplayTable) -> None:
    """Let a connection follow a table, from its next connect on."""
    if not isinstance(connection, _conn.ConnBase):
        raise _foreign(type(connection).__name__)
    connection.guard_replays(table)  # type: ignore[attr-defined]


def _foreign(name: str) -> ValueError:
    return ValueError(f'"retry_policy" can be "safe" only with connections of cpool, not {name}')


class ReplayTable:
    """Which commands of one server may be sent again. Thread-safe.

    known: verdicts by the name as the caller writes it, for compiled code to look up.
    """

    def __init__(self) -> None:
        self.known: dict[str, tuple[str, bool]] = {}
        self._verdicts: dict[str, Verdict] | None = None
        self.after_fork()

    def after_fork(self) -> None:
        """Begin anew in a child, where whoever asked the server is not."""
        self._asking = threading.Lock()

    def learn_from(self, connection: Any) -> None:
        """Ask the server for its table, unless that is done, or being done elsewhere."""
        asking = self._asking
        if self._verdicts is not None or not asking.acquire(blocking=False):
            return
        try:
            self._verdicts = _ask(connection)
        finally:
            asking.release()

    def judge(self, args: tuple[Any, ...]) -> tuple[str, bool]:
        """Return a command's name, as errors show it, and whether it may run twice."""
        given = args[0] if args else ""
        name, *words = _text(given).lower().split() or [""]
        words += args[1:]
        verdicts = self._verdicts or {}
        verdict = True if name in ALWAYS else verdicts.get(name, False)
        if verdict is not _BY_ITS_WORDS:
            return self._keep(given, name, verdict)
        if name == "set":
            return "SET", _is_plain_set(words)
        subcommand = f"{name}|{_text(words[0]).lower() if words else ''}"
        known = subcommand in verdicts  # else it may be an argument, which nobody is shown
        shown = subcommand.replace("|", " ").rstrip() if known else name
        return shown.upper(), bool(verdicts.get(subcommand, False))

    def _keep(self, given: Any, name: str, verdict: bool) -> tuple[str, bool]:
        judged = name[:_LONGEST_NAME].upper() or "bytes that are no command", verdict
        if given == judged[0] and self._verdicts is not None and name in self._verdicts:
            self.known[given] = judged
        return judged


def _ask(connection: Any) -> dict[str, Verdict] | None:
    """Return what a server says of its commands: nothing if it won't, None if it may later."""
    connection.send_command("COMMAND", check_health=False)
    try:
        reply = connection.read_response(disable_decoding=True, disconnect_on_error=False)
    except AuthenticationError:  # nobody has logged in: it is left to the caller's command
        return None
    except ResponseError:
        return {}
    return verdicts_of(reply) if isinstance(reply, list) else {}


def verdicts_of(entries: Iterable[Any]) -> dict[str, Verdict]:
    """Return what a reply to COMMAND says, by name; subcommands are "name|subcommand", and
    "name|" is what has them, alone."""
    found: dict[str, Verdict] = {}
    for entry in entries:
        name = _text(entry[0]).lower()
        subcommands = entry[_SUBCOMMANDS] if len(entry) > _SUBCOMMANDS else ()
        found[name] = _may_repeat(name, entry)
        if subcommands:
            found.update({f"{name}|": found[name], **verdicts_of(subcommands)})
        if subcommands or name == "set":
            found[name] = _BY_ITS_WORDS
    return found


def _may_repeat(name: str, entry: Any) -> bool:
    flags = {_text(flag) for flag in entry[_FLAGS]}
    categories = {_text(category) for category in entry[_CATEGORIES]}
    if name in NEVER:
        return False
    if name in OVERWRITES or "readonly" in flags:
        return True
    if categories & {"@connection", "@transaction"}:
        return not flags & {"admin", "blocking"}
    return entry[_FIRST_KEY] == 0 and not flags & _EFFECTS


def _is_plain_set(words: list[Any]) -> bool:
    """Tell whether a SET only sets, a value and a time to live."""
    at = 2
    while at < len(words):
        option = _text(words[at]).upper()
        if option not in _SET_TIMES | _SET_FLAGS:
            return False
        at += 2 if option in _SET_TIMES else 1
    return True


def _text(word: Any) -> str:
    if isinstance(word, (bytes, bytearray, memoryview)):
        return bytes(word).decode("latin-1")
    return word if isinstance(word, str) else str(word)
