"""Packing commands and parsing replies, without a server; the base is hiredis-py."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from _codec import CODECS, PACKED, PARSED
from _contest import task_of
from _process import Result, call_worker
from _server import Server
from _sides import HIREDIS

ROUND_S = 0.15


class Turns:
    """Hand out one process's results of a round: the first side asked for runs it."""

    def __init__(self, case: str) -> None:
        self.task = {"case": case, "seconds": ROUND_S}
        self.results: dict[str, Result] = {}

    def __call__(self, side: str) -> Result:
        if side not in self.results:
            self.results = call_worker("_work.py", task_of("codec", side, self.task))
        return self.results.pop(side)


@pytest.mark.parametrize("side", CODECS)
@pytest.mark.parametrize("case", (*PACKED, *PARSED))
def bench_codec(compare: Callable[..., None], server: Server, side: str, case: str) -> None:
    compare(case, "codec", server, base=HIREDIS, by=Turns(case))
