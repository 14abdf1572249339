"""Compile each C unit test and run it under ASan + UBSan and under TSan.

No Python and no server in them: what is tested is `src/cpool/cp_*`, with libc calls
made to fail by the linker's --wrap. `CP_TEST_SCALE=20` makes the stress tests longer.
By hand: `pytest tests/c -k "ut_resp and address"`.
"""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CORE = HERE.parents[1] / "src" / "cpool"
HARNESS = ("cp_test.c", "cp_faults.c")
UNITS = sorted(path.name for path in HERE.glob("ut_*.c"))
SANITIZERS = ("address,undefined", "thread")
WRAPPED = (
    "recv recvmsg send sendmsg poll fcntl setsockopt malloc calloc realloc clock_gettime"
).split()
FLAGS = (
    "-std=gnu11 -Wall -Wextra -Wconversion -Werror -O1 -g -fno-omit-frame-pointer -pthread"
).split()
ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "exitcode=66",
}

CC = os.environ.get("CC", "cc")

pytestmark = pytest.mark.skipif(
    platform.system() != "Linux" or shutil.which(CC) is None,
    reason="needs Linux (linker --wrap) and a C compiler",
)


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=50)


@functools.cache
def may_fix_addresses() -> bool:
    """Some containers forbid it."""
    return shutil.which("setarch") is not None and run(["setarch", "-R", "true"]).returncode == 0


def without_aslr(command: list[str]) -> list[str]:
    """TSan of some compilers can't map its shadow where recent kernels put things."""
    return ["setarch", "-R", *command] if may_fix_addresses() else command


def compile_object(source: Path, sanitizer: str, to: Path) -> Path:
    target = to / f"{source.stem}.o"
    command = [CC, *FLAGS, f"-fsanitize={sanitizer}", f"-I{CORE}", "-c", str(source)]
    result = run([*command, "-o", str(target)])
    assert result.returncode == 0, result.stderr
    return target


def has_runtime(sanitizer: str, to: Path) -> bool:
    """Whether a program of nothing links and runs with it."""
    source = to / "nothing.c"
    source.write_text("int main(void) { return 0; }\n")
    program = to / "nothing"
    linked = run([CC, f"-fsanitize={sanitizer}", str(source), "-o", str(program)])
    return linked.returncode == 0 and run(without_aslr([str(program)])).returncode == 0


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Path]]:
    """The core and the harness, compiled once with each sanitizer."""
    made: dict[str, list[Path]] = {}

    def of(sanitizer: str) -> list[Path]:
        if sanitizer not in made:
            to = tmp_path_factory.mktemp(sanitizer.split(",")[0])
            if not has_runtime(sanitizer, to):
                pytest.skip(f"{CC} has no working runtime for -fsanitize={sanitizer}")
            sources = [*sorted(CORE.glob("cp_*.c")), *(HERE / name for name in HARNESS)]
            made[sanitizer] = [compile_object(source, sanitizer, to) for source in sources]
        return made[sanitizer]

    return of


@pytest.mark.parametrize("sanitizer", SANITIZERS)
@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_holds_under_a_sanitizer(
    unit: str, sanitizer: str, objects: Callable[[str], list[Path]], tmp_path: Path
) -> None:
    core = objects(sanitizer)
    own = compile_object(HERE / unit, sanitizer, tmp_path)
    program = tmp_path / Path(unit).stem
    wraps = [f"-Wl,--wrap={name}" for name in WRAPPED]
    linked = run(
        [CC, f"-fsanitize={sanitizer}", "-pthread", *map(str, [own, *core]), *wraps]
        + ["-o", str(program)]
    )
    assert linked.returncode == 0, linked.stderr
    result = subprocess.run(
        without_aslr([str(program)]),
        capture_output=True,
        text=True,
        timeout=50,
        env={**os.environ, **ENVIRONMENT},
    )
    report = result.stdout + result.stderr
    assert result.returncode == 0 and result.stderr == "", report
    assert ", 0 failed checks" in result.stdout, report


def test_every_c_file_of_the_core_has_a_unit() -> None:
    """A new file without a test of its own is noticed."""
    names = {path.stem.removeprefix("cp_") for path in CORE.glob("cp_*.[ch]")}
    tested = {name.removeprefix("ut_").removesuffix(".c") for name in UNITS}
    untested = {name for name in names if not any(t.split("_")[0] == name for t in tested)}
    assert untested == {"status"}  # codes only
