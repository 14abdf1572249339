"""The fuzz targets, briefly: they build, hold on their seeds, and would see a fault."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz import fuzz_reader, seeds
from tests.fuzz.fuzz_reader import Finding, one_input, run_random

ROOT = Path(__file__).parents[2]
CC = os.environ.get("CC", "cc")
RUNS = int(os.environ.get("CPOOL_FUZZ_RUNS", "3000"))

needs_cc = pytest.mark.skipif(shutil.which(CC) is None, reason="needs a C compiler")


def build(core: Path, program: Path) -> None:
    flags = ["-std=gnu11", "-O1", "-g", "-fsanitize=address,undefined", "-DCP_FUZZ_STANDALONE"]
    source = ROOT / "tests" / "fuzz" / "fuzz_resp.c"
    command = [CC, *flags, f"-I{core}", str(source), "-o", str(program)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=50)
    if "cannot find -lasan" in result.stderr or "libclang_rt" in result.stderr:
        pytest.skip(f"{CC} has no runtime for ASan")
    assert result.returncode == 0, result.stderr


def run(program: Path, corpus: Path, runs: int) -> subprocess.CompletedProcess[str]:
    files = [str(path) for path in seeds.write(corpus)]
    command = [str(program), str(runs), "1", *files]
    return subprocess.run(command, capture_output=True, text=True, timeout=50)


@needs_cc
def test_the_scanner_holds_on_mutated_seeds(tmp_path: Path) -> None:
    build(ROOT / "src" / "cpool", tmp_path / "fuzz_resp")
    result = run(tmp_path / "fuzz_resp", tmp_path / "seeds", RUNS)
    assert (result.returncode, result.stderr) == (0, "")


# What is planted: (the line as it is, the line as it must not be).
FAULTS = {
    "a length is one too long": (
        "s->off = (size_t)(body - data) + want + 2;",
        "s->off = (size_t)(body - data) + want + 3;",
    ),
    "a cut line is searched anew": ("s->line_off = at;", "s->line_off = 0;"),
    "an ending is not looked at": (
        "if (body[want] != '\\r' || body[want + 1] != '\\n')",
        "if (0)",
    ),
    "a byte too many is read": ("if (have < want + 2) {", "if (have < want + 1) {"),
}


@needs_cc
@pytest.mark.parametrize("fault", FAULTS)
def test_the_scanners_target_sees_a_planted_fault(fault: str, tmp_path: Path) -> None:
    old, new = FAULTS[fault]
    core = shutil.copytree(ROOT / "src" / "cpool", tmp_path / "core")
    text = (core / "cp_resp.c").read_text()
    assert text.count(old) == 1
    (core / "cp_resp.c").write_text(text.replace(old, new))
    build(core, tmp_path / "fuzz_resp")
    assert run(tmp_path / "fuzz_resp", tmp_path / "seeds", RUNS).returncode != 0


@pytest.mark.parametrize("stream", seeds.STREAMS)
def test_the_reader_holds_on_each_seed(stream: bytes) -> None:
    for options in range(16):
        one_input(bytes([options % 4, options // 4]) + stream)


def test_the_reader_holds_on_mutated_seeds() -> None:
    assert run_random(RUNS, None, seed=1) == RUNS


@pytest.mark.parametrize("wrong", [1, 1.0, [b"a"], None])
def test_the_readers_target_sees_a_wrong_reply(
    wrong: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As if the Reader now and then made another object of the same bytes."""
    whole = fuzz_reader.by_reader

    def faulty(pieces: list[bytes], depth: int, bulk: int) -> list[fuzz_reader.Outcome]:
        outcomes = whole(pieces, depth, bulk)
        return [(kind, wrong if reply is True else reply) for kind, reply in outcomes]

    monkeypatch.setattr(fuzz_reader, "by_reader", faulty)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Finding):
        run_random(RUNS, None, seed=1)
    assert list(tmp_path.glob("finding-*.bin"))


def test_the_mutations_of_a_seed_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs: list[bytes] = []
    monkeypatch.setattr(fuzz_reader, "one_input", inputs.append)
    run_random(50, None, seed=5)
    run_random(50, None, seed=5)
    assert inputs[:50] == inputs[50:]
