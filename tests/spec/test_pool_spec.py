"""The pool specification: each file of tests/spec/pool on each pool that it names."""

from __future__ import annotations

import pytest

from tests.spec import fileformat, runner
from tests.spec.implementations import Implementation

CASES = [
    pytest.param(name, pool, id=f"{name}-{pool.name}")
    for name in fileformat.names()
    for pool in fileformat.pools_of(fileformat.load(name))
]


@pytest.mark.parametrize(("name", "pool"), CASES)
def test_a_pool_does_as_the_file_says(name: str, pool: Implementation) -> None:
    runner.run(fileformat.load(name), pool)
