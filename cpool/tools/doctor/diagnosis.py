"""What an examination returns: facts and findings, as text for people and plain data for tools."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Diagnosis", "Finding", "note", "problem", "warning"]

PROBLEM, WARNING, NOTE = LEVELS = ("problem", "warning", "note")
WIDTH = 88

Facts = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """One thing that was seen, with what to do about it."""

    id: str
    """A stable name, e.g. "pool-exhausted"."""
    level: str
    """"problem": something fails, or cpool can't do its work here. "warning": it may come to
    that. "note": worth knowing."""
    seen: str
    """What was seen."""
    matters: str
    """Why it matters."""
    fix: str
    """A change that mends it."""


def problem(id: str, *, seen: str, matters: str, fix: str) -> Finding:
    """Return a finding about what fails, or keeps cpool from its work."""
    return Finding(id, PROBLEM, seen, matters, fix)


def warning(id: str, *, seen: str, matters: str, fix: str) -> Finding:
    """Return a finding about what may fail or costs time."""
    return Finding(id, WARNING, seen, matters, fix)


def note(id: str, *, seen: str, matters: str, fix: str) -> Finding:
    """Return a finding that is worth knowing."""
    return Finding(id, NOTE, seen, matters, fix)


@dataclass(frozen=True)
class Diagnosis:
    """The facts of an examination and its findings, problems first."""

    facts: dict[str, Facts]
    """By section: "process", and where there was something to look at "client" and "server"."""
    findings: tuple[Finding, ...]
    """In order of level: problems, warnings, notes."""

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings of the level "problem"."""
        return tuple(finding for finding in self.findings if finding.level == PROBLEM)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values that json can write: "facts" and "findings"."""
        return {"facts": self.facts, "findings": [asdict(each) for each in self.findings]}

    def text(self) -> str:
        """Return the facts and the findings for people to read."""
        return "\n".join([*_facts_text(self.facts), *_findings_text(self.findings)])


def by_level(findings: list[Finding]) -> tuple[Finding, ...]:
    """Order findings: problems, warnings, notes; else as they are."""
    return tuple(sorted(findings, key=lambda finding: LEVELS.index(finding.level)))


def _facts_text(facts: dict[str, Facts]) -> Iterator[str]:
    width = max((len(name) for section in facts.values() for name in section), default=0)
    for title, section in facts.items():
        yield title.capitalize()
        for name, value in section.items():
            label = f"  {name.replace('_', ' '):<{width}}  "
            yield textwrap.fill(
                _value_text(value), WIDTH, initial_indent=label, subsequent_indent=" " * len(label)
            )
        yield ""


def _value_text(value: Any) -> str:
    """Show a value, a list by its items and a dictionary by its pairs."""
    if value is None or value == [] or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_value_text, value))
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_value_text(each)}" for name, each in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)


def _findings_text(findings: tuple[Finding, ...]) -> Iterator[str]:
    for finding in findings:
        head = f"{finding.level.upper()}  {finding.seen}  [{finding.id}]"
        yield textwrap.fill(head, WIDTH, subsequent_indent=" " * 9, break_on_hyphens=False)
        yield _paragraph("why:", finding.matters)
        yield _paragraph("fix:", finding.fix)
        yield ""
    yield _summary(findings)


def _paragraph(label: str, text: str) -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=f"  {label} ",
        subsequent_indent=" " * 7,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _summary(findings: tuple[Finding, ...]) -> str:
    counts = [(level, sum(each.level == level for each in findings)) for level in LEVELS]
    return ", ".join(f"{n} {level}{'' if n == 1 else 's'}" for level, n in counts) + "."
