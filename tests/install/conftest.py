"""Fixtures: redis-py with cpool's classes installed, and without again afterwards."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

import cpool

MODULE = "a_third_party_module"


@pytest.fixture(autouse=True)
def nothing_installed() -> Iterator[None]:
    """Leave nothing installed for the next test."""
    yield
    cpool.uninstall()


@pytest.fixture
def installed() -> None:
    """Install before the test."""
    cpool.install()


@pytest.fixture
def third_party(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a function that makes an imported module of source text."""

    def make(source: str, name: str = MODULE) -> types.ModuleType:
        module = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(source, vars(module))
        return module

    return make
