"""Tables on a terminal: by rich where it is installed and wanted, else in plain columns."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

REPORT_WIDTH = 132

Rows = Sequence[Sequence[str]]


def has_rich() -> bool:
    """Tell whether rich can be imported."""
    return importlib.util.find_spec("rich") is not None


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Rows,
    *,
    plain: bool | None = None,
    width: int = REPORT_WIDTH,
) -> None:
    """Print a table; plain: True without rich, None with it where it is installed.

    width: characters in a line where the output is no terminal.
    """
    if plain or not has_rich():
        print(f"\n{title}\n{plain_table(columns, rows)}", flush=True)
    else:
        _print_rich_table(title, columns, rows, width)


def plain_table(columns: Sequence[str], rows: Rows) -> str:
    """Align columns with spaces: the first to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in (columns, *rows)) for i in range(len(columns))]
    lines = []
    for row in (columns, ["-" * width for width in widths], *rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _print_rich_table(title: str, columns: Sequence[str], rows: Rows, width: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(width=None if sys.stdout.isatty() else width).print(table)
