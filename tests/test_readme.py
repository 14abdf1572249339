"""The README holds: its Python runs, its options and files exist, its commands are CI's."""

from __future__ import annotations

import re

import pytest

import cpool
from cpool.__main__ import build_parser
from cpool.tools.servers import EmbeddedServer
from tests.support.examples import (
    REDIS_PORT,
    ROOT,
    Block,
    blocks_of,
    files_in,
    run,
)

PATH = ROOT / "README.md"
README = PATH.read_text()
EXAMPLES = blocks_of(PATH, "python")


@pytest.mark.parametrize("block", EXAMPLES, ids=lambda block: block.name)
def test_the_python_of_the_readme_runs(block: Block, redis_server: EmbeddedServer) -> None:
    assert block.runs
    assert REDIS_PORT in block.source, "a block that talks to no server proves nothing"
    run(block, {REDIS_PORT: redis_server.port})


def test_the_readme_has_examples() -> None:
    assert len(EXAMPLES) >= 4


def test_every_file_the_readme_names_exists() -> None:
    paths = files_in(README)
    links = set(re.findall(r"\]\((?!http)([^)#]+)\)", README))
    assert paths and links
    assert not sorted(path for path in paths | links if not (ROOT / path).exists())


def test_every_name_the_readme_takes_from_cpool_exists() -> None:
    names = set(re.findall(r"\bcpool\.([A-Z]\w+)", README))
    assert names and not names - set(cpool.__all__)


def test_the_readmes_commands_are_those_that_ci_runs() -> None:
    commands = [line for b in blocks_of(PATH, "sh") for line in b.source.splitlines()]
    script = (ROOT / ".ci" / "run").read_text()
    patterns = re.findall(r"^readme '([^']+)'", script, re.MULTILINE)
    assert len(patterns) == 2
    for pattern in patterns:
        assert sum(pattern in command for command in commands) == 1, pattern


def test_the_demo_is_a_command() -> None:
    assert "python -m cpool demo" in README
    assert build_parser().parse_args(["demo"]).run
