"""The compiled key slot against redis-py's, for keys that nobody has chosen."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable

import pytest
from redis.crc import key_slot

from tests.c.test_c_units import CC, CORE, run
from tests.c.test_c_units import pytestmark as pytestmark

SOURCE = """
#include "cp_keyslot.h"
unsigned keyslot(const char *key, size_t len) { return cp_keyslot(key, len); }
"""
N_KEYS = 20_000
LONGEST = 40
FEW = b"{}ab"  # of which hash tags of all shapes come


@pytest.fixture(scope="module")
def keyslot(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], int]:
    """Give the function of the C file."""
    to = tmp_path_factory.mktemp("keyslot")
    source, library = to / "keyslot.c", to / "keyslot.so"
    source.write_text(SOURCE)
    made = run([CC, "-O2", "-shared", "-fPIC", f"-I{CORE}", str(source), "-o", str(library)])
    assert made.returncode == 0, made.stderr
    function = ctypes.CDLL(str(library)).keyslot
    function.argtypes, function.restype = (ctypes.c_char_p, ctypes.c_size_t), ctypes.c_uint
    return lambda key: int(function(key, len(key)))


def random_keys(alphabet: bytes) -> list[bytes]:
    chance = random.Random(1)
    return [bytes(chance.choices(alphabet, k=chance.randrange(LONGEST))) for _ in range(N_KEYS)]


@pytest.mark.parametrize("alphabet", [bytes(range(256)), FEW], ids=["all bytes", "braces"])
def test_random_keys_have_redis_pys_slot(keyslot: Callable[[bytes], int], alphabet: bytes) -> None:
    for key in random_keys(alphabet):
        assert keyslot(key) == key_slot(key), key
