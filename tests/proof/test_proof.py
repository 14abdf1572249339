"""A sample of each command of the proof programme, and that each can fail."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

import cpool
from cpool.tools.servers import EmbeddedServer
from tests.identity.workload import Trusting, walk_away
from tests.proof import many, soak, storm
from tests.proof.__main__ import main, parse_arguments
from tests.proof.cases import FAULTS, Case, Subject, cases_of, run_case, sample
from tests.proof.forks import SCENES, Forks, Storm
from tests.proof.framework import Clock, Report
from tests.proof.many import Rounds, settings
from tests.proof.routes import TRANSPORTS, Site, Sites

SEED = 1
QUICK_SCENES = (
    Forks.in_worker_thread,
    Forks.during_dial,
    Forks.while_waiting,
    Forks.children_that_close_all,
    Forks.children_that_fork,
)
CLIENTS = (cpool.Redis, redis.Redis)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Give a server with a proxy on each of its ways."""
    with Sites() as sites:
        yield sites.start()


# -- the matrix -------------------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_fault_at_any_byte_harms_its_own_call_only(site: Site, transport: str) -> None:
    cases = sample(list(cases_of(site.routes[transport])), 4, SEED)
    problems = {str(case): found for case in cases if (found := run_case(case).problems)}
    assert problems == {}
    assert {case.fault.name for case in cases} >= {"close", "reset", "half-close", "stall"}


def test_every_byte_of_a_call_is_a_place_for_a_fault(site: Site) -> None:
    subject = Subject(cpool.Redis, walk_away, warm=True)
    places = {
        case.place
        for case in cases_of(site.routes["tcp"], (subject,))
        if case.fault.name == "close" and case.side == "requests"
    }
    request = b"*2\r\n$4\r\nECHO\r\n$14\r\ncase:000000001\r\n"
    assert places == set(range(len(request)))


class Blind(Trusting):
    """Nor does it look whether something has come in: it may have, or may come later."""

    def _has_unread(self, connection: Any) -> bool:
        return False


def test_a_pool_without_a_ledger_fails_the_matrix(site: Site) -> None:
    stall = next(fault for fault in FAULTS if fault.name == "stall")
    subject = Subject(redis.Redis, walk_away, warm=True)
    case = Case(site.routes["tcp"], subject, stall, "replies", 0)
    assert run_case(case).problems == []
    assert run_case(case, Blind).problems != []


def test_a_pool_that_loses_slots_fails_the_matrix(site: Site) -> None:
    lost: list[Any] = []

    class Losing(cpool.ConnectionPool):
        def release(self, connection: Any) -> None:
            lost.append(connection)

    close = next(fault for fault in FAULTS if fault.name == "close")
    subject = Subject(redis.Redis, walk_away)
    verdict = run_case(Case(site.routes["tcp"], subject, close, "replies", 500), Losing)
    assert verdict.lost_slots == 1


# -- the soak ---------------------------------------------------------------------------


@pytest.fixture
def short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "ENOUGH", (60, 5, 40.0))


@pytest.mark.usefixtures("short_rounds")
@pytest.mark.parametrize("transport", ["unix", "tls"])
def test_a_soak_leaves_nothing_behind(site: Site, transport: str) -> None:
    report = Report()
    rounds = Rounds(report, cpool.BlockingConnectionPool)
    soaked = soak.Soak(settings([site], (transport,)), rounds, report)
    soaked.play(Clock(0.001), SEED, 64 * soak.MIB)
    assert report.violations == []
    assert rounds.total.right >= 60 * 3
    assert soaked.ceilings is not None
    assert 0 < soaked.ceilings.most_files <= soaked.ceilings.files


def test_more_files_and_more_memory_than_allowed_are_told() -> None:
    ceilings = soak.Ceilings(files=1, memory_bytes=1)
    files, memory = ceilings.check()
    assert "files" in files and "MiB" in memory


@pytest.mark.slow
def test_a_soak_finds_the_planted_bug() -> None:
    assert main(["soak", "--planted-bug", "--minutes", "1", "--plain"]) == 0


# -- forks ------------------------------------------------------------------------------


@pytest.mark.parametrize("client_class", CLIENTS)
def test_children_of_every_scene_end_well(site: Site, client_class: Any) -> None:
    play(site, client_class, QUICK_SCENES)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("client_class", CLIENTS)
def test_children_of_all_scenes_end_well(site: Site, client_class: Any) -> None:
    play(site, client_class, SCENES)


def play(site: Site, client_class: Any, scenes: Any) -> None:
    report = Report()
    Storm(report).play(Forks(site, client_class, SEED), Clock(0.001), SEED, scenes)
    assert report.violations == []


def test_a_child_that_fails_is_told(site: Site) -> None:
    def scene(forks: Forks) -> list[int]:
        return [0, 3, -14]

    report = Report(quiet=True)
    Storm(report).play(Forks(site, cpool.Redis, SEED), Clock(0.001), SEED, (scene,))
    assert report.violations == ["scene: a child got 3 foreign replies", "scene: a child hung"]


# -- the reconnect storm ----------------------------------------------------------------


@pytest.mark.parametrize("side", storm.SIDES[1:], ids=lambda side: side.name)
def test_all_threads_are_served_after_a_crash(redis_server: EmbeddedServer, side: Any) -> None:
    options = parse_arguments(["storm", "--threads", "8", "--connections", "4", "--down", "0.05"])
    with EmbeddedServer(redis_server.binary).start() as server:
        crash = storm.measure(side, server, options)
    assert len(crash.delays_s()) == 8
    assert crash.wrong == 0
    assert crash.dials.total["before"] == 4
    assert 1 <= crash.dials.most <= 4


# -- the command line -------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv, told",
    [
        (["matrix", "--transport", "udp"], "'tcp', 'unix', 'tls', 'all'"),
        (["soak", "--minutes", "0"], "--minutes: must be a number above 0, not '0'"),
        (["storm", "--threads", "-1"], "--threads: "),
        (["storm", "--threads", "many"], "must be a whole number above 0, not 'many'"),
    ],
)
def test_a_bad_option_is_named(
    argv: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(argv)
    assert told in capsys.readouterr().err


def test_a_server_that_does_not_run_is_named() -> None:
    with pytest.raises(SystemExit, match="--server /nowhere: no server"):
        main(["matrix", "--server", "/nowhere"])
