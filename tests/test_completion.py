"""What an editor offers, asked of a language server: classes, options, methods, values."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.examples import ROOT

pytestmark = pytest.mark.slow

SERVER = "basedpyright-langserver"
NO_FILE = (ROOT / "what_an_editor_edits.py").as_uri()
PROLOGUE = "import cpool\npool = cpool.ConnectionPool()\nr = cpool.Redis()\n"


class LanguageServer:
    """A client of a language server, which asks one thing at a time."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._number = 0
        folder = {"uri": ROOT.as_uri(), "name": "cpool"}
        self.ask(
            "initialize",
            processId=None,
            rootUri=folder["uri"],
            workspaceFolders=[folder],
            capabilities={"workspace": {"configuration": True}},
        )
        self._tell("initialized")

    def completions(self, line: str) -> set[str]:
        """Return what may stand where `|` is in a line."""
        text = PROLOGUE + line.replace("|", "") + "\n"
        document = {"uri": NO_FILE, "languageId": "python", "version": 1, "text": text}
        position = {"line": PROLOGUE.count("\n"), "character": line.index("|")}
        self._tell("textDocument/didOpen", textDocument=document)
        answer = self.ask("textDocument/completion", textDocument=document, position=position)
        self._tell("textDocument/didClose", textDocument=document)
        return {item["label"] for item in answer["items"]}

    def ask(self, method: str, **params: Any) -> Any:
        """Return the answer to a request; answer what the server asks meanwhile."""
        self._number += 1
        self._send(id=self._number, method=method, params=params)
        while True:
            message = self._receive()
            if message.get("id") == self._number and "method" not in message:
                return message["result"]
            if "id" in message:
                self._send(id=message["id"], result=self._setting(message))

    def _setting(self, message: dict[str, Any]) -> Any:
        if message["method"] != "workspace/configuration":
            return None
        return [{"pythonPath": sys.executable} for _ in message["params"]["items"]]

    def _tell(self, method: str, **params: Any) -> None:
        self._send(method=method, params=params)

    def _send(self, **message: Any) -> None:
        assert self._process.stdin
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        self._process.stdin.flush()

    def _receive(self) -> Any:
        assert self._process.stdout
        length = 0
        while header := self._process.stdout.readline().strip():
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        assert length, "the language server has ended"
        return json.loads(self._process.stdout.read(length))


@pytest.fixture(scope="module")
def server() -> Iterator[LanguageServer]:
    beside = Path(sys.executable).parent / SERVER
    found = str(beside) if beside.exists() else shutil.which(SERVER)
    if found is None:
        pytest.skip("basedpyright is not installed")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([found, "--stdio"], cwd=ROOT, **pipes) as process:  # type: ignore[call-overload]
        yield LanguageServer(process)
        process.terminate()


OWN = {"timeout=", "max_waiting=", "order=", "name=", "max_bulk_bytes=", "max_nesting_depth="}
THEIRS = {"host=", "max_connections=", "decode_responses=", "socket_timeout=", "ssl_ca_certs="}
CASES = {
    "cpool.|": {"Redis", "ConnectionPool", "BlockingConnectionPool", "fast_path", "install"},
    "cpool.ConnectionPool(|)": OWN | THEIRS,
    "cpool.BlockingConnectionPool(|)": OWN | THEIRS | {"queue_class="},
    "cpool.SentinelConnectionPool(|)": OWN | THEIRS | {"is_master=", "check_connection="},
    "cpool.Sentinel([], |)": OWN | THEIRS | {"sentinel_kwargs=", "master_check_interval="},
    'cpool.Sentinel([]).master_for("m", |)': OWN | THEIRS | {"redis_class="},
    "cpool.Redis(|)": OWN | THEIRS,
    'cpool.from_url("redis://h", |)': OWN | THEIRS,
    'cpool.Redis.from_url("redis://h", |)': OWN | THEIRS,
    'cpool.ConnectionPool.from_url("redis://h", |)': OWN | THEIRS,
    "cpool.SSLConnection(|)": {"host=", "ssl_keyfile=", "max_bulk_bytes="},
    "cpool.UnixDomainSocketConnection(|)": {"path=", "db=", "max_bulk_bytes="},
    'cpool.ConnectionPool(order="|")': {'"lifo"', '"fifo"'},
    "pool.|": {"stats", "drain", "timeout", "max_waiting", "get_connection"},
    "pool.stats().|": {"waiting", "longest_wait_s"},
    "r.|": {"get", "hgetall", "pipeline", "pubsub"},
    "r.pipeline().|": {"execute", "get"},
}


@pytest.mark.parametrize("line", CASES)
def test_an_editor_offers(server: LanguageServer, line: str) -> None:
    assert server.completions(line) >= CASES[line]
