"""Build the compiled core. Everything else about the project is in pyproject.toml.

CPOOL_SANITIZE=address,undefined|thread|fuzzer-no-link,address  sanitizer builds
CPOOL_DEBUG=1  asserts on, no optimisation, warnings are errors
CPOOL_ANNOTATE=1  Cython's annotated HTML next to the generated C
"""

import os
import sys
from glob import glob

from setuptools import Extension, setup

if sys.platform == "win32":
    raise SystemExit(
        "redis-cpool supports Linux and macOS only: its core works on POSIX sockets.\n"
        "On Windows keep redis-py's own redis.ConnectionPool; nothing else has to change."
    )

from Cython.Build import cythonize  # noqa: E402  (only needed where we can build)

SRC = "src/cpool"
DEBUG = bool(os.environ.get("CPOOL_DEBUG"))
SANITIZE = os.environ.get("CPOOL_SANITIZE", "")

# Which C files each module links: data for one loop, nothing is discovered.
MODULES = {
    "_resp": ["cp_buf.c", "cp_resp.c"],
    "_deadline": [],
    "_wire": ["cp_wire.c"],
    "_session": ["cp_buf.c", "cp_resp.c", "cp_wire.c"],
    "_gates": [],
    "_conn": [],
    "_retry": [],
    "_slots": ["cp_waitq.c"],
    "_dials": [],
    "_pool": ["cp_fork.c"],
    "_client": [],
    "_cluster": [],
    "_cluster_pipeline": [],
    "_pipeline": ["cp_exchange.c", "cp_wire.c", "cp_buf.c", "cp_resp.c"],
}


def compile_args() -> list[str]:
    args = ["-std=gnu11"]
    if DEBUG or SANITIZE:
        args += ["-O0", "-g", "-UNDEBUG", "-fno-omit-frame-pointer"]
    else:
        args += ["-O3", "-g0"]  # Python's own flags have -g: modules of four times the size
    if SANITIZE:
        args += [f"-fsanitize={SANITIZE}"]
    return args


def extension(name: str, c_files: list[str]) -> Extension:
    return Extension(
        f"cpool.{name}",
        [f"{SRC}/{name}.pyx", *(f"{SRC}/{c}" for c in c_files)],
        include_dirs=[SRC],
        depends=sorted(glob(f"{SRC}/*.h") + glob(f"{SRC}/*.pxd")),
        extra_compile_args=compile_args(),
        extra_link_args=[f"-fsanitize={SANITIZE}"] if SANITIZE else [],
    )


setup(
    ext_modules=cythonize(
        [extension(name, files) for name, files in MODULES.items()],
        include_path=["src"],
        build_dir="build/cython",
        annotate=bool(os.environ.get("CPOOL_ANNOTATE")),
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
            "binding": True,
            "always_allow_keywords": False,
            "embedsignature": False,
        },
    ),
)
