"""Fixtures of the wire's tests: a listening socket of each kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wire.peer import KINDS, Wire


def make_wire(kind: str, request: pytest.FixtureRequest) -> Wire:
    """Listen on a socket of that kind."""
    directory: Path = request.getfixturevalue("tmp_path")
    if kind != "tls":
        return Wire(kind, directory, None)
    certificates = request.getfixturevalue("certificates")
    forget_the_systems_authorities(request, certificates.ca)
    return Wire(kind, directory, certificates)


def forget_the_systems_authorities(request: pytest.FixtureRequest, only: str) -> None:
    """Let new TLS contexts load one authority: all of a system's take ten times as long as
    the rest of a handshake."""
    monkeypatch = request.getfixturevalue("monkeypatch")
    monkeypatch.setenv("SSL_CERT_FILE", only)
    monkeypatch.setenv("SSL_CERT_DIR", str(request.getfixturevalue("tmp_path")))


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


@pytest.fixture(params=["fd", "tls"])
def kernel_wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    """Give a listening TCP socket; somebody below Python goes by its connections' descriptors."""
    made = make_wire(request.param, request)
    yield made
    made.close()


@pytest.fixture
def all_wires(request: pytest.FixtureRequest) -> Iterator[list[Wire]]:
    """Give listening sockets of all kinds, for a test that takes its time once."""
    made = [make_wire(kind, request) for kind in KINDS]
    yield made
    for wire in made:
        wire.close()
