"""The layers of the product as a table: who may use whom, checked on the sources.

A file may use its own layer and those above it in the table (lower numbers), the
system headers and standard modules its layer lists, and nothing else. That the codec
has no <sys/socket.h> and no `time` is how "knows no descriptor, no clock" is kept.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "src" / "cpool"
PACKAGE = ROOT / "cpool"
LONGEST_FILE = 600  # lines

# Longer files, and why each is one file all the same.
LONG_FILES = {
    "src/cpool/_conn.pyx": "a connection's verbs share its gates; a cdef class is one block of one"
    " file",
    "src/cpool/_session.pyx": "a session's verbs share its buffers and its ledger",
    "src/cpool/_resp.pyx": "encoder and decoder are one module: each extension module costs"
    " thousands of lines of C",
}


@dataclass(frozen=True)
class Layer:
    """What one row of the table holds, and what it may use besides the rows above."""

    number: int
    name: str
    c: frozenset[str] = frozenset()  # cp_*.c and cp_*.h, without the ending
    cython: tuple[str, ...] = ()  # _*.pyx and _*.pxd, in the order they build on each other
    headers: frozenset[str] = frozenset()  # of the system
    modules: frozenset[str] = frozenset()  # Python's, in the .pyx


def layer(number: int, name: str, c: str, cython: str, headers: str, modules: str) -> Layer:
    return Layer(
        number,
        name,
        frozenset(c.split()),
        tuple(cython.split()),
        frozenset(headers.split()),
        frozenset(modules.split()),
    )


PLAIN_C = "stddef.h stdint.h stdlib.h string.h limits.h"
LAYERS = [
    layer(0, "platform", "status clock fork", "", f"{PLAIN_C} time.h pthread.h stdatomic.h", ""),
    layer(1, "codec", "buf resp utf8", "_resp", PLAIN_C, ""),
    layer(
        2,
        "wire",
        "wire exchange",
        "_deadline _wire",
        f"{PLAIN_C} errno.h fcntl.h poll.h stdatomic.h sys/socket.h sys/time.h sys/uio.h",
        "_socket copy ssl sys time",
    ),
    layer(
        3,
        "connection",
        "session",
        "_session _gates _conn _retry",
        f"{PLAIN_C} strings.h",
        "weakref time copy",
    ),
    layer(4, "queue", "slots idle waitq hist", "", f"{PLAIN_C} pthread.h stdatomic.h", ""),
    layer(5, "pool", "", "_slots _dials _pool", PLAIN_C, "random threading weakref"),
    layer(6, "hot path", "keyslot", "_client _pipeline _cluster _cluster_pipeline", PLAIN_C, ""),
]
LAYER_OF = {f"cp_{c}": row for row in LAYERS for c in row.c} | {
    name: row for row in LAYERS for name in row.cython
}

C_FILES = sorted([*CORE.glob("*.c"), *CORE.glob("*.h")])
CYTHON_FILES = sorted([*CORE.glob("*.pyx"), *CORE.glob("*.pxd")])
PYTHON_FILES = sorted(PACKAGE.rglob("*.py"))
TOOLS = [PACKAGE / "__main__.py", *sorted((PACKAGE / "tools").rglob("*.py"))]
LIBRARY = [path for path in PYTHON_FILES if path not in TOOLS]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def each(paths: list[Path]) -> pytest.MarkDecorator:
    assert paths
    return pytest.mark.parametrize("path", paths, ids=name_of)


def without_comments(path: Path) -> str:
    """C without its comments, Cython without comments and docstrings."""
    text = path.read_text()
    if path.suffix in {".c", ".h"}:
        return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    return re.sub(r'(?s:""".*?""")|#[^\n]*', "", text)


def own_headers(text: str) -> set[str]:
    """Names of our headers a file includes or declares, without the ending."""
    found = re.findall(r'#\s*include\s+"([^"]+)"', text)
    found += re.findall(r'cdef extern from "(cp_[^"]+)"', text)
    return {header.removesuffix(".h") for header in found}


def system_headers(text: str) -> set[str]:
    found = re.findall(r"#\s*include\s+<([^>]+)>", text)
    found += re.findall(r'cdef extern from "((?!cp_)[^"]+)"', text)
    return set(found)


def below(layer: Layer, names: set[str]) -> set[str]:
    """Those that are not in this layer or above it in the table, or in no layer."""
    return {name for name in names if LAYER_OF.get(name, LAYERS[-1]).number > layer.number} | {
        name for name in names if name not in LAYER_OF
    }


def test_each_file_of_the_core_is_in_the_table() -> None:
    assert {path.stem for path in [*C_FILES, *CYTHON_FILES]} == set(LAYER_OF)


@each(C_FILES)
def test_c_uses_only_its_own_layer_and_those_above(path: Path) -> None:
    row = LAYER_OF[path.stem]
    text = without_comments(path)
    assert below(row, own_headers(text)) == set()
    assert system_headers(text) <= row.headers


@each(C_FILES)
def test_c_knows_nothing_of_python(path: Path) -> None:
    text = without_comments(path)
    assert "Python.h" not in text
    assert not re.search(r"\bPy[A-Z_]\w*\(", text)


def cimported(text: str) -> set[str]:
    found = re.findall(r"^\s*from\s+([\w.]+)\s+cimport\b", text, re.MULTILINE)
    return set(found + re.findall(r"^\s*cimport\s+([\w.]+)", text, re.MULTILINE))


@each(CYTHON_FILES)
def test_cython_uses_only_its_own_layer_and_those_above(path: Path) -> None:
    row = LAYER_OF[path.stem]
    text = without_comments(path)
    ours = {name.removeprefix("cpool.") for name in cimported(text) if name.startswith("cpool")}
    theirs = {name for name in cimported(text) if not name.startswith("cpool")}
    assert below(row, ours | own_headers(text)) == set()
    assert all(name.split(".")[0] in {"cpython", "libc", "cython"} for name in theirs)
    assert system_headers(text) - {"Python.h"} <= row.headers


def imported(text: str) -> list[tuple[str, str]]:
    """(indentation, module) of each Python import of a .pyx."""
    found = re.findall(r"^([ \t]*)from\s+([\w.]+)\s+import\b", text, re.MULTILINE)
    for indentation, names in re.findall(r"^([ \t]*)import\s+([\w., ]+)", text, re.MULTILINE):
        found += [(indentation, name.strip()) for name in names.split(",")]
    return found


@each([path for path in CYTHON_FILES if path.suffix == ".pyx"])
def test_cython_imports_only_what_its_layer_lists(path: Path) -> None:
    """The one way up is to the table of errors, from inside a function."""
    row = LAYER_OF[path.stem]
    text = without_comments(path)
    for indentation, module in imported(text):
        if module.split(".")[0] == "cpool":
            assert indentation, "an import at the top would be a cycle"
            assert module in {"cpool", "cpool.errors"}
        else:
            assert module in row.modules
    assert set(re.findall(r"from cpool import (.+)", text)) <= {"errors"}


@each([*C_FILES, *CYTHON_FILES])
def test_the_core_does_not_import_redis(path: Path) -> None:
    text = without_comments(path)
    assert not re.search(r"^\s*(from|import|cimport)\s+redis\b", text, re.MULTILINE)
    assert "hiredis" not in text


@each([path for path in CYTHON_FILES if path.suffix == ".pyx"])
def test_each_module_of_the_core_has_its_declarations(path: Path) -> None:
    assert path.with_suffix(".pxd").is_file()


def test_modules_of_one_layer_use_only_those_listed_before_them() -> None:
    """So that no two can come to need each other."""
    order = [name for row in LAYERS for name in row.cython]
    for path in CYTHON_FILES:
        used = {name.removeprefix("cpool.") for name in cimported(without_comments(path))}
        later = set(order[order.index(path.stem) :])
        assert used & later == set()


def test_each_declaration_file_has_its_module() -> None:
    pxd = {path.stem for path in CYTHON_FILES if path.suffix == ".pxd"}
    assert pxd == {path.stem for path in CYTHON_FILES if path.suffix == ".pyx"}


def test_a_module_links_only_c_of_its_layer_and_above() -> None:
    """And every C file is linked by somebody."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    (table,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MODULES"
    )
    modules: dict[str, list[str]] = ast.literal_eval(table)
    assert set(modules) == {path.stem for path in CYTHON_FILES}
    for module, files in modules.items():
        assert below(LAYER_OF[module], {file.removesuffix(".c") for file in files}) == set()
    linked = {file for files in modules.values() for file in files}
    assert linked == {path.name for path in C_FILES if path.suffix == ".c"}


def imports_of(path: Path) -> set[str]:
    """Modules a Python file imports, anywhere in it; `from a import b` counts as a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@each(PYTHON_FILES)
def test_python_never_imports_hiredis(path: Path) -> None:
    """It would switch the GIL of free-threaded Pythons back on."""
    assert not any(name.split(".")[0] == "hiredis" for name in imports_of(path))


@each(LIBRARY)
def test_the_library_does_not_use_the_tools(path: Path) -> None:
    used = {name for name in imports_of(path) if name.startswith("cpool.")}
    assert not any(name.split(".")[1] in {"tools", "__main__"} for name in used)


@each(TOOLS)
def test_the_tools_use_the_public_api_only(path: Path) -> None:
    """What `cpool.__all__` names: no module of the library, nothing with an underscore."""
    public = ast.parse((PACKAGE / "__init__.py").read_text())
    names = next(
        ast.literal_eval(node.value)
        for node in public.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    for name in imports_of(path):
        if name.startswith("cpool.") and not name.startswith("cpool.tools"):
            assert name.removeprefix("cpool.") in names
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "cpool":
            assert node.attr in names


def test_the_errors_use_nothing_of_the_package() -> None:
    """The core asks them from below."""
    assert not any(name.startswith("cpool") for name in imports_of(PACKAGE / "errors.py"))


@each([*C_FILES, *CYTHON_FILES, *PYTHON_FILES, ROOT / "setup.py"])
def test_a_file_begins_by_saying_its_job(path: Path) -> None:
    text = path.read_text()
    if path.suffix in {".c", ".h"}:
        assert re.match(r"/\* \w.{15,}", text)
    elif path.suffix == ".py":
        docstring = ast.get_docstring(ast.parse(text))
        assert docstring and len(docstring.splitlines()[0]) > 15
    else:
        assert re.match(r'(# cython:.*\n)*"""\w.{15,}', text)


@each([*C_FILES, *CYTHON_FILES, *PYTHON_FILES])
def test_a_file_can_be_read_in_one_go(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= LONGEST_FILE or name_of(path) in LONG_FILES


@pytest.mark.parametrize("name", LONG_FILES)
def test_a_file_that_may_be_long_is_there(name: str) -> None:
    assert (ROOT / name).is_file()


@each([*C_FILES, *CYTHON_FILES, *PYTHON_FILES])
def test_no_line_is_too_long(path: Path) -> None:
    assert max(map(len, path.read_text().splitlines()), default=0) <= 99
