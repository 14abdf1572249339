"""Checks of a server: reachable, its version and RESP, its limits, how far it is."""

from __future__ import annotations

from cpool.tools.doctor.diagnosis import Finding, note, problem, warning
from cpool.tools.doctor.evidence import Check, Evidence, version_numbers
from cpool.tools.doctor.server import Server

__all__ = ["CHECKS"]

OLDEST = {"Redis": "6.2", "Valkey": "8.0"}  # as the README has it
NO_LIMIT = 2**31  # redis-py's default before 8.0
NEARLY_FULL = 0.9
SHORT_IDLE_S = 300
FAR_MS = 1.0
JITTER = 20  # times the median
JITTER_MS = 5.0

_CLOSED_IN_TCP = (
    "Check whether it is a TLS port, which wants rediss:// (ssl=True); else what the server's log"
    " says, or that of a proxy in between."
)
# By transport ("": any) and words in what was raised, the first that fits.
_UNREACHABLE_FIXES = (
    (
        *("", "MasterNotFound"),
        "Check the sentinels' addresses, their password (sentinel_kwargs), the service name, and"
        " SENTINEL MASTERS on them.",
    ),
    ("", "max number of clients", "Raise maxclients on the server, or lower max_connections."),
    ("", "NoPermission", "Give the user the rights that the handshake needs: +@connection."),
    ("", "AuthenticationError", "Check username and password, and ACL LIST on the server."),
    ("", "keyword argument", "Take that option out: connections do not know it."),
    (
        *("TLS", "No such file"),
        "Check the paths of certificates and keys (ssl_ca_certs, ssl_ca_path, ssl_certfile,"
        " ssl_keyfile): such a file does not exist.",
    ),
    (
        *("TLS", "certificate"),
        "Check ssl_ca_certs and the host name against the server's certificate.",
    ),
    (
        *("TLS", "SSL"),
        "Check that the port speaks TLS: rediss:// and redis:// are not the same port.",
    ),
    (
        *("unix socket", "No such file"),
        "Check the path of the unix socket against the server's unixsocket.",
    ),
    ("", "refused", "Check host and port, and that the server runs and listens there (bind)."),
    (
        *("", "TimeoutError"),
        "Check host and port, firewalls in between, and that TLS is asked of a TLS port only: the"
        " address did not answer.",
    ),
    ("", "not known", "Check the host's name: it can't be resolved."),
    ("TCP", "reset by peer", _CLOSED_IN_TCP),
    ("TCP", "closed by server", _CLOSED_IN_TCP),
    ("", "", "Check the client's arguments against the server's configuration and its log."),
)


def reachable(evidence: Evidence) -> Server | None:
    """Return the server if it has answered."""
    server = evidence.server
    return server if server is not None and server.error is None else None


def unreachable(evidence: Evidence) -> Finding | None:
    server = evidence.server
    if server is None or server.error is None:
        return None
    fix = next(
        fix
        for transport, words, fix in _UNREACHABLE_FIXES
        if transport in ("", server.transport) and words in server.error
    )
    return problem(
        "server-unreachable",
        seen=f"No connection to {server.address} ({server.transport}): {server.error}",
        matters="No command can work.",
        fix=fix,
    )


def old(evidence: Evidence) -> Finding | None:
    server = reachable(evidence)
    if server is None or "?" in server.name:
        return None
    name, _, version = server.name.partition(" ")
    if version_numbers(version) >= version_numbers(OLDEST[name]):
        return None
    return warning(
        "server-old",
        seen=f"The server is {server.name}.",
        matters=f"cpool is tested with {name} {OLDEST[name]} and later.",
        fix=f"Upgrade the server to {name} {OLDEST[name]} or later.",
    )


def resp3_refused(evidence: Evidence) -> Finding | None:
    server = evidence.server
    if server is None or server.hello_refused is None:
        return None
    return problem(
        "resp3-refused",
        seen=f"The client asks for RESP{server.protocol_asked}"
        + ("" if server.protocol_chosen else " (redis-py's default)")
        + f", and the server speaks RESP2 only; to HELLO it said: {server.hello_refused}",
        matters="Every connection of this client fails in its handshake.",
        fix="Give the client protocol=2 (in a URL: ?protocol=2); or upgrade the server to Redis 6"
        " or later, and let the user run HELLO.",
    )


def resp2_asked(evidence: Evidence) -> Finding | None:
    server = reachable(evidence)
    if server is None or server.protocol_asked != 2:
        return None
    return note(
        "resp2-asked",
        seen="The client asks for RESP2"
        + (" (protocol=2)." if server.protocol_chosen else ", the default of this redis-py."),
        matters="It is as fast. Client-side caching and maintenance notifications need RESP3,"
        " whose replies to some commands have other types.",
        fix="Nothing has to change. For RESP3 give protocol=3, and test what reads the replies.",
    )


def not_permitted(evidence: Evidence) -> Finding | None:
    server = reachable(evidence)
    if server is None or not server.refused:
        return None
    return note(
        "not-permitted",
        seen=f"The server did not let this user run {', '.join(server.refused)}.",
        matters="What they tell was not examined.",
        fix="Run the doctor as a user that may, for instance by ACL SETUSER NAME +ping +info"
        " +config|get; managed services may not offer CONFIG at all.",
    )


def clients_nearly_full(evidence: Evidence) -> Finding | None:
    server = reachable(evidence)
    most, connected = (server and server.number(n) for n in ("maxclients", "connected_clients"))
    if not most or not connected or connected < NEARLY_FULL * most:
        return None
    return problem(
        "clients-nearly-full",
        seen=f"{connected:,} clients are connected, of maxclients={most:,}.",
        matters="At the limit the server refuses new connections of everybody.",
        fix="Raise maxclients (and the server's limit of open files), lower max_connections, or"
        " find who keeps connections: CLIENT LIST.",
    )


def more_than_maxclients(evidence: Evidence) -> Finding | None:
    server, subject = reachable(evidence), evidence.subject
    most = server and server.number("maxclients")
    if not most or subject is None or subject.max_connections >= NO_LIMIT:
        return None
    asked = subject.max_connections * evidence.processes
    if asked <= most:
        return None
    return warning(
        "more-than-maxclients",
        seen=f"max_connections={subject.max_connections:,} in {evidence.processes} processes may"
        f" become {asked:,} connections; the server's maxclients is {most:,}.",
        matters="Beyond that the server refuses connections, of other programs as well.",
        fix=f"Let max_connections be at most {max(1, most // evidence.processes):,}, or raise"
        " maxclients on the server.",
    )


def unlimited(evidence: Evidence) -> Finding | None:
    subject = evidence.subject
    if subject is None or subject.max_connections < NO_LIMIT:
        return None
    return note(
        "no-limit",
        seen="max_connections is not given, and this redis-py has no limit by default.",
        matters="A burst of threads opens a connection each, up to the server's maxclients.",
        fix="Give max_connections, for instance the number of threads, and timeout=0.5.",
    )


def closes_idle(evidence: Evidence) -> Finding | None:
    server = reachable(evidence)
    timeout_s = server and server.number("timeout")
    if not timeout_s:
        return None
    tell = warning if timeout_s < SHORT_IDLE_S else note
    return tell(
        "server-closes-idle",
        seen=f"The server closes connections that were idle for {timeout_s} s (timeout).",
        matters="cpool notices at the checkout and opens another, which takes a round trip more;"
        " a subscriber that hears nothing for so long is not spared by all servers.",
        fix='CONFIG SET timeout 0 on the server, with tcp-keepalive 300; or order="fifo", so that'
        " no connection of a busy pool is idle for long.",
    )


def no_keepalive(evidence: Evidence) -> Finding | None:
    server = reachable(evidence)
    if server is None or server.transport == "unix socket" or server.number("tcp-keepalive") != 0:
        return None
    return note(
        "no-tcp-keepalive",
        seen="The server sends no TCP keepalives (tcp-keepalive 0).",
        matters="It keeps connections of clients that have vanished, which count for maxclients;"
        " firewalls forget idle connections.",
        fix="CONFIG SET tcp-keepalive 300 on the server; or socket_keepalive=True in the client.",
    )


def memory_full(evidence: Evidence) -> Finding | None:
    server = reachable(evidence)
    most, used = (server and server.number(name) for name in ("maxmemory", "used_memory"))
    if server is None or not most or not used or used < NEARLY_FULL * most:
        return None
    policy = server.info.get("maxmemory_policy", "unknown")
    tell = problem if policy == "noeviction" else note
    return tell(
        "memory-full",
        seen=f"The server uses {100 * used / most:.0f} % of maxmemory ({most:,} bytes), with"
        f" maxmemory-policy {policy}.",
        matters="Writes fail with OutOfMemoryError, or soon will."
        if policy == "noeviction"
        else "The server removes keys to make room.",
        fix="Raise maxmemory, give keys a time to live, or choose a policy that fits"
        " (allkeys-lru for a cache, noeviction for data).",
    )


def is_replica(evidence: Evidence) -> Finding | None:
    server = reachable(evidence)
    if server is None or server.info.get("role") != "slave":
        return None
    return note(
        "server-is-replica",
        seen="The server is a replica.",
        matters="Writes fail with ReadOnlyError, and reads may be a little old.",
        fix="Connect to the master for writes, by Sentinel where there is one.",
    )


def is_cluster_node(evidence: Evidence) -> Finding | None:
    server = reachable(evidence)
    if server is None or server.info.get("redis_mode") != "cluster":
        return None
    if evidence.subject is not None and evidence.subject.is_of_cluster:
        return None
    return note(
        "server-is-cluster-node",
        seen="The server is a node of a cluster, and this client is for one server.",
        matters="Keys that other nodes hold raise MovedError.",
        fix="Unless it is meant for this node only: write cpool.RedisCluster in its place.",
    )


def far(evidence: Evidence) -> Finding | None:
    server = reachable(evidence)
    if server is None or server.round_trip_ms(50) <= FAR_MS:
        return None
    return note(
        "server-far",
        seen=f"Half of the round trips take {server.round_trip_ms(50):.1f} ms or more.",
        matters="The network, or a busy server or machine, takes most of a command's time; a"
        " faster client can save little of it.",
        fix="Send fewer round trips: pipelines, MGET, MSET, scripts; or let more threads share"
        " the client; or move closer to the server.",
    )


def jitter(evidence: Evidence) -> Finding | None:
    server = reachable(evidence)
    if server is None:
        return None
    median_ms, slow_ms = server.round_trip_ms(50), server.round_trip_ms(99)
    if slow_ms < max(JITTER_MS, JITTER * median_ms):
        return None
    return note(
        "server-jitter",
        seen=f"One in a hundred round trips takes {slow_ms:.1f} ms; the median is"
        f" {median_ms:.2f} ms.",
        matters="Somebody is interrupted: slow commands of other clients, a save or fork of the"
        " server, or other work on this machine.",
        fix="See SLOWLOG GET and LATENCY LATEST on the server, and how busy both machines are.",
    )


def tls(evidence: Evidence) -> Finding | None:
    server = reachable(evidence)
    if server is None or server.transport != "TLS":
        return None
    return note(
        "tls",
        seen="The connection is encrypted (TLS).",
        matters="Commands go by the methods of Python's sockets, with more of the work under the"
        " GIL; each takes longer than over a plain connection, and so does opening one.",
        fix="Nothing has to change; keep connections open, and use pipelines.",
    )


CHECKS: tuple[Check, ...] = (
    unreachable,
    old,
    resp3_refused,
    resp2_asked,
    not_permitted,
    clients_nearly_full,
    more_than_maxclients,
    unlimited,
    closes_idle,
    no_keepalive,
    memory_full,
    is_replica,
    is_cluster_node,
    far,
    jitter,
    tls,
)
