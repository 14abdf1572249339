"""`python -m cpool run`: what the program sees is what `python PROGRAM` would show it."""

from __future__ import annotations

import json
import os
import py_compile
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from cpool.__main__ import main

ROOT = Path(__file__).parents[2]
CPOOL = [sys.executable, "-m", "cpool", "run"]

# Tells what a program can see of how it was started.
LOOK = """
import json, sys
import redis
main = sys.modules["__main__"]
print(json.dumps({
    "argv": sys.argv,
    "path0": sys.path[0],
    "name": __name__,
    "file": __file__,
    "is_main": main.__dict__ is globals(),
    "spec": __spec__ and __spec__.name,
    "package": __package__ or "",
    "client": redis.Redis.__module__,
}))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Give a directory with programs in it."""
    package = tmp_path / "package"
    package.mkdir()
    (tmp_path / "app.py").write_text(LOOK)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(LOOK)
    (package / "module.py").write_text(LOOK)
    (package / "broken.py").write_text("import nonsense_that_is_missing")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "__init__.py").write_text("")
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        archive.writestr("__main__.py", LOOK)
    return tmp_path


def start(command: list[str], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a directory, where cpool is found as it is here."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    given = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment}
    return subprocess.run(command, cwd=cwd, env=given, capture_output=True, text=True, timeout=50)


def seen_by(command: list[str], cwd: Path, **environment: str) -> dict[str, Any]:
    done = start(command, cwd, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize(
    "arguments",
    [
        ["app.py"],
        ["app.py", "-m", "x", "--flag", "--", "-h", "a b"],
        ["./app.py", "run"],
        ["../{name}/app.py"],
        ["app.zip", "--help"],
        ["package"],
        ["-m", "package", "-v"],
        ["-m", "package.module", "-m", "--", "x"],
    ],
    ids=" ".join,
)
def test_a_program_sees_what_python_would_show_it(project: Path, arguments: list[str]) -> None:
    arguments = [argument.format(name=project.name) for argument in arguments]
    ours = seen_by([*CPOOL, *arguments], project)
    plain = seen_by([sys.executable, *arguments], project)
    assert ours.pop("client") == "cpool.client"
    assert plain.pop("client") == "redis.client"
    if arguments[0] in {"app.zip", "package"}:  # runpy's way: the full path
        assert ours["argv"].pop(0) == str(project / plain["argv"].pop(0))
    assert ours == plain


def test_a_program_elsewhere_by_a_link_imports_its_neighbours(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    link = elsewhere / "link.py"
    link.symlink_to(project / "app.py")
    assert seen_by([*CPOOL, "link.py"], elsewhere)["path0"] == str(project.resolve())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="python -P came with 3.11")
def test_a_safe_path_stays_safe(project: Path) -> None:
    ours = seen_by([*CPOOL, "app.py"], project, PYTHONSAFEPATH="1")
    plain = seen_by([sys.executable, "app.py"], project, PYTHONSAFEPATH="1")
    assert ours["path0"] == plain["path0"] == str(ROOT)


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ("", 0),
        ("raise SystemExit", 0),
        ("raise SystemExit(0)", 0),
        ("raise SystemExit(7)", 7),
        ("raise SystemExit('a message')", 1),
        ("1 / 0", 1),
        ("import os; os._exit(9)", 9),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("raise KeyboardInterrupt", -signal.SIGINT),
    ],
)
def test_the_exit_status_is_the_programs(project: Path, ending: str, status: int) -> None:
    (project / "end.py").write_text(ending)
    for command in ([*CPOOL, "end.py"], [sys.executable, "end.py"]):
        assert start(command, project).returncode == status


def test_an_error_of_the_program_is_shown(project: Path) -> None:
    (project / "end.py").write_text("def f(): raise ValueError('its own')\nf()\n")
    shown = start([*CPOOL, "end.py"], project).stderr
    assert "ValueError: its own" in shown and "end.py" in shown
    shown = start([*CPOOL, "-m", "package.broken"], project).stderr
    assert "No module named 'nonsense_that_is_missing'" in shown


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["missing.py"], "'missing.py' is no file, no console script"),
        (["no/such/file.py"], "'no/such/file.py' is no file"),
        (["-m", "missing"], "no module named 'missing'"),
        (["-m", "package.missing"], "no module named 'package.missing'"),
        (["-m", "missing.module"], "no module named 'missing.module'"),
        (["-m", "bare"], "'bare' is a package without a module __main__"),
        (["sh"], "is not a Python program"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_missing_program_ends_in_status_2(
    project: Path, arguments: list[str], text: str
) -> None:
    done = start([*CPOOL, *arguments], project)
    assert done.returncode == 2
    assert done.stderr.startswith("run: ") and text in done.stderr
    assert "Traceback" not in done.stderr


def test_no_program_is_an_error_of_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run"])
    assert ended.value.code == 2
    assert "PROGRAM" in capsys.readouterr().err


def test_the_help_says_what_becomes_of_child_processes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    shown = capsys.readouterr().out
    assert "forks inherit" in shown and "spawns" in shown


def distribution(to: Path, name: str, entry_point: str) -> None:
    """Put an installed distribution there, with one console script."""
    info = to / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[console_scripts]\n{name} = {entry_point}\n")


def test_a_console_script_of_the_environment_is_run(project: Path) -> None:
    (project / "its_module.py").write_text(
        "import sys, redis\n"
        "def main():\n"
        "    print(redis.Redis.__module__, sys.argv[1:])\n"
        "    return 5\n"
    )
    distribution(project, "its-script", "its_module:main")
    done = start([*CPOOL, "its-script", "-A", "x", "--help"], project)
    assert done.stdout == "cpool.client ['-A', 'x', '--help']\n", done.stderr
    assert done.returncode == 5


def test_a_python_script_on_path_is_run(project: Path) -> None:
    directory = project / "bin"
    directory.mkdir()
    script = directory / "tool"
    script.write_text("#!/usr/bin/env python3\n" + LOOK)
    script.chmod(0o755)
    path = os.pathsep.join([str(directory), os.environ["PATH"]])
    seen = seen_by([*CPOOL, "tool", "-x"], project, PATH=path)
    assert seen["argv"] == [str(script), "-x"]
    assert (seen["name"], seen["path0"]) == ("__main__", str(directory.resolve()))
    assert seen["client"] == "cpool.client"


def test_a_directory_of_the_scripts_name_is_not_in_its_way(project: Path) -> None:
    pytest.importorskip("celery")
    (project / "celery").mkdir()
    done = start([*CPOOL, "celery", "--version"], project)
    assert done.returncode == 0, done.stderr


def test_celery_is_run_with_our_classes(project: Path) -> None:
    pytest.importorskip("celery")
    (project / "tasks.py").write_text(
        "import celery, redis\n"
        "app = celery.Celery('tasks', broker='redis://localhost:1')\n"
        "pool = app.connection_for_write().transport.Channel.connection_class\n"
        "print('made of', redis.ConnectionPool.__module__, pool.__module__)\n"
    )
    done = start([*CPOOL, "celery", "-A", "tasks", "report"], project)
    assert done.returncode == 0, done.stderr
    assert "made of cpool.pool cpool.connection" in done.stdout


def test_a_forked_child_inherits_the_classes(project: Path) -> None:
    (project / "fork.py").write_text(
        "import multiprocessing, redis\n"
        "def look(): print(redis.Redis.__module__, flush=True)\n"
        "child = multiprocessing.get_context('fork').Process(target=look)\n"
        "child.start(); child.join()\n"
    )
    assert start([*CPOOL, "fork.py"], project).stdout == "cpool.client\n"


def test_objects_of_the_programs_main_module_can_be_sent_to_a_spawned_child(
    project: Path,
) -> None:
    (project / "spawn.py").write_text(
        "import multiprocessing, redis\n"
        "def look(): print(redis.Redis.__module__, flush=True)\n"
        "if __name__ == '__main__':\n"
        "    child = multiprocessing.get_context('spawn').Process(target=look)\n"
        "    child.start(); child.join()\n"
    )
    assert start([*CPOOL, "spawn.py"], project).stdout == "redis.client\n"


def test_the_main_module_outlives_the_programs_last_line(project: Path) -> None:
    (project / "late.py").write_text(
        "from __future__ import annotations\n"
        "import atexit, pickle, sys\n"
        "class Its: pass\n"
        "@atexit.register\n"
        "def late(): print(type(pickle.loads(pickle.dumps(Its()))) is Its)\n"
    )
    assert start([*CPOOL, "late.py"], project).stdout == "True\n"


def test_a_compiled_file_is_run(project: Path) -> None:
    py_compile.compile(str(project / "app.py"), cfile=str(project / "compiled.pyc"))
    seen = seen_by([*CPOOL, "compiled.pyc"], project)
    assert (seen["client"], seen["path0"]) == ("cpool.client", str(project.resolve()))


def test_a_syntax_error_is_shown(project: Path) -> None:
    (project / "wrong.py").write_text("def\n")
    done = start([*CPOOL, "wrong.py"], project)
    assert done.returncode == 1 and "SyntaxError" in done.stderr
