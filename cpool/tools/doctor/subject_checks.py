"""Checks of a client or a pool: whose it is, why the compiled call is not taken, its counts."""

from __future__ import annotations

from cpool.tools.doctor.diagnosis import Finding, note, problem, warning
from cpool.tools.doctor.evidence import Check, Evidence
from cpool.tools.doctor.process_checks import listed
from cpool.tools.doctor.subject import Subject, name_of

__all__ = ["CHECKS", "REASONS"]

SLOW_WAIT_S = 0.1
MANY_REPLACED = 0.01  # of all checkouts
MANY_REFUSED = 0.1  # of all commands
FEW_CHECKOUTS = FEW_COMMANDS = 100  # too few to judge by
SHORT_INTERVAL_S = 10
REDIS_PY_ITSELF = "Commands take redis-py's own code, which is several times slower."
LEAKS = (
    "look for connections that are not given back: pub/sub objects, pipelines and monitors"
    " without close() or with, get_connection() without release() in finally, blocking"
    " commands such as BLPOP"
)

# Why the compiled call is not taken (cpool.fast_path.FastPathStats), and what to do.
REASONS = {
    "switched off": "Call cpool.fast_path.enable(), or unset CPOOL_FAST_PATH.",
    "client overridden": "Override execute_command in place of methods below it.",
    "pool overridden": "Give cpool.Redis a pool of cpool's, without a get_connection() or"
    " release() of your own.",
    "metrics on": "Leave redis-py's metrics (redis.observability) off.",
    "command": "Leave it: some commands, such as HIMPORT, are redis-py's to do.",
    "connection pinned": "Leave single_connection_client out.",
    "connection overridden": "Leave out connection_class, cache, and wrappers of connections'"
    " methods.",
    "health check due": "Leave health_check_interval out, or take 30 s and more.",
    "retry overridden": "Use redis.retry.Retry itself, with a backoff class of your own if need"
    " be.",
}


# Whose it is


def not_cpool(evidence: Evidence) -> Finding | None:
    subject = evidence.subject
    if subject is None or subject.has_our_client or subject.has_our_pool:
        return None
    what = subject.pool if subject.client is None else subject.client
    return problem(
        "not-cpool",
        seen=f"This is {name_of(type(what))} on redis-py's own pool.",
        matters="cpool has no part in it.",
        fix="Make it when cpool.install() has been called; what was made before stays redis-py's."
        if evidence.process.installed
        else _become_ours(subject, "cpool.Redis"),
    )


def pool_only(evidence: Evidence) -> Finding | None:
    subject = evidence.subject
    if subject is None or subject.client is None or subject.has_our_client:
        return None
    if not subject.has_our_pool:
        return None
    return warning(
        "pool-only",
        seen=f"The client is {name_of(type(subject.client))} on a pool of cpool's.",
        matters="The pool is compiled, the client is not: most of a command's time goes to"
        " redis-py's own code.",
        fix=_become_ours(subject, "cpool.Redis(connection_pool=pool)"),
    )


def _become_ours(subject: Subject, call: str) -> str:
    if subject.is_of_cluster:
        return (
            "Write cpool.RedisCluster in place of redis.RedisCluster, or call cpool.install()"
            " before the RedisCluster is made: all its nodes' clients and pools are then cpool's."
        )
    return (
        f"Write {call} in place of redis.Redis, or call cpool.install() before clients are made."
    )


def foreign_pool(evidence: Evidence) -> Finding | None:
    subject = evidence.subject
    if subject is None or not subject.has_our_client or subject.has_our_pool:
        return None
    return problem(
        "foreign-pool",
        seen=f"The client is cpool's, on a pool that is not: {name_of(type(subject.pool))}.",
        matters=f"cpool's client works with cpool's pools only. {REDIS_PY_ITSELF}",
        fix="Make the pool by cpool.ConnectionPool or cpool.BlockingConnectionPool, with the"
        " same arguments, or leave connection_pool out.",
    )


def foreign_connection_class(evidence: Evidence) -> Finding | None:
    subject = evidence.subject
    if subject is None or not subject.has_our_pool or subject.has_our_connections:
        return None
    return problem(
        "foreign-connection-class",
        seen="The pool makes connections that are not cpool's:"
        f" connection_class={name_of(subject.connection_class)}.",
        matters=f"Sending, receiving and parsing are that class's. {REDIS_PY_ITSELF}",
        fix="Leave connection_class out, or derive the class from cpool.Connection"
        " (cpool.SSLConnection, cpool.UnixDomainSocketConnection) in place of redis-py's.",
    )


# Why commands are not one compiled call. Where another check names the cause, these are silent.


def own_methods(evidence: Evidence) -> Finding | None:
    subject = evidence.subject
    for kind in ("client", "pool", "connection"):
        if subject is None or not subject.was_refused(f"{kind} overridden"):
            continue
        own = subject.replaced(kind)
        if own:
            return problem(
                f"own-{kind}-methods",
                seen="Methods that the compiled call stands in for are overridden:"
                f" {listed(own)}.",
                matters=f"They must see every call. {REDIS_PY_ITSELF}",
                fix=REASONS["pool overridden"]
                if kind == "pool"
                else "Override execute_command (or Pipeline.execute) instead, which stands above"
                " the compiled call; or use response callbacks (set_response_callback).",
            )
    return None


def unexplained(evidence: Evidence) -> Finding | None:
    subject, process = evidence.subject, evidence.process
    if subject is None or subject.probe is None or not subject.probe.refused:
        return None
    explained = {
        "switched off": not process.fast_path_enabled,
        "metrics on": True,
        "health check due": True,
        "retry overridden": True,
        "connection overridden": subject.has_cache or not subject.has_our_connections,
        "pool overridden": not subject.has_our_pool,
    }
    reasons = [
        reason
        for reason in dict.fromkeys(subject.probe.refused)
        if not explained.get(reason) and not subject.replaced(reason.partition(" ")[0])
    ]
    if not reasons or any(each.closes for each in process.wrapped):
        return None
    return problem(
        "fast-path-refused",
        seen=f"The compiled call is not taken: {', '.join(reasons)}.",
        matters=REDIS_PY_ITSELF,
        fix=" ".join(REASONS[reason] for reason in reasons)
        + " See what of the client, its pool and its connections was replaced at run time.",
    )


def refused_before(evidence: Evidence) -> Finding | None:
    process = evidence.process
    others = sum(process.refused.values())
    if others < MANY_REFUSED * (process.taken + others) or others < FEW_COMMANDS:
        return None
    counted = ", ".join(f"{reason} {n:,}" for reason, n in process.refused.items())
    return warning(
        "fast-path-refused-before",
        seen=f"Of {process.taken + others:,} commands of this process, {others:,} were not one"
        f" compiled call: {counted}. PINGs of earlier examinations count, too.",
        matters=REDIS_PY_ITSELF,
        fix=" ".join(REASONS[reason] for reason in process.refused),
    )


def own_retry(evidence: Evidence) -> Finding | None:
    subject = evidence.subject
    if subject is None or not subject.was_refused("retry overridden"):
        return None
    retry = name_of(type(subject.kwargs.get("retry")))
    return problem(
        "own-retry",
        seen=f"The connections' retry is not redis-py's own class: {retry}.",
        matters=f"It must see every call. {REDIS_PY_ITSELF}",
        fix=REASONS["retry overridden"],
    )


def client_side_cache(evidence: Evidence) -> Finding | None:
    subject = evidence.subject
    if subject is None or not subject.has_cache:
        return None
    return note(
        "client-side-cache",
        seen="The pool keeps replies in redis-py's client-side cache.",
        matters="Commands go through redis-py's cache and its own code: reads that hit are fast,"
        " all others are slower than without a cache.",
        fix="Keep it where most reads hit; else leave out cache and cache_config.",
    )


def single_connection(evidence: Evidence) -> Finding | None:
    subject = evidence.subject
    if subject is None or not subject.is_single_connection:
        return None
    return note(
        "single-connection",
        seen="The client keeps one connection for itself (single_connection_client).",
        matters="Threads wait for each other, as one command at a time can be under way.",
        fix="Leave out single_connection_client where several threads use the client.",
    )


def health_checks(evidence: Evidence) -> Finding | None:
    subject = evidence.subject
    interval_s = 0 if subject is None else subject.kwargs.get("health_check_interval") or 0
    if not 0 < interval_s < SHORT_INTERVAL_S:
        return None
    return note(
        "health-checks",
        seen=f"health_check_interval is {interval_s} s.",
        matters="A connection that was idle for so long sends a PING first, and the command after"
        " it is redis-py's to drive. A closed connection is found out without that.",
        fix="Leave health_check_interval out, or take 30 s and more, where a firewall drops idle"
        " connections.",
    )


def ping_failed(evidence: Evidence) -> Finding | None:
    subject = evidence.subject
    if subject is None or subject.probe is None or subject.probe.error is None:
        return None
    return problem(
        "ping-failed",
        seen=f"A PING of the client raised {subject.probe.error}.",
        matters="The doctor's own connection was opened, so the cause is in the client, its pool,"
        " or how busy they are.",
        fix="Leave out cache and cache_config, or upgrade the server to Redis 7.4 or later."
        if subject.has_cache and "client-side caching" in subject.probe.error
        else "Call client.ping() yourself, and see what it raises; TimeoutError may be a pool"
        " that was exhausted meanwhile.",
    )


# What a pool counts


def pool_exhausted(evidence: Evidence) -> Finding | None:
    subject = evidence.subject
    if subject is None or not subject.is_exhausted:
        return None
    waiting = f"; {subject.stats.waiting} callers wait" if subject.stats else ""
    wait = (
        ""
        if subject.timeout_s != 0
        else "let callers wait (timeout=0.5, or BlockingConnectionPool), "
    )
    return problem(
        "pool-exhausted",
        seen=f"All connections are lent: {subject.in_use} of max_connections="
        f"{subject.max_connections}{waiting}.",
        matters=f"The next caller {_fate(subject)}.",
        fix=f"Raise max_connections to the number of threads, {wait}and {LEAKS}.",
    )


def _fate(subject: Subject) -> str:
    """Say what happens to who asks an exhausted pool for a connection."""
    timeout_s = subject.timeout_s
    if timeout_s is None:
        return "waits until one comes back"
    if timeout_s == 0:
        return "gets MaxConnectionsError"
    error = "ConnectionPoolTimeoutError" if subject.has_our_pool else "ConnectionError"
    return f"waits up to {timeout_s:g} s for one to come back, and then gets {error}"


def waits_in_vain(evidence: Evidence) -> Finding | None:
    stats = evidence.subject and evidence.subject.stats
    if not stats or not (stats.timeouts or stats.refused):
        return None
    return warning(
        "pool-refusals",
        seen=f"{stats.timeouts} callers waited for a connection in vain, and {stats.refused} were"
        f" refused at once, of {stats.checkouts + stats.timeouts + stats.refused}.",
        matters="Each of them got an error.",
        fix=f"Raise max_connections (now {stats.max_connections}) or timeout, and {LEAKS}.",
    )


def long_waits(evidence: Evidence) -> Finding | None:
    stats = evidence.subject and evidence.subject.stats
    if not stats or stats.longest_wait_s < SLOW_WAIT_S:
        return None
    return warning(
        "pool-waits",
        seen=f"{stats.waits} of {stats.checkouts + stats.timeouts} callers waited for a"
        f" connection, the longest for {stats.longest_wait_s:.2f} s.",
        matters="To the caller it is part of the command's time.",
        fix=f"Raise max_connections (now {stats.max_connections}), and {LEAKS}.",
    )


def reclaimed(evidence: Evidence) -> Finding | None:
    stats = evidence.subject and evidence.subject.stats
    if not stats or not stats.reclaimed:
        return None
    return warning(
        "pool-leaks",
        seen=f"{stats.reclaimed} borrowers vanished without giving their connection back.",
        matters="The pool got the slots back when the objects were collected; until then they"
        " were missing, and the connections are gone.",
        fix="Release in finally what get_connection() gave, and close pub/sub objects, pipelines"
        " and monitors, or use them by with.",
    )


def discarded(evidence: Evidence) -> Finding | None:
    stats = evidence.subject and evidence.subject.stats
    if not stats or not stats.discarded:
        return None
    return warning(
        "pool-discards",
        seen=f"{stats.discarded} connections came back with a reply unread, or in a transaction,"
        " a WATCH, a subscription or MONITOR, and were closed.",
        matters="Each costs a new connection. Timeouts and interrupts in the middle of a command"
        " do that, too.",
        fix="Read all replies, end pipelines by execute() or reset(), close pub/sub objects; if"
        " it was timeouts, raise socket_timeout or find the slow commands (SLOWLOG GET).",
    )


def replaced(evidence: Evidence) -> Finding | None:
    stats = evidence.subject and evidence.subject.stats
    if not stats or stats.checkouts < FEW_CHECKOUTS:
        return None
    if stats.replaced < MANY_REPLACED * stats.checkouts:
        return None
    return warning(
        "pool-replacements",
        seen=f"{stats.replaced} of {stats.checkouts} checkouts met a connection that was dead.",
        matters="Nobody got an error, but each waited for a new connection.",
        fix="See the server's timeout (CONFIG GET timeout), and those of proxies and firewalls in"
        ' between; with order="fifo" none is idle for long.',
    )


CHECKS: tuple[Check, ...] = (
    not_cpool,
    pool_only,
    foreign_pool,
    foreign_connection_class,
    own_methods,
    unexplained,
    refused_before,
    own_retry,
    client_side_cache,
    single_connection,
    health_checks,
    ping_failed,
    pool_exhausted,
    waits_in_vain,
    long_waits,
    reclaimed,
    discarded,
    replaced,
)
