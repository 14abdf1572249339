"""Certificates made for one test session, and TLS in front of a server that has none."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import trustme

START_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Certificates:
    """Paths of PEM files: an authority, a server's and a client's certificate and key."""

    ca: str
    cert: str
    key: str
    client_cert: str
    client_key: str

    @classmethod
    def make(cls, directory: Path) -> Certificates:
        """Make certificates for localhost and 127.0.0.1, and a client's, in `directory`."""
        authority = trustme.CA()
        names = [str(directory / name) for name in ("ca", "cert", "key", "client", "client-key")]
        made = cls(*(f"{name}.pem" for name in names))
        authority.cert_pem.write_to_path(made.ca)
        _write(authority.issue_cert("localhost", "127.0.0.1"), made.cert, made.key)
        _write(authority.issue_cert("client@cpool.test"), made.client_cert, made.client_key)
        return made

    def server_context(self) -> ssl.SSLContext:
        """Make the context of a server that asks for no client certificate."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.cert, self.key)
        return context


def _write(leaf: trustme.LeafCert, cert: str, key: str) -> None:
    leaf.private_key_pem.write_to_path(key)
    for i, blob in enumerate(leaf.cert_chain_pems):
        blob.write_to_path(cert, append=i > 0)


class TLSProxy:
    """Take TLS connections on a loopback port and pass them on in the clear.

    It runs an event loop on a thread of its own, so that one TLS session is never used by
    two threads at once.
    """

    host = "127.0.0.1"

    def __init__(self, upstream: tuple[str, int], context: ssl.SSLContext, port: int = 0) -> None:
        self.port = port
        self._upstream = upstream
        self._context = context
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._thread = threading.Thread(target=self._run, name="tls-proxy", daemon=True)

    def __enter__(self) -> TLSProxy:
        self._thread.start()
        if not self._ready.wait(START_TIMEOUT_S):
            raise TimeoutError("the TLS proxy did not start")
        if self._error is not None:
            raise self._error
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:
            self._error = error
        finally:
            self._loop.close()
            self._ready.set()

    async def _serve(self) -> None:
        server = await asyncio.start_server(
            self._connected, self.host, self.port, ssl=self._context, backlog=1024
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stopped.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        for _ in range(2):  # turns of the loop: the TLS layer's, and its socket's
            await asyncio.sleep(0)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pump(reader, up_writer), _pump(up_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end. TLS can't be half closed: the end of one side ends the other."""
    try:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
    finally:
        writer.close()
