"""The preloaded library itself: the call that was ordered fails, and no other."""

from __future__ import annotations

from tests.syscalls.conftest import RunShimmed

# Of three calls the second was ordered to fail, or to move one byte.
WANTED = {
    "recv": ["01", "ECONNRESET", "23"],
    "short recv": ["01", "2", "34"],
    "peek": ["0", "EAGAIN", "0"],
    "recvmsg": ["01", "2", "34"],
    "read": ["0", "EAGAIN", "1"],
    "read of a pipe": ["0", "1", "2"],
    "poll": [0, "ENOMEM", 0],
    "send": [3, "EPIPE", 3],
    "short send": [3, 1, 3],
    "sendmsg": [3, 1, 3],
    "write": [3, "EAGAIN", 3],
    "setsockopt": [None, "ENOBUFS", None],
    "settimeout": [None, "EINVAL", None],
    "connect": ["ECONNREFUSED", "EACCES", "ECONNREFUSED"],
}


def test_the_call_that_was_ordered_fails_and_no_other(run_shimmed: RunShimmed) -> None:
    assert run_shimmed("tests.syscalls.shim_script") == WANTED
