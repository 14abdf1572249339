"""The benchmark's figures as a picture, by matplotlib, which is imported only here."""

from __future__ import annotations

import importlib
import importlib.util
import textwrap
from pathlib import Path
from typing import Any

from cpool.tools.bench.report import METRIC, Metric, Report, gain, spread
from cpool.tools.bench.rounds import Block
from cpool.tools.figures import Spread
from cpool.tools.sides import CLIENT, CPOOL, REDIS_PY

INSTALL_HINT = 'pip install "redis-cpool[plot]"'
ENDINGS = (".svg", ".png", ".pdf")
PANELS = ("ops_per_s", "p50_ms", "p99_ms", "cpu_us_per_command")
COLOURS = {REDIS_PY: "#9aa5b1", CPOOL: "#5aa9d6", CLIENT: "#1f5fa8"}
SIZE_INCHES = (11.0, 7.0)
CAPTION_WIDTH = 150
BARS_WIDTH = 0.8
HEADROOM = 1.15


def can_plot() -> bool:
    """Tell whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def plot(report: Report, path: Path) -> None:
    """Draw the figures into a file of one of the ENDINGS; raises OSError."""
    figure = importlib.import_module("matplotlib.figure").Figure(
        figsize=SIZE_INCHES, layout="constrained"
    )
    for axes, name in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        _draw_panel(axes, report, METRIC[name])
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    figure.supxlabel(_caption(report), fontsize=7.5, color="#555555")
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, metadata=metadata)


def _draw_panel(axes: Any, report: Report, metric: Metric) -> None:
    sides = report.plan.sides
    width = BARS_WIDTH / len(sides)
    for number, side in enumerate(sides):
        offset = (number - (len(sides) - 1) / 2) * width
        _draw_side(axes, report, metric, side, offset, width)
    better = "more is better" if metric.more_is_better else "less is better"
    axes.set_title(f"{metric.title} ({better})", fontsize=10, loc="left")
    axes.set_xticks(range(len(report.blocks)), [str(b.threads) for b in report.blocks])
    axes.set_xlabel("threads on one client", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.set_ylim(0, axes.get_ylim()[1] * HEADROOM)  # for what stands above the bars
    axes.yaxis.set_major_formatter(lambda value, position: f"{value:,.6g}")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_side(
    axes: Any, report: Report, metric: Metric, side: str, offset: float, width: float
) -> None:
    for position, block in enumerate(report.blocks):
        of_side = spread(block, side, metric.name)
        if of_side is None:
            continue
        axes.bar(
            position + offset,
            of_side.median,
            width * 0.94,
            yerr=_whiskers(of_side),
            color=COLOURS[side],
            label=side if position == 0 else None,
            error_kw={"ecolor": "#444444", "elinewidth": 0.8, "capsize": 2},
        )
        axes.annotate(
            _label(block, side, metric, of_side),
            (position + offset, of_side.highest),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=7,
        )


def _whiskers(of_side: Spread) -> list[list[float]]:
    """Reach from the lowest to the highest of the rounds."""
    return [[of_side.median - of_side.lowest], [of_side.highest - of_side.median]]


def _label(block: Block, side: str, metric: Metric, of_side: Spread) -> str:
    text = f"{of_side.median:,.{metric.digits}f}"
    better = None if side == REDIS_PY else gain(block, side, metric.name)
    return text if better is None else f"{text}\n{better.median:.1f}x"


def _caption(report: Report) -> str:
    lines = [
        report.title(report.blocks[0]).partition(", ")[2],
        f"Bars: medians of {report.plan.rounds} paired rounds, whiskers: lowest and highest;"
        " x: how many times better than redis-py",
        report.heading(),
    ]
    return "\n".join(textwrap.fill(line, CAPTION_WIDTH) for line in lines)
