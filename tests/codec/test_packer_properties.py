"""Any mix of arguments: the bytes of redis-py's serializer, and of hiredis where it agrees."""

from __future__ import annotations

from typing import Any

import hiredis
from hypothesis import given
from hypothesis import strategies as st
from redis._parsers.encoders import Encoder
from redis.connection import PythonRespSerializer

from cpool._resp import pack_command
from cpool._session import packer_of
from tests.codec.replies import read

CODECS = st.sampled_from(["utf-8", "UTF8", "utf_8", "latin-1", "utf-16", "utf-8-sig", "ascii"])
HANDLERS = st.sampled_from(["strict", "replace", "ignore", "surrogateescape", "surrogatepass"])
TEXTS = st.text() | st.text(st.characters()).filter(bool)
LARGE = st.integers(5990, 6010).map(lambda n: b"x" * n)
BLOBS = st.binary() | LARGE
NUMBERS = st.integers() | st.integers(-(2**65), 2**65) | st.floats()
ARGUMENTS = st.one_of(
    BLOBS,
    BLOBS.map(bytearray),
    BLOBS.map(memoryview),
    TEXTS,
    LARGE.map(bytes.decode),
    NUMBERS,
)
MISTAKES = st.booleans() | st.none() | st.lists(st.integers(), max_size=1)
NAMES = st.one_of(
    st.sampled_from(["GET", "CONFIG GET", b"SET", b"CLIENT LIST", "", " ", " x ", "a\tb"]),
    st.text(),
    st.binary(),
    st.binary().map(bytearray),
)


def outcome(pack: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The joined bytes, or the class and text of the error."""
    try:
        return ("bytes", b"".join(pack(*args)))
    except Exception as error:
        return ("error", type(error), str(error))


@given(NAMES, st.lists(ARGUMENTS | MISTAKES, max_size=8), CODECS, HANDLERS)
def test_any_command_is_packed_as_redis_py_does(
    name: Any, arguments: list[Any], encoding: str, errors: str
) -> None:
    encoder = Encoder(encoding, errors, False)
    args = (name, *arguments)
    mine = outcome(packer_of(encoder).pack, args)
    assert mine == outcome(PythonRespSerializer(6000, encoder.encode).pack, args)


@given(st.lists(st.tuples(NAMES, ARGUMENTS), max_size=6), CODECS)
def test_any_commands_are_packed_as_one_by_one(
    commands: list[tuple[Any, ...]], encoding: str
) -> None:
    packer = packer_of(Encoder(encoding, "replace", False))
    one_by_one = [outcome(packer.pack, command) for command in commands]
    together = outcome(lambda: packer.pack_many(commands)[0], ())
    errors = [result for result in one_by_one if result[0] == "error"]
    if errors:
        assert together == errors[0]
    else:
        assert together == ("bytes", b"".join(result[1] for result in one_by_one))
        assert packer.pack_many(commands)[1] == len(commands)


@given(st.lists(st.text() | st.binary() | st.integers() | st.floats(), min_size=1))
def test_hiredis_packs_the_same(arguments: list[Any]) -> None:
    """It does not split the first argument; the name here needs no splitting."""
    packer = packer_of(Encoder("utf-8", "strict", False))
    args = ("GET", *arguments)
    assert b"".join(packer.pack(*args)) == hiredis.pack_command(args)


@given(st.lists(st.text() | st.binary() | st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_a_packed_command_reads_as_an_array_of_its_arguments(arguments: list[Any]) -> None:
    encode = Encoder("utf-8", "strict", False).encode
    packed = pack_command(("GET", *arguments))
    assert read(packed) == [b"GET", *map(encode, arguments)]
