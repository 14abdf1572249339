"""Write the README's table, the docs' table and the plot from the results of one run.

    pytest bench --benchmark-json run.json
    python bench/publish.py run.json

The run's rounds are kept in results.json, and everything else is made of that file; without an
argument it is made anew, and --check tells by the exit status whether it would change. A run that
is not to be trusted (parts of it missing, too short, on a busy machine) is refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from _contest import ROUNDS, SECONDS, Group
from _process import BENCH_DIR
from _report import BUSY_LIMIT_PERCENT, COLUMNS, facts_text, overview
from _sides import CPOOL, GENERATOR, GLIDE, POOL, REDIS_PY, RESP2, VALKEY

ROOT = BENCH_DIR.parent
RESULTS = BENCH_DIR / "results.json"
README, DOCS = ROOT / "README.md", ROOT / "docs" / "benchmarks"
PLOT = DOCS / "ratios.svg"
BEGIN, END = "<!-- figures: bench/publish.py -->\n", "<!-- end of figures -->\n"
SHOWN_SIDES = (REDIS_PY, VALKEY, GLIDE, POOL, CPOOL)
TITLES = {POOL: "cpool, pool only", CPOOL: "`cpool.Redis`"}
HEADLINE = "GET, 32 threads"
SHOWN = (
    "GET, one thread",
    "GET, 8 threads",
    "GET, 32 threads",
    "GET, 32 threads on 16 connections",
    "GET by TLS, 8 threads",
    "GET in a pipeline of 100",
    "HGETALL of 1,000 fields",
    "SET of 1 MiB",
    "GET of 1 MiB",
    "GET of 16 MiB",
    "opening a connection",
    "memory of an idle connection",
)
COLOURS = {VALKEY: "#999999", GLIDE: "#E69F00", POOL: "#56B4E9", CPOOL: "#0072B2"}
SIGNIFICANT_DIGITS = 5
WIDTH = 99


# ---- the file of results ------------------------------------------------------------------


class NotToBePublished(Exception):
    """Say what is wrong with a run."""


def kept_of(run: dict[str, Any]) -> dict[str, Any]:
    """Return what of a run's JSON is kept: code, machine, options, rounds.

    Raises NotToBePublished.
    """
    refuse_unfit(run)
    commit = run["commit_info"]
    return {
        "date": run["datetime"][:10],
        "commit": f"{commit.get('id', 'unknown')[:12]}{'+' if commit.get('dirty') else ''}",
        "machine": run["machine_info"],
        "options": run["options"],
        "groups": rounded(run["groups"]),
    }


def refuse_unfit(run: dict[str, Any]) -> None:
    options, busy = run["options"], run["busy_percent"]
    reasons = {
        "it is a noise run": options["noise"],
        f"it has fewer than {ROUNDS} rounds of {SECONDS} s": options["rounds"] < ROUNDS
        or options["seconds"] < SECONDS,
        f"the machine was busy with other work: {busy} %": busy > BUSY_LIMIT_PERCENT,
        **missing_in({group["name"]: group for group in run["groups"]}),
    }
    found = [reason for reason, is_so in reasons.items() if is_so]
    if found:
        raise NotToBePublished(f"not published: {'; '.join(found)}")


def missing_in(groups: dict[str, dict[str, Any]]) -> dict[str, bool]:
    """Name the groups, and the sides of the first ones, that the README's table wants."""
    wanted = {CPOOL, POOL, VALKEY, GLIDE, GENERATOR, REDIS_PY}
    sides = set(groups[HEADLINE]["rounds"][0]) if HEADLINE in groups else wanted
    return {
        f"no group {', '.join(sorted(set(SHOWN) - groups.keys()))}": bool(
            set(SHOWN) - groups.keys()
        ),
        f"nothing of {', '.join(sorted(wanted - sides))}": bool(wanted - sides),
    }


def rounded(value: Any) -> Any:
    """Return data with all floats at some significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list) else value


def groups_of(results: dict[str, Any]) -> list[Group]:
    return [Group(**each) for each in results["groups"]]


# ---- the tables ---------------------------------------------------------------------------


def readme_table(results: dict[str, Any]) -> str:
    """Return the README's table: the groups in SHOWN, redis-py, its peers and cpool."""
    groups = {group.name: group for group in groups_of(results)}
    rows = [[name, *readme_cells(groups[name])] for name in SHOWN]
    titles = [TITLES.get(side, side) for side in SHOWN_SIDES]
    return markdown(["", *titles, "times better than redis-py"], rows)


def headline(results: dict[str, Any]) -> str:
    """Return the README's one sentence with figures."""
    group = next(group for group in groups_of(results) if group.name == HEADLINE)
    gain = group.gain(CPOOL)
    ours, theirs, in_c = (
        group.shown(group.spread(side).median).removesuffix("/s")
        for side in (CPOOL, REDIS_PY, GENERATOR)
    )
    machine = results["machine"]
    text = (
        f"With 32 threads on one client, `cpool.Redis` gets **{gain.median:.1f} times** as many"
        f" values per second as `redis.Redis`: {ours} against {theirs}, where"
        f" `redis-benchmark`, in C on one thread, gets {in_c} with 32 connections. (GET of 64"
        f" bytes; redis-py {machine['redis-py']} with hiredis {machine['hiredis']};"
        f" {machine['CPUs']} CPUs, {machine['server']} on the same machine, Python"
        f" {machine['Python']}; median of"
        f" {len(group.rounds)} paired rounds, {gain.lowest:.1f} to {gain.highest:.1f}, each side"
        " in a fresh process. The factor depends on the machine, and grows with the threads,"
        " among which redis-py gets slower.)"
    )
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False) + "\n"


def readme_cells(group: Group) -> Iterable[str]:
    for side in SHOWN_SIDES:
        shown = group.base if side == REDIS_PY else side
        figure = group.shown(group.spread(shown).median) if shown in group.sides else ""
        yield f"{figure} (RESP2)" if shown == RESP2 else figure
    gain = group.gain(CPOOL)
    yield f"**{gain.median:.2f}** ({gain.lowest:.2f}-{gain.highest:.2f})" if gain else ""


def docs_table(results: dict[str, Any]) -> str:
    """Return the docs' table: all groups and sides, and what it was measured on."""
    rows = [[cell.replace("\n", "<br>") for cell in row] for row in overview(groups_of(results))]
    options = results["options"]
    about = (
        f"Measured on {results['date']} at commit {results['commit']}, {options['rounds']} rounds"
        f" of {options['seconds']} s a side: {facts_text(results['machine'])}."
    )
    return f"{markdown(['', *COLUMNS], rows)}\n{about}\n"


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---", *["--:"] * (len(columns) - 1)], *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def with_table(text: str, table: str) -> str:
    """Return the README with the table between its two marks."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


# ---- the plot -----------------------------------------------------------------------------


def plot(results: dict[str, Any], path: Path) -> None:
    """Draw the ratios to redis-py as bars, their spread as lines (needs matplotlib)."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "cpool", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    groups = [group for group in groups_of(results) if group.name in SHOWN]
    groups.sort(key=lambda group: SHOWN.index(group.name))
    figure, axes = pyplot.subplots(figsize=(8, 0.62 * len(groups) + 1))
    for number, side in enumerate(COLOURS):
        draw_side(axes, groups, side, number)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(groups)), [group.name for group in groups])
    axes.set_xscale("log")
    axes.set_xticks([0.25, 0.5, 1, 2, 4, 8, 16], ["1/4", "1/2", "1", "2", "4", "8", "16"])
    axes.minorticks_off()
    axes.invert_yaxis()
    axes.set_xlabel("times redis-py's speed (memory: times less); lines: lowest to highest round")
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    # The title tells of which results the plot is.
    metadata = {"Date": None, "Creator": None, "Title": digest_of(results)}
    figure.savefig(path, metadata=metadata, bbox_inches="tight")


def digest_of(results: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()[:16]


def draw_side(axes: Any, groups: Sequence[Group], side: str, number: int) -> None:
    height = 0.8 / len(COLOURS)
    for row, group in enumerate(groups):
        gain = group.gain(side) if side in group.sides else None
        if gain is not None:
            errors = [[gain.median - gain.lowest], [gain.highest - gain.median]]
            axes.barh(
                row - 0.4 + (number + 0.5) * height,
                gain.median - 1,
                height,
                left=1,
                color=COLOURS[side],
                xerr=errors,
                error_kw={"linewidth": 0.8},
                label=TITLES.get(side, side).strip("`") if row == 0 else None,
            )


# ---- the command line ---------------------------------------------------------------------


def texts_of(results: dict[str, Any]) -> dict[Path, str]:
    """Return what the files made of the results have to hold; the plot aside."""
    return {
        README: with_table(README.read_text(), f"{headline(results)}\n{readme_table(results)}"),
        DOCS / "table.md": docs_table(results),
    }


def main() -> int:
    """Write the files; with --check only compare: 0 they are up to date, 1 they are not."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", nargs="?", help="what --benchmark-json wrote")
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args()
    if args.run and args.check:
        parser.error("--check compares with what is kept: give no run")
    try:
        results = read_results(args.run)
    except NotToBePublished as error:
        print(error, file=sys.stderr)
        return 1
    return check(results) if args.check else publish(results)


def read_results(run: str | None) -> dict[str, Any]:
    """Return what is kept of a run, or what was kept before."""
    if run is None:
        return dict(json.loads(RESULTS.read_text()))
    return kept_of(json.loads(Path(run).read_text()))


def check(results: dict[str, Any]) -> int:
    stale = [path.name for path, text in texts_of(results).items() if path.read_text() != text]
    if digest_of(results) not in PLOT.read_text():
        stale.append(PLOT.name)
    print(*(f"not made of {RESULTS.name}: {name}" for name in stale), sep="\n", end="")
    return 1 if stale else 0


def publish(results: dict[str, Any]) -> int:
    DOCS.mkdir(parents=True, exist_ok=True)
    texts = texts_of(results)
    plot(results, PLOT)
    for path, text in texts.items():
        path.write_text(text)
    RESULTS.write_text(json.dumps(results, separators=(",", ":")) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
