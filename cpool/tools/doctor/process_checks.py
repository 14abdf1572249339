"""Checks of the process: what is built, who holds the GIL, who has patched what."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cpool.tools.doctor.diagnosis import Finding, note, problem, warning
from cpool.tools.doctor.evidence import Check, Evidence, version_numbers
from cpool.tools.doctor.wrappers import Wrapped

__all__ = ["CHECKS", "SUPPORTED_REDIS_PY", "listed"]

SUPPORTED_REDIS_PY = ("6.4", "9")  # from, and below; as pyproject.toml has it
HIREDIS_WITH_GIL = (3, 5)  # and those before


# What keeps a tool's spans of commands and leaves the compiled call open.
_UNWRAP = {
    "New Relic": "In newrelic.ini add a section [import-hook:redis.connection] with enabled ="
    " false: commands are traced as before, but without the server's address.",
    "Elastic APM": "Before the agent instruments, run `from elasticapm.instrumentation import"
    ' register; register._cls_register.discard("elasticapm.instrumentation.packages.redis'
    '.RedisConnectionInstrumentation")`: commands are traced as before, but without the'
    " server's address.",
}
_PATCH_ALL = {"gevent": "gevent.monkey.patch_all()", "eventlet": "eventlet.monkey_patch()"}


def modules_stale(evidence: Evidence) -> Finding | None:
    stale = [module.name for module in evidence.process.modules if module.is_stale]
    if not stale:
        return None
    return warning(
        "modules-stale",
        seen=f"The source is younger than the compiled module: {', '.join(stale)}.",
        matters="What runs is not what the sources say.",
        fix="In the source tree: python setup.py build_ext --inplace, or pip install -e .",
    )


def modules_elsewhere(evidence: Evidence) -> Finding | None:
    process = evidence.process
    package = str(Path(process.imported_from) / "cpool")
    strange = [each for each in process.modules if each.directory != package]
    if not strange:
        return None
    return problem(
        "modules-elsewhere",
        seen=f"cpool is imported from {process.imported_from}, and compiled modules from"
        f" {strange[0].directory}: {', '.join(each.name for each in strange)}.",
        matters="They are another copy's, perhaps of another version.",
        fix="Remove that copy, or build in the source tree: python setup.py build_ext --inplace",
    )


def other_copy_installed(evidence: Evidence) -> Finding | None:
    process = evidence.process
    if process.installed_in in (None, process.imported_from):
        return None
    return warning(
        "other-copy-installed",
        seen=f"cpool is imported from {process.imported_from}, and the distribution redis-cpool"
        f" {process.cpool_version} is installed in {process.installed_in}.",
        matters="There are two copies; the version that is told is the other one's.",
        fix="Remove one: pip uninstall redis-cpool, or take the directory off PYTHONPATH.",
    )


def stranger_installed(evidence: Evidence) -> Finding | None:
    if not evidence.process.stranger:
        return None
    return warning(
        "stranger-installed",
        seen="A distribution named cpool is installed beside redis-cpool.",
        matters="It is another project of the same import name; the two overwrite each other.",
        fix="pip uninstall cpool, then pip install --force-reinstall redis-cpool",
    )


def redis_py_unsupported(evidence: Evidence) -> Finding | None:
    lowest, below = SUPPORTED_REDIS_PY
    installed = evidence.process.redis_py
    if version_numbers(lowest) <= version_numbers(installed) < version_numbers(below):
        return None
    return problem(
        "redis-py-unsupported",
        seen=f"redis-py is {installed}; cpool supports {lowest} and later, below {below}.",
        matters="cpool stands in for redis-py's methods, which may be others there.",
        fix=f'pip install "redis>={lowest},<{below}"',
    )


def _gil_came_on(evidence: Evidence) -> bool:
    """Tell whether an import has switched the GIL on, and not the user."""
    python = evidence.process.interpreter
    return python.free_threaded and python.gil_enabled and python.gil_asked != "1"


def gil_by_hiredis(evidence: Evidence) -> Finding | None:
    process = evidence.process
    if not process.hiredis or not _gil_came_on(evidence):
        return None
    if version_numbers(process.hiredis) > HIREDIS_WITH_GIL:
        return None
    return problem(
        "gil-enabled-by-hiredis",
        seen="This Python is built without the GIL, and the GIL is on; redis-py has imported"
        f" hiredis {process.hiredis}.",
        matters="hiredis up to 3.5 does not declare that it runs without the GIL, so Python"
        " switches it on at the import: threads of the whole process run one at a time.",
        fix="pip uninstall hiredis: cpool does not use it, and redis-py then takes its own"
        " parser where it still needs one. cpool switches the GIL on as well: see"
        " gil-enabled-by-cpool.",
    )


def gil_by_cpool(evidence: Evidence) -> Finding | None:
    if not _gil_came_on(evidence):
        return None
    return problem(
        "gil-enabled-by-cpool",
        seen="This Python is built without the GIL, and the GIL is on; cpool's modules are"
        " loaded.",
        matters="cpool does not declare yet that it runs without the GIL, so Python switches it"
        " on at the import: threads of the whole process run one at a time.",
        fix="Run this program on the ordinary build of Python, which is faster where the GIL is"
        " on. Do not force the GIL off for cpool.",
    )


def gil_by_others(evidence: Evidence) -> Finding | None:
    others = evidence.process.other_extensions
    if not others or not _gil_came_on(evidence):
        return None
    packages = ", ".join(others)
    return note(
        "gil-enabled-by-others",
        seen=f"Other packages have brought compiled modules: {packages}.",
        matters="Each may have switched the GIL on as well.",
        fix='To find out: python -W error -c "import PACKAGE" for each; Python refuses those'
        " that do.",
    )


def gil_forced_on(evidence: Evidence) -> Finding | None:
    python = evidence.process.interpreter
    if not (python.free_threaded and python.gil_asked == "1"):
        return None
    return note(
        "gil-forced-on",
        seen="The GIL was asked for, by PYTHON_GIL=1 or -X gil=1.",
        matters="It is on whatever is imported.",
        fix="Unset PYTHON_GIL, and leave out -X gil=1.",
    )


def gil_forced_off(evidence: Evidence) -> Finding | None:
    python = evidence.process.interpreter
    if python.gil_enabled:
        return None
    return problem(
        "gil-forced-off",
        seen="The GIL is off, by PYTHON_GIL=0 or -X gil=0, and cpool's modules are loaded.",
        matters="cpool does not declare yet that it runs without the GIL; threads may crash the"
        " process or mix up replies.",
        fix="Unset PYTHON_GIL, and leave out -X gil=0; or run on the ordinary build of Python.",
    )


def hiredis_not_needed(evidence: Evidence) -> Finding | None:
    process = evidence.process
    if process.hiredis is None or process.interpreter.free_threaded:
        return None
    return note(
        "hiredis-not-needed",
        seen=f"hiredis {process.hiredis} is installed.",
        matters="It does no harm. cpool's connections have a parser of their own; hiredis serves"
        " redis-py's, such as those of redis.asyncio.",
        fix="Nothing has to change; pip uninstall hiredis if nobody else needs it.",
    )


def patched_late(evidence: Evidence) -> Finding | None:
    late = [green.library for green in evidence.process.green if green.late]
    if not late:
        return None
    return problem(
        "patched-late",
        seen=f"{late[0]} has patched the process after redis-py was imported.",
        matters="Pools and connections made before keep real sockets and locks, and redis-py's"
        " retries keep the real sleep(): each of them stops all greenlets while it waits.",
        fix=f"Call {_PATCH_ALL[late[0]]} at the top of the program's first module, before anything"
        " imports redis or cpool.",
    )


def locks_not_patched(evidence: Evidence) -> Finding | None:
    half = [
        each.library for each in evidence.process.green if each.patched and not each.locks_patched
    ]
    if not half:
        return None
    return problem(
        "locks-not-patched",
        seen=f"{half[0]} has patched Python's sockets, and not its locks.",
        matters="A greenlet that waits for a connection of a full pool, or for a lock, stops all"
        " others, also the one that would give the connection back.",
        fix=f"Call {_PATCH_ALL[half[0]]} without arguments, before anything imports redis or"
        " cpool.",
    )


def patched(evidence: Evidence) -> Finding | None:
    green = [
        each
        for each in evidence.process.green
        if each.patched and each.locks_patched and not each.late
    ]
    if not green:
        return None
    in_time = green[0].late is False
    return note(
        "patched",
        seen=f"{green[0].library} has patched the process"
        + (" before redis-py was imported, as it should." if in_time else "."),
        matters="Greenlets never block each other. cpool then uses the patched sockets by their"
        " methods, which takes longer than the compiled way.",
        fix="Nothing has to change. For the compiled way use threads in place of greenlets."
        + ("" if in_time else " Make sure that nothing imports redis before the patching."),
    )


def not_patched(evidence: Evidence) -> Finding | None:
    plain = [green.library for green in evidence.process.green if not green.patched]
    if not plain or any(green.patched for green in evidence.process.green):
        return None
    return note(
        "not-patched",
        seen=f"{plain[0]} is imported, and has not patched Python's sockets.",
        matters="If greenlets use Redis, each command stops all of them while it waits.",
        fix=f"If they do, let {plain[0]} patch the process before redis is imported.",
    )


def instrumented(evidence: Evidence) -> Finding | None:
    above = [each for each in evidence.process.wrapped if not each.closes]
    closers = {each.by for each in evidence.process.wrapped if each.closes}
    seen = [each for each in above if each.by not in closers]
    if not seen:
        return None
    return note(
        "instrumented",
        seen=f"Methods are wrapped above the compiled call: {listed(seen)}.",
        matters="The tool sees every call, the compiled call goes on below it, and each call"
        " takes the tool's time besides.",
        fix="Nothing has to change; if it takes too long, let the tool sample fewer calls.",
    )


def instrumented_below(evidence: Evidence) -> Finding | None:
    closers = [each for each in evidence.process.wrapped if each.closes]
    if not closers:
        return None
    known = [_UNWRAP[by] for by in dict.fromkeys(each.by for each in closers) if by in _UNWRAP]
    return problem(
        "instrumented-below",
        seen=f"Methods that the compiled call stands in for are wrapped: {listed(closers)}.",
        matters="So that the wrapper sees every call, commands take redis-py's own code on our"
        " pool, which is several times slower.",
        fix=" ".join(known)
        or "Wrap execute_command and Pipeline.execute in place of these methods.",
    )


def metrics_on(evidence: Evidence) -> Finding | None:
    subject = evidence.subject
    refused = subject is not None and subject.was_refused("metrics on")
    if not (evidence.process.metrics_on or refused):
        return None
    return problem(
        "metrics-on",
        seen="redis-py's own metrics are collected (redis.observability).",
        matters="So that they count what they always count, commands take redis-py's own code,"
        " which is several times slower.",
        fix="Leave out get_observability_instance().init(...), and watch pool.stats(); to trace"
        " commands use opentelemetry-instrumentation-redis, which keeps the compiled call.",
    )


def fast_path_off(evidence: Evidence) -> Finding | None:
    if evidence.process.fast_path_enabled:
        return None
    by_variable = evidence.process.fast_path_variable == "0"
    return problem(
        "fast-path-off",
        seen="The compiled call is switched off, by "
        + ("CPOOL_FAST_PATH=0." if by_variable else "cpool.fast_path.disable()."),
        matters="Every command takes redis-py's own code, which is several times slower.",
        fix="Unset CPOOL_FAST_PATH." if by_variable else "Call cpool.fast_path.enable().",
    )


def listed(wrapped: Iterable[Wrapped]) -> str:
    """Return "A.b and A.c by X; D.e by Y", of many methods the first few."""
    most = 4
    by: dict[str, list[str]] = {}
    for each in wrapped:
        by.setdefault(each.by, []).append(each.method)
    texts = []
    for who, methods in by.items():
        rest = f" and {len(methods) - most} more" if len(methods) > most else ""
        texts.append(f"{', '.join(methods[:most])}{rest} by {who}")
    return "; ".join(texts)


CHECKS: tuple[Check, ...] = (
    modules_stale,
    modules_elsewhere,
    other_copy_installed,
    stranger_installed,
    redis_py_unsupported,
    gil_by_hiredis,
    gil_by_cpool,
    gil_by_others,
    gil_forced_on,
    gil_forced_off,
    hiredis_not_needed,
    patched_late,
    locks_not_patched,
    patched,
    not_patched,
    instrumented,
    instrumented_below,
    metrics_on,
    fast_path_off,
)
