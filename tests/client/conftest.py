"""Fixtures of the client tests."""

from __future__ import annotations

import pytest
import redis.connection


@pytest.fixture(autouse=True)
def pack_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let redis-py pack commands by its own code: hiredis takes other arguments (no
    bytearrays, always UTF-8), and ours are those of redis-py as it comes."""
    monkeypatch.setattr(redis.connection, "HIREDIS_AVAILABLE", False)
