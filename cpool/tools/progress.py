"""What a tool is doing: a bar on the terminal's stderr, or a line for each step."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

Step = Callable[[str], None]


@contextlib.contextmanager
def progress(plain: bool, total: int) -> Iterator[Step]:
    """Give a function that is told each of so many steps when it begins."""
    if plain:
        yield lambda text: print(f"... {text}", file=sys.stderr, flush=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=total)
        begun = 0

        def show(text: str) -> None:
            nonlocal begun
            bar.update(task, description=text, completed=begun)
            begun += 1

        yield show
