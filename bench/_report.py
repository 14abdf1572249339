"""The overview of a run: a line for each group, the figures of all sides with their ratios."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from _contest import Group
from _sides import (
    C_LOOP,
    CPOOL,
    GENERATOR,
    GLIDE,
    HIREDIS,
    LIBVALKEY,
    POOL,
    PURE,
    REDIS_PY,
    RESP2,
    VALKEY,
)

COLUMNS = (REDIS_PY, PURE, VALKEY, GLIDE, POOL, CPOOL, "in C")
IN_COLUMN = {HIREDIS: REDIS_PY, LIBVALKEY: VALKEY, GENERATOR: "in C", C_LOOP: "in C"}
BUSY_LIMIT_PERCENT = 10


def overview(groups: Iterable[Group]) -> list[list[str]]:
    """Return a row of cells for each group: its name, then a cell for each of COLUMNS."""
    return [[group.name, *cells_of(group)] for group in groups]


def cells_of(group: Group) -> list[str]:
    cells = dict.fromkeys(COLUMNS, "")
    for side in group.sides:
        column = REDIS_PY if side == group.base else IN_COLUMN.get(side, side)
        if not cells[column] or side in (C_LOOP, group.base):
            # Where both floors run, the loop is the lower one.
            cells[column] = cell_of(group, side)
    return list(cells.values())


def cell_of(group: Group, side: str) -> str:
    """Return the figure, and how many times better than the base it is."""
    figure = group.shown(group.spread(side).median)
    gain = group.gain(side)
    if gain is None or side == group.base:
        return f"{figure}\n(RESP2)" if side == RESP2 else figure
    return f"{figure}\n{gain.median:.2f} ({gain.lowest:.2f}-{gain.highest:.2f})"


def facts_text(facts: dict[str, Any]) -> str:
    """Return the line on the machine and the versions."""
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def warnings_of(busy_percent: int, noise: bool) -> Sequence[str]:
    """Return what makes the figures of this run worth less."""
    found = []
    if noise:
        found.append("NOISE RUN: redis-py's classes stood on both sides, in cpool's place too")
    if busy_percent > BUSY_LIMIT_PERCENT:
        found.append(
            f"WARNING: other work was running ({busy_percent} % of all CPUs at the start);"
            " ratios of times are not to be trusted"
        )
    return found
