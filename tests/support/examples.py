"""Code blocks of documents: found, compiled, run against a server."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

ROOT = Path(__file__).parents[2]
REDIS_PORT = "6379"
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block. runs: it is not marked `no-run` behind its language."""

    path: Path
    line: int
    language: str
    runs: bool
    source: str

    @property
    def name(self) -> str:
        """Where the block is, for the id of a test."""
        return f"{self.path.name}:{self.line}"

    def compile(self, ports: dict[str, int] | None = None) -> CodeType:
        """Compile Python, the documents' ports replaced by those of real servers."""
        source = self.source
        for written, real in (ports or {}).items():
            source = source.replace(written, str(real))
        at_its_line = "\n" * self.line + source
        return compile(at_its_line, str(self.path), "exec", dont_inherit=True)


def blocks_of(path: Path, language: str) -> list[Block]:
    """Return the fenced blocks of a language in a document."""
    text = path.read_text()
    found = []
    for match in FENCE.finditer(text):
        if match[1] == language:
            marks = match[2].split()
            if not set(marks) <= {"no-run"}:
                raise ValueError(f"{path}: unknown marks of a block: {marks}")
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(path, line, language, not marks, match[3]))
    return found


def run(block: Block, ports: dict[str, int]) -> None:
    """Run a Python block as a module of its own."""
    names: dict[str, Any] = {"__name__": "example"}
    exec(block.compile(ports), names)


def options_in(text: str) -> dict[str, Any]:
    """Return the options of a document's tables with the defaults they give."""
    rows = re.findall(r"^\| `([a-z_]+)` \| `([^`]+)` \|", text, re.MULTILINE)
    return {name: ast.literal_eval(default) for name, default in rows}


def files_in(text: str) -> set[str]:
    """Return the paths of the repository's files that a document names."""
    return set(re.findall(r"\b(?:bench|cpool|src|tests)/[\w/]+\.(?:py|pyx|toml|md)\b", text))
