"""Fixtures that every layer's tests share: servers, and the two implementations."""

from __future__ import annotations

pytest_plugins = ["tests.support.servers", "tests.support.clusters"]
