"""Fixtures of the cluster tests."""

from __future__ import annotations

from tests.client.conftest import pack_in_python as pack_in_python
