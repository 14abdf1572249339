"""CI's workflows: pinned, without rights, and calling only what exists.

They are read line by line, as no YAML parser is among the tests' dependencies; that they are
valid, and more about their security, is what zizmor checks (`make workflows`).
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT

FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = sorted(FOLDER.glob("*.yml"))
PYPROJECT = (ROOT / "pyproject.toml").read_text()

pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="a source archive has no workflows")


def found(pattern: str, text: str) -> list[str]:
    """Return what the pattern's group matches, anywhere; there must be something."""
    matches = re.findall(pattern, text, re.MULTILINE)
    assert matches, pattern
    return matches


def listed(key: str, text: str) -> list[list[str]]:
    """Return the lists of strings that are given on a line `key: [...]`."""
    return [re.findall(r'[^\s",]+', each) for each in found(rf"^ +{key}: \[(.+)\]$", text)]


def jobs_of(workflow: Path) -> dict[str, str]:
    """Return the text of each job by name."""
    _, jobs = workflow.read_text().split("\njobs:\n")
    parts = re.split(r"^  ([a-z_-]+):\n", jobs, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def commands_of(workflow: Path) -> str:
    """Return what the steps run, without comments."""
    text = re.sub(r"\s+#.*$", "", workflow.read_text(), flags=re.MULTILINE)
    return "\n".join(found(r"^ +(?:- )?run: (.+(?:\n {10,}.+)*)$", text))


@pytest.fixture(scope="module")
def commands() -> str:
    return "\n".join(map(commands_of, WORKFLOWS))


@pytest.fixture(scope="module")
def ci() -> str:
    return (FOLDER / "ci.yml").read_text()


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_every_action_is_pinned_to_a_commit(workflow: Path) -> None:
    for action in found(r"^ +(?:- )?uses: (.+)$", workflow.read_text()):
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", action), action


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_nothing_is_permitted_but_to_the_job_that_needs_it(workflow: Path) -> None:
    assert "\npermissions: {}\n" in workflow.read_text()
    for name, job in jobs_of(workflow).items():
        permissions = found(r"^    permissions:\n((?: {6}\S.*\n)+)", job)
        expected = "id-token: write" if name == "publish" else "contents: read"
        assert [each.split("#")[0].strip() for each in permissions] == [expected], name


def test_only_a_published_release_is_uploaded() -> None:
    jobs = [(name, job) for file in WORKFLOWS for name, job in jobs_of(file).items()]
    (job,) = (job for name, job in jobs if name == "publish")
    assert "    if: github.event_name == 'release'\n" in job
    assert "    environment: release\n" in job
    assert "          attestations: true\n" in job
    assert "password" not in job


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_every_job_ends_by_itself(workflow: Path) -> None:
    for name, job in jobs_of(workflow).items():
        assert int(found(r"^    timeout-minutes: (\d+)$", job)[0]) <= 60, name


def test_the_pythons_are_those_of_the_classifiers(ci: str) -> None:
    classifiers = found(r'"Programming Language :: Python :: (3\.\d+)"', PYPROJECT)
    assert listed("python", ci) == [classifiers]
    built = [f"cp{version.replace('.', '')}-*" for version in classifiers]
    assert set(built) <= set(found(r'^build = "(.+)"$', PYPROJECT)[0].split())


def test_a_python_on_trial_is_none_of_the_classifiers(ci: str) -> None:
    classifiers = found(r'"Programming Language :: Python :: (3\.\d+)"', PYPROJECT)
    on_trial = found(r'python: "(3\.\d+)", .*trial: true', ci)
    assert not set(on_trial) & set(classifiers)


def test_the_versions_of_redis_py_span_the_supported_range(ci: str) -> None:
    ((oldest, end),) = re.findall(r'"redis>=(\d+\.\d+),<(\d+)"', PYPROJECT)
    for versions in listed("redis-py", ci):
        assert versions[0].rsplit(".", 1)[0] == oldest
        assert int(versions[-1].split(".")[0]) == int(end) - 1
        assert versions == sorted(versions)
    assert len(listed("redis-py", ci)) == 2  # the tests and redis-py's own


def test_every_target_of_make_exists(commands: str) -> None:
    targets = set(found(r"^([a-z]+):", (ROOT / "Makefile").read_text()))
    called = {word for line in found(r"\bmake (.+)", commands) for word in line.split()}
    assert {target for target in called if "=" not in target} <= targets


def test_every_script_exists_and_can_be_run(commands: str) -> None:
    for script in set(found(r"(?<!\w)(\.ci/\w+)(?!\.)\b", commands)):
        assert (ROOT / script).stat().st_mode & 0o111, script
    for file in set(found(r"sdist/(\.ci/\w+\.txt)", commands)):
        assert (ROOT / file).exists(), file


def test_every_extra_that_is_installed_exists(commands: str) -> None:
    assert set(found(r'"\.\[(\w+)\]"', commands)) <= set(found(r"^(\w+) = \[", PYPROJECT))


def test_every_server_that_is_tested_with_can_be_fetched(ci: str) -> None:
    ((*servers,),) = listed("server", ci)
    script = (ROOT / ".ci" / "server").read_text()
    assert set(servers) == set(found(r"^([a-z]+-[\d.]+)\) program=", script))


def test_what_a_release_is_built_with_is_pinned_by_hashes() -> None:
    text = (ROOT / ".ci" / "cibuildwheel.txt").read_text()
    pinned = found(r"^([a-z-]+)==[\d.]+ \\\n    --hash=sha256:[0-9a-f]{64}\b", text)
    assert "cibuildwheel" in pinned
    assert len(pinned) == len(found(r"^(\w)", text))
