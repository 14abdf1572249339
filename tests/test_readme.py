"""The README holds: its Python runs, its options and files exist, its commands are CI's."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import cpool
from cpool.__main__ import build_parser
from cpool.tools.servers import EmbeddedServer

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def code_blocks(language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def options_of() -> dict[str, Any]:
    """Return the options of the README's tables with the defaults they give."""
    rows = re.findall(r"^\| `([a-z_]+)` \| `([^`]+)` \|", README, re.MULTILINE)
    return {name: ast.literal_eval(default) for name, default in rows}


def parameters_of(cls: type) -> dict[str, inspect.Parameter]:
    """Return the parameters of a class's constructor by name."""
    return dict(inspect.signature(cls.__init__).parameters)  # type: ignore[misc]


@pytest.mark.parametrize("number", range(len(code_blocks("python"))))
def test_the_python_of_the_readme_runs(number: int, redis_server: EmbeddedServer) -> None:
    source = code_blocks("python")[number]
    assert "6379" in source, "a block that talks to no server proves nothing"
    source = source.replace("6379", str(redis_server.port))
    exec(compile(source, f"README.md, block {number}", "exec"), {"__name__": "readme"})


def test_the_readme_has_examples() -> None:
    assert len(code_blocks("python")) >= 4


def test_every_option_has_the_default_the_readme_gives() -> None:
    pool, connection = parameters_of(cpool.ConnectionPool), parameters_of(cpool.Connection)
    options = options_of()
    assert {"timeout", "max_waiting", "order", "name", "max_bulk_bytes"} <= options.keys()
    for name, default in options.items():
        parameter = pool.get(name) or connection[name]
        assert parameter.default == default, name


def test_the_readme_leaves_out_no_option_of_the_pool() -> None:
    own = set(parameters_of(cpool.ConnectionPool))
    theirs = {"self", "connection_class", "max_connections", "args", "connection_kwargs"}
    assert own - theirs <= options_of().keys()


def test_every_file_the_readme_names_exists() -> None:
    paths = set(re.findall(r"\b(?:bench|tests)/[\w/]+\.(?:py|toml)\b", README))
    links = set(re.findall(r"\]\((?!http)([^)#]+)\)", README))
    assert paths and links
    assert not sorted(path for path in paths | links if not (ROOT / path).exists())


def test_every_name_the_readme_takes_from_cpool_exists() -> None:
    names = set(re.findall(r"\bcpool\.([A-Z]\w+)", README))
    assert names and not names - set(cpool.__all__)


def test_the_readmes_commands_are_those_that_ci_runs() -> None:
    commands = [line for block in code_blocks("sh") for line in block.splitlines()]
    script = (ROOT / ".ci" / "run").read_text()
    patterns = re.findall(r"^readme '([^']+)'", script, re.MULTILINE)
    assert len(patterns) == 2
    for pattern in patterns:
        assert sum(pattern in command for command in commands) == 1, pattern


def test_the_demo_is_a_command() -> None:
    assert "python -m cpool demo" in README
    assert build_parser().parse_args(["demo"]).run
