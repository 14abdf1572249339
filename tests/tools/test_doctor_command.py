"""`python -m cpool doctor`: its output, its exit status, and the user's modules that it loads."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cpool.__main__ import main
from cpool.tools.servers import EmbeddedServer
from tests.support.servers import ACLServer

ROOT = Path(__file__).parents[2]
PATCHES = {
    "gevent": "import gevent.monkey\ngevent.monkey.patch_all()\n",
    "eventlet": "import eventlet\neventlet.monkey_patch()\n",
}
SOCKETS_ONLY = {
    "gevent without threads": "import gevent.monkey\ngevent.monkey.patch_all(thread=False)\n",
    "gevent's sockets": "import gevent.monkey\ngevent.monkey.patch_socket()\n",
    "gevent's sockets, late": "import redis, gevent.monkey\ngevent.monkey.patch_socket()\n",
    "eventlet's sockets": "import eventlet\neventlet.monkey_patch(socket=True, time=True)\n",
}
WITHOUT_GIL = """
import sys, sysconfig
sys._is_gil_enabled = lambda: True
sysconfig.get_config_vars()["Py_GIL_DISABLED"] = 1
"""
NO_CLIENT = """
value, none = 1, None
class Lazy(type):
    @property
    def client(cls):
        raise RuntimeError("token=pass-word")
class Lazy(metaclass=Lazy):
    pass
"""
EXHAUSTED = """
import cpool
print("imported")
client = cpool.Redis(port={port}, max_connections=1, timeout=None)
lent = client.connection_pool.get_connection()
"""

Doctor = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    """Give a function that runs the doctor in a directory with a module app.py of this text."""

    def run(app: str, *args: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "app.py").write_text(app)
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-W", "ignore", "-m", "cpool", "doctor", *args]
        env = {**os.environ, "PYTHONPATH": path}
        return subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )

    return run


def skip_without(module: str) -> None:
    """Skip where there is no such module; it is not imported, for that would be a fact."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")


def levels(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Return the findings of --json: level by id."""
    return {each["id"]: each["level"] for each in json.loads(done.stdout)["findings"]}


def test_a_healthy_server_is_shown_and_the_status_is_0(
    fresh_db: EmbeddedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--url", fresh_db.url]) == 0
    text = capsys.readouterr().out
    assert "Process" in text and "round trip p99 ms" in text and "0 problems" in text


def test_nothing_but_notes_is_found_in_a_healthy_process(
    doctor: Doctor, fresh_db: EmbeddedServer
) -> None:
    done = doctor("", "--json", "--import", "app", "--url", fresh_db.url)
    assert done.returncode == 0, done.stderr
    of_the_machine = {"server-jitter", "server-far"}
    of_the_installation = {"other-copy-installed", "hiredis-not-needed"}
    of_redis_py = {"resp2-asked", "no-limit"}
    assert levels(done).keys() <= of_the_machine | of_the_installation | of_redis_py


def test_json_is_one_object_of_facts_and_findings(
    fresh_db: EmbeddedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--json", "--url", fresh_db.url]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["facts"]["client"]["compiled_pings"] == 5
    assert all(
        set(each) == {"id", "level", "seen", "matters", "fix"} for each in found["findings"]
    )


def test_the_server_may_come_from_the_environment(
    fresh_db: EmbeddedServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REDIS_URL", fresh_db.url)
    assert main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["facts"]
    assert facts["server"]["address"] == f"{fresh_db.host}:{fresh_db.port}"


def test_passwords_are_not_shown(
    acl_server: ACLServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--url", acl_server.url]) == 0
    assert main(["doctor", "--json", "--url", acl_server.url]) == 0
    shown = capsys.readouterr()
    assert acl_server.app_password not in shown.out + shown.err


def test_a_problem_makes_the_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--url", "redis://localhost:1"]) == 1
    assert "[server-unreachable]" in capsys.readouterr().out


@pytest.mark.parametrize(
    "url",
    ["http://localhost", "redis://:pass/word@localhost", "redis://h/?max_connections=pass-word"],
)
def test_a_bad_url_is_refused_without_showing_it(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--url", url]) == 2
    said = capsys.readouterr().err
    assert "--url must be redis://" in said
    assert "pass" not in said.replace("PASSWORD", "")


@pytest.mark.parametrize(
    "args, text",
    [
        (("--client", "app"), "MODULE:NAME"),
        (("--client", "app:x", "--url", "redis://h"), "not allowed with"),
        (("--processes", "0"), "integer from 1"),
    ],
)
def test_a_bad_option_is_refused(
    args: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["doctor", *args])
    assert exit_info.value.code == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    "args, text",
    [
        (("--import", "no_such_module"), "--import: no_such_module can't be imported"),
        (("--client", "no_such_module:x"), "--client: no_such_module can't be imported"),
        (("--client", "app:nobody"), "there is no nobody in app"),
        (("--client", "app:value"), "client_or_pool must be"),
        (("--client", "app:none"), "app:none is None"),
        (("--client", "app:Lazy.client"), "app:Lazy.client raised RuntimeError"),
    ],
)
def test_a_module_or_name_without_a_client_is_told(
    doctor: Doctor, args: tuple[str, ...], text: str
) -> None:
    done = doctor(NO_CLIENT, *args)
    assert done.returncode == 2 and text in done.stderr
    assert "pass-word" not in done.stdout + done.stderr


def test_an_interrupt_of_the_users_module_ends_without_a_traceback(doctor: Doctor) -> None:
    done = doctor("raise KeyboardInterrupt", "--import", "app")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_module_that_breaks_the_import_of_cpool_is_told(doctor: Doctor) -> None:
    done = doctor("import sys; sys.modules['redis.event'] = None", "--import", "app")
    assert done.returncode == 2
    assert "can't be imported" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "planted, text",
    [
        ("import sys; sys.modules['cpool._slots'] = None", "Install a wheel for this Python"),
        ("import sys; sys.modules['redis.event'] = None", 'pip install "redis>='),
        ("import os; os.environ['CPOOL_FAST_PATH'] = '2'", "CPOOL_FAST_PATH must be 0 or 1"),
    ],
)
def test_a_cpool_that_can_not_be_imported_is_told_in_one_line(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: str, text: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(planted)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = doctor("", "--json")
    assert done.returncode == 2
    assert text in done.stderr and len(done.stderr.splitlines()) == 1


def test_programs_get_the_error_of_the_import_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPOOL_FAST_PATH", "2")
    command = [sys.executable, "-c", "import cpool", "-m", "cpool"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "ValueError: CPOOL_FAST_PATH" in done.stderr


@pytest.mark.parametrize("library", PATCHES)
def test_a_patch_before_redis_is_a_note(
    doctor: Doctor, fresh_db: EmbeddedServer, library: str
) -> None:
    skip_without(library)
    done = doctor(PATCHES[library], "--json", "--import", "app", "--url", fresh_db.url)
    assert done.returncode == 0, done.stderr
    assert levels(done)["patched"] == "note"


@pytest.mark.parametrize("library", PATCHES)
def test_a_patch_after_redis_is_a_problem(
    doctor: Doctor, fresh_db: EmbeddedServer, library: str
) -> None:
    skip_without(library)
    app = f"import redis\n{PATCHES[library]}"
    done = doctor(app, "--import", "app", "--url", fresh_db.url)
    assert done.returncode == 1, done.stderr
    assert "[patched-late]" in done.stdout
    assert "at the top of the program's first module" in " ".join(done.stdout.split())


@pytest.mark.parametrize("how", SOCKETS_ONLY)
def test_sockets_patched_without_the_locks_are_a_problem(
    doctor: Doctor, fresh_db: EmbeddedServer, how: str
) -> None:
    skip_without("gevent" if "gevent" in how else "eventlet")
    done = doctor(SOCKETS_ONLY[how], "--json", "--import", "app", "--url", fresh_db.url)
    assert done.returncode == 1, done.stderr
    assert levels(done)["locks-not-patched"] == "problem"
    assert "patched" not in levels(done)


def test_hiredis_on_a_python_without_the_gil_is_a_problem(
    doctor: Doctor, fresh_db: EmbeddedServer
) -> None:
    skip_without("hiredis")
    done = doctor(WITHOUT_GIL, "--json", "--import", "app", "--url", fresh_db.url)
    assert done.returncode == 1, done.stderr
    assert levels(done)["gil-enabled-by-hiredis"] == "problem"


def test_the_users_own_exhausted_client_is_examined_and_its_output_kept_apart(
    doctor: Doctor, fresh_db: EmbeddedServer
) -> None:
    app = EXHAUSTED.format(port=fresh_db.port)
    done = doctor(app, "--json", "--client", "app:client")
    assert done.returncode == 1, done.stderr
    assert levels(done)["pool-exhausted"] == "problem"
    assert "imported" in done.stderr


def test_a_switched_off_fast_path_is_a_problem(
    doctor: Doctor, fresh_db: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPOOL_FAST_PATH", "0")
    done = doctor("", "--url", fresh_db.url)
    assert done.returncode == 1
    assert "Unset CPOOL_FAST_PATH." in done.stdout


def slow(*values: str) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


def traced(tool: str) -> str:
    return f"from tests.tracing.tools import TOOLS\nTOOLS[{tool!r}]().start()\n"


@pytest.mark.parametrize(
    "tool, module, id, name",
    [
        ("opentelemetry", "opentelemetry", "instrumented", "OpenTelemetry"),
        ("sentry", "sentry_sdk", "instrumented", "Sentry"),
        slow("ddtrace", "ddtrace", "instrumented", "ddtrace"),
        slow("elastic-apm", "elasticapm", "instrumented-below", "Elastic APM"),
        slow("newrelic", "newrelic", "instrumented-below", "New Relic"),
    ],
)
def test_tracing_tools_are_named_and_judged(
    doctor: Doctor, fresh_db: EmbeddedServer, tool: str, module: str, id: str, name: str
) -> None:
    skip_without(module)
    done = doctor(traced(tool), "--json", "--import", "app", "--url", fresh_db.url)
    found: dict[str, Any] = json.loads(done.stdout)
    (finding,) = (each for each in found["findings"] if each["id"].startswith("instrumented"))
    assert finding["id"] == id and f"by {name}" in finding["seen"]
    is_open = found["facts"]["client"]["compiled_pings"] == 5
    assert is_open == (id == "instrumented") == (done.returncode == 0)
