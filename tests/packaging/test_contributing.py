"""What CONTRIBUTING.md tells contributors to call and to read exists."""

from __future__ import annotations

import re

from tests import test_layers
from tests.packaging.conftest import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def test_every_command_of_make_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    calls = re.findall(r"^make ([a-z ]+?)(?: {2}|$)|`make ([a-z ]+)", TEXT, re.MULTILINE)
    called = {word for call in calls for word in "".join(call).split()}
    assert {"build", "test", "lint", "wheels"} <= called
    assert called <= targets


def test_every_file_it_names_exists() -> None:
    named = set(re.findall(r"\b(?:tests|bench|cpool)/[\w/.]+\.\w+\b", TEXT))
    named |= set(re.findall(r"\]\((?!http)([^)#]+)\)", TEXT))
    assert named and not sorted(name for name in named if not (ROOT / name).exists())


def test_every_extra_it_names_exists() -> None:
    extras = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    named = set(re.findall(r"\.\[(\w+)\]", TEXT))
    assert named and named <= set(extras)


def test_its_layers_are_those_that_are_checked() -> None:
    rows = re.findall(r"^\| (\w[\w ]*?)(?::[^|]*)? \| ([^|`]*)\| ([^|]*) ?\|$", TEXT, re.MULTILINE)
    told = {
        name: (set(re.findall(r"\w+", c)), set(re.findall(r"\w+", cython)))
        for name, c, cython in rows
        if name not in {"layer", "command"}  # the heads of the tables
    }
    assert told == {
        row.name: ({c.removeprefix("cp_") for c in row.c}, set(row.cython))
        for row in test_layers.LAYERS
    }
