"""The library is compiled once, and preloaded into the processes that run the scripts."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import TLSServer
from tests.syscalls.shim import VARIABLE, build, has_compiler
from tests.wire.scripts import run_module

RunShimmed = Callable[..., Any]
TRANSPORTS = ("tcp", "unix", "tls")


@pytest.fixture(scope="session")
def shim_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the library. It needs glibc, whose malloc has a second name."""
    if platform.libc_ver()[0] != "glibc" or not has_compiler():
        pytest.skip("needs glibc and a C compiler")
    if VARIABLE in os.environ:
        pytest.skip("a sanitizer is preloaded already")
    return build(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def run_shimmed(shim_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunShimmed:
    """Give run_module() with the library preloaded."""

    def run(module: str, *args: object, **options: Any) -> Any:
        with monkeypatch.context() as environment:
            environment.setenv(VARIABLE, str(shim_path))
            return run_module(module, *args, **options)

    return run


@pytest.fixture
def url_of(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Give a function from one of TRANSPORTS to the URL of a server behind it."""

    def url(transport: str) -> str:
        if transport == "unix":
            return f"unix://{request.getfixturevalue('unix_server').unixsocket}"
        fixture = {"tcp": "redis_server", "tls": "tls_server"}[transport]
        server: TLSServer = request.getfixturevalue(fixture)
        return server.url

    return url
