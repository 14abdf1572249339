"""Has a tracing tool look at the workload, on redis-py's client or ours.

Run as `python -m tests.tracing.trace_script TOOL ORDER SIDE HOST PORT UNIXSOCKET CLOSED_PORT`.
The tool is loaded "before" cpool is imported, "after" that, or "late": when a client was made
and used. SIDE is "redis" or "cpool". Prints JSON: what the steps returned, the tool's entries
with the ports and the path of the socket replaced, how often the compiled call was taken; and
where the tool can be taken off again, what came of the same steps after that.
"""

from __future__ import annotations

import gc
import importlib
import json
import re
import sys
from typing import Any

from tests.tracing.tools import TOOLS

# Of a pool in metrics, and of a connection in the server's greeting.
IDS = re.compile(r"(?<=:637[89])_[0-9a-f]{8}\b|(?<='id': )\d+")
# hiredis has another text than redis-py, and we.
PACKERS_ERRORS = (
    "A tuple item must be str, int, float or bytes.",
    "Invalid input of type: 'list'. Convert to a bytes, string, int or float first.",
)


def main(name: str, order: str, side: str, *where: str) -> None:
    tool = TOOLS[name]()
    if order == "before":
        tool.start()
    place = make_place(side, *where)
    if order == "after":
        tool.start()
    client = place.client()
    if order == "late":
        client.ping()
        tool.start()
    if hasattr(tool, "see"):
        tool.see(client)
    told = watched(tool, side, client, place)
    if hasattr(tool, "stop"):
        tool.stop()
        told["stopped"] = watched(tool, side, client, place)
    print(like_everywhere(json.dumps(told, default=repr), *where))


def make_place(side: str, host: str, port: str, unixsocket: str, closed_port: str) -> Any:
    """Import the client, and with it redis-py, when its time has come."""
    client_class = importlib.import_module(side).Redis
    from tests.tracing.workload import Place

    return Place(client_class, host, int(port), unixsocket, int(closed_port))


def watched(tool: Any, side: str, client: Any, place: Any) -> Any:
    """Go through the steps and return what came of it."""
    from tests.tracing.workload import STEPS

    before = taken(side)
    client.flushall()
    outcomes = {}
    for step in STEPS:
        with tool.step(step.__name__):
            outcomes[step.__name__] = repr(step(client, place))
    gc.collect()  # pools that were dropped take their connections off the metrics
    return {"outcomes": outcomes, "entries": tool.entries(), "taken": taken(side) - before}


def taken(side: str) -> int:
    """How often the compiled call was taken."""
    return sys.modules["cpool"].fast_path.stats().taken if side == "cpool" else 0


def like_everywhere(text: str, host: str, port: str, unixsocket: str, closed_port: str) -> str:
    """Replace what is this server's alone."""
    own = ((unixsocket, "/run/redis.sock"), (port, "6379"), (closed_port, "6378"), PACKERS_ERRORS)
    for special, general in own:
        text = text.replace(special, general)
    return IDS.sub("", text)


if __name__ == "__main__":
    main(*sys.argv[1:])
