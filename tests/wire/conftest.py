"""Fixtures of the wire's tests: a listening socket of each kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wire.peer import KINDS, Wire


def make_wire(kind: str, request: pytest.FixtureRequest) -> Wire:
    """Listen on a socket of that kind."""
    certificates = request.getfixturevalue("certificates") if kind == "tls" else None
    directory: Path = request.getfixturevalue("tmp_path")
    return Wire(kind, directory, certificates)


@pytest.fixture(params=KINDS)
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    """Give a listening socket; the test runs once for each kind."""
    made = make_wire(request.param, request)
    yield made
    made.close()


@pytest.fixture
def fd_wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    """Give a listening TCP socket whose connections are read by descriptor."""
    made = make_wire("fd", request)
    yield made
    made.close()


@pytest.fixture
def all_wires(request: pytest.FixtureRequest) -> Iterator[list[Wire]]:
    """Give listening sockets of all kinds, for a test that takes its time once."""
    made = [make_wire(kind, request) for kind in KINDS]
    yield made
    for wire in made:
        wire.close()
