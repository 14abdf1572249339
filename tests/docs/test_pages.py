"""The pages hold: their Python runs, their options, names, commands and files exist."""

from __future__ import annotations

import argparse
import re

import pytest

import cpool
from cpool import _client
from cpool.__main__ import build_parser
from cpool.tools.servers import EmbeddedServer
from cpool.tools.topology import ClusterTopology
from tests.support.examples import (
    REDIS_PORT,
    ROOT,
    Block,
    blocks_of,
    files_in,
    options_in,
    run,
)
from tests.support.signatures import own_options
from tests.test_layers import LAYERS

SENTINEL_PORT = "26379"
CLUSTER_PORT = "7000"
DOCS = ROOT / "docs"
PAGES = {path.name: path for path in sorted(DOCS.glob("*.md"))}
EXAMPLES = [block for path in PAGES.values() for block in blocks_of(path, "python")]


def text_of(page: str) -> str:
    """Return what a page says."""
    return PAGES[page].read_text()


def each(blocks: list[Block]) -> pytest.MarkDecorator:
    """Parametrize a test by blocks."""
    assert blocks
    return pytest.mark.parametrize("block", blocks, ids=lambda block: block.name)


def asks_for(block: Block, *ports: str) -> bool:
    """Whether an example that runs needs the server of one of these ports."""
    return block.runs and any(port in block.source for port in ports)


@each([b for b in EXAMPLES if b.runs and not asks_for(b, SENTINEL_PORT, CLUSTER_PORT)])
def test_an_example_runs(block: Block, fresh_db: EmbeddedServer) -> None:
    assert "import " in block.source, "an example is a program of its own"
    run(block, {REDIS_PORT: fresh_db.port})


@each([block for block in EXAMPLES if asks_for(block, CLUSTER_PORT)])
def test_an_example_with_a_cluster_runs(block: Block, fresh_cluster: ClusterTopology) -> None:
    run(block, {CLUSTER_PORT: fresh_cluster.startup[0][1]})


@each([block for block in EXAMPLES if asks_for(block, SENTINEL_PORT)])
def test_an_example_with_sentinels_runs(block: Block, request: pytest.FixtureRequest) -> None:
    setup = request.getfixturevalue("sentinel_setup")
    run(block, {SENTINEL_PORT: setup.addresses[0][1], "mymaster": setup.name})


@each([block for block in EXAMPLES if not block.runs])
def test_an_example_that_needs_more_than_a_server_compiles(block: Block) -> None:
    block.compile()


@each(EXAMPLES)
def test_an_example_asserts_something_or_only_shows_a_form(block: Block) -> None:
    assert "assert " in block.source or "print(" in block.source or not block.runs


def test_the_options_are_all_of_cpools_own_with_their_defaults() -> None:
    told = options_in(text_of("options.md"))
    own = own_options()
    assert {name: told[name] for name in own if name in told} == own


def test_every_reason_why_a_call_was_not_compiled_is_told() -> None:
    told = set(re.findall(r"^\| `([a-z ]+)` \|", text_of("commands.md"), re.MULTILINE))
    assert told == set(_client.REASONS) - {"taken"}


def commands() -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of `python -m cpool COMMAND`."""
    (action,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


def test_every_command_of_the_command_line_is_told() -> None:
    told = re.findall(r"^## (\w+)$", text_of("tools.md"), re.MULTILINE)
    assert set(commands()) == set(told)


@pytest.mark.parametrize("command", sorted(set(commands()) - {"run"}))
def test_a_commands_options_are_those_that_are_told(command: str) -> None:
    (section,) = re.findall(rf"^## {command}$(.*?)(?=^## |\Z)", text_of("tools.md"), re.M | re.S)
    told = re.findall(r"^\| `(--[a-z-]+)", section, re.MULTILINE)
    options = [name for name in commands()[command]._option_string_actions if name[:2] == "--"]
    assert sorted(told) == sorted(set(options) - {"--help"})


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page: str) -> None:
    assert not sorted(path for path in files_in(text_of(page)) if not (ROOT / path).exists())


@pytest.mark.parametrize("page", PAGES)
def test_every_name_that_a_page_takes_from_cpool_exists(page: str) -> None:
    names = set(re.findall(r"\bcpool\.([A-Z]\w+)", text_of(page)))
    assert not names - set(cpool.__all__)


def test_the_reference_tells_every_public_name() -> None:
    text = text_of("api.md")
    missing = [name for name in cpool.__all__ if f"cpool.{name}" not in text]
    assert missing == ["__version__"]


def test_the_layers_are_those_that_are_checked() -> None:
    rows = re.compile(r"^\| ([0-6] [a-z ]+) \| ([^|]+) \|", re.MULTILINE)
    told = {
        layer: {name.split(".")[0] for name in re.findall("`([^`]+)`", files)}
        for layer, files in rows.findall(text_of("architecture.md"))
    }
    assert told == {
        f"{row.number} {row.name}": {f"cp_{c}" for c in row.c} | set(row.cython) for row in LAYERS
    }
