"""From a client or a pool to a diagnosis: look first, then let every check judge."""

from __future__ import annotations

from typing import Any

from cpool.tools.doctor import process_checks, server_checks, subject_checks
from cpool.tools.doctor.diagnosis import Diagnosis, Facts, by_level
from cpool.tools.doctor.evidence import Check, Evidence
from cpool.tools.doctor.process import Process
from cpool.tools.doctor.server import Server
from cpool.tools.doctor.subject import Subject

__all__ = ["CHECKS", "diagnose", "examine"]

CHECKS: tuple[Check, ...] = (
    *process_checks.CHECKS,
    *subject_checks.CHECKS,
    *server_checks.CHECKS,
)


def examine(client_or_pool: Any = None, *, processes: int = 1) -> Diagnosis:
    """Examine this process, and a client or a pool with its server.

    client_or_pool: a client or pool of cpool or redis-py; None: the process only.
    processes: how many like this one use the server.

    Nothing on the server is changed; it gets a connection of the doctor's own, made as the
    pool makes them, and if one is free a few PINGs from the client, which
    cpool.fast_path.stats() counts with all others. Takes up to 20 seconds where a server does
    not answer. Raises TypeError for what is neither a client nor a pool.
    """
    process = Process.look()
    if client_or_pool is None:
        return diagnose(Evidence(process, processes=processes))
    subject = Subject.of(client_or_pool)
    server = Server.ask(subject)
    if server.error is None and server.hello_refused is None:
        subject = subject.probed()
    return diagnose(Evidence(process, subject, server, processes))


def diagnose(evidence: Evidence) -> Diagnosis:
    """Let every check look at the evidence."""
    facts: dict[str, Facts] = {"process": evidence.process.facts()}
    if evidence.subject is not None:
        facts["client"] = evidence.subject.facts()
    if evidence.server is not None:
        facts["server"] = evidence.server.facts()
    findings = [finding for check in CHECKS if (finding := check(evidence)) is not None]
    return Diagnosis(facts, by_level(findings))
